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
