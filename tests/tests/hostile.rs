//! Frames that try to get around a policy, and odd ones that a policy must not break.
//!
//! Each test sends its frames twice: while nothing isolates the pod they all come out, so
//! that silence later is the policy's doing.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use egress_tests::harness::objects::{egress, port, to_blocks};
use egress_tests::harness::raw::Tap;
use egress_tests::harness::{OUTSIDE, Pod, PodSpec, Wire, World, fence_rule, on_world};
use egress_tests::packet::{self, Ends, Ipv4, Ipv6, ethertype, proto, token};
use serde_json::json;

/// The one UDP port that the policy allows towards [`there`].
const OPEN: u16 = 2000;
/// A port that it does not allow.
const SHUT: u16 = 2001;
/// What a parser that skips no options reads where ports would stand: two NOPs.
const NOPS: u16 = 0x0101;

fn there() -> (Ipv4Addr, Ipv6Addr) {
    OUTSIDE[0]
}

/// Frames that are sent together, and the bytes that show whether they came out.
struct Attempt {
    title: &'static str,
    frames: Vec<Vec<u8>>,
    token: Vec<u8>,
    /// Whether it comes out under the policy.
    open: bool,
}

impl Attempt {
    fn new(title: &'static str, open: bool, token: [u8; 16], frames: Vec<Vec<u8>>) -> Self {
        Self {
            title,
            frames,
            token: token.to_vec(),
            open,
        }
    }
}

/// Sends everything without and with the policy. `make` is asked twice, for fresh tokens.
fn compare(make: impl Fn(&Pod, &Wire) -> Vec<Attempt>) {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        world.pod(PodSpec::new("x", "other"))?;
        let mut wire = world.wire(&pod)?;
        for attempt in make(&pod, &wire) {
            ensure!(
                wire.gets_through(&attempt.frames, &attempt.token)?,
                "control: {}",
                attempt.title
            );
        }
        start_isolated(world)?;
        for attempt in make(&pod, &wire) {
            let through = wire.gets_through(&attempt.frames, &attempt.token)?;
            ensure!(
                through == attempt.open,
                "{}: through is {through}",
                attempt.title
            );
        }
        Ok(())
    });
}

fn start_isolated(world: &mut World) -> Result<()> {
    world.namespace("x", &[])?;
    let (v4, v6) = there();
    let blocks = [format!("{v4}/32"), format!("{v6}/128")];
    let blocks = [blocks[0].as_str(), blocks[1].as_str()];
    let ports = json!([port(OPEN, "UDP"), port(NOPS, "UDP"), port(OPEN, "TCP")]);
    world.manifests.put(
        "policy.json",
        &egress("x", "p", &json!([to_blocks(&blocks, &ports), fence_rule()])),
    )?;
    world.start_agent()
}

fn ends4(pod: &Pod) -> Ends {
    Ends::V4(pod.v4, there().0)
}

fn ends6(pod: &Pod) -> Ends {
    Ends::V6(pod.v6, there().1)
}

fn udp4(pod: &Pod, to: u16, data: &[u8]) -> Ipv4 {
    Ipv4::new(
        pod.v4,
        there().0,
        proto::UDP,
        packet::udp(ends4(pod), 1000, to, data),
    )
}

fn udp6(pod: &Pod, to: u16, data: &[u8]) -> Ipv6 {
    Ipv6::new(
        pod.v6,
        there().1,
        proto::UDP,
        packet::udp(ends6(pod), 1000, to, data),
    )
}

/// Frames whose headers are not in the linear part of the kernel's buffer.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn jumbo_frames_that_are_not_linear_are_judged() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut wire = world.wire(&pod)?;
        let mut all = |control: bool| -> Result<()> {
            for (to, open) in [(OPEN, true), (SHUT, false)] {
                for size in [4200, 8900] {
                    for v6 in [false, true] {
                        let token = token();
                        let mut data = token.to_vec();
                        data.resize(size, 0x5a);
                        let frame = if v6 {
                            wire.frame(ethertype::IPV6, &udp6(&pod, to, &data).bytes())
                        } else {
                            wire.frame(ethertype::IPV4, &udp4(&pod, to, &data).bytes())
                        };
                        wire.sender().send_non_linear(&frame)?;
                        let through = wire.gets_through(&[], &token)?;
                        ensure!(
                            through == (control || open),
                            "port {to}, {size} bytes, IPv6 {v6}: through is {through}"
                        );
                    }
                }
            }
            Ok(())
        };
        all(true)?;
        start_isolated(world)?;
        all(false)
    });
}

/// Options do not shift the ports.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn ip_options_do_not_shift_the_ports() {
    compare(|pod, wire| {
        let with = |to: u16, options: Vec<u8>, token: &[u8]| {
            let mut packet = udp4(pod, to, token);
            packet.options = options;
            vec![wire.frame(ethertype::IPV4, &packet.bytes())]
        };
        let (t1, t2, t3, t4) = (token(), token(), token(), token());
        vec![
            Attempt::new(
                "options that read as an allowed port",
                false,
                t1,
                with(SHUT, vec![1; 8], &t1),
            ),
            Attempt::new(
                "options before an allowed port",
                true,
                t2,
                with(OPEN, vec![1; 8], &t2),
            ),
            Attempt::new(
                "forty bytes of options, denied",
                false,
                t3,
                with(SHUT, vec![1; 40], &t3),
            ),
            Attempt::new(
                "forty bytes of options, allowed",
                true,
                t4,
                with(OPEN, vec![1; 40], &t4),
            ),
        ]
    });
}

/// A source route would carry the packet elsewhere than where it was judged to go.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn source_routes_do_not_pass() {
    compare(|pod, wire| {
        let routed = |kind: u8, token: &[u8]| {
            let mut packet = udp4(pod, OPEN, token);
            packet.options = [&[kind, 7, 4][..], &OUTSIDE[1].0.octets(), &[0]].concat();
            vec![wire.frame(ethertype::IPV4, &packet.bytes())]
        };
        let (t1, t2, t3) = (token(), token(), token());
        let left = udp6(pod, OPEN, &t2)
            .with_routing(0, 1, OUTSIDE[1].1)
            .bytes();
        let done = udp6(pod, OPEN, &t3)
            .with_routing(0, 0, OUTSIDE[1].1)
            .bytes();
        vec![
            Attempt::new("loose source route", false, t1, routed(131, &t1)),
            Attempt::new(
                "routing header, a segment left",
                false,
                t2,
                vec![wire.frame(ethertype::IPV6, &left)],
            ),
            Attempt::new(
                "routing header, none left",
                true,
                t3,
                vec![wire.frame(ethertype::IPV6, &done)],
            ),
        ]
    });
}

/// S50: fragments follow their first one; one that comes before it does not pass.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn fragments_follow_their_first_one() {
    compare(|pod, wire| {
        let mut attempts = Vec::new();
        for (open, to, title4, title6) in [
            (
                true,
                OPEN,
                "IPv4 fragments, allowed",
                "IPv6 fragments, allowed",
            ),
            (
                false,
                SHUT,
                "IPv4 fragments, denied",
                "IPv6 fragments, denied",
            ),
        ] {
            let t4 = token();
            let (one, two) = udp4(pod, to, &[&[0; 56], &t4[..]].concat()).fragments(fresh_id(), 32);
            attempts.push(Attempt::new(
                title4,
                open,
                t4,
                vec![
                    wire.frame(ethertype::IPV4, &one.bytes()),
                    wire.frame(ethertype::IPV4, &two.bytes()),
                ],
            ));
            let t6 = token();
            let (one, two) =
                udp6(pod, to, &[&[0; 56], &t6[..]].concat()).fragments(fresh_id().into(), 32);
            attempts.push(Attempt::new(
                title6,
                open,
                t6,
                vec![
                    wire.frame(ethertype::IPV6, &one.bytes()),
                    wire.frame(ethertype::IPV6, &two.bytes()),
                ],
            ));
        }
        attempts
    });
}

/// S50: the late part alone is closed; once the first was seen, a repeated one passes.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_fragment_before_its_first_one_is_closed() {
    compare(|pod, wire| {
        let (t4, t6) = (token(), token());
        let (one4, two4) = udp4(pod, OPEN, &[&[0; 56], &t4[..]].concat()).fragments(fresh_id(), 32);
        let (one6, two6) =
            udp6(pod, OPEN, &[&[0; 56], &t6[..]].concat()).fragments(fresh_id().into(), 32);
        let head = token();
        let (first_has_token, rest) =
            udp4(pod, OPEN, &[&head[..], &[0; 56]].concat()).fragments(fresh_id(), 32);
        vec![
            Attempt::new(
                "IPv4, the other way round",
                false,
                t4,
                vec![
                    wire.frame(ethertype::IPV4, &two4.bytes()),
                    wire.frame(ethertype::IPV4, &one4.bytes()),
                ],
            ),
            Attempt::new(
                "IPv6, the other way round",
                false,
                t6,
                vec![
                    wire.frame(ethertype::IPV6, &two6.bytes()),
                    wire.frame(ethertype::IPV6, &one6.bytes()),
                ],
            ),
            Attempt::new(
                "the first fragment itself, the other way round",
                true,
                head,
                vec![
                    wire.frame(ethertype::IPV4, &rest.bytes()),
                    wire.frame(ethertype::IPV4, &first_has_token.bytes()),
                ],
            ),
        ]
    });
}

/// S51: the transport header is found behind extension headers, and nowhere else.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn extension_headers_are_walked() {
    compare(|pod, wire| {
        let frame = |packet: Ipv6| vec![wire.frame(ethertype::IPV6, &packet.bytes())];
        let chain = |to: u16, token: &[u8]| {
            udp6(pod, to, token)
                .with_options(proto::DESTINATION_OPTIONS, 3)
                .with_options(proto::HOP_BY_HOP, 1)
        };
        let [t1, t2, t3, t4, t5, t6] = std::array::from_fn(|_| token());
        // As a parser would see it that takes the first header for UDP.
        let long = (0..12).fold(udp6(pod, SHUT, &t3), |packet, _| {
            packet.with_options(proto::DESTINATION_OPTIONS, 1)
        });
        let (first, second) = udp6(pod, OPEN, &[&[0; 56], &t4[..]].concat())
            .with_options(proto::DESTINATION_OPTIONS, 3)
            .fragments(fresh_id().into(), 72);
        let [first, second] = [first, second].map(|part| part.with_options(proto::HOP_BY_HOP, 1));
        let none = Ipv6::new(pod.v6, there().1, proto::NO_NEXT, t5.to_vec());
        let unknown = Ipv6::new(pod.v6, there().1, 253, t6.to_vec());
        vec![
            Attempt::new(
                "a chain before an allowed port",
                true,
                t1,
                frame(chain(OPEN, &t1)),
            ),
            Attempt::new(
                "a chain before a denied port",
                false,
                t2,
                frame(chain(SHUT, &t2)),
            ),
            Attempt::new(
                "twelve headers before a denied port",
                false,
                t3,
                frame(long),
            ),
            Attempt::new(
                "fragments with headers before and inside, allowed",
                true,
                t4,
                [frame(first), frame(second)].concat(),
            ),
            Attempt::new("no next header", false, t5, frame(none)),
            Attempt::new("an unknown protocol", false, t6, frame(unknown)),
        ]
    });
}

/// The peer's hole: rule slots full of zeros match protocol 0.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn protocol_zero_matches_no_rule() {
    compare(|pod, wire| {
        let (t1, t2) = (token(), token());
        let v4 = Ipv4::new(pod.v4, there().0, 0, [&[0; 8], &t1[..]].concat());
        let v6 = udp6(pod, SHUT, &t2).with_options(proto::HOP_BY_HOP, 1);
        vec![
            Attempt::new(
                "IPv4 protocol 0",
                false,
                t1,
                vec![wire.frame(ethertype::IPV4, &v4.bytes())],
            ),
            Attempt::new(
                "hop-by-hop header",
                false,
                t2,
                vec![wire.frame(ethertype::IPV6, &v6.bytes())],
            ),
        ]
    });
}

/// The kernel takes one tag off before the hook, and further ones with VID 0 behind it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn stacked_vlan_tags_carry_nothing_past_the_hook() {
    compare(|pod, wire| {
        let [t1, t2, t3] = std::array::from_fn(|_| token());
        let inner =
            |token: &[u8]| packet::vlan(0, ethertype::IPV4, &udp4(pod, SHUT, token).bytes());
        vec![
            Attempt::new(
                "one tag",
                false,
                t1,
                vec![wire.frame(ethertype::VLAN, &inner(&t1))],
            ),
            Attempt::new(
                "two tags",
                false,
                t2,
                vec![wire.frame(
                    ethertype::VLAN,
                    &packet::vlan(0, ethertype::VLAN, &inner(&t2)),
                )],
            ),
            Attempt::new(
                "a service tag and a tag",
                false,
                t3,
                vec![wire.frame(
                    ethertype::QINQ,
                    &packet::vlan(0, ethertype::VLAN, &inner(&t3)),
                )],
            ),
        ]
    });
}

/// Tunnels are protocols like others: the outer header is judged.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn tunnels_are_judged_by_their_outer_header() {
    compare(|pod, wire| {
        let [t1, t2, t3, t4, t5] = std::array::from_fn(|_| token());
        let inner = |token: &[u8]| udp4(pod, OPEN, token).bytes();
        let outer = |protocol: u8, payload: Vec<u8>| {
            vec![wire.frame(ethertype::IPV4, &ends4(pod).packet(protocol, payload))]
        };
        let frame = wire.frame(ethertype::IPV4, &inner(&t4));
        let vxlan = packet::udp(ends4(pod), 1000, 4789, &packet::vxlan(7, &frame));
        vec![
            Attempt::new("IP in IP", false, t1, outer(proto::IPIP, inner(&t1))),
            Attempt::new(
                "IPv6 in IP",
                false,
                t2,
                outer(proto::IPV6, udp6(pod, OPEN, &t2).bytes()),
            ),
            Attempt::new(
                "GRE",
                false,
                t3,
                outer(proto::GRE, packet::gre(ethertype::IPV4, &inner(&t3))),
            ),
            Attempt::new("VXLAN", false, t4, outer(proto::UDP, vxlan)),
            Attempt::new(
                "IP in IPv6",
                false,
                t5,
                vec![wire.frame(ethertype::IPV6, &ends6(pod).packet(proto::IPIP, inner(&t5)))],
            ),
        ]
    });
}

/// Only the pod's own addresses are sources, whatever the destination allows.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn spoofed_sources_do_not_pass() {
    compare(|_, wire| {
        let (v4, v6) = there();
        let sources: [(&'static str, Ends); 5] = [
            ("nobody's address", Ends::V4(Ipv4Addr::new(10, 9, 9, 9), v4)),
            (
                "another pod's address",
                Ends::V4(Ipv4Addr::new(10, 244, 0, 2), v4),
            ),
            (
                "the node's address",
                Ends::V4(Ipv4Addr::new(172, 30, 0, 9), v4),
            ),
            (
                "nobody's IPv6 address",
                Ends::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9), v6),
            ),
            (
                "another pod's IPv6 address",
                Ends::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2), v6),
            ),
        ];
        sources
            .into_iter()
            .map(|(title, ends)| {
                let token = token();
                let bytes = ends.packet(proto::UDP, packet::udp(ends, 1000, OPEN, &token));
                Attempt::new(
                    title,
                    false,
                    token,
                    vec![wire.frame(ends.ethertype(), &bytes)],
                )
            })
            .collect()
    });
}

/// A transport header that is cut short has no port that could be allowed.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn truncated_headers_do_not_pass() {
    compare(|pod, wire| {
        // Five bytes of UDP, three of TCP: too few for a token of sixteen. They are
        // unlikely enough to stand anywhere else in a frame.
        let short = |title, protocol: u8, bytes: Vec<u8>| Attempt {
            title,
            frames: vec![wire.frame(ethertype::IPV4, &ends4(pod).packet(protocol, bytes.clone()))],
            token: bytes,
            open: false,
        };
        let [_, _, _, unique] = u32::from(fresh_id()).to_be_bytes();
        let [high, low] = OPEN.to_be_bytes();
        vec![
            short(
                "UDP, five bytes",
                proto::UDP,
                vec![0xa5, unique, high, low, 0x5a],
            ),
            short(
                "TCP, five bytes",
                proto::TCP,
                vec![0xa6, unique, high, low, 0x6a],
            ),
        ]
    });
}

/// Frames that are no IP at all: other ethertypes pass the hook of no isolated pod.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn other_ethertypes_do_not_pass_the_hook() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut wire = world.wire(&pod)?;
        let kinds = [ethertype::EXPERIMENTAL, 0x88cc, 0x8847, 0x8864, 0x22f0];
        let mut seen = |world: &World| -> Result<Vec<u16>> {
            let mut seen = Vec::new();
            for kind in kinds {
                let mut tap = Tap::new(&world.host, &pod.host_interface, kind)?;
                let token = token();
                let frame = wire.frame(kind, &token);
                wire.gets_through(&[frame], &token)?;
                tap.drain()?;
                if tap.has_seen(&token) {
                    seen.push(kind);
                }
            }
            Ok(seen)
        };
        let control = seen(world)?;
        ensure!(control == kinds, "control: {control:x?}");
        start_isolated(world)?;
        let seen = seen(world)?;
        ensure!(seen.is_empty(), "passed the hook: {seen:x?}");
        Ok(())
    });
}

/// A frame that the same pod sends while no policy isolates it is nobody's business: other
/// ethertypes, spoofed sources and tags pass (S1).
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pod_that_no_policy_isolates_sends_what_it_likes() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        world.namespace("x", &[])?;
        world.start_agent()?;
        let mut wire = world.wire(&pod)?;
        let token = token();
        let inner = packet::vlan(0, ethertype::IPV4, &udp4(&pod, SHUT, &token).bytes());
        let tagged = wire.frame(ethertype::VLAN, &packet::vlan(0, ethertype::VLAN, &inner));
        ensure!(wire.gets_through(&[tagged], &token)?, "two tags");
        Ok(())
    });
}

/// An identification that no other fragment of this run has.
fn fresh_id() -> u16 {
    let [.., high, low] = token();
    u16::from_be_bytes([high, low])
}
