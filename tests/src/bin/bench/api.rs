//! A stand-in for an API server: it streams the list of each kind once, and then tells what pods become
//! when it is told to ([`Server::change`]).
//!
//! What it does not show: authentication, encryption, pages. Objects are made while they are
//! sent, so that it keeps none but those of the agent's own node.

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use anyhow::{Context as _, Result};
use egress_tests::crowd;
use egress_tests::harness::NetNs;
use serde_json::{Value, json};

/// The most of events that goes into one chunk.
const CHUNK: usize = 64 << 10;

/// What a server serves.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) pods: usize,
    pub(crate) policies: usize,
    /// A pod has an IPv4 address alone.
    pub(crate) only_v4: bool,
    /// Pods besides those.
    pub(crate) local: Vec<Value>,
}

/// A server that answers until the process ends.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    watch: Watch,
}

/// To whoever watches the pods, the latest alone.
type Watch = Arc<Mutex<Option<mpsc::Sender<Value>>>>;

impl Server {
    /// Serves on the loopback of a namespace.
    pub(crate) fn start(ns: &NetNs, contents: Contents) -> Result<Self> {
        let listener = ns.run(|| TcpListener::bind("127.0.0.1:0").context("listening"))?;
        let address = listener.local_addr()?;
        let watch = Watch::default();
        let contents = Arc::new(contents);
        let all = Arc::clone(&watch);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (contents, watch) = (Arc::clone(&contents), Arc::clone(&all));
                // A client that goes away ends its own connection, and nothing else.
                thread::spawn(move || serve(&stream, &contents, &watch));
            }
        });
        Ok(Self { address, watch })
    }

    /// Tells who watches the pods what one of them is now.
    pub(crate) fn change(&self, pod: Value) -> Result<()> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = watch.as_ref().context("nobody watches the pods")?;
        watch.send(pod).context("nobody watches the pods any more")
    }

    /// What a client needs to find it.
    pub(crate) fn kubeconfig(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{ "name": "a", "cluster": { "server": format!("http://{}", self.address) } }],
            "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
            "users": [{ "name": "a", "user": {} }],
        })
    }
}

/// Answers one request; a watch, which never ends, is the last of its connection.
fn serve(stream: &TcpStream, contents: &Contents, watch: &Watch) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    let mut writer = BufWriter::with_capacity(CHUNK, stream);
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    if !query.contains("watch=") {
        write!(
            writer,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        return Ok(writer.flush()?);
    }
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    if query.contains("sendInitialEvents=true") {
        for object in objects(plural, contents) {
            event(&mut writer, "ADDED", &object)?;
        }
        event(
            &mut writer,
            "BOOKMARK",
            // Which kind it names is nobody's concern, but it must name one.
            &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {
                "resourceVersion": "1",
                "annotations": { "k8s.io/initial-events-end": "true" },
            } }),
        )?;
    }
    writer.flush()?;
    if plural == "pods" {
        let (changes, changed) = mpsc::channel();
        *watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(changes);
        for pod in changed {
            event(&mut writer, "MODIFIED", &pod)?;
            writer.flush()?;
        }
    }
    // Until the client closes.
    let mut rest = [0];
    reader.read_exact(&mut rest)?;
    Ok(())
}

/// One chunk.
fn event(writer: &mut impl Write, kind: &str, object: &Value) -> Result<()> {
    let text = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
    Ok(write!(writer, "{:x}\r\n{text}\r\n", text.len())?)
}

fn objects<'a>(plural: &str, contents: &'a Contents) -> Box<dyn Iterator<Item = Value> + 'a> {
    match plural {
        "namespaces" => Box::new((0..crowd::NAMESPACES).map(crowd::namespace)),
        "nodes" => Box::new((0..crowd::NODES).map(crowd::node)),
        "networkpolicies" => Box::new((0..contents.policies).map(crowd::policy)),
        "pods" => {
            let local = contents.local.iter().cloned();
            Box::new(
                local.chain((0..contents.pods).map(move |number| pod(number, contents.only_v4))),
            )
        }
        _ => Box::new(std::iter::empty()),
    }
}

/// A pod as the API server has it when it runs.
pub(crate) fn pod(number: usize, only_v4: bool) -> Value {
    let mut pod = crowd::pod(number);
    let mut status = crowd::status(number);
    if only_v4 && let Some(Value::Array(ips)) = status.pointer_mut("/status/podIPs") {
        ips.truncate(1);
    }
    let metadata = pod.pointer_mut("/metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        let uid = format!("00000000-0000-4000-9000-{number:012x}");
        metadata.insert("uid".to_owned(), uid.into());
        metadata.insert("resourceVersion".to_owned(), "1".into());
        let created = "2026-01-01T00:00:00Z";
        metadata.insert("creationTimestamp".to_owned(), created.into());
    }
    let status = status.get_mut("status").map(Value::take);
    if let (Some(whole), Some(status)) = (pod.as_object_mut(), status) {
        whole.insert("status".to_owned(), status);
    }
    pod
}
