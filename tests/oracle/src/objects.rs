//! Sorting manifests by kind, namespace and name.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{Fields, below, text};

/// The kinds that matter to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Service,
}

impl Kind {
    /// S96: a kind counts in its own API group only.
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            ("", "Namespace") => Some(Self::Namespace),
            ("", "Node") => Some(Self::Node),
            ("", "Pod") => Some(Self::Pod),
            ("", "Service") => Some(Self::Service),
            ("discovery.k8s.io", "EndpointSlice") => Some(Self::EndpointSlice),
            ("networking.k8s.io", "NetworkPolicy") => Some(Self::NetworkPolicy),
            _ => None,
        }
    }

    fn namespaced(self) -> bool {
        match self {
            Self::Namespace | Self::Node => false,
            Self::EndpointSlice | Self::NetworkPolicy | Self::Pod | Self::Service => true,
        }
    }
}

/// One name's objects: more than one when they differ, which makes all of them unreadable
/// (S96).
#[derive(Debug)]
pub(crate) struct Named {
    /// Empty for kinds without a namespace.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) versions: Vec<Fields>,
}

impl Named {
    /// The object, unless there are several.
    pub(crate) fn single(&self) -> Option<&Fields> {
        match self.versions.as_slice() {
            [version] => Some(version),
            _ => None,
        }
    }
}

/// All objects that matter.
#[derive(Debug, Default)]
pub(crate) struct Objects(BTreeMap<(Kind, String, String), Named>);

impl Objects {
    pub(crate) fn sort(objects: &[Value]) -> Self {
        let mut sorted = Self::default();
        for object in objects {
            sorted.add(object);
        }
        sorted
    }

    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Named> {
        self.0
            .iter()
            .filter(move |((other, _, _), _)| *other == kind)
            .map(|(_, named)| named)
    }

    fn add(&mut self, object: &Value) -> Option<()> {
        let object = object.as_object()?;
        let kind = Kind::of(
            text(object, "apiVersion").ok()??,
            text(object, "kind").ok()??,
        )?;
        let metadata = below(object, "metadata").ok()?;
        let name = text(&metadata, "name").ok()??.to_owned();
        let namespace = if kind.namespaced() {
            // S96: the namespace that the API assumes.
            match text(&metadata, "namespace").ok()? {
                None | Some("") => "default".to_owned(),
                Some(namespace) => namespace.to_owned(),
            }
        } else {
            String::new()
        };
        let named = self
            .0
            .entry((kind, namespace.clone(), name.clone()))
            .or_insert_with(|| Named {
                namespace,
                name,
                versions: Vec::new(),
            });
        if !named.versions.contains(object) {
            named.versions.push(object.clone());
        }
        Some(())
    }
}
