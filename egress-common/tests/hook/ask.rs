//! Questions: the verdict that a packet would get, and what was looked up for it.

use std::net::IpAddr;

use egress_common::abi::literal_ports;
use egress_common::event::Reason;
use egress_common::hook::{
    FOUND_CIDR_PORTS, FOUND_CLASS, FOUND_CLASS_PORTS, FOUND_ENDPOINT, FOUND_FRONTEND, Question,
    Reply, Scratch, ask,
};

use crate::frames::{TCP, UDP, udp};
use crate::world::{HOOK, OTHER4, PEER4, PEER6, RULESET, World, address};

const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

fn world() -> World {
    World::isolated()
        .allow_literal(PEER4.into(), 24, literal_ports(UDP, 16, 53))
        .peer(PEER4.into(), 7, TCP, 443)
        .peer(PEER6.into(), 8, TCP, 443)
        .frontend(SERVICE, TCP, 80, true)
        .frontend(SERVICE, TCP, 81, false)
}

fn question(hook: u64, to: impl Into<IpAddr>, protocol: u8, port: u16) -> Question {
    Question {
        hook: hook.into(),
        destination: address(to.into()),
        protocol,
        reserved: 0,
        port: port.into(),
    }
}

fn answer(world: &World, question: &Question) -> (Option<Reason>, Reply) {
    let reply = ask(world, &mut { Scratch::EMPTY }, question);
    (Reason::from_number(reply.reason), reply)
}

#[test]
fn a_question_gets_the_verdict_and_what_was_found_on_the_way() {
    let world = world();
    let class = FOUND_ENDPOINT | FOUND_CLASS | FOUND_CLASS_PORTS;
    for (to, protocol, port, reason, found) in [
        (IpAddr::from(PEER4), TCP, 443, Reason::Allowed, class),
        (PEER6.into(), TCP, 443, Reason::Allowed, class),
        (PEER6.into(), TCP, 444, Reason::NoRule, class),
        (
            PEER4.into(),
            UDP,
            53,
            Reason::Allowed,
            class | FOUND_CIDR_PORTS,
        ),
        (
            PEER4.into(),
            UDP,
            54,
            Reason::NoRule,
            class | FOUND_CIDR_PORTS,
        ),
        (OTHER4.into(), UDP, 53, Reason::NoRule, FOUND_ENDPOINT),
        (
            SERVICE,
            TCP,
            80,
            Reason::Allowed,
            FOUND_ENDPOINT | FOUND_FRONTEND,
        ),
        (
            SERVICE,
            TCP,
            81,
            Reason::Frontend,
            FOUND_ENDPOINT | FOUND_FRONTEND,
        ),
    ] {
        let (said, reply) = answer(&world, &question(HOOK, to, protocol, port));
        assert_eq!((said, reply.found), (Some(reason), found), "{to} {port}");
        let of = |bit, value| if found & bit == 0 { 0 } else { value };
        let number = if to == IpAddr::from(PEER6) { 8 } else { 7 };
        assert_eq!(reply.class.get(), of(FOUND_CLASS, number));
        assert_eq!(reply.class_ports.get(), of(FOUND_CLASS_PORTS, 500 + number));
        let literal = literal_ports(UDP, 16, 53);
        assert_eq!(reply.cidr_ports.get(), of(FOUND_CIDR_PORTS, literal));
        let frontend = 820 + u32::from(port);
        assert_eq!(reply.frontend.get(), of(FOUND_FRONTEND, frontend));
        let endpoint = &world.endpoint;
        assert_eq!((reply.slot, reply.ruleset.get()), (endpoint.slot, RULESET));
        assert_eq!(
            (reply.generation, reply.flags),
            (endpoint.generation, endpoint.flags)
        );
    }
    assert!(world.outbound.is_empty(), "a question leaves no trace");
}

#[test]
fn a_hook_of_nobody_has_no_answer() {
    let (said, reply) = answer(&world(), &question(HOOK + 1, PEER4, TCP, 443));
    assert_eq!((said, reply.found), (Some(Reason::NoEndpoint), 0));
    assert_eq!(
        (reply.slot.get(), reply.ruleset.get(), reply.flags.get()),
        (0, 0, 0)
    );
}

#[test]
fn a_question_is_answered_as_a_packet_is() {
    for port in [52, 53, 54, 443] {
        let (said, _) = answer(&world(), &question(HOOK, PEER4, UDP, port));
        let packet = world().send_to(PEER4.into(), UDP, udp(1, port));
        assert_eq!(said, Some(packet), "{port}");
    }
}
