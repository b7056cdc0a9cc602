//! What a decision reads and writes, as two traits.
//!
//! [`Tables`] is policy: the kernel maps in BPF, `egress_core`'s `Image` on the host.
//! [`State`] is everything else a hook needs: endpoints, flows, fragments, the clock.

use crate::abi::{Address, Config, Endpoint, Fragment, FragmentKey, FrontendKey};
use crate::flows::{FlowSet, Place};

/// A key or value on the stack of a kernel program; see [`Chunk`](crate::packet::Chunk).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// The compiled policies. Every look-up that finds nothing closes.
pub trait Tables {
    /// PEERS: the class of a pod's address.
    fn peer(&self, address: &Address) -> Option<u32>;
    /// RULESET_CLASSES: what the ruleset allows towards the class, as a ports id.
    fn class_ports(&self, ruleset: u32, class: u32) -> Option<u32>;
    /// RULESET_CIDRS: what the ruleset allows towards the address by its longest prefix, as a
    /// ports id.
    fn cidr_ports(&self, ruleset: u32, address: &Address) -> Option<u32>;
    /// PORTS: whether an interned set has this protocol and port. Not called for
    /// [`crate::abi::PORTS_NOTHING`], [`crate::abi::PORTS_EVERYTHING`] and ids that say themselves what
    /// they contain ([`crate::abi::literal_ports`]).
    fn ports_contain(&self, ports: u32, protocol: u8, port: u16) -> bool;
    /// FRONTENDS: the Service frontend at an address and port.
    fn frontend(&self, key: &FrontendKey) -> Option<u32>;
    /// RULESET_FRONTENDS: whether the ruleset allows the frontend.
    fn frontend_allowed(&self, ruleset: u32, frontend: u32) -> bool;
}

/// Endpoints, flows, fragments and the clock.
pub trait State {
    /// ENDPOINTS: who sends through this hook.
    fn endpoint(&self, hook: u64) -> Option<&Endpoint>;
    /// CONFIG.
    fn config(&self) -> Config;
    /// Seconds since boot; coarse is fine.
    fn now(&self) -> u32;
    /// FLOWS: the set that has a flow which a pod opened, if it is known. `None` is as an empty set
    /// that keeps nothing: it costs decisions.
    fn outbound(&self, place: &Place) -> Option<&FlowSet>;
    /// INBOUND: the same of a flow opened towards the pod, in the table of the endpoint's slot.
    fn inbound(&self, place: &Place) -> Option<&FlowSet>;
    /// FRAGMENTS.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Writes FRAGMENTS.
    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment);
}
