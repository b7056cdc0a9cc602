//! Small nasty clusters, and questions at the edges of what their policies say.
//!
//! A case is made from a seed and nothing else, so a seed is a bug report. Everything is
//! drawn from a tiny alphabet, so that selectors, blocks and ports meet; and every oddity
//! that the statements (S1…) speak of is drawn now and then, beside parts that are in order.
//! What was drawn is noted by statement in [`Coverage`]: a generator that drifts tests
//! nothing, quietly.

mod cluster;
mod coverage;
mod draw;
mod policy;
mod question;
mod scene;
mod selector;
mod service;

use serde_json::Value;

pub use coverage::{Coverage, STATEMENTS};
pub use question::Question;

use draw::Draw;
use scene::Scene;

/// Objects, and what to ask about them.
#[derive(Clone, Debug)]
pub struct Case {
    /// The case is a function of this.
    pub seed: u64,
    /// Decoded manifests.
    pub objects: Vec<Value>,
    /// About [`QUESTIONS`] of them.
    pub questions: Vec<Question>,
    /// The statements that were drawn.
    pub coverage: Coverage,
}

/// How many questions a case asks: enough to meet most edges of most of its policies,
/// few enough that new clusters, which find more, come often.
pub const QUESTIONS: usize = 150;

/// The case of a seed.
#[must_use]
pub fn case(seed: u64) -> Case {
    let mut draw = Draw::new(seed);
    let mut scene = Scene::default();
    cluster::draw(&mut draw, &mut scene);
    service::draw(&mut draw, &mut scene);
    policy::draw(&mut draw, &mut scene);
    let questions = (0..QUESTIONS)
        .filter_map(|_| question::draw(&mut draw, &scene))
        .collect();
    let mut objects = scene.objects;
    draw.shuffle(&mut objects);
    Case {
        seed,
        objects,
        questions,
        coverage: draw.into_coverage(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_case() {
        for seed in 0..20 {
            let (one, other) = (case(seed), case(seed));
            assert_eq!(one.objects, other.objects, "seed {seed}");
            assert_eq!(one.questions, other.questions, "seed {seed}");
        }
    }

    #[test]
    fn a_thousand_cases_meet_every_statement() {
        let mut coverage = Coverage::default();
        for seed in 0..1_000 {
            coverage.add(&case(seed).coverage);
        }
        assert_eq!(coverage.missing(), Vec::<u8>::new(), "{coverage}");
    }
}
