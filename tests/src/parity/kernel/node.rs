//! A node's programs and tables, without a network: the agent's datapath, asked one frame at a
//! time by `BPF_PROG_TEST_RUN`.
#![expect(unsafe_code, reason = "a thread gets namespaces of its own")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use egress_agent::datapath::{Datapath, SetupError, Sizes};
use egress_agent::metrics::{Kernel as _, Readings};
use egress_core::compile::{self, Desired, Isolation, Options, Subject, Touched};
use egress_core::image::Step;
use egress_core::object::Name;
use egress_core::store::Store;
use egress_core::workload;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::harness::until;

const BPFFS: &str = "/sys/fs/bpf";
/// Pods that two generated clusters have together, and some. Both ends of a veth pair are hooks.
const HOOKS: u32 = 40;
/// Index of the first, so that none has to be asked for.
const FIRST_HOOK: u32 = 100;
/// Where `ifindex` stands in `struct __sk_buff`.
const IFINDEX_AT: usize = 40;

/// `TC_ACT_UNSPEC`: on to whatever comes next.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`
const DROP: i32 = 2;

/// Runs `task` on a thread that has a network and a BPF file system of its own. Interfaces
/// and pins go with the thread, whatever happens.
pub fn in_own_namespaces<T: Send>(task: impl FnOnce(Node) -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            enter()?;
            task(Node::open()?)
        });
        match worker.join() {
            Ok(result) => result,
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}

fn enter() -> Result<()> {
    // SAFETY: what is unsafe about unshare is to give threads different tables of file
    // descriptors, and these flags keep the table shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .context("making namespaces")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("keeping mounts to this thread")?;
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)
        .with_context(|| format!("mounting a BPF file system on {BPFFS}"))?;
    for index in (FIRST_HOOK..FIRST_HOOK + HOOKS).step_by(2) {
        let peer = index + 1;
        let words = format!(
            "link add name v{index} index {index} type veth peer name v{peer} index {peer}"
        );
        let output = Command::new("ip")
            .args(words.split(' '))
            .output()
            .context("running ip (package iproute2)")?;
        ensure!(
            output.status.success(),
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// One node after the other, on the same tables.
#[derive(Debug)]
pub struct Node {
    datapath: Datapath,
    desired: Desired,
    /// Hooks of the present node's pods.
    hooks: BTreeMap<Name, u32>,
}

impl Node {
    fn open() -> Result<Self> {
        let root = Path::new(BPFFS).join("parity");
        Ok(Self {
            datapath: Datapath::open(&root, &Sizes::default()).context("opening the datapath")?,
            desired: Desired::default(),
            hooks: BTreeMap::new(),
        })
    }

    /// What a restart of the agent does: everything but the pins is forgotten.
    pub(super) fn restarted(self) -> Result<Self> {
        // The interfaces stay, and whose they are.
        let Self {
            datapath, hooks, ..
        } = self;
        // First, because it holds the lock. A process that another test of this one starts has it, too,
        // until it is another program.
        drop(datapath);
        let mut node = None;
        until("the lock is free", || match Self::open() {
            Ok(opened) => {
                node = Some(opened);
                Ok(true)
            }
            Err(error) => match error.downcast_ref() {
                Some(SetupError::Locked { .. }) => Ok(false),
                _ => Err(error),
            },
        })?;
        let node = node.context("it was opened")?;
        Ok(Self { hooks, ..node })
    }

    /// Makes the tables those of a node, straight from those of the node before; returns
    /// how many steps that took.
    pub(super) fn become_node(&mut self, store: &Store, node: &str) -> Result<usize> {
        let steps = self.steps_to(store, node)?;
        self.apply(&steps)?;
        self.datapath.prepare()?;
        let drift = self.datapath.drift()?;
        ensure!(drift.is_empty(), "{drift:?}");
        Ok(steps.len())
    }

    /// What makes the tables those of a node. A pod that was there keeps its hook.
    pub(super) fn steps_to(&mut self, store: &Store, node: &str) -> Result<Vec<Step>> {
        let pods: Vec<_> = store
            .pods()
            .filter(|pod| *pod.node == *node)
            .filter_map(|pod| Some((pod, Isolation::of(pod, workload::isolating(store, pod))?)))
            .collect();
        self.hooks
            .retain(|name, _| pods.iter().any(|(pod, _)| pod.name == *name));
        let mut subjects = Vec::new();
        for (pod, isolation) in pods {
            let hook = match self.hooks.get(&pod.name) {
                Some(hook) => *hook,
                None => self.free_hook()?,
            };
            self.hooks.insert(pod.name.clone(), hook);
            subjects.push(Subject {
                hook: hook.into(),
                addresses: pod.addresses.iter().copied().collect(),
                isolation,
            });
        }
        let options = Options {
            node: node.to_owned(),
            ..Options::default()
        };
        self.desired = compile::compile(
            store,
            &subjects,
            &options,
            std::mem::take(&mut self.desired),
            &Touched::everything(),
        );
        let planned = self.datapath.plan(&self.desired, None)?;
        match planned.refused.first() {
            Some(refusal) => bail!("{refusal}"),
            None => Ok(planned.steps),
        }
    }

    fn free_hook(&self) -> Result<u32> {
        let taken: BTreeSet<u32> = self.hooks.values().copied().collect();
        (FIRST_HOOK..FIRST_HOOK + HOOKS)
            .find(|hook| !taken.contains(hook))
            .context("more pods than hooks")
    }

    /// Takes steps.
    pub(super) fn apply(&mut self, steps: &[Step]) -> Result<()> {
        Ok(self.datapath.apply(steps)?)
    }

    /// Whether the pod's hook lets a frame pass.
    pub(super) fn send(&mut self, pod: &Name, frame: &[u8]) -> Result<bool> {
        match self.run("from_pod", pod, frame)? {
            PASS => Ok(true),
            DROP => Ok(false),
            other => bail!("from_pod returned {other}"),
        }
    }

    /// Has a frame arrive for a pod.
    pub(super) fn deliver(&mut self, pod: &Name, frame: &[u8]) -> Result<()> {
        match self.run("to_pod", pod, frame)? {
            PASS => Ok(()),
            other => bail!("to_pod returned {other}"),
        }
    }

    fn run(&mut self, program: &str, pod: &Name, frame: &[u8]) -> Result<i32> {
        let hook = self.hooks.get(pod).context("the pod has no hook")?;
        let mut context = [0; IFINDEX_AT + size_of::<u32>()];
        if let Some(place) = context.last_chunk_mut() {
            *place = hook.to_ne_bytes();
        }
        let result = self
            .datapath
            .program_mut(program)
            .with_context(|| format!("the object has no program {program}"))?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })?;
        Ok(result.return_value.cast_signed())
    }

    /// What the programs have counted since the beginning.
    pub(super) fn readings(&self) -> Result<Readings> {
        Ok(self.datapath.reader().readings(&[])?)
    }
}
