//! What an agent keeps of a large cluster, and what taking it in and following it costs: pods of other nodes and
//! policies, as an API server streams them, and 250 pods of the agent's own node, each of an application that
//! a policy isolates.
//!
//! * The server is [`super::api`]. It makes the objects while the agent reads them, in the same seconds:
//!   the agent's own processor time says more than the clock.
//! * *Events*: 100 times a second one pod elsewhere, of a hundred that take turns, has another label, which
//!   policies ask for.
//! * *Anonymous* is what the agent allocated; the rest of what is resident is mostly the program's own file.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use egress_tests::crowd;
use egress_tests::harness::{PodSpec, World};
use serde_json::json;

use super::api::{Contents, Server, pod};
use super::control::{LOCAL, TURNS, churn, processor_time, start};
use super::memory::field;
use super::report::{Fact, Report};

const POLICIES: usize = 500;

/// What was only needed at the start has gone by then.
const SETTLED: Duration = Duration::from_secs(10);

/// Measures everything.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for (size, pods) in [("10k", 10_000), ("150k", 150_000)] {
        let id = format!("cluster-{size}");
        if report.wants(&id) {
            one(report, &id, size, pods)?;
        }
    }
    Ok(())
}

fn one(report: &mut Report, id: &str, size: &str, pods: usize) -> Result<()> {
    let mut world = World::new()?;
    let local = (0..LOCAL).map(|number| {
        let at = usize::from(number);
        let spec = PodSpec::new(&crowd::space(at), &format!("web-{number}"));
        let pod = world.stage(spec.label(crowd::APP, &crowd::app(at)))?;
        // Its namespace is made for the pod, and lasts as long.
        Ok((pod.manifest(), pod))
    });
    let (local, _stand): (Vec<_>, Vec<_>) = local.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    // Of both families they are more than PEERS has room for by default.
    let only_v4 = pods > 100_000;
    let contents = Contents {
        pods,
        policies: POLICIES,
        only_v4,
        local,
    };
    let server = Server::start(&world.host, contents)?;
    world.agent.follow(&server.kubeconfig())?;
    let clock = start(&mut world)?;
    let pid = world.agent.pid()?;
    let processor = processor_time(pid)?;
    let mut time = |what: &str, name: &str, time| {
        let name = format!("start in a cluster of {size} pods, {name}");
        report.add_fact(Fact::milliseconds(&format!("{id}-{what}"), &name, &[time]));
    };
    time("ready", "to ready", clock);
    time("processor", "processor time", processor);
    thread::sleep(SETTLED);
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for (key, name) in [
        ("VmRSS", "RSS"),
        ("RssAnon", "anonymous"),
        ("VmHWM", "peak of RSS"),
    ] {
        let kibibytes = field(&status, &format!("{key}:")).with_context(|| format!("no {key}"))?;
        report.add_fact(Fact::mebibytes(
            &format!("{id}-{}", key.to_lowercase()),
            &format!("the agent in a cluster of {size} pods, {name}"),
            kibibytes * 1024,
        ));
    }
    let id = format!("{id}-churn");
    let name = format!("100 pod events a second in a cluster of {size} pods, of one processor");
    churn(report, &world, (&id, &name), |event| {
        let number = usize::try_from(event % TURNS)?;
        let mut pod = pod(number, only_v4);
        let tier = if (event / TURNS).is_multiple_of(2) {
            "middle"
        } else {
            "back"
        };
        *pod.pointer_mut("/metadata/labels/tier").context("a tier")? = json!(tier);
        *pod.pointer_mut("/metadata/resourceVersion")
            .context("a version")? = json!((event + 2).to_string());
        server.change(pod)
    })?;
    world.agent.terminate()?;
    Ok(())
}
