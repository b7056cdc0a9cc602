//! The CNI plugin: a pod is isolated before its first container starts (S56).
//!
//! The container runtime calls this binary, under the name [`PLUGIN`], as the last plugin of the
//! pods' network. It makes no network: it tells the running agent which interface the others
//! made for which pod, and returns when every policy that is known holds there.
//!
//! * [`spec`]: what the runtime asks and may be answered.
//! * [`plugin`]: the commands.
//! * [`message`]: what the plugin and the agent say to each other.
//! * [`install`]: the plugin's place on a node.

pub mod install;
pub mod message;
pub mod plugin;
pub mod spec;

/// The plugin's `type` in a network configuration, and so the name of its binary.
pub const PLUGIN: &str = "egress-agent-cni";

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
