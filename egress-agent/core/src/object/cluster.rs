//! Namespaces and nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::field::{Field, Notes};
use super::{Namespace, Node, Problem, metadata};
use crate::cidr;

/// The label every namespace carries, with its own name as value (S25, S96).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn namespace(root: &Field<'_, '_>) -> Result<Namespace, Problem> {
    let name = metadata::name(root)?;
    match metadata::labels(root) {
        Ok(mut labels) => {
            // The API server writes over whatever the object said.
            labels.insert(NAME_LABEL.to_owned(), name.clone());
            Ok(Namespace {
                name,
                labels: Some(labels),
                problems: Vec::new(),
            })
        }
        Err(problem) => {
            let problems = vec![problem.so("no namespaceSelector matches this namespace")];
            Ok(Namespace {
                name,
                labels: None,
                problems,
            })
        }
    }
}

pub(super) fn node(root: &Field<'_, '_>) -> Result<Node, Problem> {
    let name = metadata::name(root)?;
    let mut notes = Notes::default();
    let labels = notes.minor(metadata::labels(root));
    let mut addresses = BTreeSet::new();
    let listed = for_each_address(root, &mut notes, &mut addresses);
    notes.minor(listed);
    Ok(Node {
        name,
        labels,
        addresses,
        problems: notes.problems,
    })
}

fn for_each_address(
    root: &Field<'_, '_>,
    notes: &mut Notes,
    found: &mut BTreeSet<IpAddr>,
) -> Result<(), Problem> {
    let Some(status) = root.get("status")? else {
        return Ok(());
    };
    let Some(addresses) = status.get("addresses")? else {
        return Ok(());
    };
    for entry in addresses.items()? {
        found.extend(notes.minor(node_address(&entry)));
    }
    Ok(())
}

/// `None` for an entry that names the node and does not address it.
fn node_address(entry: &Field<'_, '_>) -> Result<Option<IpAddr>, Problem> {
    let text = entry.require("address")?;
    let address = cidr::address(text.string()?);
    match entry.text("type")? {
        Some("InternalIP" | "ExternalIP") if address.is_none() => {
            Err(text.problem("is not an IP address"))
        }
        _ => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use serde_json::json;

    use super::*;
    use crate::fixture::{namespace_value, object};
    use crate::object::{Labels, Object};

    fn labels(value: &serde_json::Value) -> Option<Labels> {
        let Object::Namespace(namespace) = object(value) else {
            panic!("no namespace: {value}")
        };
        namespace.labels.clone()
    }

    #[test]
    fn a_namespace_always_carries_its_name_as_a_label_s25_s96() {
        let name = || (NAME_LABEL.to_owned(), "x".to_owned());
        assert_eq!(
            labels(&namespace_value("x", &json!(null))),
            Some(Labels::from([name()]))
        );
        let other = json!({NAME_LABEL: "y", "a": "b"});
        let expected = Labels::from([name(), ("a".to_owned(), "b".to_owned())]);
        assert_eq!(labels(&namespace_value("x", &other)), Some(expected));
    }

    #[test]
    fn labels_that_cannot_be_read_are_none() {
        assert_eq!(labels(&namespace_value("x", &json!({"a": true}))), None);
        let read = object(&namespace_value("x", &json!("a=b")));
        assert_eq!(
            read.problems().first().map(|p| p.field.as_str()),
            Some("metadata.labels")
        );
    }

    #[test]
    fn a_node_has_the_addresses_that_are_addresses_s86() {
        let read = object(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "2001:db8::1"},
                {"type": "Hostname", "address": "n.example"}, {"type": "InternalIP", "address": "n"}, {},
            ]},
        }));
        let Object::Node(node) = read else {
            panic!("a node")
        };
        assert_eq!(node.addresses.len(), 2);
        let fields: Vec<_> = node.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            ["status.addresses[3].address", "status.addresses[4].address"]
        );
    }
}
