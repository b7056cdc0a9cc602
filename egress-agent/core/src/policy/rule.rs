//! Reads the egress rules of a policy: peers and ports.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::parse::is_port_name;
use super::{Block, Gaps, NamespaceScope, Omitted, Peer, Peers, Port, Ports, Rule, selector};
use crate::cidr;
use crate::label::Selector;
use crate::object::Problem;
use crate::object::field::Field;

/// What the rules of one policy are read with.
pub(super) struct Rules<'a> {
    /// The policy's own namespace, that of a `podSelector` alone (S19).
    pub(super) namespace: &'a str,
    /// What could not be read.
    pub(super) problems: &'a mut Vec<Problem>,
    /// Where it leaves gaps.
    pub(super) omitted: &'a mut Omitted,
}

impl Rules<'_> {
    /// `egress`. A rule that cannot be read is left out: it matches nothing.
    pub(super) fn read(&mut self, list: &Field<'_, '_>) -> Result<Vec<Rule>, Problem> {
        let mut rules = Vec::new();
        for (index, item) in list.items()?.enumerate() {
            let rule = self.rule(&item);
            match self.keep(rule, "this rule matches nothing") {
                Some((rule, gaps)) => {
                    if !(gaps.0.is_empty() && gaps.1.is_empty()) {
                        self.omitted.entries.insert(rules.len(), gaps);
                    }
                    rules.push(rule);
                }
                None => self.omitted.rules.push(index),
            }
        }
        Ok(rules)
    }

    fn rule(&mut self, field: &Field<'_, '_>) -> Result<(Rule, (Gaps, Gaps)), Problem> {
        field.only(&["to", "ports"])?;
        let (to, peers) = self.entries(field, "to", "this peer matches nothing", Self::peer)?;
        let (ports, entries) =
            self.entries(field, "ports", "this entry is ignored", |_, field| {
                port(field)
            })?;
        let rule = Rule::new(
            to.map_or(Peers::Any, Peers::Only),
            ports.map_or(Ports::Any, Ports::Only),
        );
        Ok((rule, (peers, entries)))
    }

    /// The readable entries of a list, and the gaps in it. `None` when it is absent or empty, which are the same
    /// and match everything (S13, S81); a list of which nothing could be read is an empty
    /// `Some`, which matches nothing (S92, S93).
    fn entries<T>(
        &mut self,
        rule: &Field<'_, '_>,
        list: &str,
        otherwise: &str,
        read: impl Fn(&mut Self, &Field<'_, '_>) -> Result<T, Problem>,
    ) -> Result<(Option<Vec<T>>, Gaps), Problem> {
        let mut gaps = Gaps::default();
        let Some(list) = rule.get(list)? else {
            return Ok((None, gaps));
        };
        let mut found = None;
        for (index, item) in list.items()?.enumerate() {
            let entries = found.get_or_insert_with(Vec::new);
            let entry = read(self, &item);
            match self.keep(entry, otherwise) {
                Some(entry) => entries.push(entry),
                None => gaps.push(index),
            }
        }
        Ok((found, gaps))
    }

    fn keep<T>(&mut self, part: Result<T, Problem>, otherwise: &str) -> Option<T> {
        part.map_err(|problem| self.problems.push(problem.so(otherwise)))
            .ok()
    }

    fn peer(&mut self, field: &Field<'_, '_>) -> Result<Peer, Problem> {
        field.only(&["podSelector", "namespaceSelector", "ipBlock"])?;
        let pods = field.get("podSelector")?;
        let namespaces = field.get("namespaceSelector")?;
        let selector = |field: Option<Field<'_, '_>>| field.map(|f| selector::read(&f)).transpose();
        match (field.get("ipBlock")?, pods, namespaces) {
            (None, None, None) => Err(field.problem("has neither ipBlock nor a selector")),
            (Some(block), None, None) => block_of(&block).map(Peer::Block),
            (Some(_), _, _) => Err(field.problem("has both ipBlock and a selector")),
            (None, pods, None) => Ok(Peer::Pods {
                namespaces: NamespaceScope::Named(self.namespace.to_owned()),
                pods: selector(pods)?.unwrap_or_default(),
            }),
            // No podSelector is every pod of those namespaces (S20, S23).
            (None, pods, Some(namespaces)) => Ok(Peer::Pods {
                namespaces: NamespaceScope::Matching(selector::read(&namespaces)?),
                pods: selector(pods)?.unwrap_or_else(Selector::default),
            }),
        }
    }
}

/// `ipBlock`. An `except` that cannot be read spoils the block, because without it the block
/// would be wider than was meant (S93).
fn block_of(field: &Field<'_, '_>) -> Result<Block, Problem> {
    field.only(&["cidr", "except"])?;
    let net = network(&field.require("cidr")?)?;
    let mut except = BTreeSet::new();
    if let Some(list) = field.get("except")? {
        for item in list.items()? {
            except.insert(network(&item)?);
        }
    }
    Ok(Block { net, except })
}

fn network(field: &Field<'_, '_>) -> Result<IpNet, Problem> {
    let text = field.string()?;
    cidr::network(text).map_err(|error| field.problem(format!("{text:?} {error}")))
}

/// One entry of `ports` (S15, S16, S36, S45, S92).
fn port(field: &Field<'_, '_>) -> Result<Port, Problem> {
    field.only(&["protocol", "port", "endPort"])?;
    let protocol = field.protocol()?;
    let port = field.get("port")?;
    let end = field.get("endPort")?;
    match (port, end) {
        (None, None) => Ok(Port::Range {
            protocol,
            from: 0,
            to: u16::MAX,
        }),
        (None, Some(end)) => Err(end.problem("needs port")),
        (Some(name), None) if name.is_string() => match name.string()? {
            text if is_port_name(text) => Ok(Port::Named {
                protocol,
                name: text.to_owned(),
            }),
            text => Err(name.problem(format!("{text:?} is a text and not a port name"))),
        },
        (Some(name), Some(end)) if name.is_string() => {
            Err(end.problem("needs a port that is a number"))
        }
        (Some(from), None) => {
            let number = from.port()?;
            Ok(Port::Range {
                protocol,
                from: number,
                to: number,
            })
        }
        (Some(from), Some(end)) => match (from.port()?, end.port()?) {
            (from, to) if from <= to => Ok(Port::Range { protocol, from, to }),
            (from, to) => Err(end.problem(format!("{to} is below port {from}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;
    use crate::fixture::{policy, policy_value};
    use crate::policy::{Egress, Protocol};

    /// The rules of a policy, and the fields that could not be read.
    fn rules(egress: &Value) -> (Vec<Rule>, Vec<String>) {
        let spec = json!({"policyTypes": ["Egress"], "egress": egress});
        let read = policy(&policy_value("x/a", &spec));
        assert!(!read.unreadable, "{egress}: {:?}", read.problems);
        let Egress::Isolated(rules) = read.egress else {
            panic!("{egress}")
        };
        (
            rules,
            read.problems
                .into_iter()
                .map(|problem| problem.field)
                .collect(),
        )
    }

    fn to(to: &Value) -> (Peers, Vec<String>) {
        let (rules, fields) = rules(&json!([{"to": to}]));
        (rules.into_iter().next().unwrap().to, fields)
    }

    fn ports(ports: &Value) -> (Ports, Vec<String>) {
        let (rules, fields) = rules(&json!([{"ports": ports}]));
        (rules.into_iter().next().unwrap().ports, fields)
    }

    fn peer(value: &Value) -> Peer {
        match to(&json!([value])) {
            (Peers::Only(peers), fields) if fields.is_empty() => peers.into_iter().next().unwrap(),
            other => panic!("{value}: {other:?}"),
        }
    }

    fn port(value: &Value) -> Port {
        match ports(&json!([value])) {
            (Ports::Only(ports), fields) if fields.is_empty() => ports.into_iter().next().unwrap(),
            other => panic!("{value}: {other:?}"),
        }
    }

    fn selector(key: &str, value: &str) -> Selector {
        let mut selector = Selector::default();
        selector.require_label(key, value).unwrap();
        selector
    }

    fn block(net: &str, except: &[&str]) -> Peer {
        Peer::Block(Block {
            net: net.parse().unwrap(),
            except: except.iter().map(|net| net.parse().unwrap()).collect(),
        })
    }

    #[test]
    fn an_absent_or_empty_list_matches_everything_s11_s13_s81() {
        let everything = Rule::new(Peers::Any, Ports::Any);
        for rule in [
            json!({}),
            json!({"to": [], "ports": []}),
            json!({"to": null, "ports": null}),
        ] {
            assert_eq!(rules(&json!([rule])), (vec![everything.clone()], vec![]));
        }
    }

    #[test]
    fn peers_and_ports_stay_with_their_rule_s14() {
        let (rules, fields) = rules(&json!([
            {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]},
            {"to": [{"ipBlock": {"cidr": "11.0.0.0/8"}}, {"podSelector": {}}], "ports": [{"port": 81}, {"port": 82}]},
        ]));
        assert_eq!(fields, Vec::<String>::new());
        let [one, two] = &*rules else {
            panic!("{rules:?}")
        };
        assert_eq!(one.to, Peers::Only(vec![block("10.0.0.0/8", &[])]));
        let Peers::Only(peers) = &two.to else {
            panic!("{two:?}")
        };
        let Ports::Only(ports) = &two.ports else {
            panic!("{two:?}")
        };
        assert_eq!((peers.len(), ports.len()), (2, 2));
    }

    #[test]
    fn a_pod_selector_alone_is_of_the_own_namespace_s19_s22() {
        let own = NamespaceScope::Named("x".to_owned());
        let pods = selector("a", "b");
        assert_eq!(
            peer(&json!({"podSelector": {"matchLabels": {"a": "b"}}})),
            Peer::Pods {
                namespaces: own.clone(),
                pods
            }
        );
        assert_eq!(
            peer(&json!({"podSelector": {}})),
            Peer::Pods {
                namespaces: own,
                pods: Selector::default()
            }
        );
    }

    #[test]
    fn a_namespace_selector_alone_is_every_pod_there_s20_s23() {
        let namespaces = NamespaceScope::Matching(selector("a", "b"));
        assert_eq!(
            peer(&json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": null})),
            Peer::Pods {
                namespaces,
                pods: Selector::default()
            }
        );
        let all = NamespaceScope::Matching(Selector::default());
        assert_eq!(
            peer(&json!({"namespaceSelector": {}})),
            Peer::Pods {
                namespaces: all,
                pods: Selector::default()
            }
        );
    }

    #[test]
    fn both_selectors_of_one_entry_are_one_peer_s21() {
        let both = json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}});
        let namespaces = NamespaceScope::Matching(selector("a", "b"));
        assert_eq!(
            peer(&both),
            Peer::Pods {
                namespaces,
                pods: selector("c", "d")
            }
        );
    }

    #[test]
    fn blocks_are_masked_and_may_have_any_holes_s30_s32_s33_s93() {
        assert_eq!(
            peer(&json!({"ipBlock": {"cidr": "010.0.0.5/08"}})),
            block("10.0.0.0/8", &[])
        );
        let overlapping = json!({"cidr": "10.0.0.0/8", "except": ["10.1.2.0/24", "10.1.0.0/16", "11.0.0.0/8", "::/0"]});
        assert_eq!(
            peer(&json!({"ipBlock": overlapping})),
            block(
                "10.0.0.0/8",
                &["10.1.2.0/24", "10.1.0.0/16", "11.0.0.0/8", "::/0"]
            )
        );
        assert_eq!(
            peer(&json!({"ipBlock": {"cidr": "::/0", "except": []}})),
            block("::/0", &[])
        );
    }

    #[test]
    fn a_peer_that_cannot_be_read_matches_nothing_s34_s79_s82_s91_s93() {
        for (value, field) in [
            (json!({}), "spec.egress[0].to[1]"),
            (json!(null), "spec.egress[0].to[1]"),
            (json!("pods"), "spec.egress[0].to[1]"),
            (
                json!({"serviceSelector": {}}),
                "spec.egress[0].to[1].serviceSelector",
            ),
            (
                json!({"podSelector": {}, "service": {}}),
                "spec.egress[0].to[1].service",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
                "spec.egress[0].to[1]",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}}),
                "spec.egress[0].to[1]",
            ),
            (json!({"ipBlock": {}}), "spec.egress[0].to[1].ipBlock.cidr"),
            (
                json!({"ipBlock": {"cidr": ""}}),
                "spec.egress[0].to[1].ipBlock.cidr",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0"}}),
                "spec.egress[0].to[1].ipBlock.cidr",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "expect": []}}),
                "spec.egress[0].to[1].ipBlock.expect",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}),
                "spec.egress[0].to[1].ipBlock.except[0]",
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}}),
                "spec.egress[0].to[1].ipBlock.except",
            ),
            (
                json!({"podSelector": {"matchLabels": {"a": "no no"}}}),
                "spec.egress[0].to[1].podSelector.matchLabels.a",
            ),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}),
                "spec.egress[0].to[1].namespaceSelector.matchExpressions[0]",
            ),
        ] {
            let (peers, fields) = to(&json!([{"ipBlock": {"cidr": "1.0.0.0/8"}}, value]));
            assert_eq!(
                peers,
                Peers::Only(vec![block("1.0.0.0/8", &[])]),
                "the other stays: {value}"
            );
            assert_eq!(fields, [field]);
            let alone = to(&json!([value])).0;
            assert_eq!(alone, Peers::Only(vec![]), "nobody, not anybody: {value}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_read_matches_nothing() {
        for (rule, field) in [
            (json!(null), "spec.egress[1]"),
            (json!([]), "spec.egress[1]"),
            (json!({"action": "Deny"}), "spec.egress[1].action"),
            (json!({"from": []}), "spec.egress[1].from"),
            (json!({"to": {}}), "spec.egress[1].to"),
            (json!({"to": "any"}), "spec.egress[1].to"),
            (json!({"ports": 80}), "spec.egress[1].ports"),
        ] {
            let (rules, fields) = rules(&json!([{}, rule]));
            assert_eq!(rules.len(), 1, "{rule}");
            assert_eq!(fields, [field]);
        }
    }

    #[test]
    fn an_entry_without_a_port_is_every_port_of_its_protocol_s15_s16() {
        let all = |protocol| Port::Range {
            protocol,
            from: 0,
            to: 65535,
        };
        assert_eq!(port(&json!({})), all(Protocol::Tcp));
        assert_eq!(
            port(&json!({"protocol": null, "port": null})),
            all(Protocol::Tcp)
        );
        assert_eq!(port(&json!({"protocol": "UDP"})), all(Protocol::Udp));
        assert_eq!(port(&json!({"protocol": "SCTP"})), all(Protocol::Sctp));
    }

    #[test]
    fn numbers_ranges_and_names_s36_s37() {
        let range = |from, to| Port::Range {
            protocol: Protocol::Tcp,
            from,
            to,
        };
        assert_eq!(port(&json!({"port": 80})), range(80, 80));
        assert_eq!(port(&json!({"port": 80, "endPort": 80})), range(80, 80));
        assert_eq!(port(&json!({"port": 1, "endPort": 65535})), range(1, 65535));
        let name = "dns".to_owned();
        assert_eq!(
            port(&json!({"protocol": "UDP", "port": "dns"})),
            Port::Named {
                protocol: Protocol::Udp,
                name
            }
        );
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_ignored_and_never_everything_s45_s79_s92() {
        for (value, field) in [
            (json!(null), "spec.egress[0].ports[1]"),
            (json!(80), "spec.egress[0].ports[1]"),
            (
                json!({"protocol": "tcp"}),
                "spec.egress[0].ports[1].protocol",
            ),
            (json!({"protocol": ""}), "spec.egress[0].ports[1].protocol"),
            (
                json!({"protocol": "ICMP"}),
                "spec.egress[0].ports[1].protocol",
            ),
            (json!({"protocol": 6}), "spec.egress[0].ports[1].protocol"),
            (json!({"port": 0}), "spec.egress[0].ports[1].port"),
            (json!({"port": -1}), "spec.egress[0].ports[1].port"),
            (json!({"port": 65536}), "spec.egress[0].ports[1].port"),
            (
                json!({"port": 18_446_744_073_709_551_615_u64}),
                "spec.egress[0].ports[1].port",
            ),
            (json!({"port": 80.5}), "spec.egress[0].ports[1].port"),
            (json!({"port": [80]}), "spec.egress[0].ports[1].port"),
            (json!({"port": "80"}), "spec.egress[0].ports[1].port"),
            (json!({"port": ""}), "spec.egress[0].ports[1].port"),
            (json!({"endPort": 80}), "spec.egress[0].ports[1].endPort"),
            (
                json!({"port": "web", "endPort": 80}),
                "spec.egress[0].ports[1].endPort",
            ),
            (
                json!({"port": 80, "endPort": 79}),
                "spec.egress[0].ports[1].endPort",
            ),
            (
                json!({"port": 80, "endPort": 65536}),
                "spec.egress[0].ports[1].endPort",
            ),
            (
                json!({"port": 80, "endPort": "90"}),
                "spec.egress[0].ports[1].endPort",
            ),
            (
                json!({"port": 80, "portEnd": 90}),
                "spec.egress[0].ports[1].portEnd",
            ),
        ] {
            let (found, fields) = ports(&json!([{"port": 443}, value]));
            let https = Port::Range {
                protocol: Protocol::Tcp,
                from: 443,
                to: 443,
            };
            assert_eq!(found, Ports::Only(vec![https]), "the other stays: {value}");
            assert_eq!(fields, [field]);
            assert_eq!(
                ports(&json!([value])).0,
                Ports::Only(vec![]),
                "nothing, not everything: {value}"
            );
        }
    }

    #[test]
    fn port_names_are_those_the_api_accepts_s79() {
        for good in ["http", "a", "8a", "serve-81-udp", "abcdefghijklmno"] {
            assert!(is_port_name(good), "{good}");
        }
        for bad in [
            "",
            "80",
            "-a",
            "a-",
            "a--b",
            "HTTP",
            "a_b",
            "abcdefghijklmnop",
            "ü",
        ] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }
}
