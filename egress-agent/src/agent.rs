//! The running agent: the one task that owns the store, the hooks and the tables.
//!
//! It wakes for a change of the objects, for a change of namespaces or interfaces, and for
//! questions; each time it makes the kernel say what the objects say, and publishes how that went.
//! Until all objects were seen once it leaves the kernel as it finds it.

mod events;
mod explain;
mod hooks;
mod reconcile;
mod report;
mod starting;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use egress_core::compile::{Desired, Options, Touched};
use egress_core::object::Name;
use egress_core::plan::{Homes, Refusal};
use egress_core::store::{Changed, Store};
use futures_util::future::OptionFuture;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use self::events::Events;
use self::starting::Starting;
use crate::attribution::Attribution;
use crate::datapath::{Datapath, PinRoot, Sizes};
use crate::drops::{self, DropLog};
use crate::flows::{self, FlowLog};
use crate::metrics::{Counters, Observations, WorkloadLabels};
use crate::pods::{Changes, Discovery, Found, HostInterface, Place, PodId, Records, Wanted};
use crate::serve::socket::Socket;
use crate::serve::{Request, View, http};
use crate::source::{self, Change, Origin, Source, SourceProblem};
use crate::status::{self, Status};

/// The folder of records, in the state folder.
const RECORDS: &str = "pods";

/// What did not work is tried again this often.
const RETRY: Duration = Duration::from_millis(500);

/// So long after a spare table was taken, more are made and those that were made are taken over. What
/// comes in a burst is made at once then.
const LULL: Duration = Duration::from_millis(10);

/// So long after pods of other nodes changed, or nothing but what is told of sources, that is
/// published. Of a burst it is published once then.
const UNHURRIED: Duration = Duration::from_millis(100);

/// And so many times as long as publishing took the last time, so that pods that come and go elsewhere all
/// the time do not have a large node do little else; but no longer than this.
const REST: u32 = 200;
const PATIENCE: Duration = Duration::from_millis(500);

/// Where no spare table can be made, it is tried again this often.
const NO_ROOM: Duration = Duration::from_secs(10);

/// So long a CNI plugin may wait for its pod's object. The watch is behind the kubelet by
/// milliseconds; who waits longer does not occupy the kubelet, which tries again.
const HOLD: Duration = Duration::from_secs(5);

/// What the agent is told by flags.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node name, own-node and spoofing choices.
    pub options: Options,
    /// Where the objects are.
    pub origin: Origin,
    /// Where pins go.
    pub pin_root: PathBuf,
    /// The unix socket.
    pub socket: PathBuf,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub http_addr: SocketAddr,
    /// Where the last good text of each manifest and the records of pods' interfaces are kept.
    pub state_dir: PathBuf,
    /// Pods name their network namespaces by annotation. Only where whoever writes pods is
    /// trusted to say where they are.
    pub annotations: bool,
    /// Where libcni keeps its results.
    pub cni_cache_dir: PathBuf,
    /// Drop records one endpoint may send a second.
    pub events_per_second: u32,
    /// Drops are written as Events on the pods, where objects come from the API server.
    pub drop_events: bool,
    /// Capacities.
    pub sizes: Sizes,
    /// Labels of workload series.
    pub labels: WorkloadLabels,
    /// The flow log, where there is to be one.
    pub flow_log: Option<flows::Settings>,
}

/// Runs until `shutdown` resolves. Enforcement stays when it ends.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    // What can be refused without touching the kernel comes first.
    let listener = TcpListener::bind(settings.http_addr)
        .await
        .with_context(|| format!("listening on {} (--http-addr)", settings.http_addr))?;
    let socket = Socket::bind(&settings.socket)?;
    let access = settings.origin.resolve().await?;
    let observations = Arc::new(Observations::new()?);
    let tally = observations.flow_log().clone();
    let flow_log = settings
        .flow_log
        .as_ref()
        .map(|log| FlowLog::start(log, tally))
        .transpose()?;
    let pins = PinRoot::open(&settings.pin_root)?;
    let state_dir = source::state_folder(&settings.state_dir, &settings.pin_root);
    // Reading files takes about as long as the kernel takes to verify programs.
    let objects = tokio::task::spawn_blocking({
        let state_dir = state_dir.clone();
        move || Source::open(access, &state_dir)
    });
    let datapath = tokio::task::block_in_place(|| Datapath::over(pins, &settings.sizes))?;
    let (source, first) = objects
        .await?
        .context("reading the objects (--manifests)")?;
    let records = Records::load(&state_dir.join(RECORDS))
        .with_context(|| format!("reading records in {} (--state-dir)", state_dir.display()))?;
    let changes = Changes::new(Some(&settings.cni_cache_dir))
        .context("watching network namespaces and interfaces")?;
    let discovery = Discovery::new(records, &settings.cni_cache_dir);

    let (status, status_view) = watch::channel(Arc::new(Status::starting(&settings.options.node)));
    let (attribution, attribution_view) = watch::channel(Arc::new(Attribution::new()));
    let (requests, questions) = mpsc::channel(64);
    let counters = Arc::new(Counters::new(Arc::new(datapath.reader()), settings.labels));
    let drops = Arc::new(DropLog::default());
    let view = View {
        status: status_view,
        attribution: attribution_view.clone(),
        counters: Arc::clone(&counters),
        observations: Arc::clone(&observations),
        drops: Arc::clone(&drops),
        requests,
    };
    let mut agent = Agent {
        settings,
        store: Store::default(),
        datapath,
        desired: Desired::default(),
        touched: Touched::everything(),
        homes: None,
        pods: BTreeMap::new(),
        found: BTreeMap::new(),
        sought: None,
        searching: false,
        hooks: BTreeMap::new(),
        unlinked: BTreeSet::new(),
        sources: Vec::new(),
        source_problems: Vec::new(),
        unseen: Vec::new(),
        started: false,
        failures: Vec::new(),
        refused: Vec::new(),
        discovery,
        starting: Vec::new(),
        status,
        attribution,
        counters,
        observations,
        publication: None,
        publishing: Duration::ZERO,
        retry: false,
    };
    let told = source
        .client()
        .filter(|_| agent.settings.drop_events)
        .cloned()
        .map(|client| {
            let node = agent.settings.options.node.clone();
            drops::publish(client, node, Arc::clone(&drops))
        });
    let mut events = Events::new(
        agent.datapath.take_events(),
        attribution_view,
        drops,
        flow_log,
    );
    agent.hear(first);

    let http = axum::serve(listener, http::router(view.clone()));
    let ended = tokio::select! {
        () = shutdown => {
            tracing::info!("ending; what is enforced stays enforced");
            Ok(())
        }
        result = http.into_future() => result.context("serving HTTP"),
        result = socket.serve(view) => result.context("serving the socket"),
        never = events.forward() => match never {},
        Some(never) = OptionFuture::from(told) => match never {},
        () = agent.work(source, changes, questions) => Ok(()),
    };
    events.finish();
    ended
}

/// Waits until `due`; for ever when there is none.
async fn at(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The state of the one task.
struct Agent {
    settings: Settings,
    store: Store,
    datapath: Datapath,
    /// What was last compiled.
    desired: Desired,
    /// What of the store changed since then.
    touched: Touched,
    /// Where the last plan left the addresses; `None` when it was not carried out whole.
    homes: Option<Homes>,
    /// Local pods: who isolates them, as of the last look.
    pods: BTreeMap<Name, Vec<Name>>,
    /// Local pods' namespaces and interfaces, as of the last look.
    found: BTreeMap<PodId, Found>,
    /// What the last look was for; `None` when it failed.
    sought: Option<Sought>,
    /// [`Agent::searches`], as of the last time that pods of this node were another matter.
    searching: bool,
    /// Interfaces that carry our programs, and whose they are.
    hooks: BTreeMap<u32, Hook>,
    /// Those of them that filters hold because links were refused.
    unlinked: BTreeSet<u32>,
    sources: Vec<status::Source>,
    source_problems: Vec<SourceProblem>,
    /// What was never seen whole.
    unseen: Vec<String>,
    /// Everything was seen once, and the kernel made to say it.
    started: bool,
    /// What the kernel refused at the last attempt.
    failures: Vec<Failure>,
    refused: Vec<Refusal>,
    discovery: Discovery,
    /// CNI plugins that wait.
    starting: Vec<Starting>,
    status: watch::Sender<Arc<Status>>,
    attribution: watch::Sender<Arc<Attribution>>,
    counters: Arc<Counters>,
    observations: Arc<Observations>,
    /// When what was not published yet is.
    publication: Option<tokio::time::Instant>,
    /// How long it took the last time to publish what was put off.
    publishing: Duration,
    /// Something did not work that may work the next time.
    retry: bool,
}

/// What decides where a look finds pods, besides the kernel and who speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sought {
    pods: BTreeMap<PodId, Wanted>,
    /// The node's own addresses.
    node: BTreeSet<IpAddr>,
}

/// An interface with our programs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hook {
    interface: HostInterface,
    /// An index may come back for another interface; where it leads tells them apart.
    place: Option<Place>,
    pod: PodId,
}

/// Something the kernel refused, and whom it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    pod: Option<Name>,
    message: String,
}

impl Agent {
    async fn work(
        &mut self,
        mut source: Source,
        mut changes: Changes,
        mut questions: mpsc::Receiver<Request>,
    ) {
        // A point in time, not a span: whatever else keeps the task busy must not put it off.
        let mut due: Option<tokio::time::Instant> = None;
        let mut room: Option<tokio::time::Instant> = None;
        loop {
            room = self
                .datapath
                .lacks_room()
                .then(|| room.unwrap_or_else(|| tokio::time::Instant::now() + LULL));
            due = self
                .retry
                .then(|| due.unwrap_or_else(|| tokio::time::Instant::now() + RETRY));
            debug_assert!(!self.unseen.is_empty() || self.searching == self.searches());
            changes.search(self.searching);
            tokio::select! {
                change = source.next() => self.hear(change),
                () = changes.changed(), if self.started => self.look(),
                Some(question) = questions.recv() => self.answer(question),
                () = at(due) => {
                    due = None;
                    self.reconcile(Instant::now());
                }
                () = at(self.next_answer()) => self.answer_plugins(),
                () = at(self.publication) => self.publish_put_off(),
                () = at(self.datapath.filters_due().map(tokio::time::Instant::from_std)) => {
                    self.replace_filters();
                }
                () = at(room) => {
                    room = (!self.prepare()).then(|| tokio::time::Instant::now() + NO_ROOM);
                }
            }
        }
    }

    /// Takes a change in and does what follows from it.
    fn hear(&mut self, change: Change) {
        let seen = Instant::now();
        let changed = self.take(change);
        if !self.unseen.is_empty() {
            // What is pinned stays as it is: what is missing may only not have come yet.
            self.publish();
        } else if !self.started {
            self.started = true;
            // Even of nothing: what an earlier agent left must go.
            self.reconcile(seen);
            // What cannot be made ready now is tried again later.
            let _ready: bool = self.prepare();
        } else if changed {
            self.objects_changed(seen);
        } else {
            self.publish_soon();
        }
    }

    /// Takes a change into the store. Says whether any object is another now.
    fn take(&mut self, change: Change) -> bool {
        let Change {
            events,
            sources,
            problems,
            unseen,
        } = change;
        let mut changed = false;
        for event in events {
            let node = &self.settings.options.node;
            self.touched.note(&self.store, &event, node);
            changed |= self.store.apply(event) == Changed::Yes;
        }
        self.sources = sources;
        self.source_problems = problems;
        self.unseen = unseen;
        self.note_events();
        changed
    }

    /// When what was last heard of.
    fn note_events(&self) {
        let watches = self.sources.iter().filter_map(|source| match source {
            status::Source::Watch(watch) => Some(watch),
            status::Source::File(_) => None,
        });
        for watch in watches {
            if let Some(at) = watch.last_event {
                self.observations.event_seen(&watch.resource, at);
            }
        }
        if matches!(self.settings.origin, Origin::Manifests(_)) {
            self.observations
                .event_seen("manifests", jiff::Timestamp::now());
        }
    }

    fn answer(&mut self, question: Request) {
        // Who asked may have gone away meanwhile.
        match question {
            Request::Ping(reply) => drop(reply.send(())),
            Request::Explain { from, to, reply } => drop(reply.send(self.explain(&from, &to))),
            Request::Serves(reply) => drop(reply.send(self.serves())),
            Request::Survey(reply) => drop(reply.send(self.survey())),
            Request::Enforce { attachment, reply } => self.enforce(&attachment, reply),
            Request::Inspect { attachment, reply } => drop(reply.send(self.inspect(&attachment))),
        }
    }
}
