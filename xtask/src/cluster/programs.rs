//! The programs of a Kubernetes node, built from their Go modules.
//!
//! Versions are fixed, and each module's content is checked: that of the all-in-one program
//! and what it needs by the `go.sum` beside it, the others by Go's checksum database. Built
//! once, into the target directory; Go keeps its own cache, so that a build from another
//! clone on the same machine takes a minute.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::process;
use crate::workspace::Workspace;

/// A folder with the programs, built elsewhere: a second clone need not build its own.
const BUILT_ELSEWHERE: &str = "EGRESS_CLUSTER_PROGRAMS";

/// A folder with `etcd`, `kube-apiserver` and `kubectl`, as the test tools of controllers
/// have it. What is in it is used instead of what is built here.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

const KUBERNETES: &str = "1.36.3";

/// What the all-in-one program can be called; see `xtask/cluster/main.go`.
const ALL_IN_ONE: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// The plugins that a node's own network needs.
pub(super) const CNI_PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "ptp"];

/// Packages of one module that `go install` builds as they are.
struct Module {
    path: &'static str,
    version: &'static str,
    packages: &'static [&'static str],
    tags: &'static str,
}

const MODULES: [Module; 4] = [
    Module {
        path: "github.com/containernetworking/plugins",
        version: "v1.9.1",
        packages: &[
            "plugins/ipam/host-local",
            "plugins/main/bridge",
            "plugins/main/loopback",
            "plugins/main/ptp",
            "plugins/meta/portmap",
        ],
        tags: "",
    },
    Module {
        path: "github.com/containerd/containerd/v2",
        version: "v2.3.7",
        packages: &["cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"],
        // Snapshotters that nobody asks for.
        tags: "no_btrfs,no_zfs",
    },
    Module {
        path: "github.com/coredns/coredns",
        version: "v1.14.7",
        packages: &[""],
        tags: "",
    },
    Module {
        path: "helm.sh/helm/v3",
        version: "v3.22.0",
        packages: &["cmd/helm"],
        tags: "",
    },
];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) folder: PathBuf,
}

/// Whether they can be had here, and if not, why.
pub(crate) fn obstacle(workspace: &Workspace) -> Result<Option<String>> {
    let missing_go = || {
        "there is no `go` here to build Kubernetes with (1.26 or newer; https://go.dev/doc/install)"
            .to_owned()
    };
    let there = env::var_os(BUILT_ELSEWHERE).is_some()
        || is_built(workspace)?
        || process::find("go").is_some();
    Ok((!there).then(missing_go))
}

/// What is there, if it is whole.
pub(super) fn built(workspace: &Workspace) -> Result<Option<Programs>> {
    if let Some(folder) = env::var_os(BUILT_ELSEWHERE) {
        let folder = PathBuf::from(folder);
        ensure!(
            folder.join("kubelet").exists(),
            "{BUILT_ELSEWHERE} is {}, and there is no kubelet",
            folder.display()
        );
        return Ok(Some(Programs { folder }));
    }
    let folder = folder(workspace);
    Ok(is_built(workspace)?.then_some(Programs { folder }))
}

/// Builds what is not there. Says so first: it takes minutes.
pub(super) fn ensure_built(workspace: &Workspace) -> Result<Programs> {
    if let Some(programs) = built(workspace)? {
        return Ok(programs);
    }
    let folder = folder(workspace);
    if let Some(obstacle) = obstacle(workspace)? {
        bail!("{obstacle}");
    }
    println!(
        "Building Kubernetes {KUBERNETES} and what a node of it needs, once, into {} \
         (8 minutes on two cores, one minute where Go has it in its cache).",
        workspace.shown(&folder)
    );
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    own_module(workspace, &folder)?;
    for module in &MODULES {
        install(module, &folder)?;
    }
    let stamp = stamp(workspace);
    fs::write(&stamp, fingerprint(workspace)?)
        .with_context(|| format!("writing {}", stamp.display()))?;
    Ok(Programs { folder })
}

impl Programs {
    /// A program, for commands that run outside the cluster's machines.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        asset(name).unwrap_or_else(|| self.folder.join(name))
    }

    /// The folder whose programs come first, where there is one.
    pub(super) fn assets() -> Option<PathBuf> {
        env::var_os(ASSETS).map(PathBuf::from)
    }
}

fn asset(name: &str) -> Option<PathBuf> {
    let path = Programs::assets()?.join(name);
    path.is_file().then_some(path)
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("cluster/bin")
}

fn stamp(workspace: &Workspace) -> PathBuf {
    folder(workspace).join(".built")
}

fn is_built(workspace: &Workspace) -> Result<bool> {
    let Ok(built) = fs::read_to_string(stamp(workspace)) else {
        return Ok(false);
    };
    Ok(built == fingerprint(workspace)?)
}

/// Of all that the programs are made from.
fn fingerprint(workspace: &Workspace) -> Result<String> {
    let mut hash = Sha256::new();
    let sources = workspace.root.join("xtask/cluster");
    for file in ["go.mod", "go.sum", "main.go", "pause/main.go"] {
        let path = sources.join(file);
        hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    for Module {
        path,
        version,
        packages,
        tags,
    } in &MODULES
    {
        hash.update(format!("{path}@{version} {tags} {packages:?}\n"));
    }
    let mut digits = String::new();
    for byte in hash.finalize() {
        write!(digits, "{byte:02x}")?;
    }
    Ok(digits)
}

/// The programs of the module in `xtask/cluster`, and the names of the all-in-one.
fn own_module(workspace: &Workspace, folder: &Path) -> Result<()> {
    let version = "k8s.io/component-base/version";
    let mut parts = KUBERNETES.split('.');
    let (major, minor) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} \
         -X {version}.gitMinor={minor}"
    );
    for (output, package) in [
        ("kubernetes", "."),
        ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
        ("pause", "./pause"),
    ] {
        process::run(
            go("build")
                .args(["-ldflags", &flags, "-o"])
                .args([&folder.join(output), Path::new(package)])
                .current_dir(workspace.root.join("xtask/cluster")),
        )?;
    }
    for name in ALL_IN_ONE {
        let link = folder.join(name);
        if !link.exists() {
            symlink("kubernetes", &link).with_context(|| format!("linking {}", link.display()))?;
        }
    }
    Ok(())
}

fn install(module: &Module, folder: &Path) -> Result<()> {
    let Module {
        path,
        version,
        packages,
        tags,
    } = module;
    let packages = packages.iter().map(|package| {
        let slash = if package.is_empty() { "" } else { "/" };
        format!("{path}{slash}{package}@{version}")
    });
    process::run(
        go("install")
            .args(["-ldflags", "-s -w", "-tags", tags])
            .args(packages)
            .env("GOBIN", folder)
            // Outside any module, so that none of it has a say in the versions.
            .current_dir("/"),
    )
}

/// Static programs, for they start in images that have nothing else.
fn go(command: &str) -> Command {
    let mut go = Command::new("go");
    go.args([command, "-trimpath", "-buildvcs=false"])
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS");
    go
}
