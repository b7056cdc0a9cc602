//! The verdict of the running agent, and where its tables differ from what the objects ask for.

use egress_core::check::Checker;

use super::Agent;
use crate::answer::Answer;
use crate::evaluate;
use crate::query::{Destination, Subject};

impl Agent {
    /// `check` over the store, with any drift of the kernel's tables.
    pub(super) fn explain(&self, from: &Subject, to: &Destination) -> Result<Answer, String> {
        let mut checker = Checker::new(&self.store, self.settings.options.clone());
        let mut answer =
            evaluate::evaluate(&mut checker, from, to).map_err(|error| error.to_string())?;
        answer.drift = self.datapath.drift().map_err(|error| error.to_string())?;
        Ok(answer)
    }
}
