//! The Container Network Interface, as far as a chained plugin sees it.
//!
//! Parameters come in the environment, the configuration on standard input; a result or an
//! error goes to standard output as JSON. Source: containernetworking/cni `SPEC.md`, 0.3.0 to
//! 1.1.0. (Older versions have no chains.)

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Versions whose configurations have `prevResult`.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest of them, for errors about what has no version.
const NEWEST: &str = "1.1.0";

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// A container joins.
    Add,
    /// A container leaves.
    Del,
    /// Is it as it was made? Since 0.4.0.
    Check,
    /// Can an ADD be served? Since 1.1.0.
    Status,
    /// Which containers are left. Since 1.1.0.
    Gc,
    /// Which versions are spoken.
    Version,
}

/// An error's code: "Error" in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A version that is not spoken.
    IncompatibleVersion,
    /// A parameter is missing or is none.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// The configuration is no JSON.
    Decode,
    /// It is JSON that makes no sense.
    InvalidConfiguration,
    /// The same call may succeed later.
    TryAgainLater,
    /// STATUS: an ADD would not be served.
    NotAvailable,
    /// Ours: the pod cannot be enforced.
    CannotEnforce,
    /// Ours: CHECK found something else than what ADD made.
    NotAsMade,
}

/// What goes to standard output instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    details: String,
}

/// The parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty where the command has none.
    pub container_id: String,
    /// `CNI_NETNS`; only ADD and CHECK must have one.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty where the command has none.
    pub interface: String,
    /// `CNI_ARGS`.
    arguments: String,
}

/// A pod, as Kubernetes' runtimes name it in `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodArguments {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

/// What an ADD does while no agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAgentDown {
    /// The pod waits: the runtime is told to try again.
    #[default]
    Wait,
    /// The pod starts, and is not enforced until the agent runs again.
    Start,
}

/// The configuration, with what is ours in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Of the network's configuration; absent is 0.1.0.
    #[serde(default)]
    pub cni_version: String,
    /// The agent's socket.
    pub socket: Option<PathBuf>,
    /// What an ADD does while no agent runs.
    #[serde(default)]
    pub when_agent_down: WhenAgentDown,
    /// The result of the plugins before, to be handed on as it is.
    pub prev_result: Option<Box<RawValue>>,
}

/// What a result says of the sandbox's addresses.
#[derive(Debug, Default, Deserialize)]
struct PreviousResult {
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "STATUS" => Self::Status,
            "GC" => Self::Gc,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The first of [`VERSIONS`] that has it.
    const fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Status | Self::Gc => "1.1.0",
        }
    }
}

impl Code {
    const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfiguration => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            // A plugin's own begin at 100.
            Self::CannotEnforce => 100,
            Self::NotAsMade => 101,
        }
    }
}

impl Error {
    /// An error of which there is no more to say.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// With what lies behind it.
    #[must_use]
    pub fn because(mut self, details: impl fmt::Display) -> Self {
        self.details = details.to_string();
        self
    }

    /// What kind of error it is.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The same, as another kind of error.
    #[must_use]
    pub const fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// As the specification has it.
    pub fn json(&self, cni_version: &str) -> serde_json::Value {
        let Self {
            code,
            message,
            details,
        } = self;
        let cni_version = if cni_version.is_empty() {
            NEWEST
        } else {
            cni_version
        };
        let mut json = serde_json::json!({
            "cniVersion": cni_version,
            "code": code.number(),
            "msg": message,
            "details": details,
        });
        if details.is_empty()
            && let Some(fields) = json.as_object_mut()
        {
            fields.remove("details");
        }
        json
    }
}

impl Environment {
    /// Reads the parameters; `get` is the environment.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let invalid = |what: String| Err(Error::new(Code::InvalidEnvironment, what));
        let value = |name: &str| get(name).unwrap_or_default();
        let text = value("CNI_COMMAND");
        let Some(command) = Command::parse(&text) else {
            return invalid(format!("CNI_COMMAND is {text:?}"));
        };
        let read = Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: get("CNI_NETNS")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            interface: value("CNI_IFNAME"),
            arguments: value("CNI_ARGS"),
        };
        let of_a_container = match command {
            Command::Add | Command::Del | Command::Check => true,
            Command::Status | Command::Gc | Command::Version => false,
        };
        if of_a_container && !is_container_id(&read.container_id) {
            return invalid(format!("CNI_CONTAINERID is {:?}", read.container_id));
        }
        if of_a_container && !is_interface_name(&read.interface) {
            return invalid(format!("CNI_IFNAME is {:?}", read.interface));
        }
        if of_a_container && command != Command::Del && read.netns.is_none() {
            return invalid("CNI_NETNS is missing".to_owned());
        }
        Ok(read)
    }

    /// The pod that the container is the sandbox of; `None` for a container that is no pod's.
    pub fn pod(&self) -> Result<Option<PodArguments>, Error> {
        let argument = |wanted: &str| {
            let pair = |pair: &str| {
                let (key, value) = pair.split_once('=')?;
                (key == wanted).then(|| value.to_owned())
            };
            self.arguments.split(';').find_map(pair).unwrap_or_default()
        };
        let pod = PodArguments {
            namespace: argument("K8S_POD_NAMESPACE"),
            name: argument("K8S_POD_NAME"),
            uid: argument("K8S_POD_UID"),
        };
        if pod.namespace.is_empty() && pod.name.is_empty() && pod.uid.is_empty() {
            return Ok(None);
        }
        if pod.namespace.is_empty() || pod.name.is_empty() || pod.uid.is_empty() {
            return Err(Error::new(
                Code::InvalidEnvironment,
                "CNI_ARGS names a pod without one of K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID",
            )
            .because("the container runtime is too old to say which pod it starts"));
        }
        Ok(Some(pod))
    }
}

impl Configuration {
    /// Reads what is on standard input.
    pub fn read(text: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(text).map_err(|error| {
            let code = if error.is_data() {
                Code::InvalidConfiguration
            } else {
                Code::Decode
            };
            Error::new(code, "the network configuration cannot be read").because(error)
        })
    }

    /// Whether this command of this version can be carried out.
    pub fn admits(&self, command: Command) -> Result<(), Error> {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let refused = |why: String| Error::new(Code::IncompatibleVersion, why);
        let Some(spoken) = place(&self.cni_version) else {
            return Err(
                refused(format!("cniVersion {:?} is not spoken", self.cni_version))
                    .because(format!("spoken are {}", VERSIONS.join(", "))),
            );
        };
        if Some(spoken) < place(command.since()) {
            return Err(refused(format!(
                "{command:?} is not in version {} of the specification",
                self.cni_version
            )));
        }
        Ok(())
    }

    /// The result of the plugins before.
    pub fn previous(&self) -> Result<&RawValue, Error> {
        self.prev_result.as_deref().ok_or_else(|| {
            Error::new(
                Code::InvalidConfiguration,
                "prevResult is missing: this plugin stands behind one that makes interfaces",
            )
        })
    }

    /// The addresses that the plugins before gave the sandbox.
    pub fn addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let previous: PreviousResult =
            serde_json::from_str(self.previous()?.get()).map_err(|error| {
                Error::new(Code::InvalidConfiguration, "prevResult cannot be read").because(error)
            })?;
        let addresses = previous.ips.iter().map(|ip| {
            let address = ip.address.split('/').next().unwrap_or_default();
            address.parse().map_err(|error| {
                let what = format!("prevResult has the address {:?}", ip.address);
                Error::new(Code::InvalidConfiguration, what).because(error)
            })
        });
        addresses.collect()
    }
}

/// The answer to VERSION.
pub fn versions(asked: &str) -> serde_json::Value {
    let spoken = if asked.is_empty() { NEWEST } else { asked };
    serde_json::json!({ "cniVersion": spoken, "supportedVersions": VERSIONS })
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`
fn is_container_id(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What Linux takes for one.
fn is_interface_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= 15
        && !text.contains(['/', ':'])
        && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn environment(more: &[(&str, &str)]) -> Result<Environment, Error> {
        let mut values = BTreeMap::from([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=web;K8S_POD_UID=u",
            ),
        ]);
        values.extend(more.iter().copied());
        Environment::read(|name| values.get(name).map(|value| (*value).to_owned()))
    }

    fn code(error: &Error) -> u32 {
        error.code.number()
    }

    #[test]
    fn a_pod_is_named_by_the_arguments() {
        let pod = environment(&[]).unwrap().pod().unwrap().unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("a", "web", "u")
        );
        for nobody in ["", "IgnoreUnknown=1", "IgnoreUnknown=1;FOO=BAR"] {
            let environment = environment(&[("CNI_ARGS", nobody)]).unwrap();
            assert_eq!(environment.pod().unwrap(), None);
        }
        let half = environment(&[("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=web")]);
        assert_eq!(code(&half.unwrap().pod().unwrap_err()), 4);
    }

    #[test]
    fn parameters_that_are_none_are_refused() {
        for (name, value) in [
            ("CNI_COMMAND", ""),
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteen-letters-"),
            ("CNI_NETNS", ""),
        ] {
            let error = environment(&[(name, value)]).unwrap_err();
            assert_eq!(code(&error), 4, "{name}={value}");
            assert!(error.to_string().contains(name));
        }
        // A container whose namespace is gone must still be removed.
        assert!(environment(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]).is_ok());
        for of_nobody in ["VERSION", "STATUS", "GC"] {
            let nothing = [
                ("CNI_CONTAINERID", ""),
                ("CNI_IFNAME", ""),
                ("CNI_NETNS", ""),
            ];
            let more: Vec<_> = nothing
                .into_iter()
                .chain([("CNI_COMMAND", of_nobody)])
                .collect();
            assert!(environment(&more).is_ok(), "{of_nobody}");
        }
    }

    fn configured(version: &str) -> Configuration {
        let text = json!({"cniVersion": version, "name": "n", "type": "egress-agent-cni"});
        Configuration::read(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn commands_came_with_versions() {
        for version in VERSIONS {
            assert!(
                configured(version).admits(Command::Add).is_ok(),
                "{version}"
            );
            assert!(
                configured(version).admits(Command::Del).is_ok(),
                "{version}"
            );
        }
        let refused =
            |version: &str, command| code(&configured(version).admits(command).unwrap_err());
        assert_eq!(refused("0.3.1", Command::Check), 1);
        assert_eq!(refused("1.0.0", Command::Status), 1);
        assert_eq!(refused("1.0.0", Command::Gc), 1);
        for unknown in ["", "0.2.0", "1.2.0", "2.0.0"] {
            assert_eq!(refused(unknown, Command::Add), 1, "{unknown}");
        }
        assert!(configured("0.4.0").admits(Command::Check).is_ok());
        assert!(configured("1.1.0").admits(Command::Status).is_ok());
    }

    #[test]
    fn a_result_is_handed_on_byte_by_byte() {
        let result = r#"{ "cniVersion":"1.0.0", "z": 1.50, "a": [ ], "ips":[{"address":"10.0.0.5/24"},{"address":"fd00::5/64","interface":2}]}"#;
        let text = format!(r#"{{"cniVersion":"1.0.0","prevResult":{result}}}"#);
        let read = Configuration::read(text.as_bytes()).unwrap();
        assert_eq!(read.previous().unwrap().get(), result);
        let addresses: Vec<_> = read
            .addresses()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
    }

    #[test]
    fn without_a_result_or_with_one_that_is_none_there_is_nothing_to_hand_on() {
        assert_eq!(code(&configured("1.0.0").previous().unwrap_err()), 7);
        for wrong in [
            r#""text""#,
            r#"{"ips":[{"address":"ten"}]}"#,
            r#"{"ips":[{}]}"#,
        ] {
            let text = format!(r#"{{"cniVersion":"1.0.0","prevResult":{wrong}}}"#);
            let read = Configuration::read(text.as_bytes()).unwrap();
            assert_eq!(code(&read.addresses().unwrap_err()), 7, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_from_what_makes_no_sense() {
        assert_eq!(code(&Configuration::read(b"").unwrap_err()), 6);
        assert_eq!(code(&Configuration::read(b"{").unwrap_err()), 6);
        let unknown = br#"{"cniVersion":"1.0.0","whenAgentDown":"panic"}"#;
        assert_eq!(code(&Configuration::read(unknown).unwrap_err()), 7);
        let start = br#"{"cniVersion":"1.0.0","whenAgentDown":"start"}"#;
        assert_eq!(
            Configuration::read(start).unwrap().when_agent_down,
            WhenAgentDown::Start
        );
        assert_eq!(configured("1.0.0").when_agent_down, WhenAgentDown::Wait);
    }

    #[test]
    fn an_error_has_the_fields_of_the_specification() {
        let error = Error::new(Code::TryAgainLater, "no agent").because("refused");
        assert_eq!(
            error.json("0.4.0"),
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "no agent", "details": "refused"})
        );
        assert_eq!(
            Error::new(Code::Io, "x").json(""),
            json!({"cniVersion": "1.1.0", "code": 5, "msg": "x"})
        );
    }
}
