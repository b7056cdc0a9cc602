//! The kernel programs in the kernel, one frame at a time (`BPF_PROG_TEST_RUN`).
//!
//! Nothing is attached and nothing pinned: the programs see frames of the loopback interface of
//! whatever network namespace the test runs in, and only those that the test makes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows its figures"
)]

mod frames;
mod machine;
mod stack;
mod tap;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use egress_common::event::Reason;

use frames::{ACK, Ethernet, SYN, TCP, UDP};
use machine::{Machine, PEER, POD, SLOTS, Verdict};
use tap::Tap;

const ALLOWED_PORT: u16 = 443;
const DENIED_PORT: u16 = 22;

#[test]
#[ignore = "needs root and BPF"]
fn the_verifier_takes_a_fraction_of_its_budget() {
    for coarse in [false, true] {
        if coarse && !machine::has_coarse_clock() {
            continue;
        }
        let mut machine = Machine::with_clock(coarse);
        for program in ["from_pod", "to_pod", "ask", "empty"] {
            let Some(instructions) = machine.verified_instructions(program) else {
                println!("{program}: loaded; this kernel does not tell how many instructions");
                continue;
            };
            println!("{program}: {instructions} instructions verified (coarse clock: {coarse})");
            // Of a million, and 6.1 needs twice what a newer kernel does for the same program. `cargo
            // xtask vm` holds the same.
            assert!(instructions <= 500_000, "{program}: {instructions}");
        }
    }
}

/// Linux 5.10 refused what passes here; it takes no root to know.
#[test]
fn every_chain_of_calls_fits_the_stack_of_the_oldest_kernel() {
    for program in ["from_pod", "to_pod", "ask", "empty"] {
        let chain = stack::deepest(machine::OBJECT, program);
        let bytes = chain.bytes();
        println!("{program}: {bytes} bytes of stack: {chain:?}");
        assert!(bytes <= stack::MOST, "{program}: {bytes}, {chain:?}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn rules_hold_in_the_kernel() {
    let mut machine = Machine::new();
    machine.isolate();
    let frame = |port| Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, port, SYN));
    assert_eq!(machine.send(&frame(DENIED_PORT)), Verdict::Drop);
    assert_eq!(machine.send(&frame(ALLOWED_PORT)), Verdict::Drop);
    machine.allow_block(Ipv4Addr::new(192, 0, 0, 0), 8, TCP, ALLOWED_PORT);
    assert_eq!(machine.send(&frame(DENIED_PORT)), Verdict::Drop);
    assert_eq!(machine.send(&frame(ALLOWED_PORT)), Verdict::Pass);
    // A shorter prefix does not show through a longer one.
    machine.allow_block(PEER, 32, TCP, DENIED_PORT);
    machine.next_epoch();
    assert_eq!(machine.send(&frame(DENIED_PORT)), Verdict::Pass);
    assert_eq!(machine.send(&frame(ALLOWED_PORT)), Verdict::Drop);
}

#[test]
#[ignore = "needs root and BPF"]
fn ports_have_every_prefix_length() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, UDP, 53);
    // 1024..=2047
    machine.add_ports(UDP, 1024, 6);
    for (port, wanted) in [
        (53, Verdict::Pass),
        (52, Verdict::Drop),
        (1023, Verdict::Drop),
        (1024, Verdict::Pass),
        (2047, Verdict::Pass),
        (2048, Verdict::Drop),
    ] {
        let frame = Ethernet::v4(POD, PEER, UDP, frames::udp(1, port));
        assert_eq!(machine.send(&frame), wanted, "{port}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn classes_and_frontends_hold_in_both_families() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_class(PEER.into(), TCP, 8080);
    machine.allow_class(frames::PEER6.into(), TCP, 8080);
    machine.frontend(frames::VIP6.into(), TCP, 80, true);
    machine.frontend(frames::VIP6.into(), TCP, 81, false);
    let six = |to, port| Ethernet::v6(frames::POD6, to, TCP, frames::tcp(1, port, SYN));
    let four = |port| Ethernet::v4(POD, PEER, TCP, frames::tcp(1, port, SYN));
    assert_eq!(machine.send(&four(8080)), Verdict::Pass);
    assert_eq!(machine.send(&four(8081)), Verdict::Drop);
    assert_eq!(machine.send(&six(frames::PEER6, 8080)), Verdict::Pass);
    assert_eq!(machine.send(&six(frames::PEER6, 8081)), Verdict::Drop);
    assert_eq!(machine.send(&six(frames::VIP6, 80)), Verdict::Pass);
    assert_eq!(machine.send(&six(frames::VIP6, 81)), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::Frontend), (1, 60));
    machine.allow_block6(frames::VIP6, 64, TCP, 82);
    assert_eq!(machine.send(&six(frames::VIP6, 82)), Verdict::Pass);
    assert_eq!(machine.send(&six(frames::VIP6, 81)), Verdict::Drop);
}

#[test]
#[ignore = "needs root and BPF"]
fn an_established_flow_passes_until_the_policy_changes() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    let frame = |flags| Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, ALLOWED_PORT, flags));
    assert_eq!(machine.send(&frame(SYN)), Verdict::Pass);
    machine.forget_block(PEER, 32);
    assert_eq!(machine.send(&frame(ACK)), Verdict::Pass);
    machine.next_epoch();
    assert_eq!(machine.send(&frame(ACK)), Verdict::Drop);
}

#[test]
#[ignore = "needs root and BPF"]
fn replies_pass() {
    for isolated_from_the_start in [true, false] {
        let mut machine = Machine::new();
        if isolated_from_the_start {
            machine.isolate();
        } else {
            machine.open();
        }
        let answer = Ethernet::v4(POD, PEER, TCP, frames::tcp(80, 5555, SYN | ACK));
        machine.deliver(&Ethernet::v4(PEER, POD, TCP, frames::tcp(5555, 80, SYN)));
        machine.isolate();
        assert_eq!(machine.send(&answer), Verdict::Pass);
        let other = Ethernet::v4(POD, PEER, TCP, frames::tcp(80, 5556, SYN | ACK));
        assert_eq!(machine.send(&other), Verdict::Drop);
    }
}

/// A table has two sets for a flow, or one in a hundred of these would be cut (S52).
#[test]
#[ignore = "needs root and BPF"]
fn of_a_pod_s_connections_none_is_forgotten_up_to_half_of_what_its_table_holds() {
    let mut machine = Machine::new();
    machine.keep_a_secret();
    machine.isolate();
    let frame = |is_v4: bool, from_pod: bool, port: u16| {
        let segment = if from_pod {
            frames::tcp(80, port, SYN | ACK)
        } else {
            frames::tcp(port, 80, SYN)
        };
        match (is_v4, from_pod) {
            (true, true) => Ethernet::v4(POD, PEER, TCP, segment),
            (true, false) => Ethernet::v4(PEER, POD, TCP, segment),
            (false, true) => Ethernet::v6(frames::POD6, frames::PEER6, TCP, segment),
            (false, false) => Ethernet::v6(frames::PEER6, frames::POD6, TCP, segment),
        }
    };
    for (is_v4, count) in [(true, 2_000), (false, 1_000)] {
        let ports = 10_000..10_000 + count;
        for port in ports.clone() {
            machine.deliver(&frame(is_v4, false, port));
        }
        let cut = ports
            .filter(|port| machine.send(&frame(is_v4, true, *port)) == Verdict::Drop)
            .count();
        assert_eq!(cut, 0, "IPv4: {is_v4}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn what_an_open_pod_opened_is_cut_by_a_policy() {
    let mut machine = Machine::new();
    machine.open();
    let query = Ethernet::v4(POD, PEER, UDP, frames::udp(4000, 9999));
    assert_eq!(machine.send(&query), Verdict::Pass);
    machine.deliver(&Ethernet::v4(PEER, POD, UDP, frames::udp(9999, 4000)));
    machine.isolate();
    assert_eq!(machine.send(&query), Verdict::Drop);
}

#[test]
#[ignore = "needs root and BPF"]
fn fragments_follow_their_first() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, UDP, 53);
    let first = Ethernet::v4(POD, PEER, UDP, frames::udp(1, 53)).fragment(9, 0, true);
    let later = Ethernet::v4(POD, PEER, UDP, vec![0; 64]).fragment(9, 1480, false);
    assert_eq!(machine.send(&later), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::Fragment), (1, 84));
    assert_eq!(machine.send(&first), Verdict::Pass);
    assert_eq!(machine.send(&later), Verdict::Pass);
}

#[test]
#[ignore = "needs root and BPF"]
fn icmp_errors_about_a_known_flow_pass() {
    let mut machine = Machine::new();
    machine.isolate();
    let datagram = Ethernet::v4(PEER, POD, UDP, frames::udp(5000, 9999));
    let error = frames::icmp_error(3, datagram.packet());
    let error = Ethernet::v4(POD, PEER, frames::ICMP, error);
    assert_eq!(machine.send(&error), Verdict::Drop);
    machine.deliver(&datagram);
    assert_eq!(machine.send(&error), Verdict::Pass);

    let datagram = Ethernet::v6(frames::PEER6, frames::POD6, UDP, frames::udp(5000, 9999));
    let error = frames::icmp_error(1, datagram.packet());
    let error = Ethernet::v6(frames::POD6, frames::PEER6, frames::ICMPV6, error);
    assert_eq!(machine.send(&error), Verdict::Drop);
    machine.deliver(&datagram);
    assert_eq!(machine.send(&error), Verdict::Pass);
}

#[test]
#[ignore = "needs root and BPF"]
fn headers_in_the_way_are_walked() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    machine.allow_block6(frames::PEER6, 128, TCP, ALLOWED_PORT);
    for port in [ALLOWED_PORT, DENIED_PORT] {
        let wanted = if port == ALLOWED_PORT {
            Verdict::Pass
        } else {
            Verdict::Drop
        };
        for words in 0..=10 {
            let options = vec![1; words * 4];
            let segment = frames::tcp(1, port, SYN);
            let frame = Ethernet::v4_with_options(POD, PEER, &options, TCP, segment);
            assert_eq!(machine.send(&frame), wanted, "{words} words of options");
        }
        for headers in 0..=12 {
            let (first, payload) = frames::chain(headers, TCP, frames::tcp(1, port, SYN));
            let frame = Ethernet::v6(frames::POD6, frames::PEER6, first, payload);
            assert_eq!(machine.send(&frame), wanted, "{headers} extension headers");
        }
    }
    let (first, payload) = frames::chain(13, TCP, frames::tcp(1, ALLOWED_PORT, SYN));
    let frame = Ethernet::v6(frames::POD6, frames::PEER6, first, payload);
    assert_eq!(machine.send(&frame), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::ExtensionHeaders).0, 1);
    let route = [131, 7, 4, 198, 51, 100, 9, 0];
    let segment = frames::tcp(1, ALLOWED_PORT, SYN);
    let frame = Ethernet::v4_with_options(POD, PEER, &route, TCP, segment);
    assert_eq!(machine.send(&frame), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::SourceRoute).0, 1);
}

#[test]
#[ignore = "needs root and BPF"]
fn only_ip_and_arp_leave() {
    let mut machine = Machine::new();
    machine.isolate();
    let packet = Ethernet::v4(POD, PEER, TCP, frames::tcp(1, ALLOWED_PORT, SYN));
    for (ethertype, wanted) in [
        (0x0806, Verdict::Pass),
        (0x8864, Verdict::Drop),
        (0x88cc, Verdict::Drop),
    ] {
        assert_eq!(machine.send(&packet.with_ethertype(ethertype)), wanted);
    }
    assert_eq!(machine.dropped(Reason::NotIp).0, 2);
    let spoofed = Ethernet::v4(PEER, PEER, TCP, frames::tcp(1, ALLOWED_PORT, SYN));
    assert_eq!(machine.send(&spoofed), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::Spoofed), (1, 40));
}

#[test]
#[ignore = "needs root and BPF"]
fn headers_outside_of_the_linear_part_are_read() {
    let mut tap = Tap::in_new_namespace();
    let mut machine = Machine::new();
    machine.attach(tap::NAME, tap::index());
    machine.allow_block(PEER, 32, UDP, 53);
    machine.allow_block6(frames::PEER6, 128, UDP, 53);
    let mut payload = frames::udp(1, 53);
    payload.resize(5000, 0xee);
    for (round, linear) in [14, 20, 40, 64].into_iter().enumerate() {
        let round = u64::try_from(round + 1).unwrap();
        for port in [53_u16, 54] {
            payload[2..4].copy_from_slice(&port.to_be_bytes());
            tap.write(&Ethernet::v4(POD, PEER, UDP, payload.clone()), linear);
            let six = Ethernet::v6(frames::POD6, frames::PEER6, UDP, payload.clone());
            tap.write(&six, linear);
        }
        assert_eq!(machine.allowed(4), (round, round * 5020), "{linear}");
        assert_eq!(machine.allowed(6), (round, round * 5040), "{linear}");
        assert_eq!(
            machine.dropped(Reason::NoRule),
            (2 * round, round * 10_060),
            "{linear}"
        );
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn segments_and_bytes_of_packets_are_counted() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    let mut segment = frames::tcp(1, DENIED_PORT, ACK);
    segment.resize(20 + 3000, 0);
    let denied = Ethernet::v4(POD, PEER, TCP, segment.clone());
    // 3 segments as the kernel says; then as the size says.
    assert_eq!(machine.send_gso(&denied, 3, 1448), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::NoRule), (3, 3040));
    assert_eq!(machine.send_gso(&denied, 0, 1448), Verdict::Drop);
    assert_eq!(machine.dropped(Reason::NoRule), (6, 6080));
    segment[2..4].copy_from_slice(&ALLOWED_PORT.to_be_bytes());
    let allowed = Ethernet::v4(POD, PEER, TCP, segment);
    assert_eq!(machine.send_gso(&allowed, 3, 1448), Verdict::Pass);
    assert_eq!(machine.send_gso(&allowed, 3, 1448), Verdict::Pass);
    assert_eq!(machine.allowed(4), (6, 6080));
    assert_eq!(machine.allowed(6), (0, 0));
    machine.open();
    let frame = Ethernet::v6(frames::POD6, frames::PEER6, TCP, frames::tcp(1, 2, SYN));
    assert_eq!(machine.send(&frame), Verdict::Pass);
    assert_eq!(machine.allowed(6), (1, 60));
}

/// However many kinds of drops that is: no table of counters can be full.
#[test]
#[ignore = "needs root and BPF"]
fn no_drop_of_any_endpoint_goes_uncounted() {
    let mut machine = Machine::new();
    let four = |protocol, payload| Ethernet::v4(POD, PEER, protocol, payload);
    let six = |protocol, payload| Ethernet::v6(frames::POD6, frames::PEER6, protocol, payload);
    let tcp = || frames::tcp(1, DENIED_PORT, SYN);
    let udp = || frames::udp(1, DENIED_PORT);
    let spoofed = Ethernet::v4(PEER, PEER, UDP, udp());
    let spoofed6 = Ethernet::v6(frames::PEER6, frames::PEER6, TCP, tcp());
    // The protocol as it is folded: 1 for ICMP of either family, 0 for others.
    let drops = [
        (four(TCP, tcp()), (Reason::NoRule, 6, 4)),
        (four(UDP, udp()), (Reason::NoRule, 17, 4)),
        (four(frames::SCTP, vec![0; 16]), (Reason::NoRule, 132, 4)),
        (four(frames::ICMP, vec![8; 8]), (Reason::NoRule, 1, 4)),
        (four(47, vec![0; 8]), (Reason::NoRule, 0, 4)),
        (six(TCP, tcp()), (Reason::NoRule, 6, 6)),
        (six(UDP, udp()), (Reason::NoRule, 17, 6)),
        (six(frames::SCTP, vec![0; 16]), (Reason::NoRule, 132, 6)),
        (six(frames::ICMPV6, vec![128; 8]), (Reason::NoRule, 1, 6)),
        (six(47, vec![0; 8]), (Reason::NoRule, 0, 6)),
        (spoofed, (Reason::Spoofed, 17, 4)),
        (spoofed6, (Reason::Spoofed, 6, 6)),
        (four(TCP, vec![0; 4]), (Reason::Malformed, 6, 4)),
        (
            four(TCP, tcp()).with_ethertype(0x8847),
            (Reason::NotIp, 0, 0),
        ),
    ];
    for slot in 0..SLOTS {
        machine.move_to(slot);
        for (frame, kind) in &drops {
            assert_eq!(machine.send(frame), Verdict::Drop, "slot {slot}, {kind:?}");
        }
    }
    let slots = u64::from(SLOTS);
    let totals = machine.drop_totals();
    assert_eq!(totals.len(), drops.len(), "{totals:?}");
    for (frame, kind) in &drops {
        let bytes = u64::try_from(frame.packet().len()).unwrap();
        assert_eq!(totals[kind], (slots, slots * bytes), "{kind:?}");
    }
    let mut of_each = BTreeMap::new();
    for (_, (reason, _, _)) in &drops {
        *of_each.entry(*reason).or_insert(0) += 1;
    }
    for slot in 0..SLOTS {
        assert_eq!(machine.dropped_of(slot), of_each, "slot {slot}");
    }
}

/// Two interfaces can have indexes that name the same seat.
#[test]
#[ignore = "needs root and BPF"]
fn an_endpoint_whose_seat_another_has_is_judged_by_its_own_rules() {
    let mut machine = Machine::new();
    let frame = Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, ALLOWED_PORT, SYN));
    machine.take_the_seat();
    assert_eq!(machine.send(&frame), Verdict::Pass, "an endpoint of nobody");
    machine.isolate();
    assert_eq!(machine.send(&frame), Verdict::Drop);
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    assert_eq!(machine.send(&frame), Verdict::Pass);
    machine.open();
    assert_eq!(machine.send(&frame), Verdict::Pass);
}

/// Flows are stamped by the kernel's tick; the agent, which notes older ones, has the monotonic clock.
#[test]
#[ignore = "needs root and BPF"]
fn flows_are_stamped_with_seconds_of_the_monotonic_clock() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    let frame = Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, ALLOWED_PORT, SYN));
    assert_eq!(machine.send(&frame), Verdict::Pass);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seen = machine.seen_outbound();
    assert_eq!(seen.len(), 1, "one flow was opened");
    let seen = seen[0];
    assert!((i64::from(seen) - now.tv_sec).abs() <= 2, "{seen} {now:?}");
}

#[test]
#[ignore = "needs root and BPF"]
fn drops_are_told_up_to_the_budget() {
    let frame = Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, DENIED_PORT, SYN));
    let burst = || {
        let mut machine = Machine::new();
        machine.isolate();
        machine.events_per_second(5);
        for _ in 0..8 {
            assert_eq!(machine.send(&frame), Verdict::Drop);
        }
        machine
    };
    let mut machine = burst();
    if machine.lost() != [3, 0] {
        // A second of the kernel's ended meanwhile, and brought a new budget. Not twice.
        machine = burst();
    }
    let events = machine.events();
    assert_eq!(events.len(), 5);
    assert_eq!(machine.lost(), [3, 0]);
    for event in events {
        assert_eq!(Reason::from_number(event.reason), Some(Reason::NoRule));
        assert_eq!(event.hook, 1);
        assert_eq!(event.slot.get(), machine::SLOT);
        assert_eq!(
            (event.family, event.protocol, event.tcp_flags),
            (4, TCP, SYN)
        );
        assert_eq!(event.source_port.get(), 5555);
        assert_eq!(event.destination_port.get(), DENIED_PORT);
        assert_eq!(event.length.get(), 40);
        assert_eq!(event.destination[..4], PEER.octets());
        assert!(event.time > 0);
    }
    assert_eq!(machine.dropped(Reason::NoRule).0, 8, "counted all the same");
    machine.events_per_second(0);
    assert_eq!(machine.send(&frame), Verdict::Drop);
    assert!(machine.events().is_empty());
    assert_eq!(machine.lost(), [3, 0], "switched off is not lost");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_full_ring_buffer_loses_events_and_says_so() {
    let mut machine = Machine::new();
    machine.isolate();
    machine.events_per_second(1_000_000);
    let frame = Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, DENIED_PORT, SYN));
    // The ring takes 72 bytes for each of 64.
    let fits = machine::RING_BYTES / 72;
    machine.send_repeatedly(&frame, fits + 100);
    let [budget, full] = machine.lost();
    assert_eq!(budget, 0);
    assert!((100..=102).contains(&full), "{full}");
    let told = u32::try_from(machine.events().len()).unwrap();
    assert_eq!(u64::from(told) + full, u64::from(fits + 100));
}

/// One pod's flood: every packet is counted, and all but the budget's records are counted as lost.
#[test]
#[ignore = "needs root and BPF"]
fn a_million_drops_are_counted_exactly_and_told_of_by_the_budget_only() {
    const FLOOD: u32 = 1_000_000;
    const BUDGET: u32 = 100;
    let mut machine = Machine::new();
    machine.isolate();
    let frame = Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, DENIED_PORT, SYN));
    let quiet = machine.cost("from_pod", &frame, FLOOD);
    machine.events_per_second(BUDGET);
    let told = machine.cost("from_pod", &frame, FLOOD);
    println!("a drop costs {quiet} ns without records, {told} ns with {BUDGET} a second");
    assert_eq!(machine.dropped(Reason::NoRule).0, u64::from(2 * FLOOD));
    let events = u64::try_from(machine.events().len()).unwrap();
    let [budget, full] = machine.lost();
    assert_eq!(events + budget, u64::from(FLOOD));
    assert_eq!(full, 0);
    // A second's budget for each second that it took, on however busy a machine.
    assert!(
        events >= u64::from(BUDGET) && events % u64::from(BUDGET) == 0,
        "{events}"
    );
}

#[test]
#[ignore = "needs root and BPF"]
fn new_flows_are_told_of_once_and_only_where_that_is_asked_for() {
    const REPEAT: u32 = 200_000;
    let syn = |source| Ethernet::v4(POD, PEER, TCP, frames::tcp(source, ALLOWED_PORT, SYN));
    let ack = |source| Ethernet::v4(POD, PEER, TCP, frames::tcp(source, ALLOWED_PORT, ACK));
    let burst = |limit| {
        let mut machine = Machine::with_flow_events(limit);
        machine.isolate();
        machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
        for source in 0..8 {
            assert_eq!(machine.send(&syn(source)), Verdict::Pass);
            assert_eq!(machine.send(&ack(source)), Verdict::Pass);
        }
        machine
    };
    for limit in [0, 5] {
        let lost = if limit == 0 { 0 } else { 3 };
        let mut machine = burst(limit);
        if machine.flows_lost() != lost {
            // As in `drops_are_told_up_to_the_budget`.
            machine = burst(limit);
        }
        let events = machine.events();
        assert_eq!(u32::try_from(events.len()).unwrap(), limit);
        assert_eq!(machine.flows_lost(), lost);
        for (source, event) in (0..).zip(&events) {
            assert_eq!(Reason::from_number(event.reason), Some(Reason::Allowed));
            assert_eq!((event.source_port.get(), event.tcp_flags), (source, SYN));
        }
        assert_eq!(
            machine.lost(),
            [0, 0],
            "records of drops have a budget of their own"
        );
        let established = machine.cost("from_pod", &ack(0), REPEAT);
        println!("established costs {established} ns with {limit} records of new flows a second");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn what_a_packet_costs() {
    const REPEAT: u32 = 1_000_000;
    let mut machine = Machine::new();
    let tcp = |port, flags| Ethernet::v4(POD, PEER, TCP, frames::tcp(5555, port, flags));
    let six = |port, flags| {
        Ethernet::v6(
            frames::POD6,
            frames::PEER6,
            TCP,
            frames::tcp(5555, port, flags),
        )
    };
    let reply = Ethernet::v4(POD, PEER, TCP, frames::tcp(80, 5555, ACK));
    let inbound = |flags| Ethernet::v4(PEER, POD, TCP, frames::tcp(5555, 80, flags));

    let floor = machine.cost("empty", &tcp(1, ACK), REPEAT);
    let mut table = vec![("empty", floor)];
    machine.open();
    table.push((
        "not isolated",
        machine.cost("from_pod", &tcp(1, ACK), REPEAT),
    ));
    machine.isolate();
    machine.allow_block(PEER, 32, TCP, ALLOWED_PORT);
    machine.allow_block6(frames::PEER6, 128, TCP, ALLOWED_PORT);
    for (name, frame) in [
        ("established", tcp(ALLOWED_PORT, ACK)),
        ("established, IPv6", six(ALLOWED_PORT, ACK)),
        ("dropped", tcp(DENIED_PORT, ACK)),
    ] {
        table.push((name, machine.cost("from_pod", &frame, REPEAT)));
    }
    machine.deliver(&inbound(SYN));
    table.push(("reply", machine.cost("from_pod", &reply, REPEAT)));
    table.push((
        "to the pod, inbound",
        machine.cost("to_pod", &inbound(ACK), REPEAT),
    ));
    let answer = Ethernet::v4(PEER, POD, TCP, frames::tcp(ALLOWED_PORT, 5555, ACK));
    table.push((
        "to the pod, answer",
        machine.cost("to_pod", &answer, REPEAT),
    ));
    // A million SYNs of one flow that closed: judged and written each time.
    assert_eq!(machine.send(&tcp(ALLOWED_PORT, frames::RST)), Verdict::Pass);
    table.push(("new flow", machine.cost_of_new_flows(REPEAT / 10)));
    for (name, nanoseconds) in table {
        println!("{name:22} {nanoseconds:5} ns");
    }
}
