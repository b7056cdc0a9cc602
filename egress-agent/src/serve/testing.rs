//! An agent task and a kernel for tests of the servers.
//!
//! The kernel here is a list of numbers: it shows how numbers travel, not that the
//! datapath counts right.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::Method;
use egress_common::event::Reason;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::client::{Client, Error};
use super::{Request, View};
use crate::answer::{Answer, Verdict};
use crate::attribution::{Attribution, Owner};
use crate::cni::message::Outcome;
use crate::drops::{Clocks, DropLog, DropRecord};
use crate::metrics::{
    Counters, DropCount, Kernel, Observations, ReadError, Readings, WorkloadLabels,
};
use crate::status::{MapFill, Status};
use crate::traffic::{Family, Protocol};

/// An agent task that answers pings, knows the pod `a/web`, and denies everything to it.
pub(super) struct Agent {
    pub(super) view: View,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) kernel: Arc<Numbers>,
    task: JoinHandle<()>,
}

impl Agent {
    pub(super) fn start() -> Self {
        let kernel = Arc::new(Numbers::default());
        let shared: Arc<dyn Kernel> = kernel.clone();
        let owner = Owner::new("a", "web", None, vec!["a/deny".to_owned()]);
        let (status, status_receiver) = watch::channel(Arc::new(Status::starting("node-1")));
        let (requests, received) = mpsc::channel(4);
        let view = View {
            status: status_receiver,
            attribution: watch::channel(Arc::new(Attribution::from([(3, owner)]))).1,
            counters: Arc::new(Counters::new(shared, WorkloadLabels::default())),
            observations: Arc::new(Observations::new().unwrap()),
            drops: Arc::new(DropLog::default()),
            requests,
        };
        let task = tokio::spawn(answer(received));
        Self {
            view,
            status,
            kernel,
            task,
        }
    }

    pub(super) async fn end(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn answer(mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Ping(reply) => reply.send(()).unwrap(),
            Request::Survey(reply) => reply.send(Vec::new()).unwrap(),
            Request::Explain { from, to: _, reply } => {
                let answer = if from.to_string() == "a/web" {
                    Ok(Answer {
                        schema: None,
                        verdict: Verdict::Deny,
                        reason: Reason::NoRule.name().to_owned(),
                        isolated_by: vec!["a/deny".to_owned()],
                        allowed_by: Vec::new(),
                        addresses: Vec::new(),
                        steps: None,
                        live: Vec::new(),
                        drift: Vec::new(),
                    })
                } else {
                    Err(format!("there is no pod {from}"))
                };
                reply.send(answer).unwrap();
            }
            Request::Serves(reply) => reply.send(Outcome::Done).unwrap(),
            Request::Enforce { attachment, reply } => {
                let outcome = if attachment.name == "web" {
                    Outcome::Done
                } else {
                    Outcome::try_again(format!("there is no pod {}", attachment.pod()))
                };
                reply.send(outcome).unwrap();
            }
            Request::Inspect { reply, .. } => {
                reply.send(Outcome::impossible("not hooked")).unwrap();
            }
        }
    }
}

/// Counters that a test sets.
#[derive(Default)]
pub(super) struct Numbers {
    dropped: Mutex<BTreeMap<u16, u64>>,
    maps: Mutex<Vec<MapFill>>,
    broken: AtomicBool,
}

impl Numbers {
    pub(super) fn drop_packets(&self, slot: u16, packets: u64) {
        *self.dropped.lock().unwrap().entry(slot).or_default() += packets;
    }

    pub(super) fn fill(&self, name: &str, entries: u64, capacity: u64) {
        self.maps.lock().unwrap().push(MapFill {
            name: name.to_owned(),
            entries,
            capacity,
        });
    }

    pub(super) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

impl Kernel for Numbers {
    fn readings(&self, slots: &[u16]) -> Result<Readings, ReadError> {
        if self.broken.load(Ordering::Relaxed) {
            let source = "broken by the test".into();
            return Err(ReadError {
                map: "DROPPED".to_owned(),
                op: "lookup",
                source,
            });
        }
        let counts = self.dropped.lock().unwrap().clone();
        let packets = counts.values().sum::<u64>();
        let dropped = DropCount {
            reason: Reason::NoRule,
            protocol: Protocol::Tcp,
            family: Some(Family::V4),
            packets,
            bytes: packets * 60,
        };
        let of = |slot: &u16| Some((*slot, [(Reason::NoRule, *counts.get(slot)?)].into()));
        Ok(Readings {
            dropped: vec![dropped],
            by_slot: slots.iter().filter_map(of).collect(),
            maps: self.maps.lock().unwrap().clone(),
            ..Readings::default()
        })
    }
}

/// A drop of a TCP packet to a port.
pub(super) fn drop_to(namespace: &str, pod: &str, port: u16) -> DropRecord {
    DropRecord {
        time: Clocks::now().wall,
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        pod_uid: String::new(),
        workload: format!("Pod/{pod}"),
        source: "10.0.0.9".parse().ok(),
        destination: "10.1.2.3".parse().ok(),
        port: Some(port),
        source_port: Some(40_000),
        tcp_flags: vec!["SYN".to_owned()],
        interface: "veth7".to_owned(),
        protocol: Protocol::Tcp,
        protocol_number: 6,
        family: Some(Family::V4),
        reason: Reason::NoRule.name().to_owned(),
        isolated_by: Vec::new(),
        count: 1,
    }
}

/// GET on a router, over a connection of its own: status code and text.
pub(super) async fn get(router: Router, path: &str) -> (u16, String) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("http.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let response = Client::new(&socket)
        .send(Method::GET, path, Bytes::new())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    server.abort();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

impl Client {
    /// The text behind a path, as any other HTTP client would get it.
    pub(super) async fn get_text(&self, path: &str) -> Result<String, Error> {
        let body = self
            .request(Method::GET, path, Bytes::new())
            .await?
            .into_body()
            .collect()
            .await?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }
}
