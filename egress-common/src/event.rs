//! The drop record, and the one list of reasons.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happens to the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The next program on the hook runs.
    Pass,
    /// The frame is dropped and counted.
    Drop,
}

/// How many reasons to drop there are: an endpoint's counters have a place for each, so that another one
/// is another layout.
pub const DROP_REASONS: usize = 8;

/// Why a frame passed or was dropped. The numbers are those in records; counters stand in the order of
/// [`Reason::drop_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The hook has no endpoint entry.
    NoEndpoint = 0,
    /// No policy isolates the endpoint (S1).
    NotIsolated = 1,
    /// A rule, or a Service frontend all of whose backends are fine, allows it.
    Allowed = 2,
    /// A flow of the pod that was allowed under the present rules.
    Established = 3,
    /// Answers a connection opened towards the pod (S52).
    Reply = 4,
    /// An ICMP error about a flow that is known (S49).
    Related = 5,
    /// ARP, neighbour discovery, MLD or IGMP (S49, S97).
    Neighbour = 6,
    /// The pod's own address (S75).
    OwnAddress = 7,
    /// The pod is isolated and no rule allows it.
    NoRule = 64,
    /// A Service frontend with a backend that is denied, or none that counts (S84).
    Frontend = 65,
    /// The source is not one of the pod's addresses.
    Spoofed = 66,
    /// Neither IPv4 nor IPv6 nor ARP.
    NotIp = 67,
    /// Shorter than its headers say, or headers that contradict each other (S51).
    Malformed = 68,
    /// An IPv6 header chain longer than the bound, or with an unknown extension (S51).
    ExtensionHeaders = 69,
    /// A routing header with segments left, or an IPv4 source route (S97).
    SourceRoute = 70,
    /// A later fragment whose first fragment was not seen, or not allowed (S50).
    Fragment = 71,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::NoEndpoint,
        Self::NotIsolated,
        Self::Allowed,
        Self::Established,
        Self::Reply,
        Self::Related,
        Self::Neighbour,
        Self::OwnAddress,
        Self::NoRule,
        Self::Frontend,
        Self::Spoofed,
        Self::NotIp,
        Self::Malformed,
        Self::ExtensionHeaders,
        Self::SourceRoute,
        Self::Fragment,
    ];

    /// What to do. No wildcard: a new reason does not compile until somebody has chosen.
    pub const fn action(self) -> Action {
        match self {
            Self::NoEndpoint
            | Self::NotIsolated
            | Self::Allowed
            | Self::Established
            | Self::Reply
            | Self::Related
            | Self::Neighbour
            | Self::OwnAddress => Action::Pass,
            Self::NoRule
            | Self::Frontend
            | Self::Spoofed
            | Self::NotIp
            | Self::Malformed
            | Self::ExtensionHeaders
            | Self::SourceRoute
            | Self::Fragment => Action::Drop,
        }
    }

    /// The name in metrics, records and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no-endpoint",
            Self::NotIsolated => "not-isolated",
            Self::Allowed => "allowed",
            Self::Established => "established",
            Self::Reply => "reply",
            Self::Related => "related",
            Self::Neighbour => "neighbour",
            Self::OwnAddress => "own-address",
            Self::NoRule => "no-rule",
            Self::Frontend => "frontend",
            Self::Spoofed => "spoofed",
            Self::NotIp => "not-ip",
            Self::Malformed => "malformed",
            Self::ExtensionHeaders => "extension-headers",
            Self::SourceRoute => "source-route",
            Self::Fragment => "fragment",
        }
    }

    /// The reason of a number, as read from a record.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.number() == number)
    }

    /// The place of a reason to drop among them, below [`DROP_REASONS`]: the low bits of its number. It
    /// says nothing of a reason to pass.
    ///
    /// By these bits the verifier knows that the place is there.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "u32::from is not const")]
    pub const fn drop_index(self) -> u32 {
        (self.number() & 7) as u32
    }

    /// The reason to drop at a place.
    pub fn from_drop_index(index: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .filter(|reason| matches!(reason.action(), Action::Drop))
            .find(|reason| reason.drop_index() == index)
    }

    /// The number kept in records.
    #[expect(
        clippy::as_conversions,
        reason = "the one way to the discriminant of a repr(u8) enum"
    )]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A dropped packet, or with [`Reason::Allowed`] a new flow, as sent through EVENTS. 64 bytes: one cache
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`), host byte order.
    pub time: u64,
    /// Interface index or low half of the cgroup id, host byte order.
    pub hook: u32,
    /// [`crate::abi::Endpoint::slot`].
    pub slot: U16,
    /// [`Reason::number`].
    pub reason: u8,
    /// [`crate::abi::FAMILY_V4`], [`crate::abi::FAMILY_V6`] or 0.
    pub family: u8,
    /// IP protocol number, 0 where the frame has none.
    pub protocol: u8,
    /// TCP flags byte, 0 for other protocols.
    pub tcp_flags: u8,
    /// Source port, 0 where there is none.
    pub source_port: U16,
    /// Destination port, 0 where there is none.
    pub destination_port: U16,
    /// The frame's ethertype.
    pub ethertype: U16,
    /// Bytes of the IP packet.
    pub length: U32,
    /// [`crate::abi::Endpoint::generation`].
    pub generation: U32,
    /// Source address, IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

const _: () = assert!(size_of::<Record>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_the_list_agree() {
        let mut seen = [false; 256];
        for reason in Reason::ALL {
            let index = usize::from(reason.number());
            assert_eq!(
                seen.get(index),
                Some(&false),
                "{reason:?} has another's number"
            );
            if let Some(slot) = seen.get_mut(index) {
                *slot = true;
            }
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
            let same = Reason::ALL
                .iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{reason:?} has another's name");
        }
        assert_eq!(Reason::from_number(255), None);
    }

    #[test]
    fn reasons_to_drop_have_a_place_each() {
        let drops = Reason::ALL.map(|reason| match reason.action() {
            Action::Drop => Some(reason),
            Action::Pass => None,
        });
        let drops = drops.into_iter().flatten();
        assert_eq!(drops.clone().count(), DROP_REASONS);
        for (place, reason) in (0..).zip(drops) {
            assert_eq!(reason.drop_index(), place);
            assert_eq!(Reason::from_drop_index(place), Some(reason));
        }
        assert_eq!(Reason::from_drop_index(8), None);
    }
}
