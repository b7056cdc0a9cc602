//! The last drops, and those who follow them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::record::{DropRecord, Key};

/// Records that `drops` without `-f` prints.
pub const REMEMBERED: usize = 1_024;

/// Records a follower may lag behind before it misses some: 40 s at the default limit of
/// 100 a second, and about 1 MiB.
const BACKLOG: usize = 4_096;

/// A window: equal records that arrive within it are one. Long enough that a client that tries again
/// and again is a line or two, short enough to watch.
const WINDOW: Duration = Duration::from_secs(1);

/// Windows that are open at once; the oldest closes early when another one opens. 40 endpoints at the
/// default limit, each record to another place: about 1 MiB.
const WINDOWS: usize = 4_096;

/// Remembers the last [`REMEMBERED`] records and passes new ones on.
#[derive(Debug)]
pub struct DropLog {
    state: Mutex<State>,
    followers: broadcast::Sender<Arc<DropRecord>>,
}

#[derive(Debug, Default)]
struct State {
    remembered: VecDeque<Arc<DropRecord>>,
    /// Records that may still be added to.
    open: BTreeMap<Key, DropRecord>,
    /// When each of them was opened, the oldest first.
    opened: VecDeque<(Instant, Key)>,
}

/// What was remembered, and all that come after it.
#[derive(Debug)]
pub struct Followed {
    /// The oldest first.
    pub remembered: Vec<Arc<DropRecord>>,
    /// The next record is the one after the last of `remembered`.
    pub next: broadcast::Receiver<Arc<DropRecord>>,
}

impl Default for DropLog {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            followers: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl DropLog {
    /// Takes a batch of records, the oldest first. Equal ones become one with a count, which is told
    /// of when its window has passed.
    pub fn push(&self, batch: impl IntoIterator<Item = DropRecord>, now: Instant) {
        let mut state = self.state();
        for record in batch {
            let key = record.key();
            if let Some(first) = state.open.get_mut(&key) {
                first.add(record);
                continue;
            }
            if state.open.len() >= WINDOWS {
                self.close(&mut state, |_, closed| closed == 0);
            }
            state.open.insert(key.clone(), record);
            state.opened.push_back((now, key));
        }
    }

    /// Tells of the windows that have passed. Call it now and then.
    pub fn advance(&self, now: Instant) {
        let mut state = self.state();
        self.close(&mut state, |opened, _| {
            now.saturating_duration_since(opened) >= WINDOW
        });
    }

    /// What is remembered, the oldest first; open windows end for it.
    pub fn remembered_records(&self) -> Vec<Arc<DropRecord>> {
        let mut state = self.state();
        self.close(&mut state, |_, _| true);
        state.remembered.iter().cloned().collect()
    }

    /// What is remembered and what follows, without a gap and without a record twice:
    /// both are taken under the lock that [`DropLog::push`] holds.
    pub fn follow(&self) -> Followed {
        let mut state = self.state();
        self.close(&mut state, |_, _| true);
        Followed {
            remembered: state.remembered.iter().cloned().collect(),
            next: self.followers.subscribe(),
        }
    }

    /// Closes windows, the oldest first, as long as `due` says so of when one was opened and how many
    /// were closed before it.
    fn close(&self, state: &mut State, due: impl Fn(Instant, usize) -> bool) {
        let mut closed = 0_usize;
        while let Some((_, key)) = state
            .opened
            .pop_front_if(|(opened, _)| due(*opened, closed))
        {
            closed = closed.saturating_add(1);
            let Some(record) = state.open.remove(&key) else {
                continue;
            };
            let record = Arc::new(record);
            if state.remembered.len() == REMEMBERED {
                state.remembered.pop_front();
            }
            state.remembered.push_back(Arc::clone(&record));
            if self.followers.receiver_count() > 0 && self.followers.send(record).is_err() {
                tracing::trace!("the last follower left");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the queues whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::record::tests::record;
    use super::*;

    fn to_port(port: u16) -> DropRecord {
        DropRecord {
            port: Some(port),
            ..record()
        }
    }

    fn counts(records: &[Arc<DropRecord>]) -> Vec<(Option<u16>, u64)> {
        records.iter().map(|r| (r.port, r.count)).collect()
    }

    #[test]
    fn only_the_last_records_are_remembered() {
        let log = DropLog::default();
        log.push((0..1_100).map(to_port), Instant::now());
        let remembered = log.remembered_records();
        assert_eq!(remembered.len(), REMEMBERED);
        assert_eq!(remembered.first().unwrap().port, Some(1_100 - 1_024));
        assert_eq!(remembered.last().unwrap().port, Some(1_099));
    }

    #[test]
    fn equal_records_of_a_window_are_one_whatever_their_source_port() {
        let log = DropLog::default();
        let start = Instant::now();
        let again = |source: u16| DropRecord {
            source_port: Some(source),
            ..to_port(1)
        };
        log.push([again(10), to_port(2), again(11)], start);
        log.push([again(12)], start + WINDOW / 2);
        log.advance(start + WINDOW);
        log.push([again(13)], start + WINDOW);
        let remembered = log.remembered_records();
        assert_eq!(
            counts(&remembered),
            [(Some(1), 3), (Some(2), 1), (Some(1), 1)]
        );
        assert_eq!(remembered.first().unwrap().source_port, Some(12));
    }

    #[test]
    fn another_reason_or_pod_or_policy_is_another_record() {
        let log = DropLog::default();
        let other = |change: fn(&mut DropRecord)| {
            let mut other = record();
            change(&mut other);
            other
        };
        log.push(
            [
                record(),
                other(|r| r.reason = "spoofed".to_owned()),
                other(|r| r.pod = "web-1".to_owned()),
                other(|r| r.isolated_by.clear()),
                other(|r| r.interface = "veth8".to_owned()),
                other(|r| r.protocol_number = 17),
            ],
            Instant::now(),
        );
        assert_eq!(log.remembered_records().len(), 6);
    }

    #[test]
    fn no_packet_is_lost_when_there_are_too_many_windows() {
        let log = DropLog::default();
        let ports = u16::try_from(WINDOWS).unwrap() + 500;
        let mut followed = log.follow();
        log.push((0..ports).map(to_port), Instant::now());
        assert_eq!(followed.next.len(), 500);
        assert_eq!(followed.next.try_recv().unwrap().port, Some(0));
        assert_eq!(log.state().open.len(), WINDOWS);
        assert_eq!(log.state().opened.len(), WINDOWS);
    }

    #[tokio::test]
    async fn a_follower_gets_what_was_and_what_comes_once() {
        let log = DropLog::default();
        let start = Instant::now();
        log.push([to_port(1)], start);
        let mut followed = log.follow();
        log.push([to_port(2)], start);
        assert_eq!(counts(&followed.remembered), [(Some(1), 1)]);
        assert!(followed.next.try_recv().is_err(), "its window is open");
        log.advance(start + WINDOW);
        assert_eq!(followed.next.recv().await.unwrap().port, Some(2));
        assert!(followed.next.try_recv().is_err());
    }
}
