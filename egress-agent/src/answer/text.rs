//! An answer for people: the verdict and what to look at first, then every step.

use egress_common::event::Reason;

use super::{
    Answer, Backend, Destination, EntryStep, FlowEntry, Live, Lookup, PartStep, PolicyEffect,
    PolicySteps, PortsEntry, RuleSteps, Selected, Sender, ServiceSteps, Steps, Verdict, Way,
};
use crate::terminal::{Colour, Tone, columns, line, toned, wrapped};

/// Policies that do not isolate the pod and are listed, where that is all there is to say.
const BYSTANDERS: usize = 8;

/// Columns that names are padded to at most.
const NAME: usize = 32;

/// Open flows that are listed.
const FLOWS: usize = 3;

/// The verdict first, then what led to it; `from` and `to` as they were asked.
pub fn render(from: &str, to: &str, answer: &Answer, colour: Colour) -> String {
    let Answer {
        schema: _,
        verdict,
        reason,
        isolated_by,
        allowed_by,
        addresses,
        steps,
        live,
        drift,
    } = answer;
    let mut out = String::new();
    let head = format!("{}: ", tinted(*verdict, colour));
    // Escape codes take no columns.
    let mut first = String::new();
    wrapped(
        &mut first,
        &format!("{}: ", verdict.name()),
        &format!("{} ({reason})", why(from, to, reason)),
    );
    out.push_str(&first.replacen(&format!("{}: ", verdict.name()), &head, 1));
    if !isolated_by.is_empty() {
        wrapped(&mut out, "  isolated by ", &isolated_by.join(", "));
    }
    if !allowed_by.is_empty() {
        wrapped(&mut out, "  allowed by ", &allowed_by.join(", "));
    }
    for address in addresses {
        line(
            &mut out,
            &format!("  {}: {}", address.address, tinted(address.verdict, colour)),
        );
    }
    if *verdict == Verdict::Deny
        && let Some((policy, rule)) = steps.as_ref().and_then(nearest)
    {
        wrapped(&mut out, "  nearest ", &near(policy, rule));
    }
    for difference in drift {
        wrapped(&mut out, "  drift ", difference);
    }
    if let Some(steps) = steps {
        of_steps(&mut out, steps, colour);
    }
    for live in live {
        of_live(&mut out, live, colour);
    }
    out.truncate(out.trim_end().len());
    out
}

fn tinted(verdict: Verdict, colour: Colour) -> String {
    colour.paint(tone(verdict), verdict.name())
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Allow => Tone::Good,
        Verdict::Deny => Tone::Bad,
    }
}

/// A sentence for the reason.
fn why(from: &str, to: &str, reason: &str) -> String {
    match Reason::ALL.into_iter().find(|r| r.name() == reason) {
        Some(Reason::NotIsolated) => format!("no policy isolates {from}"),
        Some(Reason::Allowed) => format!("{from} may send to {to}"),
        Some(Reason::OwnAddress) => format!("{to} is {from}'s own address"),
        Some(Reason::NoRule) => format!("{from} is isolated, and no rule allows {to}"),
        Some(Reason::Frontend) => {
            format!("{from} is isolated, and not every endpoint behind {to} is allowed")
        }
        Some(Reason::NoEndpoint) => {
            format!("the tables do not know {from}: nothing it sends is held back")
        }
        Some(
            Reason::Established
            | Reason::Reply
            | Reason::Related
            | Reason::Neighbour
            | Reason::Spoofed
            | Reason::NotIp
            | Reason::Malformed
            | Reason::ExtensionHeaders
            | Reason::SourceRoute
            | Reason::Fragment,
        ) => format!("{from} to {to}"),
        None => match reason {
            "host-network" => format!("{from} is on the host network, not enforced"),
            "finished" => format!("{from} has finished, not enforced"),
            _ => format!("{from} to {to}"),
        },
    }
}

/// The rule that one would change: the nearest of those that fail, at the first address that is
/// denied.
fn nearest(steps: &Steps) -> Option<(&PolicySteps, &RuleSteps)> {
    let denied = steps
        .destinations
        .iter()
        .find(|destination| destination.verdict == Verdict::Deny)?;
    let behind = denied.service.iter().flat_map(|service| &service.endpoints);
    let policies = behind
        .filter(|endpoint| endpoint.verdict == Verdict::Deny)
        .map(|endpoint| &endpoint.policies)
        .next()
        .unwrap_or(&denied.policies);
    policies
        .iter()
        .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
        .filter(|(_, rule)| rule.to.matches || meant(&rule.to) || rule.ports.matches)
        .filter(|(_, rule)| first_failure(&rule.to) != Some("family"))
        .min_by_key(|(_, rule)| {
            (
                u8::from(!rule.to.matches) + u8::from(!rule.ports.matches),
                !rule.to.matches,
            )
        })
}

/// A peer that means the address, but for a detail.
fn meant(part: &PartStep) -> bool {
    matches!(
        first_failure(part),
        Some("except" | "pod-labels" | "namespace-unknown" | "namespace-unreadable")
    )
}

fn first_failure(part: &PartStep) -> Option<&str> {
    part.entries.first()?.failed.as_deref()
}

fn near(policy: &PolicySteps, rule: &RuleSteps) -> String {
    let part = |name: &str, part: &PartStep| match (part.matches, part.entries.first()) {
        (true, _) => format!("{name} matches"),
        (false, Some(entry)) => format!("{name} does not match: {}", of_entry(entry)),
        (false, None) => format!("nothing of {name} can be read"),
    };
    format!(
        "{} egress[{}]: {}; {}",
        policy.policy,
        rule.index,
        part("to", &rule.to),
        part("ports", &rule.ports)
    )
}

fn of_entry(entry: &EntryStep) -> String {
    match &entry.because {
        Some(because) => format!("{}: {because}", entry.text),
        None => entry.text.clone(),
    }
}

fn of_steps(out: &mut String, steps: &Steps, colour: Colour) {
    let Steps {
        sender,
        destinations,
    } = steps;
    of_sender(out, sender, colour);
    for destination in destinations {
        of_destination(out, destination, colour);
    }
}

fn of_sender(out: &mut String, sender: &Sender, colour: Colour) {
    let Sender {
        pod,
        node,
        state: _,
        policies,
    } = sender;
    let place = if node.is_empty() {
        String::new()
    } else {
        format!(" on node {node}")
    };
    out.push('\n');
    let title = format!("SENDER {pod}{place}");
    toned(out, colour, 0, &[(Some(Tone::Heading), title.as_str())]);
    let isolating = policies
        .iter()
        .any(|policy| !matches!(policy.effect, PolicyEffect::NotSelected));
    let width = policies
        .iter()
        .map(|policy| columns(&policy.policy))
        .max()
        .unwrap_or_default()
        .min(NAME);
    let mut shown = 0_usize;
    let mut hidden = 0_usize;
    for policy in policies {
        let bystander = policy.effect == PolicyEffect::NotSelected;
        if bystander && (isolating || shown >= BYSTANDERS) {
            hidden += 1;
            continue;
        }
        shown += 1;
        let start = format!("  {:width$}  ", policy.policy);
        wrapped(out, &start, &of_selected(policy));
    }
    if hidden > 0 {
        let others = match hidden {
            1 => "1 other policy of the namespace does".to_owned(),
            more => format!("{more} other policies of the namespace do"),
        };
        line(out, &format!("  {others} not select it"));
    } else if policies.is_empty() {
        line(out, "  its namespace has no policy");
    }
}

fn of_selected(policy: &Selected) -> String {
    let by = if policy.selector.is_empty() {
        "it selects every pod of the namespace".to_owned()
    } else {
        format!("its podSelector {} matches", policy.selector)
    };
    match policy.effect {
        PolicyEffect::Isolates if policy.unreadable => {
            format!("isolates it and allows nothing, because it cannot be read: {by}")
        }
        PolicyEffect::Isolates => format!("isolates it: {by}"),
        PolicyEffect::MayIsolate => "may isolate it: the pod cannot be read".to_owned(),
        PolicyEffect::IngressOnly => {
            format!("does not isolate it: {by}, but its policyTypes do not name Egress")
        }
        PolicyEffect::NotSelected => {
            format!(
                "does not select it: the pod does not have {}",
                policy.selector
            )
        }
    }
}

fn of_destination(out: &mut String, destination: &Destination, colour: Colour) {
    let Destination {
        address,
        verdict,
        reason,
        owner,
        way,
        policies,
        service,
    } = destination;
    // The address of a Service is nobody's: neither a pod's nor a node's.
    let owner = match service {
        Some(service) => format!("Service {}", service.name),
        None => owner.clone(),
    };
    out.push('\n');
    let title = format!("TO {address}, {owner}:");
    let why = format!("({reason})");
    let spans = [
        (Some(Tone::Heading), title.as_str()),
        (Some(tone(*verdict)), verdict.name()),
        (None, why.as_str()),
    ];
    toned(out, colour, 0, &spans);
    match way {
        Way::NotIsolated => line(out, "  no policy isolates the sender"),
        Way::Closed => line(out, "  the sender cannot be read, and may send nothing"),
        Way::OwnAddress => line(out, "  the sender's own address is always allowed"),
        Way::OwnNode => line(out, "  the own node is always allowed (--allow-own-node)"),
        Way::Rules => of_policies(out, policies, 2, colour),
        Way::Service => {
            if let Some(service) = service {
                of_service(out, service, colour);
            }
        }
    }
}

fn of_service(out: &mut String, service: &ServiceSteps, colour: Colour) {
    let ServiceSteps {
        name,
        port,
        closed,
        allowed,
        denied,
        endpoints,
        more_endpoints,
    } = service;
    let sum = match closed {
        Some(why) => format!("denied: {why}"),
        None => format!("endpoints allowed {allowed}, denied {denied}"),
    };
    wrapped(out, &format!("  Service {name} port {port}: "), &sum);
    for endpoint in endpoints {
        let Backend {
            address,
            port,
            owner,
            verdict,
            own,
            policies,
        } = endpoint;
        let note = if *own {
            "(the sender itself, always allowed)"
        } else {
            ""
        };
        let what = format!("{address} port {port}, {owner}:");
        let spans = [
            (None, what.as_str()),
            (Some(tone(*verdict)), verdict.name()),
            (None, note),
        ];
        toned(out, colour, 2, &spans);
        if *verdict == Verdict::Deny {
            of_policies(out, policies, 4, colour);
        }
    }
    if *more_endpoints > 0 {
        line(out, &format!("  and {more_endpoints} more endpoints"));
    }
}

fn of_policies(out: &mut String, policies: &[PolicySteps], indent: usize, colour: Colour) {
    let blank = " ".repeat(indent);
    for policy in policies {
        let PolicySteps {
            policy,
            allows,
            rules,
            more_rules,
            unreadable,
        } = policy;
        let sum = if *allows {
            (Some(Tone::Good), "allows it")
        } else if rules.is_empty() && unreadable.is_empty() {
            (None, "has no rules: allows nothing")
        } else {
            (None, "does not allow it")
        };
        toned(out, colour, indent, &[(None, policy.as_str()), sum]);
        for rule in rules {
            of_rule(out, rule, indent + 2, colour);
        }
        if *more_rules > 0 {
            line(
                out,
                &format!("{blank}  and {more_rules} more rules, none nearer"),
            );
        }
        for part in unreadable {
            wrapped(out, &format!("{blank}  unreadable "), part);
        }
    }
}

fn of_rule(out: &mut String, rule: &RuleSteps, indent: usize, colour: Colour) {
    let RuleSteps {
        index,
        allows,
        to,
        ports,
        unreadable,
    } = rule;
    let blank = " ".repeat(indent);
    let mark = if *allows {
        colour.paint(Tone::Good, " allows it")
    } else {
        String::new()
    };
    line(out, &format!("{blank}egress[{index}]{mark}"));
    of_part(out, "to   ", to, indent + 2);
    of_part(out, "ports", ports, indent + 2);
    for part in unreadable {
        wrapped(out, &format!("{blank}  unreadable "), part);
    }
}

/// What matches, or else the nearest entries and how they fail.
fn of_part(out: &mut String, name: &str, part: &PartStep, indent: usize) {
    let PartStep {
        matches,
        any,
        entries,
        more_entries,
    } = part;
    let start = format!(
        "{}{name} {} ",
        " ".repeat(indent),
        if *matches { "yes" } else { "no " }
    );
    if *any {
        line(out, &format!("{start}anything"));
    } else if entries.is_empty() {
        line(out, &format!("{start}none of its entries can be read"));
    } else {
        let shown = if *matches { 1 } else { entries.len() };
        let mut blank = start;
        for entry in entries.iter().take(shown) {
            wrapped(
                out,
                &blank,
                &format!("[{}] {}", entry.index, of_entry(entry)),
            );
            blank = " ".repeat(indent + name.len() + 5);
        }
        if !matches && *more_entries > 0 {
            line(out, &format!("{blank}and {more_entries} more, none nearer"));
        }
    }
}

fn of_live(out: &mut String, live: &Live, colour: Colour) {
    let Live {
        interface,
        endpoint,
        lookups,
    } = live;
    let title = format!("KERNEL TABLES at {interface}:");
    let (tone, state) = match endpoint {
        None => (Some(Tone::Bad), "no endpoint, everything passes".to_owned()),
        Some(endpoint) => {
            let rules = match (endpoint.isolated, endpoint.ruleset) {
                (false, _) => "not isolated".to_owned(),
                (true, 0) => "isolated, nothing is allowed".to_owned(),
                (true, id) => format!("isolated by ruleset {id}"),
            };
            let state = format!(
                "endpoint {}, {rules}, generation {}",
                endpoint.slot, endpoint.generation
            );
            (None, state)
        }
    };
    out.push('\n');
    toned(
        out,
        colour,
        0,
        &[
            (Some(Tone::Heading), title.as_str()),
            (tone, state.as_str()),
        ],
    );
    for lookup in lookups {
        of_lookup(out, lookup, colour);
    }
}

fn of_lookup(out: &mut String, lookup: &Lookup, colour: Colour) {
    let Lookup {
        address,
        verdict,
        reason,
        frontend,
        class,
        class_ports,
        prefix,
        prefix_ports,
        flows,
        more_flows,
    } = lookup;
    line(
        out,
        &format!("  {address}: {} ({reason})", tinted(*verdict, colour)),
    );
    let ports = |ports: &PortsEntry| format!("ports {}: {}", ports.id, ports.ports);
    if let Some(frontend) = frontend {
        line(out, &format!("    frontend {frontend} of a Service"));
    }
    if let Some(class) = class {
        let allowed = class_ports
            .as_ref()
            .map_or_else(|| "of which the ruleset says nothing".to_owned(), ports);
        wrapped(out, &format!("    class {class}, "), &allowed);
    }
    if let Some(allowed) = prefix_ports {
        let prefix = prefix.as_deref().unwrap_or("a prefix");
        wrapped(out, &format!("    {prefix}, "), &ports(allowed));
    }
    if frontend.is_none() && class.is_none() && prefix_ports.is_none() && *verdict == Verdict::Deny
    {
        line(out, "    no frontend, no class, no prefix");
    }
    for flow in flows.iter().take(FLOWS) {
        line(out, &format!("    {}", of_flow(flow)));
    }
    let more = flows
        .len()
        .saturating_sub(FLOWS)
        .saturating_add(*more_flows);
    if more > 0 {
        line(out, &format!("    and {more} more open flows"));
    }
}

fn of_flow(flow: &FlowEntry) -> String {
    let FlowEntry {
        local_port,
        idle_seconds,
        current,
        closing,
    } = flow;
    let state = if *closing { "closing" } else { "open" };
    let verdict = if *current {
        "passes without being judged again"
    } else {
        "will be judged again"
    };
    format!("{state} flow from port {local_port}, idle for {idle_seconds} s: {verdict}")
}

#[cfg(test)]
mod tests {
    use super::super::{AddressAnswer, SCHEMA, SenderState};
    use super::*;
    use crate::terminal::WIDTH;

    fn denied() -> Answer {
        Answer {
            schema: None,
            verdict: Verdict::Deny,
            reason: "no-rule".to_owned(),
            isolated_by: vec!["a/deny".to_owned(), "a/dns".to_owned()],
            allowed_by: Vec::new(),
            addresses: Vec::new(),
            steps: None,
            live: Vec::new(),
            drift: Vec::new(),
        }
    }

    fn plain(from: &str, to: &str, answer: &Answer) -> String {
        render(from, to, answer, Colour::None)
    }

    #[test]
    fn a_denial_names_the_policies_and_the_destination() {
        assert_eq!(
            plain("a/web", "10.0.0.1:80/TCP", &denied()),
            "deny: a/web is isolated, and no rule allows 10.0.0.1:80/TCP (no-rule)\n  isolated by a/deny, a/dns"
        );
    }

    #[test]
    fn addresses_that_differ_and_drift_have_a_line_each() {
        let answer = Answer {
            allowed_by: vec!["a/dns".to_owned()],
            addresses: vec![AddressAnswer {
                address: [10, 0, 0, 1].into(),
                verdict: Verdict::Allow,
            }],
            drift: vec!["PEERS lacks 10.0.0.1".to_owned()],
            ..denied()
        };
        let text = plain("a/web", "b/db:80/TCP", &answer);
        assert!(
            text.ends_with("  allowed by a/dns\n  10.0.0.1: allow\n  drift PEERS lacks 10.0.0.1"),
            "{text}"
        );
    }

    #[test]
    fn a_pod_that_is_not_enforced_says_so() {
        for (reason, text) in [
            (
                "host-network",
                "allow: a/web is on the host network, not enforced (host-network)",
            ),
            (
                "finished",
                "allow: a/web has finished, not enforced (finished)",
            ),
            (
                "not-isolated",
                "allow: no policy isolates a/web (not-isolated)",
            ),
        ] {
            let answer = Answer {
                verdict: Verdict::Allow,
                reason: reason.to_owned(),
                isolated_by: Vec::new(),
                ..denied()
            };
            assert_eq!(plain("a/web", "10.0.0.1:80/TCP", &answer), text);
        }
    }

    /// One rule of a policy towards one address, whose entries fail like this.
    fn explained(to: Option<&str>, ports: Option<&str>) -> Answer {
        let part = |failed: Option<&str>| PartStep {
            matches: failed.is_none(),
            any: false,
            entries: vec![EntryStep {
                index: 2,
                text: "ipBlock 10.0.0.0/8".to_owned(),
                failed: failed.map(str::to_owned),
                because: failed.map(|_| "except 10.1.0.0/16 takes it out".to_owned()),
            }],
            more_entries: 3,
        };
        let rule = RuleSteps {
            index: 1,
            allows: false,
            to: part(to),
            ports: part(ports),
            unreadable: vec!["spec.egress[1].to[0]: has no field".to_owned()],
        };
        let policy = |name: &str, rules: Vec<RuleSteps>| PolicySteps {
            policy: name.to_owned(),
            allows: false,
            rules,
            more_rules: 0,
            unreadable: Vec::new(),
        };
        Answer {
            schema: Some(SCHEMA.to_owned()),
            steps: Some(Steps {
                sender: Sender {
                    pod: "a/web".to_owned(),
                    node: "node-1".to_owned(),
                    state: SenderState::Enforced,
                    policies: ["a/deny", "a/dns"]
                        .map(|name| Selected {
                            policy: name.to_owned(),
                            effect: PolicyEffect::Isolates,
                            selector: "app=web".to_owned(),
                            unreadable: false,
                        })
                        .into(),
                },
                destinations: vec![Destination {
                    address: [10, 1, 0, 1].into(),
                    verdict: Verdict::Deny,
                    reason: "no-rule".to_owned(),
                    owner: "no known pod or node".to_owned(),
                    way: Way::Rules,
                    policies: vec![policy("a/deny", Vec::new()), policy("a/dns", vec![rule])],
                    service: None,
                }],
            }),
            ..denied()
        }
    }

    #[test]
    fn the_steps_follow_the_verdict_and_the_nearest_rule_comes_first() {
        let text = plain("a/web", "10.1.0.1:80/TCP", &explained(Some("except"), None));
        let expected = "\
deny: a/web is isolated, and no rule allows 10.1.0.1:80/TCP (no-rule)
  isolated by a/deny, a/dns
  nearest a/dns egress[1]: to does not match: ipBlock 10.0.0.0/8: except 10.1.0.0/16 takes it out;
          ports matches

SENDER a/web on node node-1
  a/deny  isolates it: its podSelector app=web matches
  a/dns   isolates it: its podSelector app=web matches

TO 10.1.0.1, no known pod or node: deny (no-rule)
  a/deny has no rules: allows nothing
  a/dns does not allow it
    egress[1]
      to    no  [2] ipBlock 10.0.0.0/8: except 10.1.0.0/16 takes it out
                and 3 more, none nearer
      ports yes [2] ipBlock 10.0.0.0/8
      unreadable spec.egress[1].to[0]: has no field";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_rule_that_is_nowhere_near_is_not_called_the_nearest() {
        for (to, ports) in [(Some("cidr"), Some("port")), (Some("family"), None)] {
            let text = plain("a/web", "10.1.0.1:80/TCP", &explained(to, ports));
            assert!(!text.contains("nearest"), "{text}");
        }
    }

    #[test]
    fn no_line_is_longer_than_the_width_whatever_the_names() {
        let long = |what: &str| format!("{what}/{}", "long-".repeat(40));
        let mut answer = explained(Some("except"), None);
        answer.isolated_by = vec![long("a"), long("b")];
        answer.drift = vec![long("drift")];
        if let Some(steps) = &mut answer.steps {
            steps.sender.pod = long("pod");
            steps.sender.node = long("node");
            for policy in &mut steps.sender.policies {
                policy.policy = long("policy");
                policy.selector = long("selector");
            }
            let mut rules = Vec::new();
            for destination in &mut steps.destinations {
                destination.owner = long("owner");
                for policy in &mut destination.policies {
                    policy.policy = long("policy");
                }
                rules = destination.policies.clone();
            }
            let mut behind = steps.destinations.clone();
            for destination in &mut behind {
                destination.way = Way::Service;
                destination.service = Some(ServiceSteps {
                    name: long("service"),
                    port: 80,
                    closed: None,
                    allowed: 0,
                    denied: 1,
                    endpoints: vec![Backend {
                        address: [10, 1, 0, 2].into(),
                        port: 8080,
                        owner: long("owner"),
                        verdict: Verdict::Deny,
                        own: false,
                        policies: rules.clone(),
                    }],
                    more_endpoints: 0,
                });
            }
            steps.destinations.extend(behind);
        }
        answer.live = vec![Live {
            interface: long("interface"),
            endpoint: None,
            lookups: Vec::new(),
        }];
        let text = plain(&long("pod"), &long("to"), &answer);
        for line in text.lines() {
            assert!(columns(line) <= WIDTH, "{} columns: {line}", columns(line));
        }
        // What is wrapped is not lost.
        for what in ["pod", "node", "owner", "service", "interface", "policy"] {
            let text = text.replace(['\n', ' '], "");
            assert!(text.contains(&long(what)), "{what}: {text}");
        }
    }

    #[test]
    fn colour_changes_no_character_of_the_text() {
        let answer = explained(Some("except"), None);
        let coloured = render("a/web", "10.1.0.1:80/TCP", &answer, Colour::Ansi);
        assert!(coloured.starts_with("\x1b[1;31mdeny\x1b[0m: "));
        let mut bare = String::new();
        let mut escape = false;
        for c in coloured.chars() {
            match c {
                '\x1b' => escape = true,
                'm' if escape => escape = false,
                _ if escape => {}
                c => bare.push(c),
            }
        }
        assert_eq!(bare, plain("a/web", "10.1.0.1:80/TCP", &answer));
    }
}
