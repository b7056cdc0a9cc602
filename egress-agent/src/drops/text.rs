//! A drop as a line for people.

use std::fmt::Write as _;
use std::net::IpAddr;

use egress_common::event::Reason;

use super::record::DropRecord;
use crate::terminal::{Colour, Tone, toned};
use crate::traffic::Protocol;

/// When, who, why, on one line: a program may read it.
pub fn render(record: &DropRecord) -> String {
    let (start, what) = parts(record);
    format!("{start} {what}")
}

/// The same within 100 columns, for a terminal.
pub fn render_wrapped(record: &DropRecord, colour: Colour) -> String {
    let (start, what) = parts(record);
    let mut out = String::new();
    let (time, pod) = start.split_once(' ').unwrap_or_default();
    let spans = [
        (None, time),
        (Some(Tone::Heading), pod),
        (None, what.as_str()),
    ];
    toned(&mut out, colour, 0, &spans);
    out.truncate(out.trim_end().len());
    out
}

/// When and who; why.
fn parts(record: &DropRecord) -> (String, String) {
    let pod = if record.pod.is_empty() {
        "(a pod that is gone)".to_owned()
    } else {
        format!("{}/{}", record.namespace, record.pod)
    };
    let mut what = why(record);
    let mut notes = Vec::new();
    if !record.tcp_flags.is_empty() {
        notes.push(record.tcp_flags.join(" "));
    }
    if record.count > 1 {
        notes.push(format!("×{}", record.count));
    }
    if !notes.is_empty() {
        // Writing to a String cannot fail.
        write!(what, " ({})", notes.join(", ")).unwrap_or_default();
    }
    (format!("{:.3} {pod}:", record.time), what)
}

/// What was wrong with the packet, in words.
pub(super) fn why(record: &DropRecord) -> String {
    let to = destination(record);
    let reason = Reason::ALL.into_iter().find(|r| r.name() == record.reason);
    match reason {
        Some(Reason::NoRule) => format!("{}, no rule allows {to}", isolated(&record.isolated_by)),
        Some(Reason::Frontend) => {
            format!(
                "{}, not every endpoint of the Service at {to} is allowed",
                isolated(&record.isolated_by)
            )
        }
        Some(Reason::Spoofed) => {
            let source = record
                .source
                .map_or_else(|| "its source".to_owned(), |a| a.to_string());
            format!("{source} is not an address of the pod (towards {to})")
        }
        Some(Reason::NotIp) => "the frame is neither IPv4, nor IPv6, nor ARP".to_owned(),
        Some(Reason::Malformed) => format!("malformed packet to {to}"),
        Some(Reason::ExtensionHeaders) => format!("unreadable IPv6 extension headers to {to}"),
        Some(Reason::SourceRoute) => format!("source-routed packet to {to}"),
        Some(Reason::Fragment) => format!("fragment to {to} without an allowed first fragment"),
        Some(
            Reason::NoEndpoint
            | Reason::NotIsolated
            | Reason::Allowed
            | Reason::Established
            | Reason::Reply
            | Reason::Related
            | Reason::Neighbour
            | Reason::OwnAddress,
        )
        | None => format!("{} to {to}", record.reason),
    }
}

fn isolated(by: &[String]) -> String {
    if by.is_empty() {
        "isolated".to_owned()
    } else {
        format!("isolated by {}", by.join(", "))
    }
}

/// `10.1.2.3:443/TCP`, `[fd00::1]:53/UDP`, `10.1.2.3/ICMP`, `10.1.2.3/protocol 47`.
pub(super) fn destination(record: &DropRecord) -> String {
    let protocol = match record.protocol {
        Protocol::Other => format!("protocol {}", record.protocol_number),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp | Protocol::Icmp => {
            record.protocol.name().to_uppercase()
        }
    };
    match (record.destination, record.port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}/{protocol}"),
        (Some(address), Some(port)) => format!("{address}:{port}/{protocol}"),
        (Some(address), None) => format!("{address}/{protocol}"),
        (None, _) => "an unknown destination".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_denied_connection_names_the_policies_and_the_destination() {
        assert_eq!(
            render(&record()),
            "2026-11-21T06:00:00.000Z shop/web-0: isolated by shop/db, shop/dns, no rule allows 10.1.2.3:443/TCP (SYN)"
        );
    }

    #[test]
    fn repeated_packets_are_one_line() {
        let repeated = DropRecord {
            count: 3,
            ..record()
        };
        let line = render(&repeated);
        assert!(line.ends_with("10.1.2.3:443/TCP (SYN, ×3)"), "{line}");
    }

    #[test]
    fn a_terminal_gets_no_line_above_100_columns_with_colour_and_without() {
        let long = DropRecord {
            namespace: "a-namespace-".repeat(5),
            pod: "a-pod-".repeat(10),
            isolated_by: vec!["shop/a-policy-with-a-long-name".to_owned(); 4],
            ..record()
        };
        let text = render_wrapped(&long, Colour::Ansi);
        assert!(text.contains("\x1b[1ma-namespace-"), "{text}");
        let bare = text.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert_eq!(bare, render_wrapped(&long, Colour::None));
        assert!(bare.lines().count() > 1, "{bare}");
        for line in bare.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        let words = |text: &str| text.replace([' ', '\n'], "");
        assert_eq!(words(&bare), words(&render(&long)));
    }

    #[test]
    fn icmp_ipv6_and_other_protocols_are_written_as_a_query_would_be() {
        let icmp = DropRecord {
            protocol: Protocol::Icmp,
            protocol_number: 1,
            port: None,
            ..record()
        };
        assert_eq!(destination(&icmp), "10.1.2.3/ICMP");
        let v6 = DropRecord {
            destination: "fd00::1".parse().ok(),
            ..record()
        };
        assert_eq!(destination(&v6), "[fd00::1]:443/TCP");
        let gre = DropRecord {
            protocol: Protocol::Other,
            protocol_number: 47,
            port: None,
            ..record()
        };
        assert_eq!(destination(&gre), "10.1.2.3/protocol 47");
    }

    #[test]
    fn every_reason_to_drop_has_words_of_its_own() {
        let drops = Reason::ALL
            .into_iter()
            .filter(|r| r.action() == egress_common::event::Action::Drop);
        for reason in drops {
            let why = why(&DropRecord {
                reason: reason.name().to_owned(),
                ..record()
            });
            assert_ne!(why, format!("{} to 10.1.2.3:443/TCP", reason.name()));
        }
    }

    #[test]
    fn a_reason_of_another_version_is_shown_as_it_is() {
        let unknown = DropRecord {
            reason: "reason-200".to_owned(),
            ..record()
        };
        assert_eq!(why(&unknown), "reason-200 to 10.1.2.3:443/TCP");
    }
}
