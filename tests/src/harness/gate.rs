//! The agent's writes to the kernel, one at a time: a test sees each before it happens and may
//! refuse it, kill the agent in front of it, or change the world first.
//!
//! The real agent makes real system calls; seccomp stops it at `bpf(2)` and asks here
//! (seccomp_unotify(2)). So the agent needs no hook for tests, and every write has its turn
//! whatever code makes it.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};

/// Commands of `bpf(2)`, by their numbers in linux/bpf.h.
const COMMANDS: [(u32, Kind); 13] = [
    (0, Kind::MapCreate),
    (2, Kind::MapUpdate),
    (3, Kind::MapDelete),
    (5, Kind::ProgramLoad),
    (6, Kind::Pin),
    (8, Kind::ProgramAttach),
    (9, Kind::ProgramDetach),
    (18, Kind::TypesLoad),
    (26, Kind::MapUpdateBatch),
    (27, Kind::MapDeleteBatch),
    (28, Kind::LinkCreate),
    (29, Kind::LinkUpdate),
    (34, Kind::LinkDetach),
];

/// `BPF_JMP | BPF_CALL`, the instruction's first byte.
const CALL: u8 = 0x85;

/// What a call does. Calls that change nothing pass without a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `BPF_MAP_CREATE`
    MapCreate,
    /// `BPF_MAP_UPDATE_ELEM`
    MapUpdate,
    /// `BPF_MAP_DELETE_ELEM`
    MapDelete,
    /// `BPF_PROG_LOAD`
    ProgramLoad,
    /// `BPF_OBJ_PIN`
    Pin,
    /// `BPF_PROG_ATTACH`
    ProgramAttach,
    /// `BPF_PROG_DETACH`
    ProgramDetach,
    /// `BPF_BTF_LOAD`
    TypesLoad,
    /// `BPF_MAP_UPDATE_BATCH`
    MapUpdateBatch,
    /// `BPF_MAP_DELETE_BATCH`
    MapDeleteBatch,
    /// `BPF_LINK_CREATE`
    LinkCreate,
    /// `BPF_LINK_UPDATE`
    LinkUpdate,
    /// `BPF_LINK_DETACH`
    LinkDetach,
}

/// A call that is about to happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What it does.
    pub kind: Kind,
    /// Name of the map it is about, as far as the kernel keeps names: 15 bytes.
    pub map: Option<String>,
    /// The helper function that a program calls first: of a probe, whether it is there.
    pub helper: Option<u32>,
}

impl Call {
    /// Whether it writes into a map, or makes one.
    pub fn is_write(&self) -> bool {
        matches!(
            self.kind,
            Kind::MapCreate
                | Kind::MapUpdate
                | Kind::MapUpdateBatch
                | Kind::MapDelete
                | Kind::MapDeleteBatch
        )
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.map {
            Some(map) => write!(f, "{:?} of {map}", self.kind),
            None => write!(f, "{:?}", self.kind),
        }
    }
}

/// What happens instead of a call, or before it.
pub enum Fault {
    /// The call fails with this error number, once.
    Refuse(i32),
    /// This call fails, and all others like it, until [`Gate::open`].
    RefuseAll(i32),
    /// The agent is killed in front of it.
    Kill,
    /// The world changes; then the call happens.
    First(Box<dyn FnOnce() -> Result<()> + Send>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(errno) => write!(f, "Refuse({errno})"),
            Self::RefuseAll(errno) => write!(f, "RefuseAll({errno})"),
            Self::Kill => write!(f, "Kill"),
            Self::First(_) => f.debug_struct("First").finish_non_exhaustive(),
        }
    }
}

type Chooser = Box<dyn FnMut(&Call) -> bool + Send>;

/// Stands between an agent and the kernel.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Every call since [`Gate::open`] or [`Gate::arm`].
    calls: Vec<Call>,
    armed: Option<(Chooser, Fault)>,
    struck: Option<Call>,
    error: Option<anyhow::Error>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// The fault meets the first call that `choose` says yes to.
    pub fn arm(&self, choose: impl FnMut(&Call) -> bool + Send + 'static, fault: Fault) {
        *self.state() = State {
            armed: Some((Box::new(choose), fault)),
            ..State::default()
        };
    }

    /// The fault meets the write of this number, counted from 0.
    pub fn arm_write(&self, number: usize, fault: Fault) {
        let mut writes = 0..;
        self.arm(
            move |call| call.is_write() && writes.next() == Some(number),
            fault,
        );
    }

    /// Every call passes from now on.
    pub fn open(&self) {
        *self.state() = State::default();
    }

    /// The call that the fault has met.
    pub fn struck(&self) -> Result<Option<Call>> {
        let mut state = self.state();
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.struck.clone()),
        }
    }

    /// The writes since the gate was armed or opened, in order.
    pub fn writes(&self) -> Vec<Call> {
        let state = self.state();
        state
            .calls
            .iter()
            .filter(|call| call.is_write())
            .cloned()
            .collect()
    }

    /// Starts `command` behind the gate. Whoever answers its calls ends with it.
    pub(super) fn spawn(&self, mut command: Command) -> Result<Child> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let filter = filter()?;
        // SAFETY: between fork and exec it makes system calls and allocates nothing; `filter` and
        // `theirs` were moved into the closure and live.
        unsafe {
            command.pre_exec(move || {
                let listener = install(&filter)?;
                hand_over(theirs.as_fd(), listener.as_fd())
            });
        }
        let child = command.spawn()?;
        let listener = receive(ours.as_fd())?;
        let gate = self.clone();
        thread::spawn(move || {
            if let Err(error) = gate.serve(&listener) {
                gate.state().error = Some(error);
            }
        });
        Ok(child)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers until the process is gone.
    fn serve(&self, listener: &OwnedFd) -> Result<()> {
        let mut names = BTreeMap::new();
        loop {
            let mut ready = [PollFd::new(listener, PollFlags::IN)];
            poll(&mut ready, None).context("waiting for the agent's next call")?;
            let [ready] = ready;
            if !ready.revents().contains(PollFlags::IN) {
                return Ok(());
            }
            let Some(asked) = next(listener)? else {
                continue;
            };
            let answer = self.decide(&asked, &mut names)?;
            reply(listener, asked.id, answer)?;
        }
    }

    fn decide(
        &self,
        asked: &libc::seccomp_notif,
        names: &mut BTreeMap<u32, String>,
    ) -> Result<Reply> {
        let Some(call) = call(asked, names)? else {
            return Ok(Reply::Go);
        };
        let mut state = self.state();
        state.calls.push(call.clone());
        let Some((mut choose, fault)) = state.armed.take() else {
            return Ok(Reply::Go);
        };
        if let Some(first) = &state.struck {
            // Armed still, so it is for all like the first.
            let like = *first == call;
            let Fault::RefuseAll(errno) = fault else {
                return Ok(Reply::Go);
            };
            state.armed = Some((choose, fault));
            return Ok(if like { Reply::Fail(errno) } else { Reply::Go });
        }
        if !choose(&call) {
            state.armed = Some((choose, fault));
            return Ok(Reply::Go);
        }
        state.struck = Some(call);
        match fault {
            Fault::Refuse(errno) => Ok(Reply::Fail(errno)),
            Fault::RefuseAll(errno) => {
                state.armed = Some((choose, fault));
                Ok(Reply::Fail(errno))
            }
            Fault::Kill => {
                drop(state);
                let thread = i32::try_from(asked.pid)?;
                let agent = process_of(thread)?;
                kill_process(agent, Signal::KILL).context("killing the agent")?;
                Ok(Reply::Nothing)
            }
            Fault::First(change) => {
                drop(state);
                change()?;
                Ok(Reply::Go)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Go,
    Fail(i32),
    /// Nobody waits for it any more.
    Nothing,
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))
        .with_context(|| format!("thread {thread} of the agent"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
        .and_then(Pid::from_raw)
        .with_context(|| format!("thread {thread} has no Tgid"))
}

/// What the agent asks for; nothing for a command that is not in [`COMMANDS`].
fn call(asked: &libc::seccomp_notif, names: &mut BTreeMap<u32, String>) -> Result<Option<Call>> {
    let [command, attr, ..] = asked.data.args;
    let Some((_, kind)) = COMMANDS
        .into_iter()
        .find(|(number, _)| u64::from(*number) == command)
    else {
        return Ok(None);
    };
    // Where `union bpf_attr` has the map's descriptor.
    let at = match kind {
        Kind::MapUpdate | Kind::MapDelete => Some(0),
        Kind::MapUpdateBatch | Kind::MapDeleteBatch => Some(36),
        Kind::MapCreate => {
            let name = read::<16>(asked.pid, attr + 28)?;
            let name: Vec<u8> = name.into_iter().take_while(|byte| *byte != 0).collect();
            let map = Some(String::from_utf8_lossy(&name).into_owned());
            return Ok(Some(Call {
                kind,
                map,
                helper: None,
            }));
        }
        Kind::ProgramLoad => {
            let instructions = u64::from_ne_bytes(read(asked.pid, attr + 8)?);
            let [code, _, _, _, helper @ ..] = read::<8>(asked.pid, instructions)?;
            let helper = (code == CALL).then(|| u32::from_ne_bytes(helper));
            return Ok(Some(Call {
                kind,
                map: None,
                helper,
            }));
        }
        Kind::Pin
        | Kind::ProgramAttach
        | Kind::ProgramDetach
        | Kind::TypesLoad
        | Kind::LinkCreate
        | Kind::LinkUpdate
        | Kind::LinkDetach => None,
    };
    let map = at
        .map(|at| {
            let fd = u32::from_ne_bytes(read(asked.pid, attr + at)?);
            map_name(asked.pid, fd, names)
        })
        .transpose()?;
    Ok(Some(Call {
        kind,
        map,
        helper: None,
    }))
}

fn read<const N: usize>(pid: u32, address: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open(format!("/proc/{pid}/mem"))?
        .read_exact_at(&mut bytes, address)
        .context("reading the agent's arguments")?;
    Ok(bytes)
}

fn map_name(pid: u32, fd: u32, names: &mut BTreeMap<u32, String>) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok())
        .with_context(|| format!("descriptor {fd} of the agent is no map"))?;
    if let Some(name) = names.get(&id) {
        return Ok(name.clone());
    }
    let info = MapInfo::from_id(id)?;
    let name = info.name_as_str().unwrap_or_default().to_owned();
    names.insert(id, name.clone());
    Ok(name)
}

/// Asks for `bpf(2)` with a command of [`COMMANDS`]; everything else passes.
fn filter() -> Result<Vec<libc::sock_filter>> {
    // Offsets in `struct seccomp_data`; of the argument the lower half, on little endian.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    ensure!(
        cfg!(target_endian = "little"),
        "needs a little endian machine"
    );
    let statement = |code: u32, k: u32| -> Result<libc::sock_filter> {
        Ok(libc::sock_filter {
            code: u16::try_from(code)?,
            jt: 0,
            jf: 0,
            k,
        })
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let commands = u8::try_from(COMMANDS.len())?;
    let mut filter = vec![
        statement(load, NUMBER)?,
        libc::sock_filter {
            // Not bpf: over the command's load and comparisons, to "allow".
            jf: commands + 1,
            ..statement(equals, u32::try_from(libc::SYS_bpf)?)?
        },
        statement(load, FIRST_ARGUMENT)?,
    ];
    for (left, (number, _)) in (1..=commands).rev().zip(COMMANDS) {
        // Over those that are left and "allow".
        filter.push(libc::sock_filter {
            jt: left,
            ..statement(equals, number)?
        });
    }
    filter.push(statement(give, libc::SECCOMP_RET_ALLOW)?);
    filter.push(statement(give, libc::SECCOMP_RET_USER_NOTIF)?);
    Ok(filter)
}

/// Installs the filter for the calling process; the descriptor hears of its calls.
fn install(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the filter it points to live through the call, which only reads them.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn hand_over(to: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(to, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(from: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .context("receiving the listener of the agent's calls")?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            RecvAncillaryMessage::ScmCredentials(_) | _ => None,
        })
        .context("the agent sent no listener")
}

/// The next question; nothing when the one that asked is gone.
fn next(listener: &OwnedFd) -> Result<Option<libc::seccomp_notif>> {
    // SAFETY: plain integers, of which all zeroes are a value; the kernel demands zeroes.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one seccomp_notif to the address given, which is that of one.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut asked,
        )
    };
    if result == 0 {
        return Ok(Some(asked));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EINTR) => Ok(None),
        _ => Err(error).context("reading the agent's call"),
    }
}

fn reply(listener: &OwnedFd, id: u64, reply: Reply) -> Result<()> {
    let (error, flags) = match reply {
        Reply::Go => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
        Reply::Fail(errno) => (-errno, 0),
        Reply::Nothing => return Ok(()),
    };
    let response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error,
        flags: u32::try_from(flags)?,
    };
    // SAFETY: the request reads one seccomp_notif_resp at the address given, which is that of one.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const response,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // The agent was killed while it waited.
    if error.raw_os_error() == Some(libc::ENOENT) {
        return Ok(());
    }
    Err(error).context("answering the agent's call")
}
