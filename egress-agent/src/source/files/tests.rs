//! The whole source, with real files.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use egress_core::object::{Kind, Object};
use egress_core::policy::{Egress, SubjectNamespace};
use egress_core::store::{Event, Store};
use tempfile::TempDir;

use super::follow::RECHECK;
use super::*;
use crate::status::{self, FileSource, Source, SourceState};

/// Long enough for a change to arrive on a busy machine; the usual is 15 ms.
const SOON: Duration = Duration::from_mins(1);

/// Long enough to believe that nothing comes: two rechecks.
const WHILE: Duration = Duration::from_millis(2_300);

struct World {
    dir: TempDir,
    store: Store,
    source: Option<ManifestSource>,
    last: Change,
}

impl World {
    /// A folder `m` with nothing in it, and one for the state.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("m")).unwrap();
        Self {
            dir,
            store: Store::default(),
            source: None,
            last: Change::default(),
        }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let world = Self::new();
        for (name, text) in files {
            world.put(name, text);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    /// Writes a file in place.
    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a file beside and renames it into place.
    fn replace(&self, name: &str, text: &str) {
        let beside = self.dir.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    /// Starts, or restarts, with a fresh store.
    fn start(mut self) -> Self {
        let state = self.dir.path().join("state");
        let (source, first) =
            ManifestSource::load(&self.dir.path().join("m"), Some(&state)).unwrap();
        self.store = Store::default();
        self.source = Some(source);
        self.take(first);
        self
    }

    fn stop(mut self) -> Self {
        self.source = None;
        self
    }

    fn take(&mut self, change: Change) {
        for event in &change.events {
            // An event that changes nothing should not have been sent.
            assert_eq!(
                self.store.apply(event.clone()),
                egress_core::store::Changed::Yes,
                "{event:?}"
            );
        }
        self.last = change;
    }

    async fn next(&mut self) {
        let change = tokio::time::timeout(SOON, self.source.as_mut().unwrap().next())
            .await
            .unwrap_or_else(|_| panic!("no change came; {:?}", self.last));
        self.take(change);
    }

    /// Takes changes until `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !wanted(self) {
            assert!(
                Instant::now() < deadline,
                "{:?} {:?}",
                self.names(),
                self.last
            );
            self.next().await;
        }
    }

    /// No event comes; what is said of files may change.
    async fn nothing_changes(&mut self) {
        let deadline = tokio::time::Instant::now() + WHILE;
        while let Ok(change) =
            tokio::time::timeout_at(deadline, self.source.as_mut().unwrap().next()).await
        {
            assert_eq!(change.events, []);
            self.take(change);
        }
    }

    /// Policies and pods, each with a mark: `!` closed.
    fn names(&self) -> Vec<String> {
        let policies = self.store.policies().map(|policy| {
            let everywhere = policy.subject.namespace == SubjectNamespace::Unknown;
            let mark = if policy.unreadable { "!" } else { "" };
            format!(
                "{mark}{}{}",
                if everywhere { "*/" } else { "" },
                policy.name
            )
        });
        let pods = self
            .store
            .pods()
            .map(|pod| format!("{}pod {}", if pod.unreadable { "!" } else { "" }, pod.name));
        policies.chain(pods).collect()
    }

    fn state_of(&self, name: &str) -> SourceState {
        let path = self.path(name).display().to_string();
        self.files()
            .find(|source| source.path == path)
            .unwrap()
            .state
    }

    fn files(&self) -> impl Iterator<Item = &FileSource> {
        self.last.sources.iter().map(|source| match source {
            Source::File(file) => file,
            Source::Watch(watch) => panic!("{watch:?} among files"),
        })
    }

    fn problems(&self) -> Vec<String> {
        self.last.problems.iter().map(ToString::to_string).collect()
    }

    /// How many rules a policy has, to tell its versions apart.
    fn rules(&self, name: &str) -> usize {
        let (namespace, name) = name.split_once('/').unwrap();
        match &self
            .store
            .policy(&egress_core::object::Name::new(namespace, name))
            .unwrap()
            .egress
        {
            Egress::Isolated(rules) => rules.len(),
            Egress::NotMentioned => panic!("not isolated"),
        }
    }
}

/// A policy with this many rules.
fn policy(name: &str, rules: usize) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  podSelector: {{}}\n  policyTypes: [Egress]\n  egress:\n{}",
        "  - to: [{podSelector: {}}]\n".repeat(rules)
    )
}

fn pod(name: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\n")
}

const BROKEN: &str = "kind: NetworkPolicy\nspec: [\n";

#[test]
fn a_folder_that_is_not_there_is_a_clear_error_and_an_empty_one_is_no_change() {
    let world = World::new();
    let absent = world.dir.path().join("absent");
    for result in [
        ManifestSource::load(&absent, None).map(|(_, change)| change),
        load_once(&absent),
    ] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
    fs::write(&absent, "").unwrap();
    assert!(load_once(&absent).is_err(), "a file is no folder");
    assert_eq!(world.start().last, Change::default());
}

#[test]
fn all_kinds_of_files_are_read_and_lists_taken_apart() {
    let json = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\n\t\"items\":[{}]}}",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j","namespace":"a"}}"#
    );
    let typed = "apiVersion: networking.k8s.io/v1\r\nkind: NetworkPolicyList\r\nitems:\r\n- metadata: {name: l, namespace: a}\r\n  spec: {podSelector: {}, policyTypes: [Egress]}\r\n";
    let world = World::with(&[
        (
            "one.yaml",
            &format!("\u{feff}{}---\n{}", policy("a/p", 1), pod("a/x")),
        ),
        ("two.yml", typed),
        ("deep/er/three.json", &json),
        ("x.yaml/four.yaml", &pod("a/y")),
        (".hidden.yaml", &pod("a/hidden")),
        ("sub/.hidden/five.yaml", &pod("a/hidden")),
        ("six.txt", &pod("a/text")),
    ]);
    symlink("nowhere", world.path("dangling.yaml")).unwrap();
    let world = world.start();
    assert_eq!(
        world.names(),
        ["a/l", "a/p", "pod a/j", "pod a/x", "pod a/y"]
    );
    assert_eq!(world.problems(), [""; 0]);
    assert!(
        world
            .files()
            .all(|source| source.state == SourceState::Read && source.error.is_none())
    );
    let keys: Vec<_> = world.last.events.iter().map(key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let once = load_once(&world.path("")).unwrap();
    assert_eq!(once.events, world.last.events, "check reads the same");
}

fn key(event: &Event) -> egress_core::object::Key {
    match event {
        Event::Applied(object) => object.key(),
        Event::Deleted(key) => key.clone(),
    }
}

#[test]
fn the_sum_of_a_source_is_that_of_the_text_that_counts() {
    let world = World::with(&[("a.yaml", "")]).start();
    let sum = world.files().next().unwrap().sha256.clone();
    assert_eq!(
        sum.unwrap(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut world = World::new().start();
    world.put("a.yaml", policy("n/p", 1));
    world.until(|world| world.names() == ["n/p"]).await;
    world.put("a.yaml", policy("n/p", 2));
    world.until(|world| world.rules("n/p") == 2).await;
    world.put("new/folder/b.yaml", pod("n/x"));
    world
        .until(|world| world.names() == ["n/p", "pod n/x"])
        .await;
    fs::rename(world.path("new"), world.path("other")).unwrap();
    world
        .until(|world| {
            world
                .files()
                .any(|source| source.path.ends_with("other/folder/b.yaml"))
        })
        .await;
    assert_eq!(world.last.events, [], "the objects are where they were");
    fs::remove_dir_all(world.path("other")).unwrap();
    fs::remove_file(world.path("a.yaml")).unwrap();
    world.until(|world| world.names().is_empty()).await;
    world.until(|world| world.last.sources.is_empty()).await;
}

#[tokio::test]
async fn a_change_is_told_of_and_not_only_found_by_a_recheck() {
    let mut world = World::new().start();
    let mut best = Duration::MAX;
    for rules in 1..=10 {
        world.replace("a.yaml", &policy("n/p", rules));
        let begin = Instant::now();
        world
            .until(|world| !world.names().is_empty() && world.rules("n/p") == rules)
            .await;
        best = best.min(begin.elapsed());
    }
    assert!(best < RECHECK / 4, "{best:?}");
}

#[tokio::test]
async fn a_file_counts_when_it_is_closed_and_not_before() {
    let mut world = World::with(&[("a.yaml", &policy("n/p", 1))]).start();
    let mut old = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(world.path("a.yaml"))
        .unwrap();
    let mut new = File::create(world.path("b.yaml")).unwrap();
    let text = policy("n/p", 2);
    let (half, rest) = text.split_at(text.len() - 20);
    old.write_all(half.as_bytes()).unwrap();
    new.write_all(pod("n/x").as_bytes()).unwrap();
    world.put("c.yaml", pod("n/y")); // makes it look
    world
        .until(|world| world.names().contains(&"pod n/y".to_owned()))
        .await;
    assert_eq!(world.names(), ["n/p", "pod n/y"]);
    world.nothing_changes().await;
    assert_eq!(world.rules("n/p"), 1);
    assert_eq!(world.state_of("a.yaml"), SourceState::BeingWritten);
    assert_eq!(world.state_of("b.yaml"), SourceState::BeingWritten);

    old.write_all(rest.as_bytes()).unwrap();
    drop(old);
    world.until(|world| world.rules("n/p") == 2).await;
    drop(new);
    world
        .until(|world| world.names() == ["n/p", "pod n/x", "pod n/y"])
        .await;
    assert_eq!(world.state_of("a.yaml"), SourceState::Read);
}

#[tokio::test]
async fn a_file_being_written_at_a_restart_says_what_it_had_said() {
    let world = World::with(&[("a.yaml", &policy("n/p", 1))]).start().stop();
    let writer = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(world.path("a.yaml"))
        .unwrap();
    let mut world = world.start();
    assert_eq!(world.names(), ["n/p"]);
    assert_eq!(world.state_of("a.yaml"), SourceState::BeingWritten);
    drop(writer); // empty: closed after writing, so that is what it says
    world.until(|world| world.names().is_empty()).await;
}

#[tokio::test]
async fn a_file_that_breaks_keeps_what_it_had_said_until_it_is_repaired() {
    let mut world = World::with(&[("a.yaml", &policy("n/p", 1))]).start();
    let good = world.files().next().unwrap().sha256.clone();
    for broken in [
        BROKEN.as_bytes(),
        b"a: 1\na: 2\n",
        b"\xff\xfe",
        b"a: \0",
        b"a: &a [*a]",
    ] {
        world.put("a.yaml", broken);
        world
            .until(|world| world.state_of("a.yaml") == SourceState::Kept)
            .await;
        assert_eq!(world.names(), ["n/p"]);
        let source = world.files().next().unwrap();
        assert_eq!(source.sha256, good);
        assert!(source.error.is_some());
        assert_eq!(world.problems().len(), 1, "{:?}", world.problems());
        world.put("a.yaml", policy("n/p", 1));
        world
            .until(|world| world.state_of("a.yaml") == SourceState::Read)
            .await;
        assert_eq!(world.last.events, []);
    }
    world.put("a.yaml", BROKEN);
    world
        .until(|world| world.state_of("a.yaml") == SourceState::Kept)
        .await;
    world.replace("a.yaml", &policy("n/p", 3));
    world.until(|world| world.rules("n/p") == 3).await;
    assert_eq!(world.problems(), [""; 0]);
}

#[tokio::test]
async fn a_broken_file_that_is_deleted_is_gone() {
    let mut world = World::with(&[("a.yaml", &policy("n/p", 1))]).start();
    world.put("a.yaml", BROKEN);
    world
        .until(|world| world.state_of("a.yaml") == SourceState::Kept)
        .await;
    fs::remove_file(world.path("a.yaml")).unwrap();
    world.until(|world| world.names().is_empty()).await;
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn a_restart_on_a_broken_file_knows_what_it_had_said() {
    let world = World::with(&[("a.yaml", &policy("n/p", 1)), ("sub/b.yaml", &pod("n/x"))])
        .start()
        .stop();
    world.put("a.yaml", BROKEN);
    world.put("sub/b.yaml", "[");
    let world = world.start();
    assert_eq!(world.names(), ["n/p", "pod n/x"]);
    assert_eq!(world.state_of("a.yaml"), SourceState::Kept);
    let world = world.stop().start();
    assert_eq!(
        world.names(),
        ["n/p", "pod n/x"],
        "and the one after that, too"
    );
}

#[test]
fn a_file_deleted_while_nobody_looked_is_forgotten() {
    let world = World::with(&[("a.yaml", &policy("n/p", 1))]).start().stop();
    fs::remove_file(world.path("a.yaml")).unwrap();
    let world = world.start().stop();
    assert_eq!(world.names(), [""; 0]);
    world.put("a.yaml", "x: [");
    assert_eq!(world.start().names(), [""; 0]);
}

#[test]
fn a_broken_file_of_which_nothing_is_known_closes_what_it_may_hold() {
    let in_namespace = format!("{}  x: 1\n  x: 2\n", policy("n/p", 1));
    let world = World::with(&[
        ("a.yaml", &format!("{}---\n{in_namespace}", pod("n/x"))),
        ("b.yaml", BROKEN),
        ("c.yaml", "just: [garbage"),
    ])
    .start();
    assert_eq!(world.names(), ["!*/b.yaml#1", "!n/p", "pod n/x"]);
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        assert_eq!(world.state_of(name), SourceState::Unreadable);
    }
    let files: std::collections::BTreeSet<_> = world
        .last
        .problems
        .iter()
        .map(|problem| &problem.place)
        .collect();
    assert_eq!(files.len(), 3, "{:?}", world.problems());
}

#[tokio::test]
async fn what_a_file_that_never_parsed_was_seen_to_say_stays_until_it_parses() {
    let mut world = World::with(&[("a.yaml", &format!("{}---\nx: [\n", policy("n/p", 1)))]).start();
    assert_eq!(world.names(), ["n/p"]);
    world.put("a.yaml", "cut: [");
    world.next().await;
    assert_eq!(world.names(), ["n/p"]);
    world.put("a.yaml", pod("n/x"));
    world.until(|world| world.names() == ["pod n/x"]).await;
}

#[test]
fn an_alias_bomb_and_endless_nesting_are_problems_of_their_file_only() {
    use std::fmt::Write as _;
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..40 {
        writeln!(
            bomb,
            "a{i}: &a{i} [{}]",
            vec![format!("*a{}", i - 1); 9].join(",")
        )
        .unwrap();
    }
    let world = World::with(&[
        ("a.yaml", &bomb),
        ("b.json", &"[".repeat(1 << 20)),
        ("c.yaml", &pod("n/x")),
    ])
    .start();
    assert_eq!(world.names(), ["pod n/x"]);
    assert_eq!(world.problems().len(), 2);
}

#[tokio::test]
async fn equal_objects_are_one_and_different_ones_of_a_name_close() {
    let mut world =
        World::with(&[("a.yaml", &policy("n/p", 1)), ("b.yaml", &policy("n/p", 1))]).start();
    assert_eq!(world.names(), ["n/p"]);
    assert_eq!(world.problems(), [""; 0]);

    world.put("b.yaml", format!("{}---\n{}", pod("n/x"), policy("n/p", 2)));
    world
        .until(|world| world.names() == ["!n/p", "pod n/x"])
        .await;
    let [a, b] = world.last.problems.as_slice() else {
        panic!("{:?}", world.problems())
    };
    assert_eq!((a.line, b.line), (Some(1), Some(5)), "S96: both places");
    assert!(
        a.message.contains("b.yaml:5") && b.message.contains("a.yaml:1"),
        "{a} {b}"
    );
    assert_eq!(a.object, "NetworkPolicy n/p");

    fs::remove_file(world.path("a.yaml")).unwrap();
    world
        .until(|world| world.names() == ["n/p", "pod n/x"])
        .await;
    assert_eq!(world.rules("n/p"), 2);
    assert_eq!(world.problems(), [""; 0]);

    world.put(
        "b.yaml",
        format!("{}---\n{}", policy("n/p", 1), policy("n/p", 2)),
    );
    world.until(|world| world.names() == ["!n/p"]).await;
}

#[tokio::test]
async fn the_swap_of_a_config_map_volume_is_one_change() {
    let mut world = World::new();
    for (version, rules) in [("..1", 1), ("..2", 2)] {
        for name in ["p", "q", "r"] {
            world.put(
                &format!("{version}/{name}.yaml"),
                policy(&format!("n/{name}"), rules),
            );
        }
    }
    world.put("..2/s.yaml", pod("n/s"));
    symlink("..1", world.path("..data")).unwrap();
    for name in ["p", "q", "r", "s"] {
        symlink(
            format!("..data/{name}.yaml"),
            world.path(&format!("{name}.yaml")),
        )
        .unwrap();
    }
    world = world.start();
    assert_eq!(world.names(), ["n/p", "n/q", "n/r"]);
    for round in 0..20 {
        let (version, rules) = if round % 2 == 0 {
            ("..2", 2)
        } else {
            ("..1", 1)
        };
        symlink(version, world.path("..data_tmp")).unwrap();
        fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
        world
            .until(|world| !world.last.events.is_empty() && world.rules("n/p") == rules)
            .await;
        assert_eq!(world.last.events.len(), 4, "{:?}", world.last);
        assert_eq!([world.rules("n/q"), world.rules("n/r")], [rules; 2]);
    }
}

#[tokio::test]
async fn a_rename_never_makes_a_policy_vanish() {
    let mut world = World::with(&[
        ("a/p.yaml", &policy("n/p", 1)),
        ("b/other.yaml", &pod("n/x")),
    ])
    .start();
    let paths = [
        world.path("a/p.yaml"),
        world.path("b/p.yaml"),
        world.path("q.yaml"),
    ];
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let renamer = std::thread::spawn({
        let done = std::sync::Arc::clone(&done);
        move || {
            let mut renames = 0_usize;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in paths.iter().zip(paths.iter().cycle().skip(1)) {
                    fs::rename(from, to).unwrap();
                    renames += 1;
                }
            }
            renames
        }
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    while let Ok(change) =
        tokio::time::timeout_at(deadline, world.source.as_mut().unwrap().next()).await
    {
        assert_eq!(change.events, []);
    }
    // Another change is seen in spite of it.
    world.put("new.yaml", pod("n/y"));
    world
        .until(|world| world.names().contains(&"pod n/y".to_owned()))
        .await;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let renames = renamer.join().unwrap();
    assert!(renames > 100, "{renames}");
    assert_eq!(world.names(), ["n/p", "pod n/x", "pod n/y"]);
}

#[tokio::test]
async fn many_files_written_at_once_are_few_changes() {
    let mut world = World::new().start();
    for i in 0..100 {
        world.put(&format!("{i}.yaml"), pod(&format!("n/x{i}")));
    }
    let mut changes = 0;
    while world.store.pods().count() < 100 {
        world.next().await;
        changes += 1;
    }
    assert!(changes <= 20, "{changes}");
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_what_was_known_until_it_is_back() {
    let mut world = World::with(&[("a.yaml", &policy("n/p", 1))]).start();
    let (here, away) = (world.path(""), world.dir.path().join("away"));
    fs::rename(&here, &away).unwrap();
    world.next().await;
    assert_eq!(world.names(), ["n/p"]);
    assert_eq!(world.problems().len(), 1, "{:?}", world.problems());
    world.nothing_changes().await;

    fs::create_dir(world.dir.path().join("new")).unwrap();
    fs::write(world.dir.path().join("new/b.yaml"), pod("n/x")).unwrap();
    fs::rename(world.dir.path().join("new"), &here).unwrap();
    world.until(|world| world.names() == ["pod n/x"]).await;
    assert_eq!(world.problems(), [""; 0]);
    world.put("c.yaml", pod("n/y"));
    world
        .until(|world| world.names() == ["pod n/x", "pod n/y"])
        .await;
}

#[tokio::test]
async fn a_link_to_the_folder_may_be_turned_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    for (version, name) in [("1", "n/x"), ("2", "n/y")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), pod(name)).unwrap();
    }
    let link = dir.path().join("current");
    symlink("1", &link).unwrap();
    let (mut source, first) = ManifestSource::load(&link, None).unwrap();
    assert_eq!(first.events.len(), 1);
    symlink("2", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &link).unwrap();
    let change = tokio::time::timeout(SOON, source.next()).await.unwrap();
    assert_eq!(change.events.len(), 2, "one gone, one come: {change:?}");
    fs::write(dir.path().join("2/b.yaml"), pod("n/z")).unwrap();
    let change = tokio::time::timeout(SOON, source.next()).await.unwrap();
    assert_eq!(change.events.len(), 1);
}

#[tokio::test]
async fn a_file_behind_a_link_is_followed() {
    let mut world = World::new();
    let behind = world.dir.path().join("behind");
    fs::write(&behind, policy("n/p", 1)).unwrap();
    symlink(&behind, world.path("a.yaml")).unwrap();
    world = world.start();
    fs::write(&behind, policy("n/p", 2)).unwrap();
    world.until(|world| world.rules("n/p") == 2).await;
    // A folder nobody watches: noticed by looking.
    let beside = world.dir.path().join("beside");
    fs::write(&beside, policy("n/p", 3)).unwrap();
    fs::rename(&beside, &behind).unwrap();
    world.until(|world| world.rules("n/p") == 3).await;
}

#[test]
fn a_file_that_cannot_be_opened_keeps_what_it_had_said() {
    // Permissions do not stop root; a link that leads to itself stops everybody.
    let world = World::with(&[("a.yaml", &policy("n/p", 1)), ("sub/b.yaml", &pod("n/x"))])
        .start()
        .stop();
    fs::remove_file(world.path("a.yaml")).unwrap();
    symlink("a.yaml", world.path("a.yaml")).unwrap();
    fs::remove_dir_all(world.path("sub")).unwrap();
    symlink("sub", world.path("sub")).unwrap();
    let world = world.start();
    assert_eq!(world.names(), ["n/p", "pod n/x"]);
    assert_eq!(world.state_of("a.yaml"), SourceState::Kept);
    assert!(!world.problems().is_empty());
}

#[test]
fn a_state_that_cannot_be_written_is_a_problem_and_nothing_more() {
    let world = World::with(&[("a.yaml", &pod("n/x"))]);
    let state = world.dir.path().join("state");
    fs::write(&state, "a file").unwrap();
    let world = world.start();
    assert_eq!(world.names(), ["pod n/x"]);
    assert_eq!(world.state_of("a.yaml"), SourceState::Read);
    assert!(
        world
            .problems()
            .iter()
            .any(|problem| problem.contains("cannot be kept")),
        "{:?}",
        world.problems()
    );
}

#[test]
fn check_waits_for_a_writer_and_then_takes_what_is_there() {
    let world = World::with(&[("a.yaml", &pod("n/x"))]);
    let writer = fs::OpenOptions::new()
        .append(true)
        .open(world.path("a.yaml"))
        .unwrap();
    let change = load_once(&world.path("")).unwrap();
    assert!(
        matches!(change.events.as_slice(), [Event::Applied(Object::Pod(_))]),
        "{change:?}"
    );
    drop(writer);
}

#[test]
fn the_state_of_two_pin_roots_is_apart() {
    let folder = |root: &str| state_folder(Path::new("/run/x"), Path::new(root));
    assert_eq!(
        folder("/sys/fs/bpf/egress"),
        Path::new("/run/x/-sys-fs-bpf-egress")
    );
    assert_ne!(folder("/a-b"), folder("/a/b"));
}

#[test]
fn a_problem_of_an_object_and_one_of_a_file_are_told_apart() {
    let text = format!("{}  - to: [{{ipBlock: {{cidr: bad}}}}]\n", policy("n/p", 1));
    let world = World::with(&[("a.yaml", &text), ("b.yaml", "[")]).start();
    let problems: Vec<status::Problem> = world.last.problems.iter().map(Into::into).collect();
    let kinds: Vec<_> = problems
        .iter()
        .map(|problem| (problem.kind, problem.line))
        .collect();
    assert_eq!(
        kinds,
        [
            (status::ProblemKind::Object, Some(9)),
            (status::ProblemKind::File, Some(2))
        ],
        "{problems:?}"
    );
    assert_eq!(
        world
            .last
            .events
            .iter()
            .map(|event| key(event).kind)
            .collect::<Vec<_>>(),
        [Kind::NetworkPolicy]
    );
}
