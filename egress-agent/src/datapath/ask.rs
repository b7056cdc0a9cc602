//! What the live tables say of a new flow, and which flows are open.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use egress_common::abi::{Flow, FlowKey};
use egress_common::hook::{Question, Reply};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Datapath;
use super::error::TableError;
use super::sys;
use super::tables::failed;

/// Destination, source, and an ethertype for experiments (IEEE 802): nothing parses it.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];

/// Flows read at once: 10 KiB of keys and values a call.
const BATCH: u32 = 256;

/// The program, as it is called in errors.
const PROGRAM: &str = "ask";

impl Datapath {
    /// The kernel's own verdict, by the program `ask`, which is loaded when first asked.
    pub fn ask(&mut self, question: &Question) -> Result<Reply, TableError> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(PROGRAM)
            .ok_or_else(|| failed(PROGRAM, "load", "the object has no such program"))?
            .try_into()
            .map_err(|e: aya::programs::ProgramError| failed(PROGRAM, "load", e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| failed(PROGRAM, "load", e))?;
        }
        let mut frame = HEADER.to_vec();
        frame.extend(question.as_bytes());
        let reply_at = frame.len();
        frame.resize(reply_at + size_of::<Reply>(), 0);
        let mut answered = vec![0; frame.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut answered);
        program
            .test_run(options)
            .map_err(|e| failed(PROGRAM, "run", e))?;
        answered
            .get(reply_at..)
            .and_then(|bytes| Reply::read_from_bytes(bytes).ok())
            .ok_or_else(|| failed(PROGRAM, "run", "no reply"))
    }

    /// Visits every flow that a pod has opened.
    pub fn for_each_flow(&self, mut visit: impl FnMut(&FlowKey, &Flow)) -> Result<(), TableError> {
        // aya does not lend the descriptor of its map.
        let map =
            MapData::from_pin(self.map_pin("FLOWS")).map_err(|e| failed("FLOWS", "open", e))?;
        sys::for_each_entry::<24, 16>(map.fd().as_fd(), BATCH, |key, value| {
            visit(&zerocopy::transmute!(*key), &zerocopy::transmute!(*value));
        })
        .map_err(|e| failed("FLOWS", "iterate", e))
    }
}
