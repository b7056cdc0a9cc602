//! Certificates, keys, and the kubeconfigs that name them.
//!
//! One authority signs everybody. Programs are told apart as Kubernetes does: by the common
//! name (user) and the organization (group) of their certificate.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::addresses::{API_PORT, API_SERVICE, CONTROL};
use super::state::{Cluster, node_name};

/// Who connects to the API server.
struct Client {
    file: String,
    user: String,
    group: Option<&'static str>,
}

/// Makes all of a cluster's, in its shared folder.
pub(super) fn make(cluster: &Cluster) -> Result<()> {
    let folder = cluster.folder.shared();
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let authority = authority(&folder)?;
    server(&folder, &authority)?;
    service_accounts(&folder)?;
    for client in clients(cluster) {
        let Client { file, user, group } = &client;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        sign(&folder, file, params, &authority)?;
        let server = if file.starts_with("node-") || file == "proxy" {
            format!("https://{}:{API_PORT}", CONTROL.v4)
        } else {
            format!("https://127.0.0.1:{API_PORT}")
        };
        kubeconfig(&folder, &format!("{file}.kubeconfig"), file, &server)?;
    }
    let outside = format!("https://127.0.0.1:{}", cluster.port);
    kubeconfig(&folder, "kubeconfig", "admin", &outside)
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    let client = |file: &str, user: &str, group| Client {
        file: file.into(),
        user: user.into(),
        group,
    };
    let mut clients = vec![
        client("admin", "admin", Some("system:masters")),
        client("controller-manager", "system:kube-controller-manager", None),
        client("scheduler", "system:kube-scheduler", None),
        client("proxy", "system:kube-proxy", None),
    ];
    clients.extend(
        cluster
            .indices()
            .map(node_name)
            .map(|name| client(&name, &format!("system:node:{name}"), Some("system:nodes"))),
    );
    clients
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params.self_signed(&key).context("signing the authority")?;
    write(folder, "ca.crt", &certificate.pem())?;
    Ok(Issuer::new(params, key))
}

/// By every name and address that it is called by.
fn server(folder: &Path, authority: &Issuer<'_, KeyPair>) -> Result<()> {
    let addresses = [API_SERVICE, CONTROL]
        .into_iter()
        .flat_map(super::addresses::Dual::both)
        .chain([
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]),
        ])
        .map(|address| address.to_string());
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(String::from);
    let mut params = CertificateParams::new(addresses.chain(names).collect::<Vec<_>>())
        .context("names of the API server")?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(folder, "apiserver", params, authority)
}

/// The pair that the tokens of service accounts are signed and checked with.
fn service_accounts(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("making a key")?;
    write(folder, "serviceaccounts.key", &key.serialize_pem())?;
    write(folder, "serviceaccounts.pub", &key.public_key_pem())
}

fn sign(
    folder: &Path,
    file: &str,
    mut params: CertificateParams,
    authority: &Issuer<'_, KeyPair>,
) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params
        .signed_by(&key, authority)
        .with_context(|| format!("signing {file}"))?;
    write(folder, &format!("{file}.crt"), &certificate.pem())?;
    write(folder, &format!("{file}.key"), &key.serialize_pem())
}

/// With file names relative to its own folder, which machines see at another path. JSON is
/// YAML.
fn kubeconfig(folder: &Path, file: &str, client: &str, server: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "cluster",
            "cluster": { "server": server, "certificate-authority": "ca.crt" },
        }],
        "users": [{
            "name": client,
            "user": {
                "client-certificate": format!("{client}.crt"),
                "client-key": format!("{client}.key"),
            },
        }],
        "contexts": [{ "name": "cluster", "context": { "cluster": "cluster", "user": client } }],
        "current-context": "cluster",
    });
    let text = serde_json::to_string_pretty(&config).context("JSON of a kubeconfig")?;
    write(folder, file, &text)
}

/// Readable by its owner alone: half of them are keys.
fn write(folder: &Path, file: &str, content: &str) -> Result<()> {
    let path = folder.join(file);
    fs::write(&path, content)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("writing {}", path.display()))
}
