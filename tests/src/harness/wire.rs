//! Hand-made frames from a pod, and what of them comes out on the other side.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::raw::{EVERY, InOrder, Sender, Tap};
use super::{DEADLINE, NetNs, OUTSIDE, Pod, objects};
use crate::packet::{self, Ends, ethertype};

/// The node's end of the link to the outside.
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 1];
/// The outside's end of it.
pub(super) const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 2];

/// Where [`Wire`] sends what tells it that everything before was handled.
const FENCE: (Ipv4Addr, u16) = (OUTSIDE[0].0, 7);

/// Frames from a pod, and what of them comes out on the other side.
#[derive(Debug)]
pub struct Wire {
    sender: Sender,
    outside: Tap,
    gateway: [u8; 6],
    own: [u8; 6],
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Wire {
    pub(super) fn new(pod: &Pod, outside: &NetNs) -> Result<Self> {
        Ok(Self {
            sender: Sender::new(&pod.ns, "eth0")?,
            outside: Tap::new(outside, "eth0", EVERY)?,
            gateway: pod.gateway_mac(),
            own: pod.mac(),
            v4: pod.v4,
            v6: pod.v6,
        })
    }

    /// From the pod to an IPv4 address.
    pub fn to_v4(&self, destination: Ipv4Addr) -> Ends {
        Ends::V4(self.v4, destination)
    }

    /// From the pod to an IPv6 address.
    pub fn to_v6(&self, destination: Ipv6Addr) -> Ends {
        Ends::V6(self.v6, destination)
    }

    /// A frame from the pod to its gateway.
    pub fn frame(&self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        packet::ethernet(self.gateway, self.own, ethertype, payload)
    }

    /// The socket that sends.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What is seen outside.
    pub fn tap(&mut self) -> &mut Tap {
        &mut self.outside
    }

    /// Sends IP packets and says whether a frame with `token` came out; see
    /// [`Wire::gets_through`].
    pub fn packets_get_through(
        &mut self,
        ethertype: u16,
        packets: &[Vec<u8>],
        token: &[u8],
    ) -> Result<bool> {
        let frames: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| self.frame(ethertype, packet))
            .collect();
        self.gets_through(&frames, token)
    }

    /// Sends frames and says whether one with `token` came out on the outside's interface.
    ///
    /// Behind them goes a datagram that every policy of such a test allows
    /// ([`fence_rule`]): once it was seen, whatever was sent before it has been judged.
    pub fn gets_through(&mut self, frames: &[Vec<u8>], token: &[u8]) -> Result<bool> {
        let _in_order = InOrder::begin()?;
        for frame in frames {
            self.sender.send(frame)?;
        }
        self.fence()?;
        Ok(self.outside.has_seen(token))
    }

    /// Waits until everything sent so far has been judged.
    pub fn fence(&mut self) -> Result<()> {
        let token = packet::token();
        let ends = Ends::V4(self.v4, FENCE.0);
        let datagram = packet::udp(ends, 7, FENCE.1, &token);
        let frame = self.frame(ethertype::IPV4, &ends.packet(packet::proto::UDP, datagram));
        self.sender.send(&frame)?;
        if !self.outside.wait_for(&token, DEADLINE)? {
            bail!("the allowed datagram behind the frames did not get through");
        }
        Ok(())
    }
}

/// Hand-made packets from the outside towards the pods.
#[derive(Debug)]
pub struct Inbound(Sender);

impl Inbound {
    pub(super) fn new(outside: &NetNs) -> Result<Self> {
        Ok(Self(Sender::new(outside, "eth0")?))
    }

    /// Sends one IP packet to the node, which routes it.
    pub fn send(&self, ethertype: u16, packet: &[u8]) -> Result<()> {
        self.0
            .send(&packet::ethernet(NODE_MAC, OUTSIDE_MAC, ethertype, packet))
    }
}

/// The rule that lets [`Wire::fence`] through.
pub fn fence_rule() -> Value {
    objects::to_blocks(
        &[&format!("{}/32", FENCE.0)],
        &json!([objects::port(FENCE.1, "UDP")]),
    )
}
