//! Which Events are to be written now.
//!
//! An Event is created at the first drop of its kind, and told again with a count at most every
//! [`AGAIN`]; after [`SILENCE`] without a drop its series is over, as with Kubernetes' own
//! components. One pod has at most [`OF_A_POD`] of them, then one for all other destinations; one
//! agent writes [`BURST`] at once, and one a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::super::record::DropRecord;

/// A series is told again so often: a client that tries again every second is 60 drops, and one write.
const AGAIN: Duration = Duration::from_mins(1);

/// A series without a drop for so long is over. Source: client-go, `tools/events`.
const SILENCE: Duration = Duration::from_mins(6);

/// Destinations of one pod that have an Event each.
const OF_A_POD: usize = 5;

/// Series of all pods; what does not fit has no Event. 110 pods with all they may have are 660.
const SERIES: usize = 1_024;

/// Writes that may come at once; one more is gained a second. Source of the number: client-go's filter
/// of Events.
const BURST: u32 = 25;

/// After a write failed, none is tried for so long.
const PAUSE: Duration = Duration::from_secs(10);

/// What an Event is about: the first record of its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) namespace: String,
    pub(super) first: DropRecord,
    /// Not this destination alone: the pod has too many.
    pub(super) others: bool,
}

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    key: Key,
    pub(super) told: Told,
    /// The Event that is there already.
    pub(super) name: Option<String>,
    /// Packets so far.
    pub(super) count: u64,
    /// When the last of them was.
    pub(super) last: Timestamp,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has this name.
    Written(String),
    /// There was no such Event any more.
    Gone,
    /// Nobody can have such an Event.
    Unwanted,
    /// Not written; perhaps later.
    Failed,
}

/// The pod by namespace, name and uid; reason, destination, port, protocol and policies, or none of
/// these for all other destinations.
type Key = ([String; 3], Option<[String; 5]>);

/// Every series that is not over.
#[derive(Debug)]
pub(super) struct Book {
    series: BTreeMap<Key, Series>,
    /// Writes that are left, and when that was counted.
    left: u32,
    counted: Option<Instant>,
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Series {
    told: Told,
    name: Option<String>,
    count: u64,
    /// Of them the Event tells so many.
    written: u64,
    last: Timestamp,
    opened: Instant,
    seen: Instant,
    told_at: Option<Instant>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            series: BTreeMap::new(),
            left: BURST,
            counted: None,
            paused_until: None,
        }
    }
}

impl Book {
    /// Takes a drop in.
    pub(super) fn take(&mut self, record: &DropRecord, now: Instant) {
        // Without a pod there is nothing that an Event could be on.
        if record.pod.is_empty() || record.namespace.is_empty() {
            return;
        }
        let pod = [&record.namespace, &record.pod, &record.pod_uid].map(Clone::clone);
        let mut key = (pod, Some(particulars(record)));
        let mut others = false;
        if !self.series.contains_key(&key) {
            let of_pod = self.series.keys().filter(|(pod, _)| *pod == key.0).count();
            if of_pod >= OF_A_POD {
                key.1 = None;
                others = true;
            }
        }
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(record.count);
            series.last = record.time;
            series.seen = now;
        } else if self.series.len() < SERIES {
            let told = Told {
                namespace: record.namespace.clone(),
                first: record.clone(),
                others,
            };
            let series = Series {
                told,
                name: None,
                count: record.count,
                written: 0,
                last: record.time,
                opened: now,
                seen: now,
                told_at: None,
            };
            self.series.insert(key, series);
        }
    }

    /// The next write, if there is one and the rate lets it through. Answer with [`Book::done`].
    pub(super) fn due(&mut self, now: Instant) -> Option<Write> {
        self.series
            .retain(|_, series| !(series.is_over(now) && series.written == series.count));
        self.refill(now);
        if self.left == 0 || self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        // New ones first, in the order in which they came; then the one that waits longest.
        let (key, series) = self
            .series
            .iter()
            .filter(|(_, series)| series.is_due(now))
            .min_by_key(|(_, series)| (series.told_at, series.opened))?;
        self.left = self.left.saturating_sub(1);
        Some(Write {
            key: key.clone(),
            told: series.told.clone(),
            name: series.name.clone(),
            count: series.count,
            last: series.last,
        })
    }

    /// What became of a write.
    pub(super) fn done(&mut self, write: Write, outcome: Outcome, now: Instant) {
        let Write { key, count, .. } = write;
        let Some(series) = self.series.get_mut(&key) else {
            return;
        };
        match outcome {
            Outcome::Written(name) => {
                series.name = Some(name);
                series.written = count;
                series.told_at = Some(now);
            }
            Outcome::Gone => {
                series.name = None;
                series.told_at = None;
            }
            Outcome::Unwanted => {
                self.series.remove(&key);
            }
            Outcome::Failed => self.paused_until = now.checked_add(PAUSE),
        }
    }

    fn refill(&mut self, now: Instant) {
        let since = self.counted.get_or_insert(now);
        let seconds = now.saturating_duration_since(*since).as_secs();
        if seconds > 0 {
            *since += Duration::from_secs(seconds);
            let gained = u32::try_from(seconds).unwrap_or(BURST);
            self.left = self.left.saturating_add(gained).min(BURST);
        }
    }
}

impl Series {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) >= SILENCE
    }

    fn is_due(&self, now: Instant) -> bool {
        let waited = self
            .told_at
            .is_none_or(|told| now.saturating_duration_since(told) >= AGAIN);
        self.count > self.written && waited
    }
}

/// What tells one pod's Events apart. Not the source, nor the interface.
fn particulars(record: &DropRecord) -> [String; 5] {
    let text = |part: Option<String>| part.unwrap_or_default();
    [
        record.reason.clone(),
        text(record.destination.map(|address| address.to_string())),
        text(record.port.map(|port| port.to_string())),
        record.protocol_number.to_string(),
        record.isolated_by.join(" "),
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::super::record::tests::record;
    use super::*;

    fn to_port(port: u16) -> DropRecord {
        DropRecord {
            port: Some(port),
            ..record()
        }
    }

    fn written(book: &mut Book, now: Instant) -> Vec<Write> {
        let mut all = Vec::new();
        while let Some(write) = book.due(now) {
            book.done(write.clone(), Outcome::Written("it".to_owned()), now);
            all.push(write);
        }
        all
    }

    #[test]
    fn the_first_drop_is_told_at_once_and_more_of_its_kind_a_minute_later() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.take(&to_port(1), start);
        let [first] = written(&mut book, start).try_into().unwrap();
        assert_eq!((first.name, first.count), (None, 1));
        for second in 1..AGAIN.as_secs() {
            let now = start + Duration::from_secs(second);
            book.take(&to_port(1), now);
            assert_eq!(written(&mut book, now), []);
        }
        let [again] = written(&mut book, start + AGAIN).try_into().unwrap();
        assert_eq!((again.name, again.count), (Some("it".to_owned()), 60));
    }

    #[test]
    fn a_series_that_was_silent_is_over_when_all_of_it_was_told() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.take(&to_port(1), start);
        written(&mut book, start);
        book.take(&to_port(1), start);
        let later = start + SILENCE;
        assert_eq!(written(&mut book, later).len(), 1);
        assert_eq!(book.due(later), None);
        book.take(&to_port(1), later);
        let [new] = written(&mut book, later).try_into().unwrap();
        assert_eq!((new.name, new.count), (None, 1));
    }

    #[test]
    fn a_pod_that_tries_many_destinations_has_one_event_for_most_of_them() {
        let (mut book, start) = (Book::default(), Instant::now());
        for port in 1..=1_000 {
            book.take(&to_port(port), start);
        }
        let all = written(&mut book, start);
        assert_eq!(all.len(), OF_A_POD + 1);
        let others: Vec<u64> = all
            .iter()
            .filter(|write| write.told.others)
            .map(|write| write.count)
            .collect();
        assert_eq!(others, [995]);
    }

    #[test]
    fn no_more_are_written_than_the_rate_allows_and_none_is_lost_for_it() {
        let (mut book, start) = (Book::default(), Instant::now());
        for pod in 0..40 {
            let mut record = record();
            record.pod = format!("web-{pod}");
            book.take(&record, start);
        }
        assert_eq!(written(&mut book, start).len(), 25);
        assert_eq!(written(&mut book, start + Duration::from_millis(900)), []);
        assert_eq!(written(&mut book, start + Duration::from_secs(3)).len(), 3);
        assert_eq!(written(&mut book, start + Duration::from_mins(1)).len(), 12);
    }

    #[test]
    fn a_failure_pauses_and_an_event_that_went_is_made_anew() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.take(&to_port(1), start);
        let write = book.due(start).unwrap();
        book.done(write, Outcome::Failed, start);
        assert_eq!(book.due(start + PAUSE / 2), None);
        let now = start + PAUSE;
        assert_eq!(written(&mut book, now).len(), 1);
        book.take(&to_port(1), now);
        let write = book.due(now + AGAIN).unwrap();
        assert_eq!(write.name.as_deref(), Some("it"));
        book.done(write, Outcome::Gone, now + AGAIN);
        let write = book.due(now + AGAIN).unwrap();
        assert_eq!((write.name, write.count), (None, 2));
    }

    #[test]
    fn a_pod_that_nobody_knows_has_no_event() {
        let mut book = Book::default();
        let nobody = DropRecord {
            pod: String::new(),
            ..record()
        };
        book.take(&nobody, Instant::now());
        assert_eq!(book.due(Instant::now()), None);
    }
}
