//! Numbers by which the agent's namespace knows other namespaces.
//!
//! The kernel speaks of a peer's namespace only by such a number, and answers for another
//! namespace when a request carries its number. So nothing here enters a pod's namespace:
//! `CAP_NET_ADMIN` is enough, `setns` would need `CAP_SYS_ADMIN`. Source:
//! `linux/net_namespace.h`; `IFLA_TARGET_NETNSID`, `IFA_TARGET_NETNSID` (4.20).

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use super::netlink::{Error, Request, Socket, attribute};

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NETNSA_NSID_NOT_ASSIGNED: i32 = -1;

/// `struct rtgenmsg`: the family, unspecified, and padding.
const RTGENMSG: [u8; 4] = [0; 4];

/// The number of a namespace; it belongs to the namespace while that lives, and is given
/// to another one afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nsid(pub(super) i32);

impl Nsid {
    /// The number of an open namespace. A namespace that nothing in ours refers to has none
    /// yet and gets one.
    ///
    /// `None` when the file is no *network* namespace.
    pub(super) fn of(socket: &mut Socket, namespace: impl AsFd) -> Result<Option<Self>, Error> {
        let fd = namespace.as_fd().as_raw_fd().to_ne_bytes();
        match Self::ask(socket, fd) {
            Ok(None) => {}
            Err(error) if error.refusal() == Some(Errno::INVAL) => return Ok(None),
            answer => return answer,
        }
        let any = NETNSA_NSID_NOT_ASSIGNED.to_ne_bytes();
        let assign = Request::new(RTM_NEWNSID, &RTGENMSG)
            .with(NETNSA_FD, fd)
            .with(NETNSA_NSID, any);
        match socket.call(&assign, |_| None::<()>) {
            Ok(_) => {}
            // Somebody else's dump assigned one since we asked.
            Err(error) if error.refusal() == Some(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        Self::ask(socket, fd)?.map_or(Err(Error::Malformed), |id| Ok(Some(id)))
    }

    /// The value of an attribute that names a namespace. It may be -1, of one that is just
    /// being deleted; no open namespace has that number.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        Some(Self(i32::from_ne_bytes(*value.first_chunk()?)))
    }

    fn ask(socket: &mut Socket, fd: [u8; 4]) -> Result<Option<Self>, Error> {
        let request = Request::new(RTM_GETNSID, &RTGENMSG).with(NETNSA_FD, fd);
        let answer = socket.call(&request, |payload| {
            attribute(payload.get(RTGENMSG.len()..)?, NETNSA_NSID).and_then(Self::read)
        })?;
        Ok(answer.filter(|Self(id)| *id != NETNSA_NSID_NOT_ASSIGNED))
    }
}
