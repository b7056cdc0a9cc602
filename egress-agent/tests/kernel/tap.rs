//! A TAP device in a network namespace of its own.
//!
//! A frame that is written to it with a virtio header is an skb of which only as much is linear as the
//! header says: what a jumbo frame of a packet socket is.

#![expect(unsafe_code, reason = "ioctl(2)")]

use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use rustix::thread::UnshareFlags;

use crate::frames::Ethernet;

pub(crate) const NAME: &str = "tap0";

pub(crate) struct Tap {
    device: File,
}

impl Tap {
    /// Moves the calling thread to a new namespace, which ends with it, and makes the device there.
    pub(crate) fn in_new_namespace() -> Self {
        // SAFETY: the flag is of this thread only, and unshares nothing that other code relies on.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        let mut request = request();
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
        // SAFETY: TUNSETIFF reads and writes an ifreq.
        let failed = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());

        let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap();
        // SAFETY: SIOCSIFFLAGS reads an ifreq.
        let failed =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
        Self { device }
    }

    /// Has a frame arrive of which the first `linear` bytes are linear.
    pub(crate) fn write(&mut self, frame: &Ethernet, linear: u16) {
        // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
        let mut bytes = vec![0; 10];
        bytes[2..4].copy_from_slice(&linear.to_ne_bytes());
        bytes.extend(&frame.0);
        assert_eq!(self.device.write(&bytes).unwrap(), bytes.len());
    }
}

/// Its interface index.
pub(crate) fn index() -> u32 {
    let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
    rustix::net::netdevice::name_to_index(&socket, NAME).unwrap()
}

fn request() -> libc::ifreq {
    // SAFETY: an ifreq of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = c_char::try_from(from).unwrap();
    }
    request
}
