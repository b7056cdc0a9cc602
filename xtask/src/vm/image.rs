//! What the machine finds: modules, programs with the libraries they load, and what to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::modules::Module;
use crate::process;

/// Where the guest finds its programs: on the kernel's default search path.
pub(super) const PROGRAMS: &str = "/bin";

/// A program on this machine and where the guest finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) source: PathBuf,
    pub(super) path: String,
}

/// The first file system. `suite` is a command a line.
pub(super) fn build(modules: &[Module], programs: &[Program], suite: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for program in programs {
        archive.file(&program.path, &read(&program.source)?)?;
        for library in libraries(&program.source)? {
            if !archive.has(&library) {
                archive.file(&library, &read(Path::new(&library))?)?;
            }
        }
    }
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("/modules/{}", module.file), &module.content)?;
        order.push_str(&module.file);
        order.push('\n');
    }
    archive.file("/modules/order", order.as_bytes())?;
    archive.file("/suite", suite.as_bytes())?;
    archive.finish()
}

fn libraries(program: &Path) -> Result<Vec<String>> {
    let text = process::output(Command::new("ldd").arg(program))?;
    Ok(paths(&text))
}

/// The paths in what `ldd` prints: `name => /path (0x…)`, and `/path (0x…)` of the loader.
fn paths(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(str::to_owned)
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007f6a0bcdc000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6a0b13e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f6a0bcde000)\n";
        assert_eq!(
            paths(text),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}
