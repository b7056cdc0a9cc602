//! What pods' namespaces say of themselves, and when they are asked again.
//!
//! Nothing here decides where the hooks go; the agent's own links do, and they are listed
//! at every look. Inside a namespace are names, addresses, and interfaces that pass the
//! hooks. No word comes from there when they change, and asking takes the kernel ten times
//! as long as the rest of a look at a pod: so a namespace is asked at once when it is new
//! or has other host interfaces, at every look while it is young or has no address, and
//! otherwise in turn with all the others. A look that a starting pod waits for asks only the
//! first ([`Asking`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Place;
use super::links::{Link, addresses, links};
use super::netlink::{Error, Socket};
use super::nsid::Nsid;

/// Looks in a row that ask a new namespace: two seconds at the slowest, while whoever
/// makes it still adds addresses.
const YOUNG: u32 = 4;

/// At least so many are asked at a look, whatever their age: all of them on a small node.
const IN_TURN: usize = 16;

/// And at least this part of them, so that 250 pods take their turn in four seconds.
const IN_TURN_PART: usize = 8;

/// Which namespaces a look asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// All whose turn it is.
    InTurn,
    /// Somebody waits for this look: only those that are new or have other host interfaces. What
    /// the others would say is as old as it was.
    OnlyNew,
}

/// What one namespace said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) links: Vec<Link>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// A namespace of this look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) id: Place,
    pub(super) nsid: Nsid,
    /// Indexes of its host interfaces.
    pub(super) hooks: Vec<u32>,
}

/// What is remembered of the namespaces of the last look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: BTreeMap<Place, Known>,
    /// Counts looks.
    look: u64,
}

#[derive(Debug)]
struct Known {
    subject: Subject,
    said: Result<Details, Error>,
    /// How often it was asked since it looked like this.
    times: u32,
    /// The look at which it was last asked.
    last: u64,
}

impl Memory {
    /// Asks those of `subjects` that `asking` names, and forgets all other namespaces.
    pub(super) fn refresh(&mut self, socket: &mut Socket, subjects: &[Subject], asking: Asking) {
        self.refresh_with(subjects, asking, |nsid| Details::ask(socket, nsid));
    }

    /// What the namespace last said; an error is asked about again at the next look.
    pub(super) fn of(&self, id: &Place) -> Option<&Result<Details, Error>> {
        self.known.get(id).map(|known| &known.said)
    }

    fn refresh_with(
        &mut self,
        subjects: &[Subject],
        asking: Asking,
        mut ask: impl FnMut(Nsid) -> Result<Details, Error>,
    ) {
        self.look += 1;
        let mut remembered = std::mem::take(&mut self.known);
        let (mut now, mut in_turn) = (Vec::new(), Vec::new());
        for subject in subjects {
            match remembered
                .remove(&subject.id)
                .filter(|known| known.subject == *subject)
            {
                Some(known) if asking == Asking::OnlyNew || known.may_wait() => in_turn.push(known),
                Some(known) => now.push((subject, known.times)),
                None => now.push((subject, 0)),
            }
        }
        in_turn.sort_by_key(|known| known.last);
        let turn = match asking {
            Asking::InTurn => IN_TURN.max(subjects.len() / IN_TURN_PART),
            Asking::OnlyNew => 0,
        };
        let turn = turn.min(in_turn.len());
        let waiting = in_turn.split_off(turn);

        let asked = now
            .into_iter()
            .map(|(subject, times)| (subject.clone(), times))
            .chain(
                in_turn
                    .into_iter()
                    .map(|known| (known.subject, known.times)),
            )
            .map(|(subject, times)| Known {
                said: ask(subject.nsid),
                subject,
                times: times.saturating_add(1),
                last: self.look,
            });
        self.known = asked
            .chain(waiting)
            .map(|known| (known.subject.id.clone(), known))
            .collect();
    }
}

impl Known {
    fn may_wait(&self) -> bool {
        let Self { said, times, .. } = self;
        *times >= YOUNG
            && said
                .as_ref()
                .is_ok_and(|details| !details.addresses.is_empty())
    }
}

impl Details {
    fn ask(socket: &mut Socket, namespace: Nsid) -> Result<Self, Error> {
        Ok(Self {
            links: links(socket, Some(namespace))?,
            addresses: addresses(socket, namespace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

    use super::*;

    fn subject(number: u16) -> Subject {
        Subject {
            id: Place::Behind(number.into()),
            nsid: Nsid(number.into()),
            hooks: vec![number.into()],
        }
    }

    fn addressed() -> Details {
        Details {
            links: Vec::new(),
            addresses: BTreeSet::from([IpAddr::from([10, 0, 0, 1])]),
        }
    }

    /// Who is asked at one look when everybody answers alike.
    fn asked(memory: &mut Memory, subjects: &[Subject], answer: &Details) -> Vec<i32> {
        asked_by(memory, subjects, answer, Asking::InTurn)
    }

    fn asked_by(
        memory: &mut Memory,
        subjects: &[Subject],
        answer: &Details,
        asking: Asking,
    ) -> Vec<i32> {
        let mut asked = Vec::new();
        memory.refresh_with(subjects, asking, |Nsid(number)| {
            asked.push(number);
            Ok(answer.clone())
        });
        asked
    }

    #[test]
    fn everybody_is_asked_at_every_look_on_a_small_node() {
        let (mut memory, subjects) = (Memory::default(), (0..16).map(subject).collect::<Vec<_>>());
        for _ in 0..10 {
            assert_eq!(asked(&mut memory, &subjects, &addressed()).len(), 16);
        }
    }

    #[test]
    fn the_old_take_turns_and_none_waits_longer_than_the_others() {
        let (mut memory, subjects) = (Memory::default(), (0..240).map(subject).collect::<Vec<_>>());
        for _ in 0..YOUNG {
            assert_eq!(asked(&mut memory, &subjects, &addressed()).len(), 240);
        }
        for _ in 0..3 {
            let round: Vec<_> = (0..8)
                .flat_map(|_| asked(&mut memory, &subjects, &addressed()))
                .collect();
            assert_eq!(round.len(), 240);
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 240);
        }
    }

    #[test]
    fn a_new_namespace_and_one_with_other_interfaces_need_not_wait() {
        let (mut memory, mut subjects) =
            (Memory::default(), (0..240).map(subject).collect::<Vec<_>>());
        for _ in 0..YOUNG {
            asked(&mut memory, &subjects, &addressed());
        }
        subjects.get_mut(200).unwrap().hooks.push(999);
        subjects.get_mut(201).unwrap().nsid = Nsid(901);
        subjects.push(subject(902));
        for look in 0..YOUNG {
            let asked = asked(&mut memory, &subjects, &addressed());
            for number in [200, 901, 902] {
                assert!(asked.contains(&number), "{number} at look {look}");
            }
        }
    }

    #[test]
    fn a_look_that_somebody_waits_for_asks_only_what_is_new_and_takes_nobodys_turn() {
        let (mut memory, mut subjects) = (Memory::default(), vec![subject(1), subject(2)]);
        asked(&mut memory, &subjects, &addressed());
        subjects.get_mut(1).unwrap().hooks.push(999);
        subjects.push(subject(3));
        let urgent =
            |memory: &mut Memory| asked_by(memory, &subjects, &addressed(), Asking::OnlyNew);
        assert_eq!(urgent(&mut memory), [2, 3]);
        assert!(urgent(&mut memory).is_empty());
        assert!(memory.of(&subject(1).id).is_some());
        for look in 0..YOUNG {
            let asked = asked(&mut memory, &subjects, &addressed());
            assert_eq!(asked.len(), 3, "at look {look}");
        }
    }

    #[test]
    fn who_has_no_address_or_did_not_answer_is_asked_again() {
        let (mut memory, subjects) = (Memory::default(), (0..240).map(subject).collect::<Vec<_>>());
        for _ in 0..2 * YOUNG {
            assert_eq!(
                asked(&mut memory, &subjects, &Details::default()).len(),
                240
            );
        }
        for _ in 0..2 * YOUNG {
            let mut asked = 0;
            memory.refresh_with(&subjects, Asking::InTurn, |_| {
                asked += 1;
                Err(Error::Interrupted)
            });
            assert_eq!(asked, 240);
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut memory = Memory::default();
        asked(&mut memory, &[subject(1), subject(2)], &addressed());
        asked(&mut memory, &[subject(2)], &addressed());
        assert!(memory.of(&subject(1).id).is_none());
        assert!(memory.of(&subject(2).id).is_some());
    }
}
