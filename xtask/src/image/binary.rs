//! The agent as one file that needs nothing beside it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _};

use crate::process;
use crate::target::{Architecture, Toolchain};
use crate::workspace::Workspace;

/// Builds the agent and returns where it is.
pub(super) fn build(workspace: &Workspace, architecture: Architecture) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--release", "--locked"])
        .args(["--package", "egress-agent"]);
    let folder = Toolchain::find(architecture)?.direct(&mut cargo, workspace);
    process::run(&mut cargo)?;
    Ok(folder.join("release/egress-agent"))
}

/// Fails unless it runs on the architecture, and without an interpreter (the dynamic loader).
pub(super) fn check(content: &[u8], architecture: Architecture) -> Result<()> {
    let file = ElfFile64::<Endianness>::parse(content).context("not an ELF file")?;
    let wanted = match architecture {
        Architecture::Amd64 => object::Architecture::X86_64,
        Architecture::Arm64 => object::Architecture::Aarch64,
    };
    let found = file.architecture();
    ensure!(
        found == wanted,
        "built for {found:?}, not for {architecture}"
    );
    let endian = file.endian();
    let dynamic = file
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type(endian) == PT_INTERP);
    ensure!(
        !dynamic,
        "it wants a dynamic loader, which an image from scratch does not have"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{env, fs};

    use super::*;

    #[test]
    fn a_program_that_wants_a_loader_is_refused() -> Result<()> {
        let own = fs::read(env::current_exe()?)?;
        let error = check(&own, Architecture::own()?).unwrap_err();
        assert!(error.to_string().contains("dynamic loader"), "{error:#}");
        let other = match Architecture::own()? {
            Architecture::Amd64 => Architecture::Arm64,
            Architecture::Arm64 => Architecture::Amd64,
        };
        let error = check(&own, other).unwrap_err();
        assert!(error.to_string().contains("built for"), "{error:#}");
        Ok(())
    }
}
