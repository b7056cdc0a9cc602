//! The stage by itself: with no agent everything flows, and the harness sees it.
//!
//! These are the negative controls of all other suites: what they see dropped, this shows
//! to get through where nothing drops it.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use egress_tests::harness::raw::{EVERY, Tap, send_udp_segments};
use egress_tests::harness::{
    DEADLINE, NODE_V4, NODE_V6, OUTSIDE, PodSpec, Probe, TcpExchange, UdpExchange, on_world,
};
use egress_tests::packet::{self, Ends, Ipv4, Ipv6, ethertype, proto};

const PORT: u16 = 8080;

#[test]
#[ignore = "needs root: network namespaces"]
fn sockets_reach_everything() {
    on_world(|world| {
        world.outside.serve(&[PORT])?;
        let mut a = world.pod(PodSpec::new("x", "a"))?;
        let b = world.pod(PodSpec::new("x", "b"))?;
        a.serve(&[PORT])?;
        let mut cases = Vec::new();
        let far = OUTSIDE
            .iter()
            .flat_map(|(v4, v6)| [IpAddr::from(*v4), (*v6).into()]);
        for address in far.chain([a.v4.into(), a.v6.into()]) {
            cases.push((&b, Probe::tcp(address, PORT), true));
            cases.push((&b, Probe::udp(address, PORT), true));
            cases.push((&b, Probe::ping(address), true));
        }
        cases.push((&b, Probe::ping(NODE_V4), true));
        cases.push((&b, Probe::ping(NODE_V6), true));
        world.expect(&cases)?;

        let mut udp = UdpExchange::open(&b.ns, SocketAddr::new(a.v6.into(), PORT))?;
        let mut tcp = TcpExchange::open(&b.ns, SocketAddr::new(a.v4.into(), PORT))?;
        for _ in 0..3 {
            ensure!(udp.alive()? && tcp.alive()?);
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_closed_port_and_a_missing_host_are_told_apart() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let refused = Probe::tcp(OUTSIDE[0].0, PORT).send(&pod.ns, true)?;
        ensure!(format!("{refused:?}").contains("refused"), "{refused:?}");
        world.expect(&[(
            &pod,
            Probe::udp(std::net::Ipv4Addr::new(172, 30, 0, 99), PORT),
            false,
        )])
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hand_made_packets_come_out() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut wire = world.wire(&pod)?;
        let (v4, v6) = OUTSIDE[1];
        for ends in [wire.to_v4(v4), wire.to_v6(v6)] {
            for (protocol, make) in transports() {
                let token = packet::token();
                let bytes = ends.packet(protocol, make(ends, &token));
                ensure!(
                    wire.packets_get_through(ends.ethertype(), &[bytes], &token)?,
                    "protocol {protocol} of {ends:?}"
                );
            }
        }
        Ok(())
    });
}

type Make = fn(Ends, &[u8]) -> Vec<u8>;

fn transports() -> [(u8, Make); 4] {
    [
        (proto::UDP, |ends, data| packet::udp(ends, 1000, 2000, data)),
        (proto::TCP, |ends, data| {
            packet::tcp(ends, 1000, 2000, packet::flag::SYN, data)
        }),
        (proto::SCTP, |_, data| packet::sctp(1000, 2000, 1, data)),
        (200, |_, data| data.to_vec()),
    ]
}

#[test]
#[ignore = "needs root: network namespaces"]
fn unusual_frames_come_out() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut wire = world.wire(&pod)?;
        let (v4, v6) = OUTSIDE[0];
        let (ends4, ends6) = (wire.to_v4(v4), wire.to_v6(v6));

        let token = packet::token();
        let mut options = Ipv4::new(pod.v4, v4, proto::UDP, packet::udp(ends4, 1, 2, &token));
        options.options = vec![1; 8];
        ensure!(
            wire.packets_get_through(ethertype::IPV4, &[options.bytes()], &token)?,
            "options"
        );

        let token = packet::token();
        let chain = Ipv6::new(pod.v6, v6, proto::UDP, packet::udp(ends6, 1, 2, &token))
            .with_options(proto::DESTINATION_OPTIONS, 2)
            .with_options(proto::HOP_BY_HOP, 1);
        ensure!(
            wire.packets_get_through(ethertype::IPV6, &[chain.bytes()], &token)?,
            "header chain"
        );

        let token = packet::token();
        let mut data = token.to_vec();
        data.resize(6000, 7);
        let jumbo = ends4.packet(proto::UDP, packet::udp(ends4, 1, 2, &data));
        wire.sender()
            .send_non_linear(&wire.frame(ethertype::IPV4, &jumbo))?;
        ensure!(wire.gets_through(&[], &token)?, "non-linear");

        let token = packet::token();
        let whole = Ipv6::new(
            pod.v6,
            v6,
            proto::UDP,
            packet::udp(ends6, 1, 2, &[&[0; 56], &token[..]].concat()),
        );
        let (one, two) = whole.fragments(1, 16);
        ensure!(
            wire.packets_get_through(ethertype::IPV6, &[two.bytes(), one.bytes()], &token)?,
            "fragments"
        );

        // Two tags with VID 0: the kernel takes both off and routes what is inside.
        let token = packet::token();
        let inner = ends4.packet(proto::UDP, packet::udp(ends4, 1, 2, &token));
        let tagged = packet::vlan(
            0,
            ethertype::VLAN,
            &packet::vlan(0, ethertype::IPV4, &inner),
        );
        ensure!(
            wire.gets_through(&[wire.frame(ethertype::VLAN, &tagged)], &token)?,
            "two tags"
        );

        let token = packet::token();
        let spoofed = Ends::V4(std::net::Ipv4Addr::new(10, 9, 9, 9), v4);
        let spoofed = spoofed.packet(proto::UDP, packet::udp(spoofed, 1, 2, &token));
        ensure!(
            wire.packets_get_through(ethertype::IPV4, &[spoofed], &token)?,
            "spoofed"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_tap_of_one_ethertype_sees_frames_that_nobody_routes() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut wire = world.wire(&pod)?;
        let mut tap = Tap::new(&world.host, &pod.host_interface, ethertype::EXPERIMENTAL)?;
        let token = packet::token();
        let frame = wire.frame(ethertype::EXPERIMENTAL, &token);
        ensure!(!wire.gets_through(&[frame], &token)?);
        ensure!(tap.wait_for(&token, DEADLINE)?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn udp_segments_leave_the_pod_as_one_frame() {
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        let mut tap = Tap::new(&world.host, &pod.host_interface, EVERY)?;
        let token = packet::token();
        let data = [&token[..], &[0; 5000]].concat();
        send_udp_segments(
            &pod.ns,
            SocketAddr::new(OUTSIDE[0].0.into(), 9),
            1000,
            &data,
        )?;
        ensure!(tap.wait_for(&token, DEADLINE)?);
        ensure!(
            tap.longest() > 5000,
            "longest frame has {} bytes",
            tap.longest()
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nothing_is_left_when_a_world_goes() {
    let mut names = Vec::new();
    on_world(|world| {
        let pod = world.pod(PodSpec::new("x", "a"))?;
        names.extend([
            pod.ns.path(),
            world.host.path(),
            world.manifests.dir().to_owned(),
        ]);
        ensure!(names.iter().all(|path| path.exists()));
        Ok(())
    });
    assert!(names.iter().all(|path| !path.exists()), "{names:?}");
}
