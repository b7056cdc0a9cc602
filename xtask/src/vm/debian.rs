//! What comes out of Debian's archive, downloaded and unpacked, never installed: kernels, and for a machine of
//! another architecture `ip` and `tc`.
//!
//! apt does it, with state of its own below the target directory: it knows this machine's
//! mirror and proxy, and checks signatures.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::process;
use crate::target::Architecture;
use crate::toolchain;

/// The release that `ip` and `tc` are of, whatever the kernel: those of this machine are as old.
const RELEASE: &str = "bookworm";
/// Package `debian-archive-keyring`; it has the keys of past and coming releases too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// What qemu boots.
    pub(super) image: PathBuf,
    /// The folder that has its modules somewhere below.
    pub(super) root: PathBuf,
}

/// Takes it from `folder` where an earlier run left it; else downloads it there.
pub(super) fn kernel(
    folder: &Path,
    kernel: &Kernel,
    architecture: Architecture,
    refresh: bool,
) -> Result<Unpacked> {
    let root = folder.join("root");
    // Renamed into place as the last step: a folder of that name is complete.
    if refresh || !root.is_dir() {
        let what = Closure::of_kernel(architecture);
        download(folder, kernel.suite, architecture, &what, &root).with_context(|| {
            format!(
                "getting the kernel of Debian {} ({})",
                kernel.suite, kernel.name
            )
        })?;
    }
    Ok(Unpacked {
        image: image(&root)?,
        root,
    })
}

/// `ip` and `tc` with their libraries, in a folder as they would be below `/`.
pub(super) fn tools(folder: &Path, architecture: Architecture) -> Result<PathBuf> {
    let folder = folder.join("tools");
    let root = folder.join("root");
    if !root.is_dir() {
        download(&folder, RELEASE, architecture, &Closure::of_tools(), &root)
            .with_context(|| format!("getting ip and tc of Debian {RELEASE} for {architecture}"))?;
    }
    Ok(root)
}

/// A package and what it needs of its kind.
struct Closure {
    package: String,
    /// Whether a package of this name is one of those.
    is_kin: Box<dyn Fn(&str) -> bool>,
}

impl Closure {
    /// The package that always depends on the newest kernel of its release, and the parts of a cloud kernel.
    fn of_kernel(architecture: Architecture) -> Self {
        Self {
            package: format!("linux-image-cloud-{architecture}"),
            is_kin: Box::new(move |name| {
                name.starts_with("linux-") && name.ends_with(&format!("-cloud-{architecture}"))
            }),
        }
    }

    /// iproute2 and libraries: not what would install or configure them.
    fn of_tools() -> Self {
        Self {
            package: "iproute2".to_owned(),
            is_kin: Box::new(|name| name.contains("lib")),
        }
    }

    /// Those of the dependencies that `apt-cache depends` lists that belong to it.
    fn of_it(&self, text: &str) -> impl Iterator<Item = String> {
        text.lines()
            .filter_map(|line| line.trim().trim_start_matches('|').split_once("Depends: "))
            .filter(move |(kind, name)| matches!(*kind, "" | "Pre") && (self.is_kin)(name))
            .map(|(_, name)| name.to_owned())
    }
}

fn download(
    folder: &Path,
    suite: &str,
    architecture: Architecture,
    what: &Closure,
    root: &Path,
) -> Result<()> {
    println!(
        "{}: downloading {} of Debian {suite} for {architecture}",
        root.display(),
        what.package
    );
    let apt = Apt::new(folder, suite, architecture)?;
    process::run(apt.command("apt-get").args(["update", "--quiet"]))?;
    let packages = apt.packages(what)?;
    let packed = folder.join("packages");
    let unpacked = folder.join("unpacked");
    for folder in [&packed, &unpacked] {
        remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    process::run(
        apt.command("apt-get")
            .args(["download", "--quiet"])
            .args(&packages)
            .current_dir(&packed),
    )?;
    for entry in fs::read_dir(&packed)? {
        process::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(entry?.path())
                .arg(&unpacked),
        )?;
    }
    remove(&packed)?;
    remove(root)?;
    fs::rename(&unpacked, root).with_context(|| format!("renaming to {}", root.display()))
}

/// Older releases have it in `/boot`, newer ones beside its modules.
fn image(root: &Path) -> Result<PathBuf> {
    let mut folders = vec![root.join("boot")];
    let modules = root.join("usr/lib/modules");
    if let Ok(entries) = fs::read_dir(&modules) {
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .map(|entry| entry.path())
        .with_context(|| format!("there is no vmlinuz below {}", root.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// An apt that knows one release, and nothing of what is installed.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, suite: &str, architecture: Architecture) -> Result<Self> {
        let folder = folder.join("apt");
        for below in ["lists/partial", "cache/archives/partial"] {
            let below = folder.join(below);
            fs::create_dir_all(&below).with_context(|| format!("making {}", below.display()))?;
        }
        let sources = folder.join("sources.list");
        let mirror = mirror()?;
        fs::write(
            &sources,
            format!("deb [arch={architecture} signed-by={KEYRING}] {mirror} {suite} main\n"),
        )?;
        let installed = folder.join("status");
        fs::write(&installed, "")?;
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        Ok(Self {
            options: vec![
                option("Dir::State", &folder),
                option("Dir::State::lists", &folder.join("lists")),
                option("Dir::State::status", &installed),
                option("Dir::Cache", &folder.join("cache")),
                option("Dir::Etc::sourcelist", &sources),
                "Dir::Etc::sourceparts=-".to_owned(),
                format!("APT::Architecture={architecture}"),
                "Acquire::Languages=none".to_owned(),
                // A mirror that is busy, or being brought up to date.
                "Acquire::Retries=5".to_owned(),
                // The other user that apt downloads as may not write here.
                "APT::Sandbox::User=".to_owned(),
            ],
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["--option", option]);
        }
        command
    }

    /// The packages that are downloaded.
    fn packages(&self, what: &Closure) -> Result<BTreeSet<String>> {
        let mut packages = BTreeSet::from([what.package.clone()]);
        let mut todo = vec![what.package.clone()];
        while let Some(package) = todo.pop() {
            let text = process::output(self.command("apt-cache").args([
                "depends",
                "--important",
                &package,
            ]))?;
            for needed in what.of_it(&text) {
                if packages.insert(needed.clone()) {
                    todo.push(needed);
                }
            }
        }
        if packages.len() < 2 {
            bail!("{} depends on nothing of its kind", what.package);
        }
        Ok(packages)
    }
}

/// Where this machine gets Debian's packages from. Whose archive it is, apt reads in lists that a fresh
/// machine may not have fetched yet.
fn mirror() -> Result<String> {
    if let Some(known) = known_mirror()? {
        return Ok(known);
    }
    if toolchain::may_install_packages()? {
        process::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    }
    known_mirror()?.context("apt knows no archive of Debian here, and the kernels come from one")
}

fn known_mirror() -> Result<Option<String>> {
    let text = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]))?;
    let mut lines = text.lines();
    Ok(lines
        .find_map(|line| line.strip_prefix("Debian "))
        .map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_all_the_packages_of_its_flavour() {
        let text = "linux-image-7.2.13+deb14-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  \
            Depends: <linux-initramfs-tool>\n    dracut\n  Depends: linux-binary-7.2.13+deb14-cloud-amd64\n  \
            Depends: linux-modules-7.2.13+deb14-cloud-amd64\n  Breaks: linux-old-cloud-amd64\n";
        let found: Vec<String> = Closure::of_kernel(Architecture::Amd64)
            .of_it(text)
            .collect();
        assert_eq!(
            found,
            [
                "linux-binary-7.2.13+deb14-cloud-amd64",
                "linux-modules-7.2.13+deb14-cloud-amd64"
            ]
        );
    }
}
