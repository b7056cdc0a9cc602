//! From what the API server says of each kind to changes of everything: pure, no I/O.
//!
//! * Nothing is handed out before every kind was complete once: what is pinned stays, because
//!   a pod without its policies, or a policy without its peers, would be judged wrongly.
//! * A list is taken in whole: what it does not have is deleted when it is complete, and not
//!   before.
//! * A kind that cannot be heard keeps what is known of it.

use std::collections::{BTreeMap, BTreeSet};

use egress_core::object::{Key, Kind, Name, Object, Problem, Read};
use egress_core::store::Event;
use jiff::Timestamp;

use super::item::Item;
use super::resource::{KINDS, Resource};
use super::session::Said;
use crate::source::share::Shared;
use crate::source::{Change, Place, SourceProblem};
use crate::status::{Source, WatchSource};

/// Problems reported of one kind, and of one object. All of what is wrong closes, these are shown.
const REPORTED: usize = 1_000;

/// Everything that was heard.
#[derive(Debug)]
pub(super) struct Mirror {
    kinds: BTreeMap<Kind, Watched>,
    shared: Shared,
    /// What became of objects since the last change was handed out.
    pending: BTreeMap<Key, Event>,
    /// As last handed out.
    reported: Option<Change>,
}

/// What is known of one kind.
#[derive(Debug)]
struct Watched {
    resource: Resource,
    synced: bool,
    last_event: Option<Timestamp>,
    error: Option<String>,
    known: Contents<()>,
    /// A list that is not complete.
    listing: Option<Contents<Object>>,
}

/// Objects of a kind, and what is wrong with them.
#[derive(Debug)]
struct Contents<T> {
    objects: BTreeMap<Name, T>,
    problems: BTreeMap<Name, Vec<Problem>>,
    /// What is no object of the kind.
    unusable: BTreeSet<Problem>,
}

impl Mirror {
    /// Nothing heard yet.
    pub(super) fn new() -> Self {
        Self {
            kinds: KINDS
                .into_iter()
                .map(|kind| (kind, Watched::new(Resource::of(kind))))
                .collect(),
            shared: Shared::default(),
            pending: BTreeMap::new(),
            reported: None,
        }
    }

    /// Takes in what was said of a kind.
    pub(super) fn hear(&mut self, kind: Kind, said: Said, now: Timestamp) {
        let Some(watched) = self.kinds.get_mut(&kind) else {
            return;
        };
        match said {
            Said::Failed(why) => watched.error = Some(why),
            Said::Listing => watched.listing = Some(Contents::default()),
            // An object of a list is no news before the list is complete.
            Said::Applied(item) => {
                if let Some(listing) = &mut watched.listing {
                    if let Some(object) = listing.take(item, &mut self.shared) {
                        listing.objects.insert(object.key().name, object);
                    }
                } else {
                    watched.alive(now);
                    if let Some(object) = watched.known.take(item, &mut self.shared) {
                        let key = object.key();
                        watched.known.objects.insert(key.name.clone(), ());
                        self.pending.insert(key, Event::Applied(object));
                    }
                }
            }
            Said::Deleted(item) => {
                let Read::Object(object) = item.read else {
                    return;
                };
                let key = object.key();
                if let Some(listing) = &mut watched.listing {
                    listing.forget(&key.name);
                } else {
                    watched.alive(now);
                    watched.known.forget(&key.name);
                    self.pending.insert(key.clone(), Event::Deleted(key));
                }
            }
            Said::Complete => {
                watched.alive(now);
                watched.complete(&mut self.pending);
            }
            Said::Alive => watched.alive(now),
        }
    }

    /// What is new since the last change, if anything is.
    pub(super) fn change(&mut self) -> Option<Change> {
        let unseen: Vec<String> = self.kinds.values().filter_map(Watched::waiting).collect();
        let events = if unseen.is_empty() {
            std::mem::take(&mut self.pending).into_values().collect()
        } else {
            Vec::new()
        };
        let mut problems: Vec<SourceProblem> =
            self.kinds.values().flat_map(Watched::problems).collect();
        problems.sort();
        let change = Change {
            events,
            sources: self.kinds.values().map(Watched::source).collect(),
            problems,
            unseen,
        };
        let standing = change.standing();
        if change.events.is_empty() && self.reported.as_ref() == Some(&standing) {
            return None;
        }
        self.reported = Some(standing);
        Some(change)
    }
}

impl Watched {
    fn new(resource: Resource) -> Self {
        Self {
            resource,
            synced: false,
            last_event: None,
            error: None,
            known: Contents::default(),
            listing: None,
        }
    }

    fn alive(&mut self, now: Timestamp) {
        self.last_event = Some(now);
        self.error = None;
    }

    /// Swaps the list in.
    fn complete(&mut self, pending: &mut BTreeMap<Key, Event>) {
        let Some(Contents {
            objects,
            problems,
            unusable,
        }) = self.listing.take()
        else {
            return;
        };
        let kind = self.resource.kind;
        self.synced = true;
        for name in self.known.objects.keys() {
            if !objects.contains_key(name) {
                let key = Key {
                    kind,
                    name: name.clone(),
                };
                pending.insert(key.clone(), Event::Deleted(key));
            }
        }
        self.known = Contents {
            objects: objects.keys().map(|name| (name.clone(), ())).collect(),
            problems,
            unusable,
        };
        for (name, object) in objects {
            pending.insert(Key { kind, name }, Event::Applied(object));
        }
    }

    /// What it waits for, while it was never complete.
    fn waiting(&self) -> Option<String> {
        let plural = self.resource.plural;
        match (&self.error, self.synced) {
            (_, true) => None,
            (Some(error), false) => Some(format!("the first list of {plural}: {error}")),
            (None, false) => Some(format!("the first list of {plural}")),
        }
    }

    fn source(&self) -> Source {
        Source::Watch(WatchSource {
            resource: self.resource.plural.to_owned(),
            synced: self.synced,
            last_event: self.last_event,
            error: self.error.clone(),
        })
    }

    /// What is wrong now.
    fn problems(&self) -> impl Iterator<Item = SourceProblem> {
        let consequence = if self.synced {
            "what is known of them stays"
        } else {
            "until they were seen, what is pinned stays as it is"
        };
        let silent = self.error.as_ref().map(|error| {
            let problem = Problem::new("", format!("{error}; {consequence}"));
            self.problem("", &problem)
        });
        let kind = self.resource.kind;
        let objects = self
            .known
            .problems
            .iter()
            .flat_map(move |(name, problems)| {
                let object = format!("{kind} {name}");
                problems
                    .iter()
                    .map(move |problem| self.problem(&object, problem))
            });
        let unusable = self.known.unusable.iter();
        let unusable = unusable.map(|problem| self.problem("", problem));
        silent
            .into_iter()
            .chain(objects.chain(unusable).take(REPORTED))
    }

    fn problem(&self, object: &str, problem: &Problem) -> SourceProblem {
        let place = Place::Resource(self.resource.plural);
        SourceProblem::new(place, None, object, problem)
    }
}

impl<T> Default for Contents<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            problems: BTreeMap::new(),
            unusable: BTreeSet::new(),
        }
    }
}

impl<T> Contents<T> {
    /// Notes what is wrong with an item; returns its object.
    fn take(&mut self, item: Item, shared: &mut Shared) -> Option<Object> {
        let object = match item.read {
            Read::Object(mut object) => {
                shared.share(&mut object);
                object
            }
            Read::Unusable(problem) => {
                self.unusable.insert(problem);
                return None;
            }
            // `Item::read` makes the other kinds unusable.
            Read::Ignored { .. } => return None,
        };
        let name = object.key().name;
        let problems = object.problems();
        if problems.is_empty() {
            self.problems.remove(&name);
        } else {
            let shown = problems.iter().take(REPORTED).cloned().collect();
            self.problems.insert(name, shown);
        }
        Some(object)
    }

    fn forget(&mut self, name: &Name) {
        self.objects.remove(name);
        self.problems.remove(name);
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]
mod tests {
    use egress_core::store::{Changed, Store};
    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn item(kind: Kind, value: &Value) -> Item {
        let text = RawValue::from_string(value.to_string()).unwrap();
        Item::read(Resource::of(kind), &text)
    }

    fn named(kind: Kind, name: &str) -> Item {
        item(kind, &json!({"metadata": {"name": name, "namespace": "x"}}))
    }

    /// A mirror and the store that its changes make.
    struct World {
        mirror: Mirror,
        store: Store,
        last: Change,
        clock: i64,
    }

    impl World {
        fn new() -> Self {
            Self {
                mirror: Mirror::new(),
                store: Store::default(),
                last: Change::default(),
                clock: 0,
            }
        }

        /// Every kind is complete with nothing in it.
        fn synced() -> Self {
            let mut world = Self::new();
            for kind in KINDS {
                world.list(kind, &[]);
            }
            assert!(world.step());
            assert_eq!(world.last.unseen, [""; 0]);
            world
        }

        fn hear(&mut self, kind: Kind, said: Said) {
            self.clock += 1;
            self.mirror.hear(kind, said, at(self.clock));
        }

        fn list(&mut self, kind: Kind, names: &[&str]) {
            self.hear(kind, Said::Listing);
            for name in names {
                self.hear(kind, Said::Applied(named(kind, name)));
            }
            self.hear(kind, Said::Complete);
        }

        /// Takes the next change; whether there was one.
        fn step(&mut self) -> bool {
            let Some(change) = self.mirror.change() else {
                return false;
            };
            for event in change.events.clone() {
                let (Changed::Yes | Changed::No) = self.store.apply(event);
            }
            self.last = change;
            true
        }

        fn pods(&self) -> Vec<&str> {
            let pods = self.store.pods();
            pods.map(|pod| &*pod.name.name).collect()
        }

        fn row(&self, kind: Kind) -> WatchSource {
            let plural = Resource::of(kind).plural;
            self.last
                .sources
                .iter()
                .find_map(|source| match source {
                    Source::Watch(watch) => (watch.resource == plural).then(|| watch.clone()),
                    Source::File(file) => panic!("{file:?}"),
                })
                .unwrap()
        }
    }

    #[test]
    fn nothing_is_handed_out_before_every_kind_was_complete_once() {
        let mut world = World::new();
        assert!(world.step(), "how things stand");
        assert_eq!((world.last.unseen.len(), world.last.sources.len()), (6, 6));
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Node) {
            world.list(kind, &["a"]);
            assert!(world.step());
            assert_eq!(world.last.events, [], "{kind}");
        }
        assert_eq!(world.last.unseen, ["the first list of nodes"]);
        // What happens meanwhile is not lost.
        world.hear(Kind::Pod, Said::Applied(named(Kind::Pod, "b")));
        world.hear(Kind::Pod, Said::Deleted(named(Kind::Pod, "a")));
        world.list(Kind::Node, &[]);
        assert!(world.step());
        assert_eq!(world.pods(), ["b"]);
        assert_eq!(world.store.policies().count(), 1);
        assert!(!world.step(), "nothing is new");
    }

    #[test]
    fn a_kind_that_may_not_be_watched_says_so_and_holds_everything_back() {
        let mut world = World::new();
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Node) {
            world.list(kind, &["a"]);
        }
        world.hear(
            Kind::Node,
            Said::Failed("the agent may not watch nodes".to_owned()),
        );
        assert!(world.step());
        assert_eq!(world.last.events, []);
        assert_eq!(
            world.last.unseen,
            ["the first list of nodes: the agent may not watch nodes"]
        );
        let row = world.row(Kind::Node);
        assert_eq!((row.synced, row.last_event), (false, None));
        let problems: Vec<_> = world
            .last
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            problems,
            [
                "nodes: the agent may not watch nodes; until they were seen, what is pinned stays as it is"
            ]
        );
        world.list(Kind::Node, &[]);
        assert!(world.step());
        assert_eq!((world.pods(), world.last.problems.len()), (vec!["a"], 0));
    }

    #[test]
    fn a_list_is_swapped_in_when_it_is_complete_and_not_before() {
        let mut world = World::synced();
        world.list(Kind::Pod, &["a", "b"]);
        assert!(world.step());
        assert_eq!(world.pods(), ["a", "b"]);

        // After an outage: b is gone, c is new.
        world.hear(Kind::Pod, Said::Listing);
        world.hear(Kind::Pod, Said::Applied(named(Kind::Pod, "c")));
        assert!(!world.step());
        // The list breaks off: it says nothing.
        world.hear(Kind::Pod, Said::Failed("reset".to_owned()));
        assert!(world.step());
        assert_eq!(world.last.events, []);
        assert_eq!(world.last.unseen, [""; 0], "what was seen once stays seen");
        world.hear(Kind::Pod, Said::Listing);
        for name in ["a", "d"] {
            world.hear(Kind::Pod, Said::Applied(named(Kind::Pod, name)));
        }
        // Something that goes away while the list is made.
        world.hear(Kind::Pod, Said::Deleted(named(Kind::Pod, "d")));
        world.hear(Kind::Pod, Said::Applied(named(Kind::Pod, "c")));
        assert!(!world.step());
        world.hear(Kind::Pod, Said::Complete);
        assert!(world.step());
        assert_eq!(world.pods(), ["a", "c"]);
        assert_eq!(world.row(Kind::Pod).error, None);
        assert!(world.last.problems.is_empty());
    }

    #[test]
    fn what_arrived_together_is_one_change_with_the_last_word_on_each_object() {
        let mut world = World::synced();
        for name in ["a", "b", "c"] {
            world.hear(Kind::Pod, Said::Applied(named(Kind::Pod, name)));
        }
        world.hear(Kind::Pod, Said::Deleted(named(Kind::Pod, "b")));
        world.hear(
            Kind::NetworkPolicy,
            Said::Applied(named(Kind::NetworkPolicy, "p")),
        );
        assert!(world.step());
        let keys: Vec<_> = world
            .last
            .events
            .iter()
            .map(|event| match event {
                Event::Applied(object) => format!("+{}", object.key().name),
                Event::Deleted(key) => format!("-{}", key.name),
            })
            .collect();
        assert_eq!(keys, ["+x/p", "+x/a", "-x/b", "+x/c"], "by kind and name");
    }

    #[test]
    fn a_server_that_is_gone_changes_nothing_that_is_known_and_shows_its_age() {
        let mut world = World::synced();
        world.list(Kind::Pod, &["a"]);
        assert!(world.step());
        let heard = world.row(Kind::Pod).last_event;
        assert_eq!(heard, Some(at(world.clock)));
        for kind in KINDS {
            world.hear(kind, Said::Failed("connection refused".to_owned()));
        }
        assert!(world.step());
        assert_eq!((world.pods(), world.last.events.len()), (vec!["a"], 0));
        assert_eq!(world.last.unseen, [""; 0]);
        assert_eq!(world.last.problems.len(), 6);
        let row = world.row(Kind::Pod);
        assert_eq!((row.synced, row.last_event), (true, heard));
        assert_eq!(row.error.as_deref(), Some("connection refused"));
        // The next attempt fails alike: nothing to say.
        world.hear(Kind::Pod, Said::Failed("connection refused".to_owned()));
        assert!(!world.step());
        for kind in KINDS {
            world.hear(kind, Said::Alive);
        }
        assert!(world.step());
        assert_eq!((world.last.problems.len(), world.last.events.len()), (0, 0));
        assert_eq!(world.row(Kind::Pod).last_event, Some(at(world.clock)));
    }

    #[test]
    fn garbage_closes_and_is_reported_until_it_is_mended_or_gone() {
        let mut world = World::synced();
        let bad = item(
            Kind::NetworkPolicy,
            &json!({"metadata": {"name": "p", "namespace": "x"}, "spec": {"podSelector": 7, "policyTypes": ["Egress"], "egress": [{}]}}),
        );
        world.hear(Kind::NetworkPolicy, Said::Applied(bad));
        assert!(world.step());
        let policy = world.store.policies().next().unwrap();
        assert!(policy.unreadable);
        let [problem] = &*world.last.problems else {
            panic!("{:?}", world.last.problems)
        };
        assert_eq!(
            (problem.object.as_str(), problem.field.as_str()),
            ("NetworkPolicy x/p", "spec.podSelector")
        );
        world.hear(
            Kind::NetworkPolicy,
            Said::Applied(named(Kind::NetworkPolicy, "p")),
        );
        assert!(world.step());
        assert!(world.last.problems.is_empty());

        world.hear(
            Kind::Pod,
            Said::Applied(item(Kind::Pod, &json!({"metadata": {}}))),
        );
        assert!(world.step());
        assert_eq!((world.last.events.len(), world.last.problems.len()), (0, 1));
        world.list(Kind::Pod, &["a"]);
        assert!(world.step());
        assert!(world.last.problems.is_empty(), "the new list has none");
    }
}
