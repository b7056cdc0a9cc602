//! A network configuration: on the plugin's standard input, and in the runtime's folder. The first line
//! is `CNI_ARGS`, the rest the configuration.

use std::path::Path;

use egress_agent::cni::PLUGIN;
use egress_agent::cni::install::conflist::{Entry, Form, Origin, own, unchain};
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
    for form in [Form::List, Form::Single] {
        let origin = Origin {
            file: "10-net.conflist",
            form,
            text,
        };
        if let Ok(made) = own(origin, None, &entry) {
            let expected = match form {
                Form::List => others(text),
                Form::Single => vec![serde_json::from_str(text).unwrap_or_default()],
            };
            is_chained(&made, &expected);
            let again = own(origin, Some(&made), &entry);
            assert!(again.is_ok_and(|again| again == made), "{made}");
        }
    }
    // Whatever stands in the file of that name.
    let known = Origin {
        file: "10-net.conflist",
        form: Form::List,
        text: r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#,
    };
    if let Ok(made) = own(known, Some(text), &entry) {
        is_chained(&made, &others(&made));
    }
    if let Ok(Some(without)) = unchain(text) {
        assert!(plugins(&without) == others(text), "{without}");
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

/// Ours is last and nowhere else, and before it are these; taking it out leaves them.
fn is_chained(list: &str, expected: &[Value]) {
    assert!(is_ours(plugins(list).last()), "{list}");
    assert!(plugins(list).len() == expected.len() + 1, "{list}");
    assert!(others(list) == expected, "{list}");
    match unchain(list) {
        Ok(Some(without)) => assert!(plugins(&without) == expected, "{without}"),
        other => panic!("{other:?}: {list}"),
    }
}

/// Without ours.
fn others(text: &str) -> Vec<Value> {
    let mut all = plugins(text);
    all.retain(|plugin| !is_ours(Some(plugin)));
    all
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
