//! The API server, asked one question at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::discovery::{ApiCapabilities, Scope};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Who the fields that a test writes belong to.
const MANAGER: &str = "egress-tests";

/// Requests that are under way together.
const AT_ONCE: usize = 50;

/// A connection to an API server, for tests that are no async code.
pub struct Api {
    runtime: Runtime,
    client: Client,
    kinds: Mutex<BTreeMap<(String, String), (ApiResource, ApiCapabilities)>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn new(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting a runtime")?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig)
                .with_context(|| format!("reading {}", kubeconfig.display()))?;
            let config =
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client,
            kinds: Mutex::default(),
        })
    }

    /// Creates the object, or makes the one with its name say what it says.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let (api, name) = self.of(object)?;
        let patch = PatchParams::apply(MANAGER).force();
        let applied = self
            .runtime
            .block_on(api.patch(&name, &patch, &Patch::Apply(object)))
            .with_context(|| format!("applying {object}"))?;
        serde_json::to_value(applied).context("an object as JSON")
    }

    /// Applies many objects, some at a time.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        self.apply_all_to(objects, None)
    }

    /// Applies what many objects say of their status.
    pub fn apply_statuses(&self, objects: &[Value]) -> Result<()> {
        self.apply_all_to(objects, Some("status"))
    }

    fn apply_all_to(&self, objects: &[Value], part: Option<&'static str>) -> Result<()> {
        let patch = PatchParams::apply(MANAGER).force();
        for some in objects.chunks(AT_ONCE) {
            let requests: Vec<_> = some
                .iter()
                .map(|object| {
                    let (api, name) = self.of(object)?;
                    let (patch, object) = (patch.clone(), object.clone());
                    Ok(self.runtime.spawn(async move {
                        let object = Patch::Apply(&object);
                        match part {
                            Some(part) => api.patch_subresource(part, &name, &patch, &object).await,
                            None => api.patch(&name, &patch, &object).await,
                        }
                    }))
                })
                .collect::<Result<_>>()?;
            for request in requests {
                self.runtime
                    .block_on(request)
                    .context("a request panicked")?
                    .context("applying objects")?;
            }
        }
        Ok(())
    }

    /// Deletes the object and does not wait until it is gone.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (api, name) = self.of(object)?;
        let how = DeleteParams::default().grace_period(0);
        self.runtime
            .block_on(api.delete(&name, &how))
            .with_context(|| format!("deleting {object}"))
            .map(drop)
    }

    /// What the API server has of this object; `None` when there is none.
    pub fn get(&self, object: &Value) -> Result<Option<Value>> {
        let (api, name) = self.of(object)?;
        let found = self
            .runtime
            .block_on(api.get_opt(&name))
            .with_context(|| format!("getting {object}"))?;
        found
            .map(serde_json::to_value)
            .transpose()
            .context("an object as JSON")
    }

    /// All objects of the kind and namespace of this one that have these labels.
    pub fn list(&self, like: &Value, labels: &str) -> Result<Vec<Value>> {
        let (api, _) = self.of(like)?;
        let list = self
            .runtime
            .block_on(api.list(&ListParams::default().labels(labels)))
            .with_context(|| format!("listing objects like {like}"))?;
        list.items
            .into_iter()
            .map(|item| serde_json::to_value(item).context("an object as JSON"))
            .collect()
    }

    fn of(&self, object: &Value) -> Result<(kube::Api<DynamicObject>, String)> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let version = text("/apiVersion").context("no apiVersion")?;
        let kind = text("/kind").context("no kind")?;
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        let (resource, capabilities) = self.kind(version, kind)?;
        let client = self.client.clone();
        let api = match (capabilities.scope, text("/metadata/namespace")) {
            (Scope::Namespaced, Some(namespace)) => {
                kube::Api::namespaced_with(client, namespace, &resource)
            }
            (Scope::Namespaced | Scope::Cluster, _) => kube::Api::all_with(client, &resource),
        };
        Ok((api, name))
    }

    /// Asked once a kind.
    fn kind(&self, version: &str, kind: &str) -> Result<(ApiResource, ApiCapabilities)> {
        let key = (version.to_owned(), kind.to_owned());
        let known = |kinds: &Mutex<BTreeMap<_, _>>| {
            let kinds = kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.get(&key).cloned()
        };
        if let Some(known) = known(&self.kinds) {
            return Ok(known);
        }
        let gvk = GroupVersionKind::try_from(&TypeMeta {
            api_version: version.to_owned(),
            kind: kind.to_owned(),
        })?;
        let found = self
            .runtime
            .block_on(kube::discovery::pinned_kind(&self.client, &gvk))
            .with_context(|| format!("asking what a {kind} of {version} is"))?;
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(key, found.clone());
        Ok(found)
    }
}
