//! A node: containerd, kubelet and kube-proxy, configured as little as a test machine allows.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::addresses::{CONTROL, DNS_SERVICE, PODS, node, pods_of};
use super::machine::init::{address, forward_packets, ip};
use super::machine::{Program, Restart, SHARED};
use super::programs::CNI_PLUGINS;
use super::state::{Cluster, Cni, node_name};
use crate::process;

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Exists once this boot has imported the images.
const IMAGES_ARE_THERE: &str = "/run/cluster/images";

const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.json";

const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

const NETWORK_CONFIG: &str = "/etc/cni/net.d/10-pods.conflist";

/// Two of the node's neighbours are known from the start: the way out, and the other nodes
/// with their pods.
pub(super) fn network(cluster: &Cluster, index: u8) -> Result<()> {
    forward_packets()?;
    address("eth0", node(index))?;
    for gateway in CONTROL.both() {
        ip(&format!("route add default via {gateway}"))?;
    }
    for other in cluster.indices().filter(|other| *other != index) {
        for (pods, gateway) in pods_of(other).iter().zip(node(other).both()) {
            ip(&format!("route add {pods} via {gateway}"))?;
        }
    }
    Ok(())
}

/// Writes what the programs read.
pub(super) fn configure(cluster: &Cluster, index: u8) -> Result<()> {
    let runc = process::find("runc").context("there is no runc here")?;
    for plugin in CNI_PLUGINS {
        link(
            &format!("/opt/cluster/bin/{plugin}"),
            &format!("/opt/cni/bin/{plugin}"),
        )?;
    }
    // At every boot, as the daemons of most CNIs do, and before anything can repair it.
    write(NETWORK_CONFIG, &pretty(&cni(cluster.cni, index))?)?;
    write(CONTAINERD_CONFIG, &containerd(&runc))?;
    write(KUBELET_CONFIG, &pretty(&kubelet(cluster, index))?)?;
    // What pods with the node's resolver get: nothing is out there to ask.
    write("/etc/kubernetes/resolv.conf", "")?;
    fs::create_dir_all("/run/cluster").context("creating /run/cluster")
}

pub(super) fn programs(index: u8) -> Vec<Program> {
    let program = |name, after, restart, arguments: String| Program {
        name,
        arguments: arguments.split_whitespace().map(String::from).collect(),
        after,
        restart,
    };
    let name = node_name(index);
    let addresses = node(index).list();
    vec![
        program(
            "containerd",
            None,
            Restart::Always,
            format!("containerd --config={CONTAINERD_CONFIG}"),
        ),
        Program {
            name: "images",
            arguments: vec![
                "sh".into(),
                "-ec".into(),
                format!(
                    "for image in {SHARED}/images/*.tar; do \
                     ctr --namespace=k8s.io images import --local \"$image\"; done; \
                     mkdir {IMAGES_ARE_THERE}"
                ),
            ],
            after: Some(CONTAINERD_SOCKET),
            restart: Restart::UnlessSucceeded,
        },
        program(
            "kubelet",
            Some(IMAGES_ARE_THERE),
            Restart::Always,
            format!(
                "kubelet --config={KUBELET_CONFIG} --kubeconfig={SHARED}/{name}.kubeconfig \
                 --hostname-override={name} --node-ip={addresses}"
            ),
        ),
        program(
            "kube-proxy",
            None,
            Restart::Always,
            format!(
                "kube-proxy --kubeconfig={SHARED}/proxy.kubeconfig --hostname-override={name} \
                 --proxy-mode=nftables --cluster-cidr={PODS} --conntrack-max-per-core=0 \
                 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0"
            ),
        ),
    ]
}

/// Copies an image into the node's containerd.
pub(super) fn import(machine: &super::machine::Machine, archive: &Path) -> Result<()> {
    let file = fs::File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut command = machine.command("ctr");
    command.args(["--namespace=k8s.io", "images", "import", "--local", "-"]);
    process::output_of(&mut command, file).map(drop)
}

/// What each kind of CNI calls the pod's end of the cable, and where the other end is, differs:
/// a route and a veth a pod, or a bridge.
fn cni(kind: Cni, index: u8) -> Value {
    let ranges: Vec<Value> = pods_of(index)
        .iter()
        .map(|subnet| json!([{ "subnet": subnet }]))
        .collect();
    let mut main = json!({
        "ipam": {
            "type": "host-local",
            // As other state of the network, gone after a restart of the node.
            "dataDir": "/run/cni-ipam-state",
            "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    let more = match kind {
        Cni::Ptp => json!({ "type": "ptp", "ipMasq": false }),
        Cni::Bridge => json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
            "hairpinMode": true, "enabledad": false,
        }),
    };
    if let (Value::Object(main), Value::Object(more)) = (&mut main, more) {
        main.extend(more);
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            main,
            { "type": "portmap", "capabilities": { "portMappings": true }, "backend": "nftables" },
        ],
    })
}

/// `restrict_oom_score_adj`: raising a score takes CAP_SYS_RESOURCE, which a machine for tests
/// need not have.
fn containerd(runc: &Path) -> String {
    let runc = runc.display();
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
"#,
        pause = super::images::PAUSE,
    )
}

fn kubelet(cluster: &Cluster, index: u8) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": format!("{SHARED}/ca.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cluster.control_group(index).path(),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "clusterDomain": "cluster.local",
        "clusterDNS": DNS_SERVICE.both(),
        "resolvConf": "/etc/kubernetes/resolv.conf",
        // The disk is this machine's, and how full it is none of a test's business.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "0%", "imagefs.inodesFree": "0%", "memory.available": "0%",
            "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        },
        "maxPods": 220,
        "serializeImagePulls": false,
        // Tests start pods by the hundred and wait for each.
        "kubeAPIQPS": 200, "kubeAPIBurst": 400,
        "registryPullQPS": 0, "eventRecordQPS": 0,
    })
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).context("JSON of a configuration")
}

fn write(path: &str, content: &str) -> Result<()> {
    make_folder_of(path)?;
    fs::write(path, content).with_context(|| format!("writing {path}"))
}

fn link(target: &str, path: &str) -> Result<()> {
    make_folder_of(path)?;
    match std::os::unix::fs::symlink(target, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.with_context(|| format!("linking {path}")),
    }
}

fn make_folder_of(path: &str) -> Result<()> {
    let folder = Path::new(path)
        .parent()
        .context("a path without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cni_asks_for_addresses_of_both_families() {
        for kind in [Cni::Ptp, Cni::Bridge] {
            let conflist = cni(kind, 1);
            assert_eq!(
                conflist.pointer("/plugins/0/ipam/ranges"),
                Some(&json!([
                    [{ "subnet": "10.244.2.0/24" }],
                    [{ "subnet": "fd00:10:244:2::/64" }]
                ]))
            );
            assert!(conflist.pointer("/plugins/0/type").is_some());
        }
    }
}
