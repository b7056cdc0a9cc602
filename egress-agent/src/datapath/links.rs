//! Attaching the hooks to an interface: TCX links where the kernel has them (6.6), clsact filters
//! otherwise. Both outlive the process: links by their pins, filters by themselves.
//!
//! The kernel waits for a grace period in each new attachment of TCX, holding the lock of all links
//! (`tcx_entry_sync` in net/core/tcx.c's callers); a filter is there at once. So a pod that waits to
//! start is held by filters first, and [`super::interim`] puts links in their place.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, ProgramFd, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use aya_obj::generated::bpf_attach_type;
use egress_common::abi::ABI_VERSION;

use super::error::AttachError;
use super::sys;
use crate::pods::{HostInterface, NetlinkError, Side, filters};

/// Filters at this priority run before those of others, who rarely choose 1.
const PRIORITY: u16 = 1;
/// Tells our filter from another's of the same priority, and from that of another ABI version: both
/// stand side by side while one agent takes over from the other.
const fn handle(version: u32) -> TcHandle {
    let [.., version] = version.to_be_bytes();
    TcHandle::new(0, u16::from_be_bytes([version, 0xe6]))
}

/// Whether a filter of a clsact qdisc is an agent's, of whichever ABI version.
pub const fn is_own_filter(priority: u16, handle: u32) -> bool {
    priority == PRIORITY && handle & 0xffff_00ff == 0xe6
}

/// The two hooks of an interface, seen from the host.
static HOOKS: [Hook; 2] = [
    // to-pod first: inbound flows are known before anything is dropped.
    Hook {
        side: Side::ToPod,
        program: "to_pod",
        filter: TcAttachType::Egress,
        link: bpf_attach_type::BPF_TCX_EGRESS,
    },
    Hook {
        side: Side::FromPod,
        program: "from_pod",
        filter: TcAttachType::Ingress,
        link: bpf_attach_type::BPF_TCX_INGRESS,
    },
];

#[derive(Debug)]
pub(super) struct Hook {
    side: Side,
    program: &'static str,
    filter: TcAttachType,
    link: bpf_attach_type,
}

impl Hook {
    const fn name(&self) -> &'static str {
        self.side.name()
    }
}

/// How programs are attached here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technique {
    /// Not tried yet.
    Unknown,
    /// Links (6.6 and newer).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// How long what holds a hook is meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// For good.
    Lasting,
    /// By filters, until links replace them.
    Interim,
}

/// Attaches both hooks, or replaces the programs of hooks that an earlier agent left. Where a starting
/// pod is `awaited`, filters come first, unless somebody else is on the interface: programs of TCX run
/// before all filters.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Path,
    technique: &mut Technique,
    interface: &HostInterface,
    awaited: bool,
) -> Result<Held, AttachError> {
    if awaited && *technique != Technique::Clsact && is_untouched(pins, interface) {
        match hold(ebpf, interface) {
            Ok(()) => return Ok(Held::Interim),
            // Somebody else has a qdisc there, or the kernel has no such filters: links, then.
            Err(error) => tracing::debug!(%error, interface = interface.name, "no filters"),
        }
    }
    for hook in &HOOKS {
        let failed = |op, source| failed(op, hook, interface, source);
        let program = program(ebpf, hook.program).map_err(|e| failed("attach", e))?;
        if *technique != Technique::Clsact {
            match attach_tcx(program, &pin(pins, interface.index, hook), interface, hook) {
                Ok(()) => {
                    *technique = Technique::Tcx;
                    continue;
                }
                // A kernel without TCX refuses the attach type.
                Err(error) if *technique == Technique::Unknown && is(&error, libc::EINVAL) => {
                    tracing::info!("this kernel has no TCX; using clsact filters");
                    *technique = Technique::Clsact;
                }
                Err(error) => return Err(failed("attach", error)),
            }
        }
        attach_clsact(program, interface, hook).map_err(|e| failed("attach", e))?;
    }
    if *technique == Technique::Tcx {
        // Those of an agent that ended before it had replaced them.
        remove_filters(&interface.name, ABI_VERSION);
    }
    Ok(Held::Lasting)
}

/// Filters for both hooks of an interface that nobody else has filters on.
fn hold(
    ebpf: &mut Ebpf,
    interface: &HostInterface,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    qdisc_add_clsact(&interface.name)?;
    HOOKS
        .iter()
        .try_for_each(|hook| attach_filter(program(ebpf, hook.program)?, interface, hook))
}

/// The programs that [`replace_filters`] attaches, by hook.
pub(super) type Programs = Vec<(&'static Hook, ProgramFd)>;

/// For a thread, which has no access to the object.
pub(super) fn programs(
    ebpf: &mut Ebpf,
) -> Result<Programs, Box<dyn std::error::Error + Send + Sync>> {
    // from-pod first: somebody who attaches to TCX meanwhile may keep packets from a filter, and what it
    // misses of those to a pod only denies an answer.
    let hooks = HOOKS.iter().rev();
    hooks
        .map(|hook| Ok((hook, program(ebpf, hook.program)?.fd()?.try_clone()?)))
        .collect()
}

/// Attaches links where filters hold the hooks, and takes the filters away; waits for a grace period
/// for each link. In between a packet is judged by both, from the same tables. Returns where that failed:
/// there the filters stay. An interface that is gone needs no hook.
pub(super) fn replace_filters(
    programs: &[(&'static Hook, ProgramFd)],
    pins: &Path,
    interfaces: &[HostInterface],
) -> Vec<(HostInterface, AttachError)> {
    let mut errors = Vec::new();
    let mut left: Vec<&HostInterface> = interfaces.iter().collect();
    for (hook, program) in programs {
        left.retain(|interface| {
            let pin = pin(pins, interface.index, hook);
            let linked = sys::attach_first(program.as_fd(), interface.index, hook.link)
                .and_then(|link| sys::pin(link.as_fd(), &pin));
            match linked {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => false,
                Err(error) => {
                    let error = failed("attach", hook, interface, error.into());
                    errors.push(((*interface).clone(), error));
                    false
                }
            }
        });
    }
    for interface in left {
        remove_filters(&interface.name, ABI_VERSION);
    }
    errors
}

/// Whether nobody is on an interface, nor was: no agent of ours, and no program of TCX.
fn is_untouched(pins: &Path, interface: &HostInterface) -> bool {
    HOOKS.iter().all(|hook| {
        let unpinned = !pin(pins, interface.index, hook).exists();
        unpinned && matches!(sys::attached(interface.index, hook.link), Ok(0))
    })
}

/// Whether both hooks are on an interface: asks the kernel, not our memory.
pub(super) fn is_attached(pins: &Path, interface: &HostInterface) -> bool {
    let filtered = own_filters(interface).unwrap_or_default();
    HOOKS.iter().all(|hook| {
        let linked = sys::pinned_link_interface(&pin(pins, interface.index, hook));
        linked.is_ok_and(|index| index == interface.index) || filtered.contains(&hook.side)
    })
}

/// The hooks of an interface that our filters hold.
fn own_filters(interface: &HostInterface) -> Result<BTreeSet<Side>, NetlinkError> {
    let own = u32::from(handle(ABI_VERSION));
    let found = filters(interface.index)?.into_iter();
    Ok(found
        .filter(|filter| filter.priority == PRIORITY && filter.handle == own)
        .map(|filter| filter.side)
        .collect())
}

/// Detaches both hooks. An interface that is gone has lost them already.
pub(super) fn detach(pins: &Path, interface: &HostInterface) -> Result<(), AttachError> {
    let [_, from_pod] = &HOOKS;
    let filtered =
        own_filters(interface).map_err(|e| failed("detach", from_pod, interface, e.into()))?;
    // Enforcement ends with from-pod; flows are tracked until then.
    for hook in HOOKS.iter().rev() {
        let failed = |source| failed("detach", hook, interface, source);
        unpin(&pin(pins, interface.index, hook)).map_err(|e| failed(e.into()))?;
        if filtered.contains(&hook.side)
            && let Ok(link) = SchedClassifierLink::attached(
                &interface.name,
                hook.filter,
                PRIORITY,
                handle(ABI_VERSION),
                None,
            )
        {
            use aya::programs::links::Link as _;
            link.detach().map_err(|e| failed(e.into()))?;
        }
    }
    Ok(())
}

/// Removes the filters of an ABI version from an interface, if it is still there and has any.
pub(super) fn remove_filters(interface: &str, version: u32) {
    use aya::programs::links::Link as _;
    for hook in HOOKS.iter().rev() {
        if let Ok(link) =
            SchedClassifierLink::attached(interface, hook.filter, PRIORITY, handle(version), None)
            && let Err(error) = link.detach()
        {
            tracing::trace!(%error, interface, version, "no filter of that version");
        }
    }
}

/// Detaches every link that is pinned in a folder. What cannot be detached goes with its pin.
pub(super) fn detach_all(pins: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.path());
    }
    // from-pod before to-pod of each interface: flows are noted until enforcement ends.
    names.sort();
    names.iter().try_for_each(|pin| unpin(pin))
}

/// Interface indexes that have pinned links.
pub(super) fn pinned(pins: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(pins)? {
        let name = entry?.file_name();
        if let Some(index) = name
            .to_str()
            .and_then(|n| n.split('-').next()?.parse().ok())
        {
            found.push(index);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Removes the pins of an interface that is gone.
pub(super) fn forget(pins: &Path, index: u32) -> io::Result<()> {
    HOOKS
        .iter()
        .rev()
        .try_for_each(|hook| unpin(&pin(pins, index, hook)))
}

/// Detaches a pinned link and removes the pin; one that is not there is gone already.
fn unpin(pin: &Path) -> io::Result<()> {
    match sys::detach_pinned_link(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // The device is gone, and took what was attached along.
        Err(error) => tracing::debug!(%error, pin = %pin.display(), "detaching a link"),
        Ok(()) => {}
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn pin(pins: &Path, index: u32, hook: &Hook) -> PathBuf {
    pins.join(format!("{index}-{}", hook.name()))
}

fn failed(
    op: &'static str,
    hook: &Hook,
    interface: &HostInterface,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> AttachError {
    AttachError {
        op,
        hook: hook.name(),
        interface: interface.name.clone(),
        source,
    }
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Box<dyn std::error::Error + Send + Sync>> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    interface: &HostInterface,
    hook: &Hook,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => {
            let link: SchedClassifierLink = FdLink::from(pinned).try_into()?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps the link; only our descriptor closes.
                    drop(program.take_link(id)?);
                    return Ok(());
                }
                // The device is gone, and its index is another's now.
                Err(error) if is(&error, libc::ENOLINK) => fs::remove_file(pin)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let link = sys::attach_first(program.fd()?.as_fd(), interface.index, hook.link)?;
    sys::pin(link.as_fd(), pin)?;
    Ok(())
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &HostInterface,
    hook: &Hook,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match qdisc_add_clsact(&interface.name) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(error) if is(&error, libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    attach_filter(program, interface, hook)
}

/// To an interface that has a clsact qdisc.
fn attach_filter(
    program: &mut SchedClassifier,
    interface: &HostInterface,
    hook: &Hook,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: handle(ABI_VERSION),
        classid: None,
    });
    let id = match program.attach_with_options(&interface.name, hook.filter, options) {
        Ok(id) => id,
        Err(error) if is(&error, libc::EEXIST) => {
            let old = SchedClassifierLink::attached(
                &interface.name,
                hook.filter,
                PRIORITY,
                handle(ABI_VERSION),
                None,
            )?;
            program.attach_to_link(old)?
        }
        Err(error) => return Err(error.into()),
    };
    // Dropping the link would take the filter away.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Whether an error goes back to this errno.
fn is(error: &(impl AsError + ?Sized), errno: i32) -> bool {
    let mut next = Some(error.as_error());
    while let Some(error) = next {
        if error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            == Some(errno)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Concrete and boxed errors alike.
trait AsError {
    fn as_error(&self) -> &(dyn std::error::Error + 'static);
}

impl AsError for Box<dyn std::error::Error + Send + Sync> {
    fn as_error(&self) -> &(dyn std::error::Error + 'static) {
        &**self
    }
}

impl AsError for ProgramError {
    fn as_error(&self) -> &(dyn std::error::Error + 'static) {
        self
    }
}

impl AsError for TcError {
    fn as_error(&self) -> &(dyn std::error::Error + 'static) {
        self
    }
}
