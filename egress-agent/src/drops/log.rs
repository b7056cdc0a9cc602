//! The last drops, and those who follow them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::record::DropRecord;

/// Records that `drops` without `-f` prints.
pub const REMEMBERED: usize = 1_024;

/// Records a follower may lag behind before it misses some: 40 s at the default limit of
/// 100 a second, and about 1 MiB.
const BACKLOG: usize = 4_096;

/// Remembers the last [`REMEMBERED`] records and passes new ones on.
#[derive(Debug)]
pub struct DropLog {
    remembered: Mutex<VecDeque<Arc<DropRecord>>>,
    followers: broadcast::Sender<Arc<DropRecord>>,
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
            remembered: Mutex::default(),
            followers: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl DropLog {
    /// Takes a batch of records, the oldest first; equal ones become one with a count.
    pub fn push(&self, batch: impl IntoIterator<Item = DropRecord>) {
        let mut remembered = self.remembered();
        for record in merged(batch) {
            let record = Arc::new(record);
            if remembered.len() == REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(Arc::clone(&record));
            if self.followers.receiver_count() > 0 && self.followers.send(record).is_err() {
                tracing::trace!("the last follower left");
            }
        }
    }

    /// What is remembered, the oldest first.
    pub fn remembered_records(&self) -> Vec<Arc<DropRecord>> {
        self.remembered().iter().cloned().collect()
    }

    /// What is remembered and what follows, without a gap and without a record twice:
    /// both are taken under the lock that [`DropLog::push`] holds.
    pub fn follow(&self) -> Followed {
        let remembered = self.remembered();
        Followed {
            remembered: remembered.iter().cloned().collect(),
            next: self.followers.subscribe(),
        }
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Arc<DropRecord>>> {
        // Every push and pop leaves the queue whole.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Equal neighbours as one: a retransmitted packet is one line, and order stays.
fn merged(batch: impl IntoIterator<Item = DropRecord>) -> Vec<DropRecord> {
    let mut merged: Vec<DropRecord> = Vec::new();
    for record in batch {
        match merged.last_mut() {
            Some(last) if last.same_as(&record) => {
                last.count = last.count.saturating_add(record.count);
                last.time = record.time;
            }
            _ => merged.push(record),
        }
    }
    merged
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

    #[test]
    fn only_the_last_records_are_remembered() {
        let log = DropLog::default();
        log.push((0..1_100).map(to_port));
        let remembered = log.remembered_records();
        assert_eq!(remembered.len(), REMEMBERED);
        assert_eq!(remembered.first().unwrap().port, Some(1_100 - 1_024));
        assert_eq!(remembered.last().unwrap().port, Some(1_099));
    }

    #[test]
    fn equal_neighbours_of_a_batch_are_one_record() {
        let log = DropLog::default();
        log.push([to_port(1), to_port(1), to_port(2), to_port(1)]);
        let counts: Vec<_> = log
            .remembered_records()
            .iter()
            .map(|r| (r.port, r.count))
            .collect();
        assert_eq!(counts, [(Some(1), 2), (Some(2), 1), (Some(1), 1)]);
    }

    #[tokio::test]
    async fn a_follower_gets_what_was_and_what_comes_once() {
        let log = DropLog::default();
        log.push([to_port(1)]);
        let mut followed = log.follow();
        log.push([to_port(2)]);
        assert_eq!(
            followed
                .remembered
                .iter()
                .map(|r| r.port)
                .collect::<Vec<_>>(),
            [Some(1)]
        );
        assert_eq!(followed.next.recv().await.unwrap().port, Some(2));
        assert!(followed.next.try_recv().is_err());
    }
}
