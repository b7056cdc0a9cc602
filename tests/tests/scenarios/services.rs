//! Services: the specification judges the pod that answers, tc sees the packet before
//! kube-proxy has chosen one.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use egress_tests::cluster::{Namespace, PodSpec, Stage, resolve};
use egress_tests::harness::objects::{egress, port};
use egress_tests::harness::{Probe, until};
use serde_json::{Value, json};

/// What clients ask for, and what pods listen on.
const FRONT: u16 = 80;
const BACK: u16 = 8080;

fn service(namespace: &Namespace<'_>, name: &str, spec: &Value) -> Result<Value> {
    let mut spec = spec.clone();
    if let Value::Object(spec) = &mut spec {
        spec.insert("selector".into(), json!({ "role": name }));
        spec.insert("ipFamilyPolicy".into(), "RequireDualStack".into());
    }
    namespace.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": spec,
    }))
}

fn cluster_addresses(service: &Value) -> Result<Vec<IpAddr>> {
    let list = service
        .pointer("/spec/clusterIPs")
        .and_then(Value::as_array);
    list.context("no cluster addresses")?
        .iter()
        .map(|address| Ok(address.as_str().context("an address")?.parse()?))
        .collect()
}

/// Towards pods of this role, on this port.
fn towards(namespace: &Namespace<'_>, role: &str, number: &Value) -> Result<()> {
    namespace
        .apply(&egress(
            namespace.name(),
            "p",
            &json!([{
                "to": [{ "podSelector": { "matchLabels": { "role": role } } }],
                "ports": [{ "port": number, "protocol": "TCP" }],
            }]),
        ))
        .map(drop)
}

/// S35, S72: the port of a rule is the pod's, whatever the Service's is.
pub(crate) fn a_service_is_judged_by_its_pods_ports(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("services", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client"),
        PodSpec::new("server").label("role", "web"),
    ])?;
    server.serve(&[BACK])?;
    let web = service(
        &ns,
        "web",
        &json!({ "ports": [{ "port": FRONT, "targetPort": BACK }] }),
    )?;
    let [v4, v6] = *cluster_addresses(&web)? else {
        anyhow::bail!("one family only: {web}");
    };
    let cases = |open| {
        [
            (&client, Probe::tcp(v4, FRONT), open),
            (&client, Probe::tcp(v6, FRONT), open),
        ]
    };
    stage.soon(&cases(true))?;
    towards(&ns, "web", &json!(BACK))?;
    stage.soon(&cases(true))?;
    towards(&ns, "web", &json!(FRONT))?;
    stage.soon(&cases(false))?;
    towards(&ns, "nobody", &json!(BACK))?;
    stage.soon(&cases(false))?;
    towards(&ns, "web", &json!(BACK))?;
    stage.soon(&cases(true))?;
    Ok(())
}

/// A Service's target port may be a name, and rules may use that name.
pub(crate) fn a_named_target_port_follows_each_pod(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("target", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client"),
        PodSpec::new("server")
            .label("role", "web")
            .port("http", BACK, "TCP"),
    ])?;
    server.serve(&[BACK])?;
    let web = service(
        &ns,
        "web",
        &json!({ "ports": [{ "port": FRONT, "targetPort": "http" }] }),
    )?;
    let address = *cluster_addresses(&web)?.first().context("no address")?;
    towards(&ns, "web", &json!("http"))?;
    stage.soon(&[(&client, Probe::tcp(address, FRONT), true)])?;
    towards(&ns, "web", &json!("https"))?;
    stage.soon(&[(&client, Probe::tcp(address, FRONT), false)])?;
    Ok(())
}

/// S69: without an address of its own, a Service is the names of its pods' addresses.
pub(crate) fn a_headless_service_is_its_pods(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("headless", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client"),
        PodSpec::new("server").label("role", "web"),
    ])?;
    server.serve(&[BACK])?;
    service(
        &ns,
        "web",
        &json!({ "clusterIP": "None", "ports": [{ "port": BACK }] }),
    )?;
    let name = format!("web.{}.svc.cluster.local", ns.name());
    for (dns, address) in [
        ("10.96.0.10", IpAddr::from(server.v4)),
        ("fd00:10:96::a", server.v6.into()),
    ] {
        let dns = dns.parse()?;
        until("the name has the pod's address", || {
            let answer = resolve(&client.ns, dns, &name)?;
            Ok(answer.is_some_and(|answer| answer == [address]))
        })?;
    }
    ns.apply(&egress(
        ns.name(),
        "p",
        &json!([{
            "to": [{ "podSelector": { "matchLabels": { "role": "web" } } }],
            "ports": [port(BACK, "TCP")],
        }]),
    ))?;
    stage.soon(&[
        (&client, Probe::tcp(server.v4, BACK), true),
        (&client, Probe::tcp(server.v6, BACK), true),
        (&client, Probe::udp(server.v4, BACK), false),
    ])?;
    ensure!(
        resolve(&client.ns, "10.96.0.10".parse()?, &name)?.is_none() == stage.is_enforced(),
        "nobody has allowed cluster DNS"
    );
    Ok(())
}

/// S70: by a node's address and port, a Service is still its pods, the own node's or another's.
pub(crate) fn a_node_port_is_judged_by_its_pods(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("nodeport", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client").node("node-0"),
        PodSpec::new("server").label("role", "web").node("node-1"),
    ])?;
    server.serve(&[BACK])?;
    let web = service(
        &ns,
        "web",
        &json!({ "type": "NodePort", "ports": [{ "port": FRONT, "targetPort": BACK }] }),
    )?;
    let number = web
        .pointer("/spec/ports/0/nodePort")
        .and_then(Value::as_u64);
    let number = u16::try_from(number.context("no node port")?)?;
    let cases = |open| -> Result<[_; 2]> {
        Ok([
            (
                &client,
                Probe::tcp("172.18.0.10".parse::<IpAddr>()?, number),
                open,
            ),
            (
                &client,
                Probe::tcp("172.18.0.11".parse::<IpAddr>()?, number),
                open,
            ),
        ])
    };
    stage.soon(&cases(true)?)?;
    towards(&ns, "web", &json!(BACK))?;
    stage.soon(&cases(true)?)?;
    towards(&ns, "nobody", &json!(BACK))?;
    stage.soon(&cases(false)?)?;
    Ok(())
}

/// S70: an address from outside that a Service has taken leads to its pods.
pub(crate) fn an_external_address_is_judged_by_its_pods(stage: &Stage) -> Result<()> {
    let ns = stage.cluster.namespace("external", &[])?;
    let [client, mut server] = ns.pods([
        PodSpec::new("client"),
        PodSpec::new("server").label("role", "web"),
    ])?;
    server.serve(&[BACK])?;
    let address: IpAddr = "192.0.2.7".parse()?;
    service(
        &ns,
        "web",
        &json!({
            "ports": [{ "port": FRONT, "targetPort": BACK }],
            "externalIPs": [address],
        }),
    )?;
    stage.soon(&[(&client, Probe::tcp(address, FRONT), true)])?;
    towards(&ns, "web", &json!(BACK))?;
    stage.soon(&[(&client, Probe::tcp(address, FRONT), true)])?;
    towards(&ns, "nobody", &json!(BACK))?;
    stage.soon(&[(&client, Probe::tcp(address, FRONT), false)])?;
    Ok(())
}
