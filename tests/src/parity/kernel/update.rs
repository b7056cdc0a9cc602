//! Every packet sees the old or the new policy, in the kernel: after every single step of a change
//! the real program is asked about packets whose old and new verdicts are known.
//!
//! Three kinds of packet: the first of a flow; one of a flow that was there before; and a reply to
//! a flow that somebody else opened, which passes whatever the policies say (S52, S54).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use egress_core::image::Step;
use egress_core::object::{Name, Pod};
use egress_core::store::Store;
use egress_core::workload::{self, SubjectKind};
use egress_oracle::Oracle;
use egress_parity::generate::{Case, Question, case};
use egress_parity::{ask, busiest, store};
use serde_json::Value;

use super::frame::{frame, inbound};
use super::{Near, Node, word};

/// Questions that are asked after every step; each is two packets.
const ASKED: usize = 40;
/// One change in so many is cut short, and finished by an agent that finds what is there.
const CUT: u64 = 3;

/// What a run has met.
#[derive(Debug, Default)]
pub struct Updates {
    /// Changes of the tables.
    pub transitions: u64,
    /// Steps they took, each followed by every packet.
    pub steps: u64,
    /// Packets sent between steps.
    pub packets: u64,
    /// Of questions, those whose verdict a change turned, by what it became.
    pub turned: BTreeMap<bool, u64>,
    /// Changes that another agent finished.
    pub cut: u64,
    /// Replies sent, all of which passed.
    pub replies: u64,
}

impl fmt::Display for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turned = |to: bool| self.turned.get(&to).copied().unwrap_or_default();
        write!(
            f,
            "{} transitions of {} steps, {} of them finished by another agent; {} packets between steps; \
             {} questions became allowed, {} denied; {} replies",
            self.transitions,
            self.steps,
            self.cut,
            self.packets,
            turned(true),
            turned(false),
            self.replies,
        )
    }
}

/// Changes from case to case, seed after seed.
pub fn updates(mut node: Node, seeds: impl Iterator<Item = u64>) -> Result<Updates> {
    let mut report = Updates::default();
    let mut near = Near::default();
    let mut last: Option<(Case, String)> = None;
    for seed in seeds {
        let (before, name) = match last.take() {
            // Now and then from somewhere else altogether.
            Some(last) if seed % 10 != 0 => last,
            _ => {
                let case = case(seed);
                let name = busiest(&store(&case.objects));
                (case, name)
            }
        };
        let after = changed(&before, seed);
        node = transition(node, &mut near, (&before, &after), &name, &mut report)
            .with_context(|| format!("seed {seed}"))?;
        last = Some((after, name));
    }
    Ok(report)
}

/// A third of the objects replaced by what another case has under that name, or taken away; and some
/// of its others added.
fn changed(before: &Case, seed: u64) -> Case {
    let other = case(seed ^ 0x5eed_0000);
    let by_name: BTreeMap<String, &Value> = other
        .objects
        .iter()
        .map(|object| (key(object), object))
        .collect();
    let names: BTreeSet<String> = before.objects.iter().map(key).collect();
    // Which is the seed's choice too.
    let mut draw = seed;
    let mut third = move || {
        draw = draw
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (draw >> 33).is_multiple_of(3)
    };
    let mut objects = Vec::new();
    for object in &before.objects {
        if third() {
            objects.extend(by_name.get(&key(object)).map(|other| (*other).clone()));
        } else {
            objects.push(object.clone());
        }
    }
    for object in other
        .objects
        .iter()
        .filter(|object| !names.contains(&key(object)))
    {
        if third() {
            objects.push(object.clone());
        }
    }
    let mut questions = before.questions.clone();
    questions.extend(other.questions.iter().cloned());
    Case {
        seed,
        objects,
        questions,
        coverage: other.coverage,
    }
}

fn key(object: &Value) -> String {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    format!(
        "{} {}/{}",
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name")
    )
}

/// A question that both sides of a change have an answer to.
struct Asked<'a> {
    question: &'a Question,
    pod: &'a Pod,
    old: bool,
    new: bool,
    /// The flow that was there before.
    known: Vec<u8>,
}

/// A reply to a flow that somebody else opened.
struct Reply {
    pod: Name,
    frame: Vec<u8>,
}

/// What is sent after every step.
struct Packets<'a> {
    asked: Vec<Asked<'a>>,
    replies: Vec<Reply>,
}

fn transition(
    mut node: Node,
    near: &mut Near,
    (before, after): (&Case, &Case),
    name: &str,
    report: &mut Updates,
) -> Result<Node> {
    let (old, new) = (store(&before.objects), store(&after.objects));
    node.become_node(&old, name)?;
    let mut senders = senders(&old, &new, name);
    for case in [before, after] {
        senders.retain(|pod, _| !is_contradicted(&case.objects, pod));
    }
    let packets = Packets {
        asked: questions(&mut node, near, (before, after), &senders)?,
        replies: replies(&mut node, near, &senders)?,
    };
    for asked in packets.asked.iter().filter(|asked| asked.old != asked.new) {
        *report.turned.entry(asked.new).or_default() += 1;
    }
    report.transitions += 1;
    let steps = node.steps_to(&new, name)?;
    let cut = usize::try_from(after.seed)? % (steps.len() + 1);
    let cut = if after.seed.is_multiple_of(CUT) {
        cut
    } else {
        steps.len()
    };
    let (first, rest) = steps.split_at(cut);
    packets.walk(&mut node, near, first, report)?;
    if !rest.is_empty() {
        node = node.restarted()?;
        report.cut += 1;
        let steps = node.steps_to(&new, name)?;
        packets.walk(&mut node, near, &steps, report)?;
    }
    packets.end(&mut node, near)?;
    Ok(node)
}

/// Pods that can send before and after, from the same addresses.
fn senders<'a>(old: &'a Store, new: &'a Store, node: &str) -> BTreeMap<&'a Name, &'a Pod> {
    let sends = |pod: &Pod| {
        *pod.node == *node
            && !pod.addresses.is_empty()
            && matches!(
                workload::subject(pod),
                SubjectKind::Enforced | SubjectKind::Unreadable
            )
    };
    old.pods()
        .filter(|pod| sends(pod))
        .filter_map(|pod| {
            let after = new.pod(&pod.name)?;
            (sends(after) && after.addresses == pod.addresses).then_some((&pod.name, pod))
        })
        .collect()
}

/// Two different pods of one name cannot be asked as a sender (S96): nobody is both.
fn is_contradicted(objects: &[Value], pod: &Name) -> bool {
    let wanted = format!("Pod {pod}");
    let mut same = objects.iter().filter(|object| key(object) == wanted);
    let first = same.next();
    same.any(|other| Some(other) != first)
}

/// Questions with both answers, first those whose answer turns.
fn questions<'a>(
    node: &mut Node,
    near: &mut Near,
    (before, after): (&Case, &'a Case),
    senders: &BTreeMap<&Name, &'a Pod>,
) -> Result<Vec<Asked<'a>>> {
    let (old, new) = (Oracle::new(&before.objects), Oracle::new(&after.objects));
    let mut asked = Vec::new();
    for question in &after.questions {
        let Some(pod) = senders.get(&Name::new(
            question.namespace.as_str(),
            question.pod.as_str(),
        )) else {
            continue;
        };
        let Some(known) = frame(question, &pod.addresses, near.next(), &[]) else {
            continue;
        };
        asked.push(Asked {
            question,
            pod,
            old: ask(&old, question).allow,
            new: ask(&new, question).allow,
            known,
        });
    }
    asked.sort_by_key(|asked| asked.old == asked.new);
    asked.truncate(ASKED);
    for Asked {
        question,
        pod,
        old,
        known,
        ..
    } in &asked
    {
        let passed = node.send(&pod.name, known)?;
        ensure!(
            passed == *old,
            "{question} before the change: oracle {}, kernel {}",
            word(*old),
            word(passed)
        );
    }
    Ok(asked)
}

fn replies(
    node: &mut Node,
    near: &mut Near,
    senders: &BTreeMap<&Name, &Pod>,
) -> Result<Vec<Reply>> {
    let mut replies = Vec::new();
    for pod in senders.values() {
        for address in &pod.addresses {
            let (request, frame) = inbound(*address, near.next());
            node.deliver(&pod.name, &request)?;
            let pod = pod.name.clone();
            replies.push(Reply { pod, frame });
        }
    }
    Ok(replies)
}

impl Packets<'_> {
    /// Takes steps, and sends everything after each.
    fn walk(
        &self,
        node: &mut Node,
        near: &mut Near,
        steps: &[Step],
        report: &mut Updates,
    ) -> Result<()> {
        for (done, step) in steps.iter().enumerate() {
            node.apply(std::slice::from_ref(step))?;
            report.steps += 1;
            self.send(node, near, report)
                .with_context(|| format!("after step {done} of {}: {step:?}", steps.len()))?;
        }
        Ok(())
    }

    fn send(&self, node: &mut Node, near: &mut Near, report: &mut Updates) -> Result<()> {
        for Asked {
            question,
            pod,
            old,
            new,
            known,
        } in &self.asked
        {
            let fresh = frame(question, &pod.addresses, near.next(), &[]);
            let fresh = fresh.context("the frame could be made before")?;
            for (kind, frame) in [("a new flow", &fresh), ("a known flow", known)] {
                let passed = node.send(&pod.name, frame)?;
                ensure!(
                    passed == *old || passed == *new,
                    "a third verdict: {question}, {kind}: {}, was {} and will be {}",
                    word(passed),
                    word(*old),
                    word(*new)
                );
                report.packets += 1;
            }
        }
        for Reply { pod, frame } in &self.replies {
            ensure!(node.send(pod, frame)?, "a reply of {pod} was dropped");
            report.replies += 1;
        }
        Ok(())
    }

    /// The change is done: only the new verdict counts, for flows that were there before too.
    fn end(&self, node: &mut Node, near: &mut Near) -> Result<()> {
        for Asked {
            question,
            pod,
            new,
            known,
            ..
        } in &self.asked
        {
            let fresh = frame(question, &pod.addresses, near.next(), &[]);
            let fresh = fresh.context("the frame could be made before")?;
            for (kind, frame) in [("a new flow", &fresh), ("a known flow", known)] {
                let passed = node.send(&pod.name, frame)?;
                ensure!(
                    passed == *new,
                    "{question} after the change, {kind}: oracle {}, kernel {}",
                    word(*new),
                    word(passed)
                );
            }
        }
        Ok(())
    }
}
