//! Frames as they are: packet sockets that send hand-made ones and see what got through.
//!
//! A tap on every ethertype sits *before* the tc ingress hook, a tap on one ethertype
//! behind it (`__netif_receive_skb_core`: `ptype_all`, then `sch_handle_ingress`, then the
//! protocol's own handlers). Where a frame is routed, [`Tap`] on the outside's interface
//! shows it; where it is not, a tap of its ethertype on the host's side does.

use std::fmt;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::NetNs;
use super::netns::report;
use super::probe::contains;

/// Every ethertype (`ETH_P_ALL`).
pub const EVERY: u16 = 3;

/// Room for the frames of one test: a few thousand of ordinary size.
const BUFFER: usize = 8 << 20;

/// Keeps the calling thread on the processor that it is on: frames that are sent there are handled
/// in the order in which they were sent (`netif_rx` queues them per processor).
#[derive(Debug)]
pub struct InOrder(CpuSet);

impl InOrder {
    /// Until it is dropped.
    pub fn begin() -> Result<Self> {
        let before = sched_getaffinity(None).context("asking for the thread's processors")?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).context("staying on one processor")?;
        Ok(Self(before))
    }
}

impl Drop for InOrder {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.0) {
            report(&format!("leaving a processor: {error}"));
        }
    }
}

/// Sends whole Ethernet frames out of an interface.
pub struct Sender {
    socket: OwnedFd,
    index: u32,
}

impl Sender {
    /// On interface `name` of `ns`.
    pub fn new(ns: &NetNs, name: &str) -> Result<Self> {
        let (socket, index) = packet_socket(ns, name, 0)?;
        Ok(Self { socket, index })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_bytes(frame)
            .with_context(|| format!("sending a frame of {} bytes", frame.len()))
    }

    /// Sends one frame of 4 KiB or more whose bytes behind the Ethernet header are not in
    /// the linear part of the kernel's buffer.
    ///
    /// `packet_snd` takes the linear length from `virtio_net_hdr.hdr_len` when the frame
    /// does not fit a page, so that even the IP header lies in a page fragment.
    pub fn send_non_linear(&self, frame: &[u8]) -> Result<()> {
        if frame.len() < 4096 {
            bail!(
                "frames below a page are always linear, this one has {} bytes",
                frame.len()
            );
        }
        set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
        let mut bytes = vec![0, 0];
        bytes.extend(14_u16.to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(frame);
        let sent = self
            .send_bytes(&bytes)
            .context("sending a non-linear frame");
        set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 0)?;
        sent
    }

    fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        let to = LinkAddress::new(self.index, 0)?;
        let sent = rustix::net::sendto(&self.socket, bytes, SendFlags::empty(), &to)?;
        if sent != bytes.len() {
            bail!("only {sent} of {} bytes were sent", bytes.len());
        }
        Ok(())
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Sees the frames of an interface from the moment it is made.
pub struct Tap {
    socket: OwnedFd,
    seen: Vec<Vec<u8>>,
}

impl Tap {
    /// On interface `name` of `ns`, for `ethertype` ([`EVERY`] for all).
    pub fn new(ns: &NetNs, name: &str, ethertype: u16) -> Result<Self> {
        let (socket, _) = packet_socket(ns, name, ethertype)?;
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(20)))?;
        Ok(Self {
            socket,
            seen: Vec::new(),
        })
    }

    /// Waits until a frame that contains `bytes` was seen, at most `patience`.
    pub fn wait_for(&mut self, bytes: &[u8], patience: Duration) -> Result<bool> {
        let start = Instant::now();
        while !self.has_seen(bytes) {
            if start.elapsed() > patience {
                return Ok(false);
            }
            self.receive()?;
        }
        Ok(true)
    }

    /// Reads what is there.
    pub fn drain(&mut self) -> Result<()> {
        while self.receive_one(RecvFlags::DONTWAIT)? {}
        Ok(())
    }

    /// Forgets the frames read so far.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// Whether a frame that contains `bytes` is among those read so far.
    pub fn has_seen(&self, bytes: &[u8]) -> bool {
        self.count(bytes) > 0
    }

    /// How many frames that contain `bytes` are among those read so far.
    pub fn count(&self, bytes: &[u8]) -> usize {
        self.seen
            .iter()
            .filter(|frame| contains(frame, bytes))
            .count()
    }

    /// Bytes of the longest frame read so far.
    pub fn longest(&self) -> usize {
        self.seen.iter().map(Vec::len).max().unwrap_or(0)
    }

    fn receive(&mut self) -> Result<()> {
        self.receive_one(RecvFlags::empty()).map(drop)
    }

    /// Whether there was one.
    fn receive_one(&mut self, flags: RecvFlags) -> Result<bool> {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 1 << 17];
        match rustix::net::recv(&self.socket, &mut buffer[..], flags) {
            Ok(((frame, _), _)) => {
                self.seen.push(frame.to_vec());
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("reading from a packet socket"),
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("seen", &self.seen.len())
            .finish_non_exhaustive()
    }
}

/// Sends `data` as one UDP frame that the kernel cuts into datagrams of `segment` bytes
/// (`UDP_SEGMENT`): a GSO frame on every veth.
pub fn send_udp_segments(ns: &NetNs, to: SocketAddr, segment: u16, data: &[u8]) -> Result<()> {
    ns.run(|| {
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        set_option(
            &socket,
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            i32::from(segment),
        )?;
        socket.send_to(data, to)?;
        Ok(())
    })
}

fn packet_socket(ns: &NetNs, name: &str, ethertype: u16) -> Result<(OwnedFd, u32)> {
    ns.run(|| {
        // No protocol until it is bound: no frame of another interface gets in.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None::<Protocol>,
        )
        .context("opening a packet socket")?;
        let index = name_to_index(socket.as_fd(), name)
            .with_context(|| format!("interface {name} of {}", ns.name()))?;
        rustix::net::bind(&socket, &LinkAddress::new(index, ethertype)?)
            .with_context(|| format!("binding a packet socket to {name}"))?;
        Ok((socket, index))
    })
}

/// `struct sockaddr_ll` with an interface and an ethertype.
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(index: u32, ethertype: u16) -> Result<Self> {
        Ok(Self(libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET)?,
            sll_protocol: ethertype.to_be(),
            sll_ifindex: i32::try_from(index)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        }))
    }
}

#[expect(
    unsafe_code,
    reason = "rustix has no type for packet addresses, and the trait is unsafe to implement"
)]
// SAFETY: `f` gets a pointer to a whole, initialised `sockaddr_ll` that outlives the call,
// and that structure's own size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let length = SocketAddrLen::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        f((&raw const self.0).cast(), length)
    }
}

#[expect(
    unsafe_code,
    reason = "neither std nor rustix knows these socket options"
)]
fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>())?;
    // SAFETY: the pointer is to a live `i32` and `length` is its size; the descriptor is
    // borrowed for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("setting socket option {option}"));
    }
    Ok(())
}
