//! `deploy/install.yaml`: the chart's default objects, and a namespace that admits them.

use std::path::Path;

use anyhow::Result;

use super::helm::Helm;

/// The file in the workspace.
pub(super) const FILE: &str = "deploy/install.yaml";

const NAMESPACE: &str = "egress-agent-system";

/// The pod security standard "privileged": the host's network, host paths and added
/// capabilities are beyond "baseline".
const HEAD: &str = "\
# egress-agent with its default settings: kubectl apply -f deploy/install.yaml
# Rendered from deploy/chart by `cargo xtask render`: change the chart, not this file.
---
apiVersion: v1
kind: Namespace
metadata:
  name: egress-agent-system
  labels:
    app.kubernetes.io/name: egress-agent
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
";

/// Labels of objects that helm looks after; these it does not.
const HELMS: [&str; 2] = ["app.kubernetes.io/managed-by: Helm", "helm.sh/chart: "];

pub(super) fn render(helm: &Helm, chart: &Path) -> Result<String> {
    let text = helm.template(chart, NAMESPACE, &["--set", "tests.enabled=false"])?;
    Ok(format!("{HEAD}{}", without_helms_labels(&text)))
}

fn without_helms_labels(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        if !HELMS
            .iter()
            .any(|label| line.trim_start().starts_with(label))
        {
            kept.push_str(line.trim_end());
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_helms_own_labels_are_left_out() {
        let text =
            "a:\n  helm.sh/chart: egress-agent-1\n  app.kubernetes.io/managed-by: Helm\n  b: c \n";
        assert_eq!(without_helms_labels(text), "a:\n  b: c\n");
    }
}
