//! The plugin's commands.
//!
//! Every one of them ends in bounded time, whatever the agent does. DEL and GC have nothing to
//! do: they come while the interface is still there, and taking the hooks away then would open
//! it. The agent lets go of an interface when the kernel says that it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use egress_core::object::Name;

use super::chain;
use super::message::{Attachment, HostLink, Outcome};
use super::spec::{
    Code, Command, Configuration, Environment, Error, PodArguments, WhenAgentDown, versions,
};
use crate::pods::{Asking, Discovery, Found, PodId, Wanted};
use crate::serve::client::{self, Client};

/// A configuration is a few kilobytes; the runtime's whole list of containers, for GC, some
/// hundred.
const LONGEST_INPUT: u64 = 16 * 1024 * 1024;

/// For an answer of the agent: longer than it holds a request back itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Does what the environment and standard input say.
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = io::stdin().take(LONGEST_INPUT).read_to_end(&mut input);
    let (version, done) = match read {
        Ok(_) => run(|name| std::env::var(name).ok(), &input),
        Err(error) => (
            String::new(),
            Err(Error::new(Code::Io, "reading standard input").because(error)),
        ),
    };
    let (text, code) = match done {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.json(&version).to_string(), ExitCode::FAILURE),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_nobody_reads_it) => ExitCode::FAILURE,
    }
}

/// The version that was asked in, and the answer in it.
fn run(get: impl Fn(&str) -> Option<String>, input: &[u8]) -> (String, Result<String, Error>) {
    let environment = match Environment::read(get) {
        Ok(environment) => environment,
        Err(error) => return (String::new(), Err(error)),
    };
    let configuration = match Configuration::read(input) {
        Ok(configuration) => configuration,
        Err(error) => return (String::new(), Err(error)),
    };
    let answer = answer(&environment, &configuration);
    (configuration.cni_version, answer)
}

fn answer(environment: &Environment, configuration: &Configuration) -> Result<String, Error> {
    if environment.command == Command::Version {
        return Ok(versions(&configuration.cni_version).to_string());
    }
    configuration.admits(environment.command)?;
    match environment.command {
        Command::Add => {
            add(environment, configuration)?;
            Ok(configuration.previous()?.get().to_owned())
        }
        Command::Check => check(environment, configuration).map(|()| String::new()),
        Command::Status => status(configuration).map(|()| String::new()),
        Command::Del | Command::Gc | Command::Version => Ok(String::new()),
    }
}

/// Returns when the pod is isolated by every policy that is known.
fn add(environment: &Environment, configuration: &Configuration) -> Result<(), Error> {
    let addresses = configuration.addresses()?;
    let Some(pod) = environment.pod()? else {
        return Ok(());
    };
    let attachment = attachment(environment, pod, addresses)?;
    ask(configuration, async |agent| {
        agent.enforce(&attachment).await
    })
}

fn check(environment: &Environment, configuration: &Configuration) -> Result<(), Error> {
    let addresses = configuration.addresses()?;
    let Some(pod) = environment.pod()? else {
        return Ok(());
    };
    let attachment = attachment(environment, pod, addresses)?;
    ask(configuration, async |agent| {
        agent.inspect(&attachment).await
    })
    .map_err(|error| {
        if error.code() == Code::CannotEnforce {
            error.with_code(Code::NotAsMade)
        } else {
            error
        }
    })
}

/// Whether an ADD would be served.
fn status(configuration: &Configuration) -> Result<(), Error> {
    ask(configuration, async |agent| agent.serves().await)
        .map_err(|error| error.with_code(Code::NotAvailable))
}

/// Asks the agent; without one the configuration decides.
fn ask(
    configuration: &Configuration,
    question: impl AsyncFnOnce(&Client) -> Result<Outcome, client::Error>,
) -> Result<(), Error> {
    let socket = socket(configuration);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Code::Io, "starting").because(error))?;
    let client = Client::new(socket);
    let answer =
        runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, question(&client)).await });
    match answer {
        Ok(Ok(Outcome::Done)) => Ok(()),
        Ok(Ok(Outcome::TryAgain { why })) => Err(Error::new(Code::TryAgainLater, why)),
        Ok(Ok(Outcome::Impossible { why })) => Err(Error::new(Code::CannotEnforce, why)),
        Ok(Err(error)) => without_agent(configuration, &chain(&error)),
        Err(tokio::time::error::Elapsed { .. }) => without_agent(
            configuration,
            &format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        ),
    }
}

fn without_agent(configuration: &Configuration, why: &str) -> Result<(), Error> {
    let socket = socket(configuration).display();
    match configuration.when_agent_down {
        WhenAgentDown::Wait => Err(Error::new(
            Code::TryAgainLater,
            format!("the egress agent cannot be asked on {socket}"),
        )
        .because(why)),
        WhenAgentDown::Start => {
            let line = format!(
                "egress-agent-cni: the egress agent cannot be asked on {socket}: {why}; \
                 the pod starts without it (whenAgentDown: start)"
            );
            // When that is closed there is nobody to tell.
            let _nobody_to_tell: io::Result<()> = writeln!(io::stderr(), "{line}");
            Ok(())
        }
    }
}

/// What the sandbox's namespace has on the node's side: every link of the namespace that the
/// runtime calls us in whose other end is in the sandbox's. The kernel knows that better than
/// the result of the plugins before, which need not name them all.
fn attachment(
    environment: &Environment,
    pod: PodArguments,
    addresses: BTreeSet<std::net::IpAddr>,
) -> Result<Attachment, Error> {
    let Environment {
        command: _,
        container_id,
        netns,
        interface,
        ..
    } = environment;
    let netns: PathBuf = netns.clone().unwrap_or_default();
    let id = PodId {
        name: Name::new(pod.namespace.as_str(), pod.name.as_str()),
        uid: pod.uid.clone(),
    };
    let found = look(&id, &netns)?;
    if let Some(problem) = &found.problem {
        return Err(Error::new(Code::CannotEnforce, problem));
    }
    Ok(Attachment {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        container_id: container_id.clone(),
        interface: interface.clone(),
        host_interfaces: found
            .interfaces
            .into_iter()
            .map(|interface| HostLink {
                index: interface.index,
                name: interface.name,
            })
            .collect(),
        addresses: if addresses.is_empty() {
            found.addresses
        } else {
            addresses
        },
    })
}

fn look(pod: &PodId, netns: &Path) -> Result<Found, Error> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::new(Code::Io, "looking for the sandbox's interfaces").because(why)
    };
    let wanted = Wanted {
        annotation: Some(netns.to_string_lossy().into_owned()),
        ..Wanted::default()
    };
    let mut found = Discovery::default()
        .scan(
            &BTreeMap::from([(pod.clone(), wanted)]),
            &BTreeSet::new(),
            Asking::OnlyNew,
        )
        .map_err(|error| failed(&chain(&error)))?;
    found.remove(pod).ok_or_else(|| failed(&"no answer"))
}

fn socket(configuration: &Configuration) -> &Path {
    configuration
        .socket
        .as_deref()
        .unwrap_or_else(|| Path::new(crate::serve::SOCKET))
}
