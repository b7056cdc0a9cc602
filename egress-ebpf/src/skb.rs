//! The skb as a [`Frame`].

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use egress_common::packet::{Chunk, Frame};

/// Length of the Ethernet header, where every frame of a tc hook on a veth starts.
pub(crate) const ETHERNET: u32 = 14;

/// Most bytes that are read at once.
const BUFFER: usize = 40;

/// Where bytes of a frame are put, in a map for the reasons of `egress_common::hook::Scratch`.
pub(crate) type Buffer = Chunk<BUFFER>;

/// A frame on a tc hook.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
    buffer: *mut Buffer,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(context: &TcContext, buffer: &mut Buffer) -> Self {
        Self {
            skb: context.skb.skb,
            buffer,
        }
    }

    /// The key of ENDPOINTS.
    #[inline(always)]
    pub(crate) fn hook(&self) -> u64 {
        u64::from(self.ifindex())
    }

    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context outlives the program and the field is readable for tc programs.
        unsafe { (*self.skb).ifindex }
    }

    /// How many packets go over the wire for this frame.
    #[inline(always)]
    pub(crate) fn segments(&self, payload: u32) -> u64 {
        // SAFETY: as in `ifindex`.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments > 0 {
            return u64::from(segments);
        }
        // Frames of a virtual machine or a tunnel come without the count.
        match self.gso_size() {
            0 => 1,
            size => u64::from(payload.div_ceil(size).max(1)),
        }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).gso_size }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the ethertype is 16 bits in a u32 field; lengths are small constants"
)]
impl Frame for Skb {
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        let protocol = unsafe { (*self.skb).protocol };
        u16::from_be(protocol as u16)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        let length = unsafe { (*self.skb).len };
        length.max(ETHERNET) - ETHERNET
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.gso_size() > 0
    }

    /// Also reads what is not linear: payload of 4 KiB and more lies in pages of its own.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<Chunk<N>> {
        const { assert!(N <= BUFFER) };
        // SAFETY: the helper writes N bytes to a buffer of at least N.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast_const().cast(),
                ETHERNET + offset,
                self.buffer.cast(),
                N as u32,
            )
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: the buffer outlives the program, nothing else refers to it, and N bytes of it are
        // N bytes.
        Some(Chunk(unsafe { *self.buffer.cast::<[u8; N]>() }))
    }

    /// Bytes of the linear part, without a call. `None` when they are not all in it.
    #[inline(always)]
    fn linear<const OFFSET: u32, const N: usize>(&self) -> Option<Chunk<N>> {
        // SAFETY: as in `ifindex`.
        let data = unsafe { (*self.skb).data } as usize;
        // SAFETY: as in `ifindex`.
        let end = unsafe { (*self.skb).data_end } as usize;
        let start = data + (ETHERNET + OFFSET) as usize;
        if start + N > end {
            return None;
        }
        // SAFETY: start + N <= data_end was checked, and the verifier refuses the program
        // where it was not; any bytes are a valid array, which needs no alignment.
        Some(Chunk(unsafe { *(start as *const [u8; N]) }))
    }
}
