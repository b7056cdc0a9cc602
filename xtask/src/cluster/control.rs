//! The machine with etcd and the control plane. It is also the switch between the nodes, and
//! the world outside the cluster.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::addresses::{API_PORT, CONTROL, Dual, OUTSIDE, PODS, SERVICES, node, pods_of};
use super::machine::init::{address, forward_packets, ip};
use super::machine::{Program, Restart, SHARED};
use super::state::Cluster;

/// The bridge that nodes are plugged into.
pub(super) const BRIDGE: &str = "nodes";

const AUDIT_POLICY: &str = "/etc/kubernetes/audit.json";

/// What the API server's programs read: of every request of a DaemonSet's or another workload's
/// the audit log has a line. What Kubernetes' own programs ask would be most of it.
pub(super) fn configure() -> Result<()> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "userGroups": ["system:serviceaccounts:kube-system"] },
            { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
            { "level": "None" },
        ],
    });
    fs::create_dir_all("/etc/kubernetes").context("creating /etc/kubernetes")?;
    fs::write(AUDIT_POLICY, policy.to_string()).with_context(|| format!("writing {AUDIT_POLICY}"))
}

/// With the route to every node's pods, as a cloud's router has them.
pub(super) fn network(cluster: &Cluster) -> Result<()> {
    forward_packets()?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    address(BRIDGE, CONTROL)?;
    for far in OUTSIDE.iter().flat_map(|far| far.both()) {
        // Whatever interface a machine has it on, it answers for it; and of this one every
        // kernel has a driver.
        ip(&format!("address add {far} dev lo"))?;
    }
    for index in cluster.indices() {
        for (pods, gateway) in pods_of(index).iter().zip(node(index).both()) {
            ip(&format!("route add {pods} via {gateway}"))?;
        }
    }
    Ok(())
}

pub(super) fn programs() -> Vec<Program> {
    let always = |name, arguments: String| Program {
        name,
        arguments: arguments.split_whitespace().map(String::from).collect(),
        after: None,
        restart: Restart::Always,
    };
    let Dual { v4: address, .. } = CONTROL;
    vec![
        // Without fsync: nobody's data is in it.
        always(
            "etcd",
            "etcd --name=control --data-dir=/var/lib/etcd --unsafe-no-fsync \
             --listen-client-urls=http://127.0.0.1:2379 \
             --advertise-client-urls=http://127.0.0.1:2379 \
             --listen-peer-urls=http://127.0.0.1:2380 \
             --initial-advertise-peer-urls=http://127.0.0.1:2380 \
             --initial-cluster=control=http://127.0.0.1:2380 --log-level=warn"
                .into(),
        ),
        always(
            "kube-apiserver",
            format!(
                "kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
                 --secure-port={API_PORT} --bind-address=:: --advertise-address={address} \
                 --endpoint-reconciler-type=master-count \
                 --authorization-mode=Node,RBAC --allow-privileged=true --profiling=false \
                 --service-cluster-ip-range={SERVICES} --service-account-issuer=https://kubernetes.default.svc \
                 --client-ca-file={SHARED}/ca.crt \
                 --tls-cert-file={SHARED}/apiserver.crt --tls-private-key-file={SHARED}/apiserver.key \
                 --kubelet-client-certificate={SHARED}/admin.crt --kubelet-client-key={SHARED}/admin.key \
                 --kubelet-preferred-address-types=InternalIP \
                 --service-account-key-file={SHARED}/serviceaccounts.pub \
                 --service-account-signing-key-file={SHARED}/serviceaccounts.key \
                 --audit-policy-file={AUDIT_POLICY} --audit-log-path=/var/log/audit.log"
            ),
        ),
        always(
            "kube-controller-manager",
            format!(
                "kube-controller-manager --kubeconfig={SHARED}/controller-manager.kubeconfig \
                 --leader-elect=false --use-service-account-credentials=true --profiling=false \
                 --root-ca-file={SHARED}/ca.crt \
                 --service-account-private-key-file={SHARED}/serviceaccounts.key \
                 --cluster-cidr={PODS} --service-cluster-ip-range={SERVICES} \
                 --allocate-node-cidrs=false --concurrent-endpoint-syncs=20"
            ),
        ),
        always(
            "kube-scheduler",
            format!(
                "kube-scheduler --kubeconfig={SHARED}/scheduler.kubeconfig --leader-elect=false \
                 --profiling=false"
            ),
        ),
    ]
}
