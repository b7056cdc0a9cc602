//! A test's own namespace in the cluster.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Cluster, Pod, PodSpec};
use crate::harness::{objects, report, until};

/// A namespace that is deleted, with all in it, when this is dropped.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self {
            cluster,
            name: format!("{name}-{}-{number}", process::id()),
        };
        namespace.relabel(labels)?;
        // Pods are refused before its service account is there.
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "namespace": namespace.name, "name": "default" },
        });
        // Controllers come back slowly when the API server was away.
        until("the namespace has a service account", || {
            Ok(cluster.api.get(&account)?.is_some())
        })?;
        Ok(namespace)
    }

    /// Its name in the API.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it these labels and takes away those of an earlier call.
    pub fn relabel(&self, labels: &[(&str, &str)]) -> Result<()> {
        let object = objects::namespace(&self.name, labels);
        self.cluster.api.apply(&object).map(drop)
    }

    /// Applies an object here, whatever namespace it names.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.cluster.api.apply(&self.here(object)?)
    }

    /// Deletes the object of this kind and name here.
    pub fn delete(&self, object: &Value) -> Result<()> {
        self.cluster.api.delete(&self.here(object)?)
    }

    /// What the API server has of it.
    pub fn get(&self, object: &Value) -> Result<Option<Value>> {
        self.cluster.api.get(&self.here(object)?)
    }

    /// Starts pods and waits until all of them run: together, because starting one takes
    /// the node a second.
    pub fn pods<const N: usize>(&self, specs: [PodSpec; N]) -> Result<[Pod; N]> {
        for spec in &specs {
            self.apply(&spec.object())?;
        }
        let pods: Vec<Pod> = specs
            .into_iter()
            .map(|spec| Pod::running(self, spec))
            .collect::<Result<_>>()?;
        match pods.try_into() {
            Ok(pods) => Ok(pods),
            Err(pods) => bail!("{} pods of {N}", pods.len()),
        }
    }

    fn here(&self, object: &Value) -> Result<Value> {
        let mut object = object.clone();
        let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
            bail!("an object without metadata: {object}");
        };
        metadata.insert("namespace".into(), self.name.clone().into());
        Ok(object)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let object = objects::namespace(&self.name, &[]);
        if let Err(error) = self.cluster.api.delete(&object) {
            report(&format!("{error:#}"));
        }
    }
}
