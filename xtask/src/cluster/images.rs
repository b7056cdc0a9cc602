//! The images that a cluster has from the start: what its pods need, and what tests run in
//! theirs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::programs::Programs;
use crate::image::Image;
use crate::target::Architecture;

/// Holds a pod's namespaces.
pub(super) const PAUSE: &str = "egress-agent.test/pause:1";

/// Cluster DNS.
pub(super) const COREDNS: &str = "egress-agent.test/coredns:1";

/// Servers and clients for tests.
pub(super) const AGNHOST: &str = "egress-agent.test/agnhost:1";

/// Writes them where the nodes import them from.
pub(super) fn make(programs: &Programs, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for (program, tag) in [("pause", PAUSE), ("coredns", COREDNS), ("agnhost", AGNHOST)] {
        let path = programs.folder.join(program);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let inside = format!("/{program}");
        let mut image = Image::new(Architecture::own()?, &[&inside]);
        image.program(&inside, content)?;
        image.write(&tag.parse()?, &folder.join(program).with_extension("tar"))?;
    }
    Ok(())
}
