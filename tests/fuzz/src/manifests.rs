//! A file in the manifests' folder: read as the agent reads it, and asked about.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use egress_agent::source::load_once;
use egress_core::check::{Checker, Destination, Transport};
use egress_core::compile::Options;
use egress_core::object::Name;
use egress_core::policy::Protocol;
use egress_core::store::{Changed, Store};

/// The file's name says what it is: the first byte chooses.
const NAMES: [&str; 3] = ["a.yaml", "a.yml", "a.json"];

pub(crate) fn run(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else {
        return;
    };
    let Some(name) = NAMES.get(usize::from(*kind) % NAMES.len()) else {
        return;
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => panic!("no folder: {error}"),
    };
    if let Err(error) = fs::write(folder.path().join(name), text) {
        panic!("no file: {error}");
    }
    let Ok(change) = load_once(folder.path()) else {
        return;
    };
    let mut store = Store::default();
    for event in change.events {
        match store.apply(event) {
            Changed::Yes | Changed::No => {}
        }
    }
    let pods: Vec<Name> = store.pods().map(|pod| pod.name.clone()).collect();
    let mut checker = Checker::new(&store, Options::default());
    for pod in pods.iter().take(4) {
        for transport in [Transport::Icmp, Transport::Port(Protocol::Tcp, 80)] {
            let to = Destination::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
            // A pod that cannot be asked is an answer too.
            drop(checker.check(pod, &to, transport));
        }
    }
}
