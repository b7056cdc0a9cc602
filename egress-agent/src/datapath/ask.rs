//! What the live tables say of a new flow, and which flows are open.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use egress_common::abi::{Flow, FlowKey, FrontendKey};
use egress_common::event::Reason;
use egress_common::hook::{Question, Reply};
use egress_core::plan::Unknown;
use zerocopy::network_endian::U64;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Datapath;
use super::error::TableError;
use super::tables::failed;

/// Destination, source, and an ethertype for experiments (IEEE 802): nothing parses it.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];

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

    /// What of this the tables allow. What they do not tell is closed until its pods have left the ruleset.
    pub(super) fn allowed(&mut self, unknown: &[Unknown]) -> Vec<(u32, FrontendKey)> {
        let mut allowed = Vec::new();
        for one in unknown {
            let question = Question {
                hook: U64::new(one.hook),
                destination: one.destination.destination(),
                protocol: one.destination.protocol,
                reserved: 0,
                port: one.destination.port,
            };
            match self.ask(&question) {
                Ok(reply) if reply.reason == Reason::Allowed.number() => {
                    allowed.push((one.ruleset, one.destination));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(
                        %error,
                        source = %error.source,
                        "not known what an earlier agent's rulesets allow"
                    );
                    break;
                }
            }
        }
        allowed
    }

    /// Visits every flow that a pod has opened.
    pub fn for_each_flow(&self, visit: impl FnMut(&FlowKey, &Flow)) -> Result<(), TableError> {
        let table = self.tables.flows.table()?;
        table.for_each(&self.image.config.seed, visit);
        Ok(())
    }
}
