//! Text of a network configuration, with our plugin in it or without.
//!
//! What is others' is never interpreted: a plugin's configuration is copied as it stands, byte
//! by byte. Source: containernetworking/cni `SPEC.md`, "Network configuration format";
//! `libcni/conf.go`, `ConfListFromConf`.

use std::fmt::Write as _;
use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::PLUGIN;
use super::super::spec::{VERSIONS, WhenAgentDown};

/// In a list that we made of a single configuration: the name of its file.
const MADE_FROM: &str = "egress-agent.dev/made-from";

/// Why our plugin cannot be in a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may be half written.
    #[error("it is no JSON object")]
    NoObject(#[source] serde_json::Error),
    /// A key of the list has another type than it should.
    #[error("{key} cannot be read")]
    Key {
        /// Which.
        key: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// No plugin makes interfaces.
    #[error("it names no plugin that makes interfaces")]
    NoPlugin,
    /// Chains came with 0.3.0; what comes after [`VERSIONS`] is not known.
    #[error("cniVersion {0:?} is none of those that this plugin speaks")]
    Version(String),
}

/// Our plugin's configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The agent's socket.
    socket: std::path::PathBuf,
    /// What an ADD does while no agent runs.
    when_agent_down: WhenAgentDown,
}

impl Entry {
    /// Asks the agent behind `socket`.
    pub fn new(socket: &Path, when_agent_down: WhenAgentDown) -> Self {
        Self {
            kind: PLUGIN,
            socket: socket.to_owned(),
            when_agent_down,
        }
    }

    fn text(&self) -> String {
        // A struct of strings has a text.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A list with our plugin at its end; `None` when it is so already.
pub fn chain(text: &str, entry: &Entry) -> Result<Option<String>, Error> {
    let list = Object::read(text)?;
    list.check_version()?;
    let plugins = list.plugins()?;
    let mut others: Vec<&str> = Vec::new();
    for plugin in &plugins {
        if !is_ours(plugin)? {
            others.push(plugin.get());
        }
    }
    if others.is_empty() {
        return Err(Error::NoPlugin);
    }
    let ours = entry.text();
    let last = plugins.last().map(|plugin| plugin.get());
    if others.len() + 1 == plugins.len() && last.is_some_and(|last| same(last, &ours)) {
        return Ok(None);
    }
    others.push(&ours);
    Ok(Some(list.with_plugins(&others)))
}

/// A list without our plugin; `None` when it has none.
pub fn unchain(text: &str) -> Result<Option<String>, Error> {
    let list = Object::read(text)?;
    let plugins = list.plugins()?;
    let mut others = Vec::new();
    for plugin in &plugins {
        if !is_ours(plugin)? {
            others.push(plugin.get());
        }
    }
    if others.len() == plugins.len() {
        return Ok(None);
    }
    Ok(Some(list.with_plugins(&others)))
}

/// A list of the one plugin that a single configuration names, and ours.
pub fn list_of(text: &str, file: &str, entry: &Entry) -> Result<String, Error> {
    let single = Object::read(text)?;
    single.check_version()?;
    let kind = single.text_of("type")?.unwrap_or_default();
    // Ours alone makes no interfaces either.
    if kind.is_empty() || kind == PLUGIN {
        return Err(Error::NoPlugin);
    }
    let mut list = Object(Vec::new());
    for key in ["cniVersion", "name"] {
        list.0.extend(
            single
                .get(key)
                .map(|value| (key.to_owned(), value.to_owned())),
        );
    }
    let origin = RawValue::from_string(serde_json::Value::from(file).to_string());
    list.0
        .push((MADE_FROM.to_owned(), origin.map_err(Error::NoObject)?));
    Ok(list.with_plugins(&[text.trim(), &entry.text()]))
}

/// The file that a list was made from, if we made it from a single configuration.
pub(super) fn made_from(text: &str) -> Option<String> {
    Object::read(text).ok()?.text_of(MADE_FROM).ok()?
}

/// A JSON object whose keys keep their order and whose values keep their text.
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    fn read(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(Error::NoObject)
    }

    fn get(&self, wanted: &str) -> Option<&RawValue> {
        // As Go does: of a key that stands twice the last one counts.
        self.0
            .iter()
            .rev()
            .find_map(|(key, value)| (key == wanted).then_some(&**value))
    }

    fn text_of(&self, key: &'static str) -> Result<Option<String>, Error> {
        self.get(key)
            .map(|value| serde_json::from_str(value.get()))
            .transpose()
            .map_err(|source| Error::Key { key, source })
    }

    fn check_version(&self) -> Result<(), Error> {
        let version = self.text_of("cniVersion")?.unwrap_or_default();
        if VERSIONS.contains(&version.as_str()) {
            Ok(())
        } else {
            Err(Error::Version(version))
        }
    }

    fn plugins(&self) -> Result<Vec<Box<RawValue>>, Error> {
        self.get("plugins").map_or(Ok(Vec::new()), |value| {
            serde_json::from_str(value.get()).map_err(|source| Error::Key {
                key: "plugins",
                source,
            })
        })
    }

    fn with_plugins(&self, plugins: &[&str]) -> String {
        let mut text = String::from("{\n");
        for (key, value) in self.0.iter().filter(|(key, _)| key != "plugins") {
            // Writing to a String cannot fail.
            writeln!(
                text,
                "  {}: {value},",
                serde_json::Value::from(key.as_str())
            )
            .unwrap_or_default();
        }
        text.push_str("  \"plugins\": [\n    ");
        text.push_str(&plugins.join(",\n    "));
        text.push_str("\n  ]\n}\n");
        text
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

fn is_ours(plugin: &RawValue) -> Result<bool, Error> {
    Ok(Object::read(plugin.get())?.text_of("type")?.as_deref() == Some(PLUGIN))
}

/// The same value, however it is written.
fn same(a: &str, b: &str) -> bool {
    let value = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    value(a).is_some_and(|a| Some(a) == value(b))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use serde_json::{Value, json};

    use super::*;

    const PTP: &str = r#"{"type":"ptp","mtu":1.50e3,"big":12345678901234567890123,"z":{"b":1,"a":2}, "ipam": {"type": "host-local"}}"#;

    fn entry() -> Entry {
        Entry::new(Path::new("/run/x.sock"), WhenAgentDown::Wait)
    }

    fn list(plugins: &[&str]) -> String {
        format!(
            r#"{{"name":"net", "cniVersion":"1.0.0","x-kept":[1, 2],"plugins":[{}]}}"#,
            plugins.join(",")
        )
    }

    fn types(text: &str) -> Vec<String> {
        let value: Value = serde_json::from_str(text).unwrap();
        let plugins = value.get("plugins").unwrap().as_array().unwrap();
        plugins
            .iter()
            .map(|plugin| plugin.get("type").unwrap().as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn our_plugin_comes_last_and_what_is_others_is_untouched() {
        let before = list(&[PTP, r#"{"type":"portmap"}"#]);
        let after = chain(&before, &entry()).unwrap().unwrap();
        assert_eq!(types(&after), ["ptp", "portmap", PLUGIN]);
        assert!(after.contains(PTP), "{after}");
        assert!(after.contains("[1, 2]"));
        let value: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(
            value.pointer("/plugins/2"),
            Some(&json!({"type": PLUGIN, "socket": "/run/x.sock", "whenAgentDown": "wait"}))
        );
        assert_eq!(chain(&after, &entry()).unwrap(), None, "once is enough");
    }

    #[test]
    fn our_plugin_moves_to_the_end_and_takes_new_settings() {
        let old = r#"{"type":"egress-agent-cni","socket":"/old"}"#;
        for plugins in [
            &[PTP, old][..],
            &[PTP, old, r#"{"type":"portmap"}"#],
            &[old, old, PTP],
        ] {
            let after = chain(&list(plugins), &entry()).unwrap().unwrap();
            assert_eq!(types(&after).last().map(String::as_str), Some(PLUGIN));
            assert_eq!(
                types(&after).iter().filter(|kind| *kind == PLUGIN).count(),
                1
            );
            assert!(after.contains("/run/x.sock") && !after.contains("/old"));
        }
    }

    #[test]
    fn taking_it_out_leaves_what_was_there() {
        let before = list(&[PTP, r#"{"type":"portmap"}"#]);
        let chained = chain(&before, &entry()).unwrap().unwrap();
        let after = unchain(&chained).unwrap().unwrap();
        assert!(same_but_for_numbers(&after, &before), "{after}");
        assert!(after.contains(PTP));
        assert_eq!(unchain(&after).unwrap(), None);
        let named_alike = list(&[r#"{"type":"ptp","comment":"egress-agent-cni"}"#]);
        assert_eq!(unchain(&named_alike).unwrap(), None);
    }

    fn same_but_for_numbers(a: &str, b: &str) -> bool {
        same(a, b)
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        let single = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge","bridge":"cni0"}"#;
        let made = list_of(single, "10-net.conf", &entry()).unwrap();
        assert_eq!(types(&made), ["bridge", PLUGIN]);
        assert!(made.contains(single));
        let value: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(value.get("name"), Some(&json!("net")));
        assert_eq!(value.get("cniVersion"), Some(&json!("0.3.1")));
        assert_eq!(made_from(&made).as_deref(), Some("10-net.conf"));
        assert_eq!(made_from(&list(&[PTP])), None);
        assert_eq!(made_from("{"), None);
    }

    #[test]
    fn what_cannot_be_a_network_is_left_alone() {
        let refused = |text: &str| chain(text, &entry()).unwrap_err().to_string();
        assert_eq!(refused(""), "it is no JSON object");
        assert_eq!(
            refused(r#"{"cniVersion":"1.0.0","plugins":["#),
            "it is no JSON object"
        );
        assert_eq!(
            refused(r#"{"cniVersion":"1.0.0","plugins":{}}"#),
            "plugins cannot be read"
        );
        assert_eq!(
            refused(r#"{"cniVersion":"1.0.0","plugins":[]}"#),
            "it names no plugin that makes interfaces"
        );
        let only_ours = list(&[r#"{"type":"egress-agent-cni"}"#]);
        assert_eq!(
            refused(&only_ours),
            "it names no plugin that makes interfaces"
        );
        for version in ["0.2.0", "9.0.0", ""] {
            let text = format!(r#"{{"cniVersion":"{version}","plugins":[{PTP}]}}"#);
            assert!(refused(&text).contains("is none of those"), "{version}");
        }
        assert!(list_of(r#"{"cniVersion":"1.0.0","plugins":[]}"#, "x", &entry()).is_err());
        let ours_alone = r#"{"cniVersion":"1.0.0","name":"n","type":"egress-agent-cni"}"#;
        assert!(list_of(ours_alone, "x", &entry()).is_err());
    }
}
