//! Attaching the hooks to an interface: TCX links where the kernel has them (6.6), clsact filters
//! otherwise. Both outlive the process: links by their pins, filters by themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use egress_common::abi::ABI_VERSION;

use super::error::AttachError;
use super::sys;
use crate::pods::HostInterface;

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
const HOOKS: [Hook; 2] = [
    // to-pod first: inbound flows are known before anything is dropped.
    Hook {
        name: "to-pod",
        program: "to_pod",
        side: TcAttachType::Egress,
    },
    Hook {
        name: "from-pod",
        program: "from_pod",
        side: TcAttachType::Ingress,
    },
];

struct Hook {
    name: &'static str,
    program: &'static str,
    side: TcAttachType,
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

/// Attaches both hooks, or replaces the programs of hooks that an earlier agent left.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Path,
    technique: &mut Technique,
    interface: &HostInterface,
) -> Result<(), AttachError> {
    for hook in &HOOKS {
        let failed =
            |op: &'static str, source: Box<dyn std::error::Error + Send + Sync>| AttachError {
                op,
                hook: hook.name,
                interface: interface.name.clone(),
                source,
            };
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
    Ok(())
}

/// Whether both hooks are on an interface: asks the kernel, not our memory.
pub(super) fn is_attached(pins: &Path, technique: Technique, interface: &HostInterface) -> bool {
    HOOKS.iter().all(|hook| match technique {
        Technique::Unknown => false,
        Technique::Tcx => sys::pinned_link_interface(&pin(pins, interface.index, hook))
            .is_ok_and(|index| index == interface.index),
        Technique::Clsact => SchedClassifierLink::attached(
            &interface.name,
            hook.side,
            PRIORITY,
            handle(ABI_VERSION),
            None,
        )
        .is_ok(),
    })
}

/// Detaches both hooks. An interface that is gone has lost them already.
pub(super) fn detach(
    pins: &Path,
    technique: Technique,
    interface: &HostInterface,
) -> Result<(), AttachError> {
    // Enforcement ends with from-pod; flows are tracked until then.
    for hook in HOOKS.iter().rev() {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| AttachError {
            op: "detach",
            hook: hook.name,
            interface: interface.name.clone(),
            source,
        };
        unpin(&pin(pins, interface.index, hook)).map_err(|e| failed(e.into()))?;
        if technique == Technique::Clsact
            && let Ok(link) = SchedClassifierLink::attached(
                &interface.name,
                hook.side,
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
            SchedClassifierLink::attached(interface, hook.side, PRIORITY, handle(version), None)
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
    pins.join(format!("{index}-{}", hook.name))
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
    let id = program.attach_with_options(
        &interface.name,
        hook.side,
        TcAttachOptions::TcxOrder(LinkOrder::first()),
    )?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
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
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: handle(ABI_VERSION),
        classid: None,
    });
    let id = match program.attach_with_options(&interface.name, hook.side, options) {
        Ok(id) => id,
        Err(error) if is(&error, libc::EEXIST) => {
            let old = SchedClassifierLink::attached(
                &interface.name,
                hook.side,
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
