//! An Event as the API server takes it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::{Value, json};

use super::super::text::{destination, why};
use super::series::Write;

/// Who writes it. Source: validation wants a qualified name.
const CONTROLLER: &str = "egress-agent";

/// What happened, in the API's way of writing it.
const REASON: &str = "EgressDropped";

/// Bytes of a note, and of an instance's name. Source: kubernetes/kubernetes
/// `pkg/apis/core/validation/events.go`.
const NOTE: usize = 1_024;
const INSTANCE: usize = 128;

/// Bytes of the pod's name in the Event's: names have at most 253, and 17 tell it from others.
const POD: usize = 236;

/// A new Event.
pub(super) fn event(write: &Write, instance: &str) -> Event {
    let Write {
        told, count, last, ..
    } = write;
    let record = &told.first;
    let instance = format!("{CONTROLLER}-{instance}");
    Event {
        action: Some("Drop".to_owned()),
        event_time: Some(MicroTime(record.time)),
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{:x}",
                shortened(&record.pod, POD).trim_end_matches(['.', '-']),
                Timestamp::now().as_nanosecond()
            )),
            namespace: Some(told.namespace.clone()),
            ..ObjectMeta::default()
        },
        note: Some(note(write)),
        reason: Some(REASON.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(record.pod.clone()),
            namespace: Some(record.namespace.clone()),
            uid: Some(record.pod_uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(shortened(&instance, INSTANCE).to_owned()),
        // A series has at least two.
        series: (*count > 1).then(|| EventSeries {
            count: number(*count),
            last_observed_time: MicroTime(*last),
        }),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

/// What changes of an Event: nothing else may.
pub(super) fn series(write: &Write) -> Value {
    json!({"series": EventSeries {
        count: number(write.count.max(2)),
        last_observed_time: MicroTime(write.last),
    }})
}

/// What happened, which policies, and where to look.
fn note(write: &Write) -> String {
    let record = &write.told.first;
    let pod = format!("{}/{}", record.namespace, record.pod);
    let (what, look) = if write.told.others {
        (
            "to more destinations than have an Event each".to_owned(),
            format!("`egress-agent drops --pod {pod}`"),
        )
    } else {
        (
            why(record),
            format!("`egress-agent explain {pod} --to {}`", destination(record)),
        )
    };
    let look = format!("; {look} on the node says more");
    let room = NOTE.saturating_sub(look.len());
    let what = format!("packets dropped: {what}");
    if what.len() <= room {
        return what + &look;
    }
    format!(
        "{}…{look}",
        shortened(&what, room.saturating_sub('…'.len_utf8()))
    )
}

/// At most so many bytes of a text, whole characters.
fn shortened(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

fn number(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Instant;

    use super::super::super::record::{DropRecord, tests::record};
    use super::super::series::Book;
    use super::*;

    fn write_of(record: &DropRecord) -> Write {
        let mut book = Book::default();
        book.take(record, Instant::now());
        book.due(Instant::now()).unwrap()
    }

    #[test]
    fn an_event_names_the_destination_the_policies_and_where_to_look() {
        let event = event(&write_of(&record()), "node-1");
        assert_eq!(
            event.note.unwrap(),
            "packets dropped: isolated by shop/db, shop/dns, no rule allows 10.1.2.3:443/TCP; \
             `egress-agent explain shop/web-0 --to 10.1.2.3:443/TCP` on the node says more"
        );
        let pod = event.regarding.unwrap();
        assert_eq!(
            (pod.kind.unwrap(), pod.name.unwrap(), pod.uid.unwrap()),
            ("Pod".to_owned(), "web-0".to_owned(), "3f2a".to_owned())
        );
        assert_eq!(event.series, None);
        assert_eq!(event.reporting_instance.unwrap(), "egress-agent-node-1");
    }

    #[test]
    fn more_than_one_packet_is_a_series() {
        let mut record = record();
        record.count = 3;
        let write = write_of(&record);
        assert_eq!(event(&write, "n").series.unwrap().count, 3);
        assert_eq!(
            series(&write),
            json!({"series": {"count": 3, "lastObservedTime": "2026-11-21T06:00:00.000000Z"}})
        );
    }

    #[test]
    fn nothing_is_longer_than_the_api_server_takes() {
        let mut record = record();
        record.isolated_by = vec!["shop/a-policy-with-a-ñame".to_owned(); 200];
        record.pod = "p".repeat(253);
        let event = event(&write_of(&record), &"n".repeat(253));
        let note = event.note.unwrap();
        assert!(note.len() <= NOTE && note.contains('…'), "{note}");
        assert!(note.ends_with("on the node says more"), "{note}");
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert!(event.reporting_instance.unwrap().len() <= 128);
    }
}
