//! Reads a `NetworkPolicy`. Every unit that cannot be read closes alone: an entry of
//! `ports`, a peer, a rule, else the whole policy.
//!
//! Unknown fields count as unreadable inside `spec`: whoever drops a field that narrows a
//! policy widens it (S80).

use super::rule::Rules;
use super::{Egress, Omitted, Policy, Subject, SubjectNamespace, selector, unreadable};
use crate::object::field::Field;
use crate::object::{Name, Problem, metadata};

/// Stands for a name or a namespace that cannot be read; no object can be called so.
const UNKNOWN: &str = "<unknown>";

/// Reads a policy whose `apiVersion` was looked at before.
pub(crate) fn read(root: &Field<'_, '_>, version: Result<(), Problem>) -> Policy {
    let mut problems = Vec::new();
    let mut whole = Vec::new();
    let unknown = root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    problems.extend(unknown.err().map(|problem| problem.so("it is ignored")));
    let (name, place) = name(root, &mut whole);
    let subject = subject(root, place).unwrap_or_else(|problem| {
        whole.push(problem.so("the policy may select every pod of its namespace"));
        Subject::every_pod(place)
    });
    let mut omitted = Omitted::default();
    let egress = version.and_then(|()| egress(root, &name.namespace, &mut problems, &mut omitted));
    let egress = match egress {
        Ok(Egress::NotMentioned) => {
            // Whatever it is called and whomever it selects, a policy that is readably about
            // ingress alone isolates nobody for egress (S2).
            problems.append(&mut whole);
            Some(Egress::NotMentioned)
        }
        Ok(egress @ Egress::Isolated(_)) => whole.is_empty().then_some(egress),
        Err(problem) => {
            whole.push(problem);
            None
        }
    };
    let Some(egress) = egress else {
        let consequence = "the policy isolates and allows nothing";
        problems.extend(whole.into_iter().map(|problem| problem.so(consequence)));
        return unreadable(name, subject, problems);
    };
    Policy {
        name,
        subject,
        egress,
        problems,
        omitted,
        unreadable: false,
    }
}

/// A container port's name: 1–15 of `[a-z0-9-]`, a letter among them, hyphens only inside
/// and never two together (S79).
pub(crate) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// A policy closes even when nobody can say what it is called.
fn name(root: &Field<'_, '_>, closing: &mut Vec<Problem>) -> (Name, SubjectNamespace) {
    let mut place = SubjectNamespace::Own;
    let namespace = metadata::namespace(root).unwrap_or_else(|problem| {
        closing.push(problem.so("the policy may be of any namespace"));
        place = SubjectNamespace::Unknown;
        UNKNOWN.to_owned()
    });
    let name = metadata::name(root).unwrap_or_else(|problem| {
        closing.push(problem);
        UNKNOWN.to_owned()
    });
    (Name::new(namespace, name), place)
}

/// `podSelector`, everything when absent (S7).
fn subject(root: &Field<'_, '_>, namespace: SubjectNamespace) -> Result<Subject, Problem> {
    let Some(spec) = root.get("spec")? else {
        return Ok(Subject::every_pod(namespace));
    };
    let selector = spec
        .get("podSelector")?
        .map(|field| selector::read(&field))
        .transpose()?;
    Ok(Subject {
        namespace,
        pods: [selector.unwrap_or_default()].into(),
    })
}

fn egress(
    root: &Field<'_, '_>,
    namespace: &str,
    problems: &mut Vec<Problem>,
    omitted: &mut Omitted,
) -> Result<Egress, Problem> {
    let Some(spec) = root.get("spec")? else {
        // Every field of it is optional, and the defaults do not mention egress (S3).
        return Ok(Egress::NotMentioned);
    };
    let types = policy_types(&spec)?;
    let unknown = spec.only(&["podSelector", "policyTypes", "ingress", "egress"]);
    let rules = match (types, spec.get("egress")?) {
        (PolicyTypes::Stated { egress: false }, _) => {
            // Rules may be there all the same, and mean nothing (S5), like any other field.
            problems.extend(unknown.err().map(|problem| problem.so("it is ignored")));
            return Ok(Egress::NotMentioned);
        }
        (PolicyTypes::Stated { egress: true }, rules) => rules,
        // The default: whether there are rules (S3).
        (PolicyTypes::Absent, rules) => {
            let any = rules
                .map(|list| Ok(list.items()?.next().is_some()))
                .transpose()?;
            if any != Some(true) {
                return unknown.map(|()| Egress::NotMentioned);
            }
            rules
        }
    };
    unknown?;
    let rules = rules.map(|list| {
        Rules {
            namespace,
            problems,
            omitted,
        }
        .read(&list)
    });
    Ok(Egress::Isolated(rules.transpose()?.unwrap_or_default()))
}

enum PolicyTypes {
    /// Absent or empty (S3, S81).
    Absent,
    Stated {
        egress: bool,
    },
}

fn policy_types(spec: &Field<'_, '_>) -> Result<PolicyTypes, Problem> {
    let mut found = PolicyTypes::Absent;
    let Some(list) = spec.get("policyTypes")? else {
        return Ok(found);
    };
    for item in list.items()? {
        let before = matches!(found, PolicyTypes::Stated { egress: true });
        // One type may stand there twice (S6).
        found = match item.string()? {
            "Egress" => PolicyTypes::Stated { egress: true },
            "Ingress" => PolicyTypes::Stated { egress: before },
            other => return Err(item.problem(format!("{other:?} is neither Ingress nor Egress"))),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{policy, policy_value, with};
    use crate::label::Selector;
    use crate::policy::{Peers, Ports, Rule};

    fn egress(spec: &Value) -> Egress {
        let read = policy(&policy_value("x/a", spec));
        assert_eq!(read.problems, [], "{spec}");
        read.egress
    }

    fn rules(spec: &Value) -> Option<usize> {
        match egress(spec) {
            Egress::NotMentioned => None,
            Egress::Isolated(rules) => Some(rules.len()),
        }
    }

    /// It isolates and allows nothing; the fields that are named.
    fn closed(value: &Value) -> (Subject, Vec<String>) {
        let read = policy(value);
        assert!(read.unreadable, "{value}");
        assert_eq!(read.egress, Egress::Isolated(Vec::new()), "{value}");
        (
            read.subject,
            read.problems.into_iter().map(|p| p.field).collect(),
        )
    }

    #[test]
    fn absent_policy_types_mention_egress_only_with_rules_s3() {
        assert_eq!(rules(&json!({})), None);
        assert_eq!(rules(&json!({"policyTypes": []})), None);
        assert_eq!(rules(&json!({"egress": []})), None);
        assert_eq!(rules(&json!({"policyTypes": null, "egress": null})), None);
        assert_eq!(rules(&json!({"egress": [{}]})), Some(1));
        assert_eq!(rules(&json!({"policyTypes": [], "egress": [{}]})), Some(1));
        assert_eq!(rules(&json!({"ingress": [{}]})), None);
    }

    #[test]
    fn egress_without_rules_isolates_s4_s81() {
        assert_eq!(rules(&json!({"policyTypes": ["Egress"]})), Some(0));
        assert_eq!(
            rules(&json!({"policyTypes": ["Egress"], "egress": []})),
            Some(0)
        );
        assert_eq!(
            rules(&json!({"policyTypes": ["Ingress", "Egress"], "egress": null})),
            Some(0)
        );
    }

    #[test]
    fn rules_of_an_ingress_policy_have_no_effect_s5() {
        assert_eq!(
            rules(&json!({"policyTypes": ["Ingress"], "egress": [{}]})),
            None
        );
    }

    #[test]
    fn a_type_may_stand_there_twice_s6() {
        assert_eq!(
            rules(&json!({"policyTypes": ["Egress", "Egress"]})),
            Some(0)
        );
        assert_eq!(
            rules(&json!({"policyTypes": ["Egress", "Ingress"]})),
            Some(0)
        );
    }

    #[test]
    fn a_policy_without_a_spec_does_not_mention_egress_s3() {
        let value = policy_value("x/a", &Value::Null);
        let read = policy(&value);
        assert_eq!(
            (read.egress, read.unreadable),
            (Egress::NotMentioned, false)
        );
    }

    #[test]
    fn an_absent_pod_selector_selects_every_pod_s7() {
        let all = Subject::own(Selector::default());
        for spec in [
            json!({}),
            json!({"podSelector": {}}),
            json!({"podSelector": null}),
        ] {
            assert_eq!(policy(&policy_value("x/a", &spec)).subject, all);
        }
    }

    #[test]
    fn an_unknown_policy_type_closes() {
        for types in [
            json!(["Egres"]),
            json!(["egress"]),
            json!([null]),
            json!(["Ingress", 1]),
            json!("Egress"),
        ] {
            let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": types, "egress": [{}]});
            let (subject, fields) = closed(&policy_value("x/a", &spec));
            assert_ne!(
                subject,
                Subject::every_pod(SubjectNamespace::Own),
                "only what it selects"
            );
            assert!(
                fields
                    .iter()
                    .all(|field| field.starts_with("spec.policyTypes")),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn an_unknown_field_of_the_spec_closes_s80() {
        let spec =
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}], "egressDeny": []});
        assert_eq!(closed(&policy_value("x/a", &spec)).1, ["spec.egressDeny"]);
        let spec = json!({"policytypes": ["Egress"]});
        assert_eq!(closed(&policy_value("x/a", &spec)).1, ["spec.policytypes"]);
    }

    #[test]
    fn other_unknown_fields_are_noted_only() {
        let value = policy_value("x/a", &json!({"egress": [{}]}));
        let read = policy(&with(value.clone(), "/stauts", json!({})));
        assert!(!read.unreadable);
        assert_eq!(read.problems.len(), 1);
        let status = policy(&with(value.clone(), "/status", json!({"conditions": []})));
        assert_eq!(status.problems, [], "S83");
        assert_eq!(
            policy(&with(value, "/metadata/managedFields", json!([1]))).problems,
            []
        );
    }

    #[test]
    fn a_wrong_type_closes() {
        for (spec, field) in [
            (json!("text"), "spec"),
            (json!([]), "spec"),
            (json!({"egress": {}}), "spec.egress"),
            (
                json!({"egress": "all", "policyTypes": ["Egress"]}),
                "spec.egress",
            ),
        ] {
            let fields = closed(&policy_value("x/a", &spec)).1;
            assert!(fields.iter().all(|named| named == field), "{fields:?}");
        }
    }

    #[test]
    fn a_pod_selector_that_does_not_compile_isolates_the_namespace_s82_s91() {
        for selector in [
            json!("all"),
            json!({"matchlabels": {"a": "b"}}),
            json!({"matchLabels": {"a": "not ok"}}),
            json!({"matchLabels": {"a": 1}}),
            json!({"matchLabels": ["a"]}),
            json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "Exists", "value": []}]}),
            json!({"matchExpressions": {}}),
        ] {
            let spec = json!({"podSelector": selector, "egress": [{}]});
            let (subject, fields) = closed(&policy_value("x/a", &spec));
            assert_eq!(
                subject,
                Subject::every_pod(SubjectNamespace::Own),
                "{selector}"
            );
            assert!(
                fields
                    .iter()
                    .all(|field| field.starts_with("spec.podSelector")),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn a_policy_that_is_readably_about_ingress_alone_isolates_nobody_s2() {
        let ingress = json!({"policyTypes": ["Ingress"]});
        let bad_selector = json!({"matchLabels": {"a": "not ok"}});
        let value = policy_value("x/a", &ingress);
        for (pointer, wrong) in [
            ("/spec/podSelector", bad_selector),
            ("/spec/newer", json!({})),
            ("/metadata/namespace", json!(5)),
            ("/metadata/name", json!(5)),
        ] {
            let read = policy(&with(value.clone(), pointer, wrong));
            assert_eq!(read.egress, Egress::NotMentioned, "{pointer}");
            assert_eq!((read.problems.len(), read.unreadable), (1, false));
        }
        let read = policy(&with(value, "/spec/egress", json!("text")));
        assert_eq!(
            (read.egress, read.problems.len()),
            (Egress::NotMentioned, 0),
            "S5"
        );
    }

    #[test]
    fn a_policy_without_a_name_closes() {
        let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "egress": [{}]});
        for name in [Value::Null, json!(""), json!(5)] {
            let value = with(policy_value("x/a", &spec), "/metadata/name", name);
            let (subject, fields) = closed(&value);
            assert_eq!(subject.namespace, SubjectNamespace::Own);
            assert_eq!(fields, ["metadata.name"]);
            assert_eq!(policy(&value).name, Name::new("x", UNKNOWN));
        }
    }

    #[test]
    fn a_policy_without_a_readable_namespace_closes_everywhere() {
        let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "egress": [{}]});
        let value = policy_value("x/a", &spec);
        let (subject, fields) = closed(&with(value.clone(), "/metadata/namespace", json!(["x"])));
        assert_eq!(subject.namespace, SubjectNamespace::Unknown);
        assert_ne!(
            subject,
            Subject::every_pod(SubjectNamespace::Unknown),
            "only what it selects"
        );
        assert_eq!(fields, ["metadata.namespace"]);
        let (subject, _) = closed(&with(value, "/metadata", json!("x/a")));
        assert_eq!(subject.namespace, SubjectNamespace::Unknown);
    }

    #[test]
    fn a_policy_without_a_namespace_is_of_default_s96() {
        let value = with(
            policy_value("x/a", &json!({})),
            "/metadata/namespace",
            Value::Null,
        );
        assert_eq!(policy(&value).name, Name::new("default", "a"));
    }

    /// The JSON pointers of a value and of all below it.
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    pointers(value, &format!("{at}/{key}"), found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    pointers(value, &format!("{at}/{index}"), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Whether each rule of `some` is one of `all`, perhaps narrower.
    fn narrower(some: &Egress, all: &Egress) -> bool {
        let (Egress::Isolated(some), Egress::Isolated(all)) = (some, all) else {
            return false;
        };
        let peers = |some: &Peers, all: &Peers| match (some, all) {
            (_, Peers::Any) => true,
            (Peers::Any, Peers::Only(_)) => false,
            (Peers::Only(some), Peers::Only(all)) => some.iter().all(|peer| all.contains(peer)),
        };
        let ports = |some: &Ports, all: &Ports| match (some, all) {
            (_, Ports::Any) => true,
            (Ports::Any, Ports::Only(_)) => false,
            (Ports::Only(some), Ports::Only(all)) => some.iter().all(|port| all.contains(port)),
        };
        let rule =
            |some: &Rule, all: &Rule| peers(&some.to, &all.to) && ports(&some.ports, &all.ports);
        some.iter()
            .all(|some| all.iter().any(|all| rule(some, all)))
    }

    #[test]
    fn no_part_that_cannot_be_read_opens_anything() {
        let spec = json!({
            "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d"]},
            ]},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [
                {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}]},
                {"ports": [{"protocol": "UDP", "port": 53, "endPort": 54}, {"protocol": "SCTP"}, {"port": "web"}]},
                {
                    "to": [
                        {"podSelector": {"matchLabels": {"a": "b"}}},
                        {"namespaceSelector": {"matchExpressions": [
                            {"key": "c", "operator": "NotIn", "values": ["d", "e"]},
                            {"key": "f", "operator": "Exists"},
                        ]}, "podSelector": {"matchLabels": {"g": "h"}}},
                    ],
                    "ports": [{"port": 80}],
                },
            ],
        });
        let value = policy_value("x/a", &spec);
        let whole = policy(&value).egress;
        let mut places = Vec::new();
        pointers(&value, "", &mut places);
        places.retain(|place| !place.is_empty() && place != "/kind");
        assert!(places.len() > 50, "{places:?}");
        for place in places {
            // A number that is nothing anywhere, and a text that is a name at most.
            for garbage in [json!(-7.5), json!("no name!")] {
                let mut broken = value.clone();
                if let Some(part) = broken.pointer_mut(&place) {
                    *part = garbage.clone();
                }
                // Any text may be a name, and another API group is another kind (S96).
                let free = place.starts_with("/metadata/") || place == "/apiVersion";
                if free && garbage.is_string() {
                    continue;
                }
                let read = policy(&broken);
                assert!(
                    narrower(&read.egress, &whole),
                    "{place} {garbage}: {:?}",
                    read.egress
                );
                assert!(!read.problems.is_empty(), "{place} {garbage}");
            }
        }
    }
}
