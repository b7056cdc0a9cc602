//! Classifiers of others on a link.
//!
//! A tc filter sees what passes our hooks, before or after us, and may drop or redirect it. The
//! kernel tells filters to whoever asks, by name when they are BPF programs; a TCX program's name
//! takes CAP_SYS_ADMIN. Source: `linux/rtnetlink.h` (`struct tcmsg`), `linux/pkt_sched.h`,
//! `linux/pkt_cls.h`, the kernel's `net/sched/cls_api.c`.

use std::collections::BTreeSet;
use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::links::text;
use super::netlink::{Error, Request, Socket, attribute};

const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and `…_EGRESS`.
const SIDES: [(Side, u32); 2] = [(Side::FromPod, 0xffff_fff2), (Side::ToPod, 0xffff_fff3)];

/// Which of our hooks a filter is beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The ingress of the node's end.
    FromPod,
    /// Its egress.
    ToPod,
}

impl Side {
    /// As the hooks are called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from-pod",
            Self::ToPod => "to-pod",
        }
    }
}

/// A tc filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Where it is.
    pub side: Side,
    /// Lower ones come first.
    pub priority: u16,
    /// Within the priority.
    pub handle: u32,
    /// `bpf`, `flower`, `u32` …
    pub kind: String,
    /// Of a BPF program, as its loader called it.
    pub name: Option<String>,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            side: _,
            priority,
            handle: _,
            kind,
            name,
        } = self;
        write!(f, "{kind} filter")?;
        if let Some(name) = name {
            write!(f, " {name}")?;
        }
        write!(f, " of priority {priority}")
    }
}

/// Every filter of a link's clsact qdisc. A link without one has none.
pub fn filters(link: u32) -> Result<BTreeSet<Filter>, Error> {
    let mut socket = Socket::route()?;
    let mut found = BTreeSet::new();
    for (side, parent) in SIDES {
        let header = FilterHeader {
            link,
            parent,
            ..FilterHeader::default()
        };
        let request = Request::new(RTM_GETTFILTER, header.as_bytes());
        found.extend(socket.dump(&request, |payload| read(side, payload))?);
    }
    Ok(found)
}

/// A filter; `None` for the message that only opens a priority.
fn read(side: Side, payload: &[u8]) -> Option<Filter> {
    let (header, rest) = FilterHeader::read_from_prefix(payload).ok()?;
    if header.handle == 0 {
        return None;
    }
    let [high, low, ..] = header.info.to_be_bytes();
    let name = attribute(rest, TCA_OPTIONS).and_then(|options| attribute(options, TCA_BPF_NAME));
    Some(Filter {
        side,
        priority: u16::from_be_bytes([high, low]),
        handle: header.handle,
        kind: attribute(rest, TCA_KIND).map(text).unwrap_or_default(),
        name: name.map(text),
    })
}

/// `struct tcmsg`.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FilterHeader {
    family: u8,
    padding: [u8; 3],
    link: u32,
    handle: u32,
    parent: u32,
    /// The priority above the protocol.
    info: u32,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::*;

    fn message(handle: u32, attributes: &[u8]) -> Vec<u8> {
        let header = FilterHeader {
            handle,
            info: 0x0007_0300,
            ..FilterHeader::default()
        };
        [header.as_bytes(), attributes].concat()
    }

    #[test]
    fn a_filter_is_told_by_kind_name_and_priority() {
        // TCA_KIND "bpf", TCA_OPTIONS (nested) with TCA_BPF_NAME "guard".
        let attributes = [
            &[8, 0, 1, 0][..],
            b"bpf\0",
            &[16, 0, 2, 0x80],
            &[10, 0, 7, 0],
            b"guard\0\0\0",
        ]
        .concat();
        let filter = read(Side::FromPod, &message(1, &attributes)).unwrap();
        assert_eq!(filter.to_string(), "bpf filter guard of priority 7");
        assert_eq!(filter.side.name(), "from-pod");
    }

    #[test]
    fn the_head_of_a_priority_is_no_filter() {
        assert_eq!(read(Side::ToPod, &message(0, &[])), None);
        assert_eq!(read(Side::ToPod, &[0; 7]), None);
    }
}
