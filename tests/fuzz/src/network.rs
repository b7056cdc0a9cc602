//! A network configuration: on the plugin's standard input, and in the runtime's folder. The first line
//! is `CNI_ARGS`, the rest the configuration.

use std::path::Path;

use egress_agent::cni::PLUGIN;
use egress_agent::cni::install::conflist::{Entry, chain, list_of, unchain};
use egress_agent::cni::spec::{Command, Configuration, Environment, WhenAgentDown};
use serde_json::Value;

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (arguments, text) = text.split_once('\n').unwrap_or(("", text));
    called(arguments);
    configured(text);
    // A number beyond every float is copied, but cannot be looked at here.
    if serde_json::from_str::<Value>(text).is_err() {
        return;
    }
    let entry = Entry::new(Path::new("/run/agent.sock"), WhenAgentDown::Wait);
    if let Ok(Some(chained)) = chain(text, &entry) {
        is_chained(text, &chained, &entry);
    }
    if let Ok(list) = list_of(text, "10-net.conf", &entry) {
        let made = plugins(&list);
        assert!(made.len() == 2 && is_ours(made.last()), "{list}");
        assert!(
            chain(&list, &entry).is_ok_and(|more| more.is_none()),
            "{list}"
        );
    }
}

/// What the runtime says of the container.
fn called(arguments: &str) {
    let environment = Environment::read(|name| {
        Some(match name {
            "CNI_COMMAND" => "ADD".to_owned(),
            "CNI_CONTAINERID" => "c".to_owned(),
            "CNI_NETNS" => "/run/netns/x".to_owned(),
            "CNI_IFNAME" => "eth0".to_owned(),
            _ => arguments.to_owned(),
        })
    });
    if let Ok(Some(pod)) = environment.and_then(|environment| environment.pod()) {
        assert!(
            !pod.namespace.is_empty() && !pod.name.is_empty() && !pod.uid.is_empty(),
            "{pod:?}"
        );
    }
}

/// What is on standard input: whatever it is, an error has a number.
fn configured(text: &str) {
    let Ok(configuration) = Configuration::read(text.as_bytes()) else {
        return;
    };
    for command in [
        Command::Add,
        Command::Check,
        Command::Status,
        Command::Version,
    ] {
        if let Err(error) = configuration.admits(command) {
            let json = error.json(&configuration.cni_version);
            assert!(json.pointer("/code").is_some_and(Value::is_u64), "{json}");
        }
    }
    drop(configuration.addresses());
}

/// Ours is last and nowhere else, and every other plugin is as it was; once more changes nothing, and
/// taking it out gives the others back.
fn is_chained(before: &str, after: &str, entry: &Entry) {
    let others = |text: &str| -> Vec<Value> {
        let mut all = plugins(text);
        all.retain(|plugin| !is_ours(Some(plugin)));
        all
    };
    let made = plugins(after);
    assert!(is_ours(made.last()), "{after}");
    assert!(made.len() == others(after).len() + 1, "{after}");
    assert!(others(before) == others(after), "{before}\n{after}");
    assert!(
        chain(after, entry).is_ok_and(|more| more.is_none()),
        "{after}"
    );
    match unchain(after) {
        Ok(Some(without)) => assert!(plugins(&without) == others(before), "{without}"),
        other => panic!("{other:?}: {after}"),
    }
}

/// The plugins of a list.
fn plugins(text: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let found = list.get("plugins").and_then(Value::as_array);
    found.cloned().unwrap_or_default()
}

fn is_ours(plugin: Option<&Value>) -> bool {
    plugin.and_then(|plugin| plugin.get("type")) == Some(&Value::from(PLUGIN))
}
