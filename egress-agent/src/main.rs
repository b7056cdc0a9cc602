//! The `egress-agent` binary: everything is in the library.
//!
//! Under the name of the CNI plugin it is that plugin.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use egress_agent::{cli, cni};

fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.as_deref().and_then(|path| path.file_name()) == Some(OsStr::new(cni::PLUGIN)) {
        return cni::plugin::main();
    }
    cli::main()
}
