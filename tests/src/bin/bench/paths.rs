//! The paths that a packet can take, and what is in the tables meanwhile.

use anyhow::Result;
use aya::maps::MapInfo;
use egress_agent::datapath::Sizes;
use egress_common::flows::{FlowSet, WAYS_V4};
use egress_tests::packet::flag::{ACK, SYN};
use ipnet::IpNet;

use super::kernel::test_run;
use super::measure::{Flows, Packets, Path, Verdict, measure};
use super::memory;
use super::report::{Fact, Report};
use super::rig::{Program, Rig, Took};
use super::scene::{
    ALLOWED_PORT, DENIED_PORT, Family, inbound, networks, outbound, policy, to_all, to_one,
};

/// Networks of a family in the ordinary policy, and in the large one.
const MANY: usize = 10_000;
const MILLION: usize = 1_000_000;
/// Ports of the large policy.
const MANY_PORTS: u16 = 5_000;

/// Flows of the path with many, and a table for twice as many of each family.
const MANY_FLOWS: u32 = 400_000;
const LARGE_SETS: u32 = 98_304;
const LARGE: &[(&str, u32)] = &[("FLOWS", 3 * LARGE_SETS)];

/// Whether any path is asked for.
pub(crate) fn are_wanted(report: &Report) -> bool {
    !["node", "control", "starting"]
        .iter()
        .any(|id| report.is_only(id))
}

/// Measures everything.
pub(crate) fn measure_all(report: &mut Report) -> Result<()> {
    let nets = [networks(Family::V4, MANY)?, networks(Family::V6, MANY)?];
    let mut bench = Bench {
        rig: Rig::open("bench", &Sizes::default())?,
        report,
    };
    bench.not_isolated()?;
    let took = bench
        .rig
        .isolate(policy(nets.iter().flatten().copied(), &[ALLOWED_PORT])?)?;
    bench.report.add_fact(fact(
        "10k-fill",
        "10k CIDRs of each family: compile, plan, fill",
        took,
    ));
    for (family, nets) in Family::BOTH.into_iter().zip(&nets) {
        bench.established(family, nets)?;
    }
    if Family::BOTH.iter().any(|family| {
        bench
            .report
            .wants(&format!("established-400k-{}", family.id()))
    }) {
        many_flows(bench.report, &nets)?;
    }
    for family in Family::BOTH {
        bench.reply(family)?;
    }
    for (family, nets) in Family::BOTH.into_iter().zip(&nets) {
        bench.new_flows(family, nets)?;
    }
    for (family, nets) in Family::BOTH.into_iter().zip(&nets) {
        bench.dropped(family, nets)?;
    }
    for family in Family::BOTH {
        bench.million(family)?;
    }
    Ok(())
}

/// A table of flows that is larger than the default, for as many flows as the peer was measured
/// with.
fn many_flows(report: &mut Report, nets: &[Vec<IpNet>; 2]) -> Result<()> {
    let sizes = Sizes {
        maps: LARGE.to_vec(),
        ..Sizes::default()
    };
    let mut bench = Bench {
        rig: Rig::open("bench-large", &sizes)?,
        report,
    };
    bench
        .rig
        .isolate(policy(nets.iter().flatten().copied(), &[ALLOWED_PORT])?)?;
    for (family, nets) in Family::BOTH.into_iter().zip(nets) {
        bench.rig.drivers.set_patches(to_all(nets, ALLOWED_PORT))?;
        bench.path(
            family,
            "established-400k",
            "established, 400k flows",
            peer(family, [Some(10.4), Some(10.0)]),
            Program::FromPod,
            outbound(middle(nets)?, ALLOWED_PORT, ACK),
            Packets::Varied(Flows::Known(MANY_FLOWS)),
            Verdict::Pass,
        )?;
        let sets = match family {
            Family::V4 => LARGE_SETS,
            Family::V6 => 2 * LARGE_SETS,
        };
        let bytes = size_of::<FlowSet>() * usize::try_from(sets)?;
        bench.report.add_fact(Fact::nanoseconds(
            &format!("memory-{}", family.id()),
            &format!(
                "a cache line of {} MiB, as many as those flows are in, {}",
                bytes >> 20,
                family.name()
            ),
            memory::a_line_of(bytes),
        ));
    }
    Ok(())
}

struct Bench<'a> {
    rig: Rig,
    report: &'a mut Report,
}

impl Bench<'_> {
    #[expect(clippy::too_many_arguments, reason = "the columns of a table")]
    fn path(
        &mut self,
        family: Family,
        id: &str,
        name: &str,
        peer: [Option<f64>; 2],
        program: Program,
        frame: Vec<u8>,
        packets: Packets,
        verdict: Verdict,
    ) -> Result<()> {
        let id = format!("{id}-{}", family.id());
        if !self.report.wants(&id) {
            return Ok(());
        }
        let path = Path {
            id,
            name: format!("{name}, {}", family.name()),
            peer,
            family,
            program,
            frame,
            packets,
            verdict,
        };
        let cost = measure(&mut self.rig, &path, self.report.rounds())?;
        self.report.add(path, cost);
        Ok(())
    }

    fn not_isolated(&mut self) -> Result<()> {
        for family in Family::BOTH {
            self.path(
                family,
                "open-from-pod",
                "not isolated, from-pod",
                [None, None],
                Program::FromPod,
                inbound(family, true, ACK),
                Packets::Same,
                Verdict::Pass,
            )?;
        }
        for family in Family::BOTH {
            self.opened(family)?;
            self.path(
                family,
                "open-to-pod",
                "not isolated, to-pod, known connection",
                [None, None],
                Program::ToPod,
                inbound(family, false, ACK),
                Packets::Same,
                Verdict::Pass,
            )?;
        }
        Ok(())
    }

    fn established(&mut self, family: Family, nets: &[IpNet]) -> Result<()> {
        self.path(
            family,
            "established",
            "established, one flow",
            match family {
                Family::V4 => [Some(4.8), Some(4.6)],
                Family::V6 => [Some(5.8), Some(5.0)],
            },
            Program::FromPod,
            outbound(middle(nets)?, ALLOWED_PORT, ACK),
            Packets::Same,
            Verdict::Pass,
        )
    }

    /// Under a policy that allows nothing to the client.
    fn reply(&mut self, family: Family) -> Result<()> {
        self.opened(family)?;
        self.path(
            family,
            "reply",
            "reply to an inbound flow",
            peer(family, [None, Some(5.3)]),
            Program::FromPod,
            inbound(family, true, ACK),
            Packets::Same,
            Verdict::Pass,
        )
    }

    fn new_flows(&mut self, family: Family, nets: &[IpNet]) -> Result<()> {
        let frame = outbound(middle(nets)?, ALLOWED_PORT, SYN);
        let sets = MapInfo::from_pin(self.rig.datapath.map_pin("FLOWS"))?.max_entries();
        // As many of either family: see `egress_common::flows`.
        let capacity = sets / 3 * u32::try_from(WAYS_V4)?;
        self.rig.drivers.set_patches(to_one(middle(nets)?))?;
        self.path(
            family,
            "new-one",
            "new flow, 10k CIDRs, one destination",
            peer(family, [Some(29.0), Some(23.0)]),
            Program::FromPod,
            frame.clone(),
            Packets::Varied(Flows::New),
            Verdict::Pass,
        )?;
        self.rig.drivers.set_patches(to_all(nets, ALLOWED_PORT))?;
        self.path(
            family,
            "new-all",
            "new flow, 10k CIDRs, all destinations",
            [None, None],
            Program::FromPod,
            frame.clone(),
            Packets::Varied(Flows::New),
            Verdict::Pass,
        )?;
        self.path(
            family,
            "new-evicting",
            "the same, table of flows evicting",
            peer(family, [Some(64.0), Some(51.0)]),
            Program::FromPod,
            frame,
            Packets::Varied(Flows::Evicting { capacity }),
            Verdict::Pass,
        )
    }

    fn dropped(&mut self, family: Family, nets: &[IpNet]) -> Result<()> {
        let frame = outbound(middle(nets)?, DENIED_PORT, SYN);
        self.path(
            family,
            "drop-one",
            "drop, 10k CIDRs, wrong port",
            peer(family, [Some(12.6), Some(8.0)]),
            Program::FromPod,
            frame.clone(),
            Packets::Same,
            Verdict::Drop,
        )?;
        self.rig.drivers.set_patches(to_all(nets, DENIED_PORT))?;
        self.path(
            family,
            "drop-all",
            "drop, all destinations",
            [None, None],
            Program::FromPod,
            frame,
            Packets::Varied(Flows::None),
            Verdict::Drop,
        )
    }

    fn million(&mut self, family: Family) -> Result<()> {
        let ids = ["1m-one", "1m-all"].map(|id| format!("{id}-{}", family.id()));
        if !ids.iter().any(|id| self.report.wants(id)) {
            return Ok(());
        }
        let nets = networks(family, MILLION)?;
        // Every other port, so that they are no ranges.
        let ports: Vec<u16> = (0..MANY_PORTS)
            .map(|port| ALLOWED_PORT + 2 * port)
            .collect();
        // Lets go of the tries there were, so that they are not taken off what the new one takes.
        self.rig
            .isolate(policy(nets.iter().copied().take(1), &ports)?)?;
        memory::wait_for_frees();
        let policy = policy(nets.iter().copied(), &ports)?;
        let slabs = memory::of_slabs()?;
        let took = self.rig.isolate(policy)?;
        let slabs = memory::of_slabs()?.saturating_sub(slabs);
        let (id, name) = (family.id(), family.name());
        self.report.add_fact(fact(
            &format!("1m-fill-{id}"),
            &format!("1M CIDRs, 5k ports, {name}: compile, plan, fill"),
            took,
        ));
        let count = u32::try_from(nets.len())?;
        for (what, bytes) in [
            ("fdinfo", memory::of_trie(&self.rig, family)?),
            ("slabs", slabs),
        ] {
            self.report.add_fact(Fact::bytes_each(
                &format!("1m-bytes-{what}-{id}"),
                &format!("bytes a CIDR by {what}, {name} (peer: 1,040)"),
                bytes,
                count,
            ));
        }
        let frame = outbound(middle(&nets)?, ALLOWED_PORT, SYN);
        self.rig.drivers.set_patches(to_one(middle(&nets)?))?;
        self.path(
            family,
            "1m-one",
            "new flow, 1M CIDRs, 5k ports, one destination",
            [None, None],
            Program::FromPod,
            frame.clone(),
            Packets::Varied(Flows::New),
            Verdict::Pass,
        )?;
        self.rig.drivers.set_patches(to_all(&nets, ALLOWED_PORT))?;
        self.path(
            family,
            "1m-all",
            "new flow, 1M CIDRs, 5k ports, 65k destinations",
            [None, None],
            Program::FromPod,
            frame,
            Packets::Varied(Flows::New),
            Verdict::Pass,
        )
    }

    /// The client opens its connection to the pod.
    fn opened(&self, family: Family) -> Result<()> {
        let frame = inbound(family, false, SYN);
        test_run(self.rig.program(Program::ToPod)?, &frame, 1, 0)?;
        Ok(())
    }
}

/// What the peer was measured at, which was IPv4.
fn peer(family: Family, multiples: [Option<f64>; 2]) -> [Option<f64>; 2] {
    match family {
        Family::V4 => multiples,
        Family::V6 => [None, None],
    }
}

fn middle(nets: &[IpNet]) -> Result<&IpNet> {
    nets.get(nets.len() / 2)
        .ok_or_else(|| anyhow::anyhow!("there are no networks"))
}

fn fact(id: &str, name: &str, took: Took) -> Fact {
    Fact::milliseconds(id, name, &[took.compile, took.plan, took.apply])
}
