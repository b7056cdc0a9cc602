//! Text of a network configuration, with our plugin in it or without.
//!
//! What is others' is never interpreted: a plugin's configuration is copied as it stands, byte
//! by byte. Source: containernetworking/cni `SPEC.md`, "Network configuration format";
//! `libcni/conf.go`, `ConfListFromConf`.

use std::fmt::Write as _;
use std::path::Path;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::PLUGIN;
use super::super::spec::{VERSIONS, WhenAgentDown};

/// In a list of our own: the name of the file that it is made from.
const MADE_FROM: &str = "egress-agent.dev/made-from";

/// In a list of our own: the types of the plugins that were copied from there.
const COPIED: &str = "egress-agent.dev/copied";

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

/// What a list of our own is made from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its file's name.
    pub file: &'a str,
    /// What it is.
    pub form: Form,
    /// Its content.
    pub text: &'a str,
}

/// How a configuration is written; its file's name says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Plugins that are called one after the other.
    List,
    /// One plugin.
    Single,
}

/// A list of our own: the plugins of `origin`, then those that others have chained into
/// `before`, which is our list so far, and ours at the end.
pub fn own(origin: Origin<'_>, before: Option<&str>, entry: &Entry) -> Result<String, Error> {
    let from = Object::read(origin.text)?;
    from.check_version()?;
    let copied = match origin.form {
        Form::List => others(from.plugins()?)?,
        Form::Single => vec![(
            from.text_of("type")?.unwrap_or_default(),
            raw(origin.text.trim())?,
        )],
    };
    // Ours alone makes no interfaces either.
    if copied
        .iter()
        .all(|(kind, _)| kind.is_empty() || kind == PLUGIN)
    {
        return Err(Error::NoPlugin);
    }
    let kinds: Vec<&str> = copied.iter().map(|(kind, _)| kind.as_str()).collect();
    let added = before.map_or(Ok(Vec::new()), |before| added_by_others(before, &kinds))?;

    let mut list = from;
    list.0.retain(|(key, _)| match origin.form {
        Form::List => ![MADE_FROM, COPIED].contains(&key.as_str()),
        Form::Single => ["cniVersion", "name"].contains(&key.as_str()),
    });
    list.0.push((
        MADE_FROM.to_owned(),
        raw(&serde_json::Value::from(origin.file).to_string())?,
    ));
    list.0.push((
        COPIED.to_owned(),
        raw(&serde_json::Value::from(kinds).to_string())?,
    ));
    let ours = entry.text();
    let plugins: Vec<&str> = copied
        .iter()
        .chain(&added)
        .map(|(_, plugin)| plugin.get())
        .chain([ours.as_str()])
        .collect();
    Ok(list.with_plugins(&plugins))
}

/// Plugins of our list that are neither ours nor copies: whoever chains a plugin takes the
/// first list, which ours is, and would chain it again if it were gone.
fn added_by_others(before: &str, copied_now: &[&str]) -> Result<Vec<Plugin>, Error> {
    let list = Object::read(before)?;
    let copied: Vec<String> = list.read_key(COPIED)?.unwrap_or_default();
    let mut added = others(list.plugins()?)?;
    added.retain(|(kind, _)| !copied.contains(kind) && !copied_now.contains(&kind.as_str()));
    Ok(added)
}

/// A list without our plugin; `None` when it has none.
pub fn unchain(text: &str) -> Result<Option<String>, Error> {
    let list = Object::read(text)?;
    let plugins = list.plugins()?;
    let all = plugins.len();
    let left = others(plugins)?;
    if left.len() == all {
        return Ok(None);
    }
    let left: Vec<&str> = left.iter().map(|(_, plugin)| plugin.get()).collect();
    Ok(Some(list.with_plugins(&left)))
}

/// The file that a list was made from, if we made it.
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
        self.read_key(key)
    }

    fn read_key<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, Error> {
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
        Ok(self.read_key("plugins")?.unwrap_or_default())
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

/// A plugin's type and its configuration.
type Plugin = (String, Box<RawValue>);

/// All but ours.
fn others(plugins: Vec<Box<RawValue>>) -> Result<Vec<Plugin>, Error> {
    let mut others = Vec::new();
    for plugin in plugins {
        let kind = Object::read(plugin.get())?.text_of("type")?;
        let kind = kind.unwrap_or_default();
        if kind != PLUGIN {
            others.push((kind, plugin));
        }
    }
    Ok(others)
}

fn raw(json: &str) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(json.to_owned()).map_err(Error::NoObject)
}

/// The same value, however it is written.
pub(super) fn same(a: &str, b: &str) -> bool {
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

    fn own_of(text: &str, before: Option<&str>) -> Result<String, Error> {
        let origin = Origin {
            file: "10-net.conflist",
            form: Form::List,
            text,
        };
        own(origin, before, &entry())
    }

    #[test]
    fn our_plugin_comes_last_and_what_is_others_is_untouched() {
        let before = list(&[PTP, r#"{"type":"portmap"}"#]);
        let after = own_of(&before, None).unwrap();
        assert_eq!(types(&after), ["ptp", "portmap", PLUGIN]);
        assert!(after.contains(PTP), "{after}");
        assert!(after.contains("[1, 2]"));
        let value: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(
            value.pointer("/plugins/2"),
            Some(&json!({"type": PLUGIN, "socket": "/run/x.sock", "whenAgentDown": "wait"}))
        );
        assert_eq!(value.get("name"), Some(&json!("net")));
        assert_eq!(made_from(&after).as_deref(), Some("10-net.conflist"));
        assert_eq!(made_from(&before), None);
        assert_eq!(made_from("{"), None);
        assert_eq!(own_of(&before, Some(&after)).unwrap(), after);
    }

    #[test]
    fn our_plugin_in_a_list_of_others_is_not_copied() {
        let old = r#"{"type":"egress-agent-cni","socket":"/old"}"#;
        for plugins in [
            &[PTP, old][..],
            &[PTP, old, r#"{"type":"portmap"}"#],
            &[old, old, PTP],
        ] {
            let after = own_of(&list(plugins), None).unwrap();
            assert_eq!(types(&after).last().map(String::as_str), Some(PLUGIN));
            assert_eq!(
                types(&after).iter().filter(|kind| *kind == PLUGIN).count(),
                1
            );
            assert!(after.contains("/run/x.sock") && !after.contains("/old"));
        }
    }

    #[test]
    fn what_others_chain_into_our_list_stays_and_what_left_its_origin_goes() {
        let origin = list(&[PTP, r#"{"type":"portmap"}"#]);
        let ours = own_of(&origin, None).unwrap();
        let chained = ours.replace(
            r#"{"type":"egress-agent-cni""#,
            r#"{"type":"mesh"}, {"type":"egress-agent-cni""#,
        );
        let after = own_of(&list(&[PTP]), Some(&chained)).unwrap();
        assert_eq!(types(&after), ["ptp", "mesh", PLUGIN]);
        let in_origin = list(&[PTP, r#"{"type":"mesh"}"#]);
        let after = own_of(&in_origin, Some(&after)).unwrap();
        assert_eq!(types(&after), ["ptp", "mesh", PLUGIN], "once is enough");
        let after = own_of(&list(&[PTP]), Some(&after)).unwrap();
        assert_eq!(types(&after), ["ptp", PLUGIN]);
    }

    #[test]
    fn taking_it_out_of_a_list_leaves_what_was_there() {
        let before = list(&[PTP, r#"{"type":"portmap"}"#]);
        let ours = r#"{"type":"egress-agent-cni","socket":"/old"}"#;
        let after = unchain(&list(&[PTP, r#"{"type":"portmap"}"#, ours]))
            .unwrap()
            .unwrap();
        assert!(same(&after, &before), "{after}");
        assert!(after.contains(PTP));
        assert_eq!(unchain(&after).unwrap(), None);
        let named_alike = list(&[r#"{"type":"ptp","comment":"egress-agent-cni"}"#]);
        assert_eq!(unchain(&named_alike).unwrap(), None);
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        let text = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge","bridge":"cni0"}"#;
        let origin = Origin {
            file: "10-net.conf",
            form: Form::Single,
            text,
        };
        let made = own(origin, None, &entry()).unwrap();
        assert_eq!(types(&made), ["bridge", PLUGIN]);
        assert!(made.contains(text));
        let value: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(value.get("name"), Some(&json!("net")));
        assert_eq!(value.get("cniVersion"), Some(&json!("0.3.1")));
        assert_eq!(value.get("bridge"), None);
        assert_eq!(made_from(&made).as_deref(), Some("10-net.conf"));
    }

    #[test]
    fn what_cannot_be_a_network_is_left_alone() {
        let refused = |text: &str| own_of(text, None).unwrap_err().to_string();
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
        let no_single = Origin {
            file: "10-net.conf",
            form: Form::Single,
            text: &list(&[PTP]),
        };
        assert!(own(no_single, None, &entry()).is_err());
        let ours_alone = Origin {
            text: r#"{"cniVersion":"1.0.0","name":"n","type":"egress-agent-cni"}"#,
            ..no_single
        };
        assert!(own(ours_alone, None, &entry()).is_err());
    }
}
