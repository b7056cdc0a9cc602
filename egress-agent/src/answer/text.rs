//! An answer for people.

use egress_common::event::Reason;

use super::Answer;

/// The verdict first, then what led to it; `from` and `to` as they were asked.
pub fn render(from: &str, to: &str, answer: &Answer) -> String {
    let Answer {
        verdict,
        reason,
        isolated_by,
        allowed_by,
        addresses,
        drift,
    } = answer;
    let mut lines = vec![format!(
        "{}: {} ({reason})",
        verdict.name(),
        why(from, to, reason)
    )];
    if !isolated_by.is_empty() {
        lines.push(format!("  isolated by {}", isolated_by.join(", ")));
    }
    if !allowed_by.is_empty() {
        lines.push(format!("  allowed by {}", allowed_by.join(", ")));
    }
    for address in addresses {
        lines.push(format!("  {}: {}", address.address, address.verdict.name()));
    }
    for difference in drift {
        lines.push(format!("  drift: {difference}"));
    }
    lines.join("\n")
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
        Some(
            Reason::NoEndpoint
            | Reason::Established
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

#[cfg(test)]
mod tests {
    use super::super::{AddressAnswer, Verdict};
    use super::*;

    fn denied() -> Answer {
        Answer {
            verdict: Verdict::Deny,
            reason: "no-rule".to_owned(),
            isolated_by: vec!["a/deny".to_owned(), "a/dns".to_owned()],
            allowed_by: Vec::new(),
            addresses: Vec::new(),
            drift: Vec::new(),
        }
    }

    #[test]
    fn a_denial_names_the_policies_and_the_destination() {
        assert_eq!(
            render("a/web", "10.0.0.1:80/TCP", &denied()),
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
        let text = render("a/web", "b/db:80/TCP", &answer);
        assert!(
            text.ends_with("  allowed by a/dns\n  10.0.0.1: allow\n  drift: PEERS lacks 10.0.0.1"),
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
            assert_eq!(render("a/web", "10.0.0.1:80/TCP", &answer), text);
        }
    }
}
