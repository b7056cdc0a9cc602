//! Decoded objects, as strange as they may be: the agent's evaluator and the oracle must say the same
//! of every packet.
//!
//! The bytes are a list as JSON.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use egress_oracle::{Oracle, Protocol};
use egress_parity::generate::Question;
use egress_parity::{Core, Evaluator as _, ask};
use serde_json::Value;

/// Nobody's.
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(crate) fn run(bytes: &[u8]) {
    let Ok(Value::Array(objects)) = serde_json::from_slice(bytes) else {
        return;
    };
    // Of which API an object without a version is, the semantics do not say: the agent goes by its kind, and
    // reports it, and the oracle passes over it. With it nothing may break; the others are compared.
    let says_version = |object: &Value| object.get("apiVersion").is_some_and(Value::is_string);
    let (objects, without): (Vec<Value>, Vec<Value>) = objects.into_iter().partition(says_version);
    let questions = questions(&objects);
    if !without.is_empty() {
        let all: Vec<Value> = objects.iter().cloned().chain(without).collect();
        if let Err(error) = Core.answers(&all, &questions) {
            panic!("{error:#}");
        }
    }
    let oracle = Oracle::new(&objects);
    let answers = match Core.answers(&objects, &questions) {
        Ok(answers) => answers,
        Err(error) => panic!("{error:#}"),
    };
    for (question, answer) in questions.iter().zip(answers) {
        // A sender that cannot be asked is told so by one and closed by the other.
        let Ok(answer) = answer else { continue };
        let wanted = ask(&oracle, question);
        assert!(
            answer.allow == wanted.allow,
            "{question}: the oracle says {wanted:?}, the agent {answer:?}"
        );
    }
}

/// Every pod to every address there is.
fn questions(objects: &[Value]) -> Vec<Question> {
    let mut senders = BTreeSet::new();
    let mut places = BTreeSet::from([FAR]);
    for object in objects {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        if text("/kind") == Some("Pod")
            && let (Some(namespace), Some(name)) =
                (text("/metadata/namespace"), text("/metadata/name"))
        {
            // Two different pods of one name cannot be asked (S96).
            if !senders.insert((namespace.to_owned(), name.to_owned())) {
                return Vec::new();
            }
        }
        addresses(object, &mut places);
    }
    let mut questions = Vec::new();
    for (namespace, pod) in senders.iter().take(4) {
        for address in places.iter().take(12) {
            for (protocol, port) in [
                (Protocol::Tcp, 80),
                (Protocol::Udp, 53),
                (Protocol::Icmp, 0),
            ] {
                questions.push(Question {
                    namespace: namespace.clone(),
                    pod: pod.clone(),
                    address: *address,
                    protocol,
                    port,
                });
            }
        }
    }
    questions
}

/// Whatever is an address, or a block that begins with one.
fn addresses(value: &Value, found: &mut BTreeSet<IpAddr>) {
    match value {
        Value::String(text) => {
            let address = text.split('/').next().unwrap_or_default();
            found.extend(address.parse::<IpAddr>().ok());
        }
        Value::Array(entries) => entries.iter().for_each(|entry| addresses(entry, found)),
        Value::Object(fields) => fields.values().for_each(|entry| addresses(entry, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
