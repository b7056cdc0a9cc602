//! The agent's own datapath, over objects that are made here.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::programs::ProgramFd;
use egress_agent::datapath::{Datapath, Sizes};
use egress_agent::metrics::Kernel as _;
use egress_core::compile::{self, Desired, Isolation, Options, Subject, Touched};
use egress_core::image::Step;
use egress_core::object::{Name, Object};
use egress_core::plan::plan;
use egress_core::store::Store;
use egress_core::workload;
use zerocopy::network_endian::U32;

use super::driver::Drivers;
use super::kernel::{BPFFS, HOOK};
use super::scene;

/// Drop records of an endpoint in a second, as the agent's default.
const EVENTS_PER_SECOND: u32 = 100;

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Does nothing.
    Empty,
    /// What the pod sends.
    FromPod,
    /// What is sent to it.
    ToPod,
}

impl Program {
    const ALL: [Self; 3] = [Self::Empty, Self::FromPod, Self::ToPod];

    const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
        }
    }

    /// Its place in the driver's table.
    pub(crate) const fn index(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::FromPod => 1,
            Self::ToPod => 2,
        }
    }
}

/// How long a change took, by stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) compile: Duration,
    pub(crate) plan: Duration,
    pub(crate) apply: Duration,
}

/// Packets that from-pod counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) allowed: u64,
    pub(crate) dropped: u64,
}

/// Programs and tables, and the objects that they follow.
pub(crate) struct Rig {
    pub(crate) datapath: Datapath,
    pub(crate) drivers: Drivers,
    programs: Vec<ProgramFd>,
    store: Store,
    desired: Desired,
}

impl Rig {
    /// The datapath under a pin root of the private BPF file system, with the pod not isolated.
    pub(crate) fn open(name: &str, sizes: &Sizes) -> Result<Self> {
        let mut datapath =
            Datapath::open(&Path::new(BPFFS).join(name), sizes).context("opening the datapath")?;
        let mut programs = Vec::new();
        for program in Program::ALL {
            let name = program.name();
            let loaded = datapath
                .program_mut(name)
                .with_context(|| format!("the object has no program {name}"))?;
            if program == Program::Empty {
                loaded.load().context("loading the empty program")?;
            }
            programs.push(loaded.fd()?.try_clone()?);
        }
        let drivers = Drivers::new(&programs.iter().collect::<Vec<_>>())?;
        let mut rig = Self {
            datapath,
            drivers,
            programs,
            store: scene::cluster()?,
            desired: Desired::default(),
        };
        let mut config = rig.datapath.image().config;
        config.events_per_second = U32::new(EVENTS_PER_SECOND);
        rig.datapath.apply(&[Step::SetConfig(config)])?;
        rig.make_so()?;
        Ok(rig)
    }

    /// Isolates the pod by a policy, in place of the one there was.
    pub(crate) fn isolate(&mut self, policy: Object) -> Result<Took> {
        scene::apply(&mut self.store, policy);
        self.datapath.prepare()?;
        self.make_so()
    }

    pub(crate) fn program(&self, program: Program) -> Result<&ProgramFd> {
        let at = usize::try_from(program.index())?;
        self.programs.get(at).context("a program is not loaded")
    }

    /// The slot of the ruleset that the pod has.
    pub(crate) fn ruleset(&self) -> Result<u32> {
        let endpoint = self.datapath.image().endpoints.get(&HOOK);
        Ok(endpoint.context("the pod has no endpoint")?.ruleset.get())
    }

    /// Forgets all outbound flows, and says how many there were.
    pub(crate) fn forget_flows(&self) -> Result<usize> {
        let known = self.datapath.outbound_flows()?;
        self.datapath.forget_outbound_flows()?;
        Ok(known)
    }

    pub(crate) fn counted(&self) -> Result<Counted> {
        let readings = self.datapath.reader().readings(&[])?;
        Ok(Counted {
            allowed: readings.allowed.values().sum(),
            dropped: readings.dropped.iter().map(|count| count.packets).sum(),
        })
    }

    /// What the agent does after a change of objects.
    fn make_so(&mut self) -> Result<Took> {
        let start = Instant::now();
        let name = Name::new(scene::NAMESPACE, scene::POD);
        let pod = self.store.pod(&name).context("the pod is not known")?;
        let isolation = Isolation::of(pod, workload::isolating(&self.store, pod));
        let subject = Subject {
            hook: HOOK,
            addresses: scene::pod_addresses(),
            isolation: isolation.context("the pod is not enforced")?,
        };
        let options = Options {
            node: scene::NODE.to_owned(),
            ..Options::default()
        };
        self.desired = compile::compile(
            &self.store,
            &[subject],
            &options,
            std::mem::take(&mut self.desired),
            &Touched::everything(),
        );
        let compile = start.elapsed();

        let start = Instant::now();
        let planned = plan(
            self.datapath.image(),
            &self.desired,
            self.datapath.limits(),
            None,
        );
        if let Some(refusal) = planned.refused.first() {
            bail!("{refusal}");
        }
        let plan = start.elapsed();

        let start = Instant::now();
        self.datapath.apply(&planned.steps)?;
        Ok(Took {
            compile,
            plan,
            apply: start.elapsed(),
        })
    }
}
