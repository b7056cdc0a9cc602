//! The kinds that are watched, by the API's names.

use egress_core::object::Kind;

/// Every kind, policies first: they are few, and what is wrong with them matters most.
pub(super) const KINDS: [Kind; 6] = [
    Kind::NetworkPolicy,
    Kind::Namespace,
    Kind::Node,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
];

/// A kind as the API server serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// Empty for the core group.
    pub(super) group: &'static str,
    /// The name in paths and in roles; also the label of metrics.
    pub(super) plural: &'static str,
}

impl Resource {
    /// Where a kind is served.
    pub(super) const fn of(kind: Kind) -> Self {
        let (group, plural) = match kind {
            Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
            Kind::Namespace => ("", "namespaces"),
            Kind::Pod => ("", "pods"),
            Kind::Service => ("", "services"),
            Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
            Kind::Node => ("", "nodes"),
        };
        Self {
            kind,
            group,
            plural,
        }
    }

    /// `apiVersion` of its objects. What is read of all six has been v1 for years.
    pub(super) fn api_version(self) -> String {
        if self.group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{}/v1", self.group)
        }
    }

    /// The path of the objects of all namespaces.
    pub(super) fn path(self) -> String {
        let root = if self.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        format!("{root}/{}/{}", self.api_version(), self.plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_path_of_its_own() {
        let paths = KINDS.map(|kind| Resource::of(kind).path());
        assert_eq!(
            paths,
            [
                "/apis/networking.k8s.io/v1/networkpolicies",
                "/api/v1/namespaces",
                "/api/v1/nodes",
                "/api/v1/services",
                "/apis/discovery.k8s.io/v1/endpointslices",
                "/api/v1/pods",
            ]
        );
    }
}
