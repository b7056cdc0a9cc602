//! The shell around `egress-core`: everything that reads files, talks to the kernel,
//! serves sockets and prints.
//!
//! * [`agent`]: the one task that owns the store, the hooks and the tables.
//! * [`attribution`]: which pod a small number in a kernel table stands for.
//! * [`answer`], [`query`]: what `check` and `explain` are asked and say.
//! * [`cli`]: a file per subcommand.
//! * [`cni`]: the CNI plugin.
//! * [`datapath`]: the kernel side: programs, hooks, tables.
//! * [`drops`]: drops as people and programs read them.
//! * [`evaluate`]: questions to the core, and its answers.
//! * [`flows`]: the flow log.
//! * [`logging`]: where the log goes.
//! * [`metrics`]: the Prometheus text.
//! * [`pods`]: where a local pod's traffic can be hooked.
//! * [`serve`]: HTTP on the node address and on the unix socket, and the client of the latter.
//! * [`source`]: objects from files or from the API server.
//! * [`status`]: what the agent enforces.
//! * [`terminal`]: text for people.
//! * [`traffic`]: protocols and families by name.
//! * [`uninstall`]: whether the agent ends because it is taken out of the cluster.

pub mod agent;
pub mod answer;
pub mod attribution;
pub mod cli;
pub mod cni;
pub mod datapath;
pub mod drops;
pub mod evaluate;
pub mod flows;
pub mod logging;
pub mod metrics;
pub mod pods;
pub mod query;
pub mod serve;
pub mod source;
pub mod status;
pub mod terminal;
pub mod traffic;
pub mod uninstall;
