//! Questions to the kernel over netlink: one request, its answers, no cache.
//!
//! Only the attributes that are asked for are decoded, and one that cannot be decoded
//! loses itself, not the message around it: a link that a newer kernel describes with
//! more attributes must still be found. Source: `linux/netlink.h`, and the kernel's
//! `Documentation/userspace-api/netlink/intro.rst`.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NlasIterator,
};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;

/// The kernel builds a dump in pieces of at most 32 KiB (`netlink_dump`); one message,
/// and so one piece, is never longer than this.
const RECEIVE: usize = 64 * 1024;

/// `AF_INET` and `AF_INET6`, as the headers of messages have them.
pub(super) const FAMILIES: [u8; 2] = [2, 10];

/// How often a dump that raced with a change is asked for again. A dump takes less than a
/// millisecond, so this outlasts a burst of a few changes; after it the caller's next tick tries.
const DUMP_ATTEMPTS: u32 = 8;

/// An answer comes from within the system call that asked; only a kernel that lost it
/// would let us wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why the kernel gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("opening a netlink socket")]
    Open(#[source] io::Error),
    /// The request could not be sent.
    #[error("sending a netlink request")]
    Send(#[source] io::Error),
    /// The answer could not be received.
    #[error("receiving a netlink answer")]
    Receive(#[source] io::Error),
    /// The kernel answered with an error.
    #[error("the kernel refused a netlink request")]
    Refused(#[source] io::Error),
    /// The answer is not netlink, or longer than any message may be.
    #[error("a netlink answer makes no sense")]
    Malformed,
    /// What was listed changed while it was listed, every time.
    #[error("it changes faster than it can be listed")]
    Interrupted,
}

impl Error {
    /// The error number the kernel answered with.
    pub(super) fn refusal(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Refused(source) | Self::Open(source) => source
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error),
            Self::Send(_) | Self::Receive(_) | Self::Malformed | Self::Interrupted => None,
        }
    }
}

/// A request: a fixed part, then attributes.
#[derive(Clone, Debug)]
pub(super) struct Request {
    message_type: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request whose fixed part is `fixed`. Netlink aligns to four bytes; every fixed
    /// part and every attribute used here is as long as it is aligned.
    pub(super) fn new(message_type: u16, fixed: &[u8]) -> Self {
        debug_assert!(
            fixed.len().is_multiple_of(4),
            "an unaligned fixed part shifts what follows"
        );
        Self {
            message_type,
            body: fixed.to_vec(),
        }
    }

    /// Adds an attribute of `N` bytes, at most an address's.
    pub(super) fn with<const N: usize>(mut self, kind: u16, value: [u8; N]) -> Self {
        const { assert!(N <= 16, "longer than any attribute that is asked with") };
        // Cannot be wrong: the assertion above.
        let length = u16::try_from(NLA_HEADER_SIZE + N).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(&self, flags: u16, sequence: u32) -> Result<Vec<u8>, Error> {
        let Self { message_type, body } = self;
        let length = u32::try_from(HEADER + body.len())
            .map_err(|source| Error::Send(io::Error::other(source)))?;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes()); // the kernel's port
        bytes.extend(body);
        Ok(bytes)
    }
}

/// A socket that asks in the network namespace of the thread that opened it.
pub(super) struct Socket {
    kernel: netlink_sys::Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Socket {
    /// Links, addresses, namespace ids.
    ///
    /// Strict checking (4.20) is what makes the kernel honour the target namespace of an
    /// address dump instead of silently answering for our own namespace.
    pub(super) fn route() -> Result<Self, Error> {
        let socket = Self::open(NETLINK_ROUTE)?;
        socket
            .kernel
            .set_netlink_get_strict_chk(true)
            .map_err(Error::Open)?;
        Ok(socket)
    }

    /// Connection tracking.
    pub(super) fn netfilter() -> Result<Self, Error> {
        Self::open(NETLINK_NETFILTER)
    }

    /// Everything there is: calls `decode` with the message after its header, in order,
    /// and keeps what it returns. Asks again when the list changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(request, NLM_F_DUMP)?;
            let mut found = Vec::new();
            if self.receive_dump(sequence, |payload| found.extend(decode(payload)))? == Dump::Whole
            {
                return Ok(found);
            }
        }
        Err(Error::Interrupted)
    }

    /// One request with one answer; `None` when the answer is a mere acknowledgement.
    pub(super) fn call<T>(
        &mut self,
        request: &Request,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.call_flagged(request, 0, decode)
    }

    /// A request to make something that is not there yet.
    pub(super) fn create(&mut self, request: &Request) -> Result<(), Error> {
        self.call_flagged(request, NLM_F_CREATE, |_| None::<()>)
            .map(drop)
    }

    fn call_flagged<T>(
        &mut self,
        request: &Request,
        flags: u16,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let sequence = self.send(request, NLM_F_ACK | flags)?;
        let mut answer = None;
        loop {
            self.receive()?;
            for message in Messages(&self.received) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => return status(message.payload).map(|()| answer),
                    NLMSG_NOOP => {}
                    _ => answer = decode(message.payload),
                }
            }
        }
    }

    fn open(protocol: isize) -> Result<Self, Error> {
        let mut kernel = netlink_sys::Socket::new(protocol).map_err(Error::Open)?;
        kernel.bind_auto().map_err(Error::Open)?;
        kernel
            .connect(&SocketAddr::new(0, 0))
            .map_err(Error::Open)?;
        set_socket_timeout(&kernel, Timeout::Recv, Some(ANSWER_WITHIN))
            .map_err(|errno| Error::Open(errno.into()))?;
        Ok(Self {
            kernel,
            sequence: 0,
            received: Vec::with_capacity(RECEIVE),
        })
    }

    fn send(&mut self, request: &Request, flags: u16) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.bytes(flags, self.sequence)?;
        self.kernel.send(&bytes, 0).map_err(Error::Send)?;
        Ok(self.sequence)
    }

    fn receive_dump(&mut self, sequence: u32, mut each: impl FnMut(&[u8])) -> Result<Dump, Error> {
        let mut dump = Dump::Whole;
        loop {
            self.receive()?;
            for message in Messages(&self.received) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Torn;
                }
                match message.kind {
                    // Old kernels end a dump without a status.
                    NLMSG_DONE if message.payload.is_empty() => return Ok(dump),
                    NLMSG_DONE | NLMSG_ERROR => return status(message.payload).map(|()| dump),
                    NLMSG_NOOP => {}
                    _ => each(message.payload),
                }
            }
        }
    }

    /// Replaces `received` by the next datagram.
    fn receive(&mut self) -> Result<(), Error> {
        loop {
            self.received.clear();
            // BufMut::chunk_mut offers the spare capacity, which clear() keeps.
            match self.kernel.recv(&mut self.received, libc::MSG_TRUNC) {
                Ok(length) if length == self.received.len() && length > 0 => return Ok(()),
                Ok(_) => return Err(Error::Malformed),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Receive(source)),
            }
        }
    }
}

/// Attributes in `bytes`, as kind and value, in order, up to the first that does not fit.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
    })
}

/// The first attribute of this kind.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// A number in host order, as rtnetlink writes them.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dump {
    /// One state of the kernel.
    Whole,
    /// Parts of two states.
    Torn,
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// Messages of one datagram; ends after the first that does not fit.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Ok(message) = NetlinkBuffer::new_checked(bytes) else {
            return Some(Err(Error::Malformed));
        };
        // new_checked saw that the length fits the slice, so this neither overflows nor skips.
        self.0 = usize::try_from(message.length())
            .ok()
            .and_then(|length| bytes.get(length.next_multiple_of(4)..))
            .unwrap_or_default();
        Some(Ok(Message {
            kind: message.message_type(),
            flags: message.flags(),
            sequence: message.sequence_number(),
            payload: message.payload(),
        }))
    }
}

/// The payload of an error or of the end of a dump: a negative error number, or 0.
fn status(payload: &[u8]) -> Result<(), Error> {
    let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0..) => Ok(()),
        Some(code) => Err(Error::Refused(io::Error::from_raw_os_error(
            code.saturating_neg(),
        ))),
        None => Err(Error::Malformed),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test may fail by panic"
    )]

    use super::*;

    #[test]
    fn a_request_is_a_header_a_fixed_part_and_attributes() {
        let request = Request::new(18, &[1, 2, 3, 4]).with(46, 7_u32.to_ne_bytes());
        let bytes = request.bytes(NLM_F_DUMP, 9).unwrap();
        let message = NetlinkBuffer::new_checked(&bytes[..]).unwrap();
        assert_eq!(bytes.len(), HEADER + 4 + 8);
        assert_eq!(message.message_type(), 18);
        assert_eq!(message.flags(), NLM_F_DUMP | NLM_F_REQUEST);
        assert_eq!(message.sequence_number(), 9);
        assert_eq!(
            attribute(&message.payload()[4..], 46).and_then(number),
            Some(7)
        );
    }

    #[test]
    fn attributes_end_before_the_first_that_does_not_fit() {
        let mut bytes = Request::new(0, &[]).with(1, [1; 4]).with(2, [2; 4]).body;
        assert_eq!(attributes(&bytes).count(), 2);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &[1; 4][..])]);
        // A length below that of the attribute's own header would never advance.
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn no_datagram_panics() {
        let sample = Request::new(18, &[0; 16])
            .with(3, [b'e', b't', b'h', 0])
            .bytes(0, 1)
            .unwrap();
        for cut in 0..sample.len() {
            for message in Messages(&sample[..cut]) {
                assert!(message.is_err(), "{cut} bytes of a message are no message");
            }
        }
        for position in 0..sample.len() {
            for value in 0..=u8::MAX {
                let mut bytes = sample.clone();
                bytes[position] = value;
                for message in Messages(&bytes).flatten() {
                    assert!(attributes(message.payload).count() <= sample.len());
                }
            }
        }
    }

    #[test]
    fn a_status_is_zero_or_a_negative_error_number() {
        assert!(status(&0_i32.to_ne_bytes()).is_ok());
        let refused = status(&(-22_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.refusal(), Some(rustix::io::Errno::INVAL));
        assert!(matches!(status(&[]), Err(Error::Malformed)));
        assert!(matches!(
            status(&i32::MIN.to_ne_bytes()),
            Err(Error::Refused(_))
        ));
    }
}
