//! Evaluators that need the agent's binary or a kernel, beside the oracle; see `egress-parity` for how
//! they are compared.
//!
//! [`Command`] runs `egress-agent check --batch` on manifest files (everything between a file and the
//! printed answer too), [`kernel`] asks the programs, [`wire`] sends frames past the running agent.

mod command;
pub mod kernel;
pub mod wire;

pub use command::Command;
