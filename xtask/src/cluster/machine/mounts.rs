//! What a machine sees of the file system.
//!
//! The order matters: what is shown below `/opt` is mounted into the machine's folder before
//! `/opt` becomes that folder, because the sources may be below a folder that is about to be
//! hidden.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

/// The built programs.
pub(super) const PROGRAMS: &str = "/opt/cluster/bin";

/// Programs that come before them.
pub(super) const ASSETS: &str = "/opt/cluster/assets";

/// Certificates, keys and what else all machines share.
pub(in super::super) const SHARED: &str = "/opt/cluster/shared";

/// What a machine is shown from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// The machine's own files: becomes `/var`, `/opt` and what is new in `/etc`.
    pub(super) own: &'a Path,
    pub(super) programs: &'a Path,
    pub(super) assets: Option<&'a Path>,
    pub(super) shared: &'a Path,
}

/// In a mount namespace of its own, whose mounts nobody else sees.
pub(super) fn make(sources: Sources<'_>) -> Result<()> {
    let Sources {
        own,
        programs,
        assets,
        shared,
    } = sources;
    let inside = |path: &str| own.join(path.trim_start_matches('/'));
    for path in [
        PROGRAMS,
        ASSETS,
        SHARED,
        "/var/cache",
        "/var/lib",
        "/var/log",
        "/var/tmp",
        "/etc",
        "/etc.work",
    ] {
        let path = inside(path);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    let run = inside("/var/run");
    match symlink("/run", &run) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("linking {}", run.display()));
        }
        _ => {}
    }

    bind(programs, &inside(PROGRAMS))?;
    bind(shared, &inside(SHARED))?;
    if let Some(assets) = assets {
        bind(assets, &inside(ASSETS))?;
    }
    mount("proc", "/proc", "proc", common(), None).context("mounting /proc")?;
    let options = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        inside("/etc").display(),
        inside("/etc.work").display()
    );
    let options = std::ffi::CString::new(options).context("a path with a zero byte")?;
    mount("overlay", "/etc", "overlay", MountFlags::empty(), Some(&*options)).context(
        "laying the machine's /etc over this one's (the target directory must not itself be on an overlay)",
    )?;
    recursively(&inside("/opt"), Path::new("/opt"))?;
    // The last one from outside: everything may be below /var.
    bind(&inside("/var"), Path::new("/var"))?;
    mount("tmpfs", "/run", "tmpfs", common(), Some(c"mode=0755")).context("mounting /run")?;
    mount("bpf", "/sys/fs/bpf", "bpf", common(), Some(c"mode=0700")).context("mounting /sys/fs/bpf")
}

/// Programs and devices of these file systems are nobody's business.
fn common() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    told(mount_bind(source, target), source, target)
}

fn recursively(source: &Path, target: &Path) -> Result<()> {
    told(mount_bind_recursive(source, target), source, target)
}

fn told(result: Result<(), Errno>, source: &Path, target: &Path) -> Result<()> {
    result.with_context(|| format!("showing {} as {}", source.display(), target.display()))
}
