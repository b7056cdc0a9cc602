//! The kernel side of the agent: programs, hooks and tables.
//!
//! It carries out the steps of a plan and says how far it got; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::SchedClassifier;
use aya_obj::generated::bpf_attach_type;
use egress_common::abi::{
    Address, Config, Dropped, FLOW_SEED_BYTES, Flow, FlowKey, FrontendKey, PORTS_FIRST,
    PRESENT_FRONTENDS, PRESENT_PEERS, RulesetClass, RulesetFrontend,
};
use egress_common::event::Reason;
use egress_common::flows::WAYS_V4;
use egress_core::compile::Desired;
use egress_core::image::{Image, Placed, Step};
use egress_core::plan::{self, Homes, Limits, Plan};
use egress_core::ports::PortSet;
use egress_core::ruleset::RulesetKey;
use zerocopy::network_endian::U32;

pub use self::bpffs::PinRoot;
pub use self::error::{ApplyError, AttachError, SetupError, TableError};
pub use self::inner::InnerTypes;
use self::interim::Interim;
use self::links::Held;
pub use self::links::{Technique, is_own_filter};
use self::tables::{CounterTables, FREE, LEFT, Tables};
use crate::metrics::{DropCount, Kernel, ReadError, Readings, SlotDrops};
use crate::pods::{HostInterface, Side};
use crate::status::MapFill;
use crate::traffic::{Family, Protocol};

mod ask;
mod bpffs;
mod endpoints;
mod error;
mod flows;
mod inner;
mod interim;
mod links;
mod load;
mod present;
mod slots;
mod sys;
mod tables;

/// Free slots that hold empty tries, so that a new ruleset need not wait for a grace period of the
/// kernel: more than the rulesets that come within a few of them. Two descriptors each.
const SPARES: usize = 32;

/// Slots of endpoints that have a table of inbound flows before there is an endpoint, for the same
/// reason: the pods that start within [`Datapath::prepare`]'s reach. 384 KiB each.
const READY_SLOTS: usize = 8;

/// Capacities the operator can set; the others are the object's.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Prefixes of one ruleset and family.
    pub trie: u32,
    /// Records of new flows that one endpoint may send a second; 0, and the programs have no code for it.
    pub flow_events: u32,
    /// Entries of maps by name, instead of the object's. Those of FLOWS are sets: a third
    /// hold eight IPv4 flows each, the others four of IPv6.
    pub maps: Vec<(&'static str, u32)>,
}

impl Sizes {
    /// Entries of FLOWS that hold at least so many flows of each family.
    pub fn flow_sets(flows: u32) -> u32 {
        let ways = u32::try_from(WAYS_V4).unwrap_or(u32::MAX);
        flows.div_ceil(ways).saturating_mul(3)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            // A trie takes memory by entry, not by capacity: twice the largest policy foreseen.
            trie: 2 * 1024 * 1024,
            flow_events: 0,
            maps: Vec::new(),
        }
    }
}

/// The programs and tables of one pin root.
pub struct Datapath {
    ebpf: Ebpf,
    pins: PinRoot,
    tables: Tables,
    counters: Arc<Mutex<CounterTables>>,
    fills: Arc<Mutex<Vec<MapFill>>>,
    technique: Technique,
    interim: Interim,
    coarse_clock: bool,
    limits: Limits,
    image: Image,
    /// `None` once somebody listens.
    events: Option<RingBuf<MapData>>,
    /// Pins of other ABI versions; `None` when there are none (any more).
    others: Option<Vec<bpffs::Foreign>>,
    /// Something may have moved that the epoch does not tell of.
    unfinished: bool,
}

/// Reads counters, beside whoever writes tables.
#[derive(Clone)]
pub struct Reader {
    counters: Arc<Mutex<CounterTables>>,
    fills: Arc<Mutex<Vec<MapFill>>>,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("pins", &self.pins)
            .field("technique", &self.technique)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Datapath {
    /// Takes a pin root and all that [`Datapath::over`] does.
    pub fn open(pin_root: &Path, sizes: &Sizes) -> Result<Self, SetupError> {
        Self::over(PinRoot::open(pin_root)?, sizes)
    }

    /// Loads the programs over the pinned maps, or new ones, and reads what they say.
    pub fn over(pins: PinRoot, sizes: &Sizes) -> Result<Self, SetupError> {
        let others = Some(pins.others()?).filter(|others| !others.is_empty());
        let mut ebpf = load::load(&pins, sizes)?;
        let limits = load::limits(&pins, sizes)?;
        let mut tables = Tables::take(&mut ebpf, sizes.trie, load::flow_sets(&pins)?)?;
        let counters = Arc::new(Mutex::new(CounterTables::take(&mut ebpf)?));
        let events = ebpf
            .take_map("EVENTS")
            .ok_or(SetupError::Missing("EVENTS"))?;
        let events = RingBuf::try_from(events).map_err(|source| SetupError::Map {
            map: "EVENTS",
            source,
        })?;
        let refused = |source| SetupError::Load {
            kernel: load::kernel(),
            missing: load::missing_capabilities(),
            source,
        };
        let failed = |error: TableError| refused(error.into());
        let interim = Interim::new(links::programs(&mut ebpf).map_err(refused)?);
        let mut image = observe(&tables).map_err(failed)?;
        let is_fresh = image.config.seed == [0; FLOW_SEED_BYTES];
        if is_fresh {
            image.config.seed = sys::random().map_err(|source| SetupError::Seed { source })?;
            tables.set_config(&image.config).map_err(failed)?;
        }
        tables.present.follow(&image).map_err(failed)?;
        let mut datapath = Self {
            ebpf,
            pins,
            tables,
            counters,
            fills: Arc::default(),
            technique: Technique::Unknown,
            interim,
            coarse_clock: load::has_coarse_clock(),
            limits,
            image,
            events: Some(events),
            others,
            unfinished: !is_fresh,
        };
        datapath.publish_fills();
        Ok(datapath)
    }

    /// What the tables say.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// What fits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How hooks are attached here.
    pub const fn technique(&self) -> Technique {
        self.technique
    }

    /// The ring of drop records, once.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }

    /// A kernel program by name: `from_pod`, `to_pod`, or `empty`, which is attached nowhere and not
    /// loaded, and to which a benchmark compares the others.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut SchedClassifier> {
        self.ebpf.program_mut(name)?.try_into().ok()
    }

    /// Where a map is pinned.
    pub fn map_pin(&self, name: &str) -> PathBuf {
        self.pins.map(name)
    }

    /// For scrapes.
    pub fn reader(&self) -> Reader {
        Reader {
            counters: Arc::clone(&self.counters),
            fills: Arc::clone(&self.fills),
        }
    }

    /// Carries out steps in order. After an error the tables are as [`Datapath::image`] says: the
    /// steps before it are done, it and the rest are not.
    pub fn apply(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        let result = self.carry_out_all(steps);
        self.unfinished |= result.is_err();
        self.publish_fills();
        result
    }

    /// The steps from what the tables say to what they should say, as [`plan::plan`].
    ///
    /// Rulesets that an earlier agent built get their content back, or are asked what the plan has to know of
    /// it. Before the steps, flows that were allowed are judged anew where that may be due: the epoch follows
    /// what moved, and an earlier agent, or steps that failed, may have stopped in between (S54).
    pub fn plan(&mut self, want: &Desired, homes: Option<&Homes>) -> Result<Plan, ApplyError> {
        if self.unfinished {
            let config = self.image.config;
            self.apply(&[Step::SetConfig(Config {
                epoch: U32::new(config.epoch.get().wrapping_add(1)),
                ..config
            })])?;
            self.unfinished = false;
        }
        if !self.image.knows_its_rulesets() {
            self.image.recognise(&want.rulesets);
            let literal = self.allowed(&plan::unknown(&self.image, want));
            self.image.note(literal);
        }
        Ok(plan::plan(&self.image, want, &self.limits, homes))
    }

    /// Has room made for the next rulesets and endpoints, and what was left taken away, by a thread: it
    /// waits for grace periods. To be called as long as [`Datapath::lacks_room`].
    pub fn prepare(&mut self) -> Result<(), TableError> {
        let (rulesets, endpoints) = (self.next_rulesets(), self.next_slots());
        for slot in self.tables.slots.stock(&rulesets, &endpoints)? {
            // There may be a ruleset again.
            if !self.image.rulesets.contains_key(&slot) {
                self.tables.set_ruleset_key(slot, FREE)?;
            }
        }
        Ok(())
    }

    /// Whether the next ruleset or endpoint would wait for the kernel, or something was left.
    pub fn lacks_room(&self) -> bool {
        let (rulesets, endpoints) = (self.next_rulesets(), self.next_slots());
        !self.tables.slots.are_stocked(&rulesets, &endpoints)
    }

    /// The slots that the next new rulesets get.
    fn next_rulesets(&self) -> Vec<u32> {
        let first = self.image.next.ruleset.max(1);
        (first..self.limits.rulesets)
            .chain(1..first.min(self.limits.rulesets))
            .filter(|slot| !self.image.rulesets.contains_key(slot))
            .take(SPARES)
            .collect()
    }

    fn next_slots(&self) -> Vec<u16> {
        plan::next_slots(&self.image, &self.limits, READY_SLOTS)
    }

    /// Attaches the hooks of an interface, or takes over those that an earlier agent left. Where a starting
    /// pod is `awaited`, it does not wait for the kernel; [`Datapath::replace_filters`] does later.
    pub fn attach(&mut self, interface: &HostInterface, awaited: bool) -> Result<(), AttachError> {
        self.interim.leave(interface.index);
        let held = links::attach(
            &mut self.ebpf,
            &self.pins.links(),
            &mut self.technique,
            interface,
            awaited,
        )?;
        if held == Held::Interim {
            self.interim.add(interface, Instant::now());
        }
        Ok(())
    }

    /// Has links put in the place of filters that hold starting pods, by a thread: it waits for grace
    /// periods. To be called when [`Datapath::filters_due`] says. Returns the interfaces where that failed,
    /// which are to be attached anew.
    pub fn replace_filters(&mut self) -> Vec<(HostInterface, AttachError)> {
        self.interim.replace(self.pins.links(), Instant::now())
    }

    /// When filters are to be replaced, or it is to be seen whether they are. None while no filter stands in
    /// for a link.
    pub const fn filters_due(&self) -> Option<Instant> {
        self.interim.due()
    }

    /// Detaches the hooks of an interface.
    pub fn detach(&mut self, interface: &HostInterface) -> Result<(), AttachError> {
        self.interim.leave(interface.index);
        links::detach(&self.pins.links(), interface)
    }

    /// Whether both hooks of an interface are there.
    pub fn is_attached(&self, interface: &HostInterface) -> bool {
        links::is_attached(&self.pins.links(), interface)
    }

    /// Interface indexes whose links are pinned.
    pub fn pinned_links(&self) -> io::Result<Vec<u32>> {
        links::pinned(&self.pins.links())
    }

    /// Drops the pins of an interface that is gone.
    pub fn forget_links(&mut self, index: u32) -> io::Result<()> {
        self.interim.leave(index);
        links::forget(&self.pins.links(), index)
    }

    /// Whether the pins are where they were made.
    pub fn has_pins(&self) -> bool {
        self.pins.is_in_place()
    }

    /// Pins everything again when the BPF file system was unmounted: without pins the hooks would end
    /// with this process.
    pub fn restore_pins(&mut self) -> Result<(), SetupError> {
        if self.has_pins() {
            return Ok(());
        }
        self.pins.restore()?;
        tracing::warn!("the BPF file system was unmounted; what is enforced is pinned again");
        Ok(())
    }

    /// Ends what agents of other ABI versions have left on this pin root: hooks, links, maps. To be called
    /// when everything that is wanted is enforced: until then their programs and ours are both
    /// attached, and a packet needs the consent of both, so that a change of the version leaves no gap.
    pub fn retire_others(&mut self) -> Result<(), Vec<SetupError>> {
        let Some(others) = self.others.take() else {
            return Ok(());
        };
        let mut errors = Vec::new();
        let filtered = match interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                errors.push(error);
                Vec::new()
            }
        };
        for other in &others {
            let pins = other.links();
            if let Err(source) = links::detach_all(&pins) {
                errors.push(SetupError::Pin { path: pins, source });
            }
            for interface in &filtered {
                links::remove_filters(interface, other.version);
            }
            if let Err(more) = other.remove() {
                errors.extend(more);
            }
            tracing::info!(
                version = other.version,
                "took over from an agent of another ABI version"
            );
        }
        if errors.is_empty() {
            Ok(())
        } else {
            self.others = Some(others);
            Err(errors)
        }
    }

    /// Notes flows that are older than an endpoint's hooks. Only for a slot that was just opened.
    pub fn seed_inbound(&mut self, slot: u16, flows: &[(FlowKey, Flow)]) {
        self.tables.slots.seed(slot, flows, &self.image.config.seed);
    }

    /// Nothing can be older than the hooks of this slot's endpoint.
    pub fn seed_nothing(&mut self, slot: u16) {
        self.tables.slots.seed(slot, &[], &self.image.config.seed);
    }

    /// Notes UDP flows that pods opened before their hooks were there.
    pub fn seed_outbound(&mut self, flows: &[(FlowKey, Flow)]) -> Result<(), TableError> {
        if flows.is_empty() {
            return Ok(());
        }
        let table = self.tables.flows.table()?;
        for (key, flow) in flows {
            table.add(key, flow, &self.image.config.seed);
        }
        Ok(())
    }

    /// How many flows are remembered that pods opened.
    pub fn outbound_flows(&self) -> Result<usize, TableError> {
        Ok(self.tables.flows.table()?.count())
    }

    /// Forgets the flows that pods opened: each is judged again.
    pub fn forget_outbound_flows(&self) -> Result<(), TableError> {
        self.tables.flows.table()?.clear();
        Ok(())
    }

    /// How full the tables are.
    pub fn fills(&self) -> Vec<MapFill> {
        self.fills
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the programs use the coarse clock.
    pub const fn coarse_clock(&self) -> bool {
        self.coarse_clock
    }

    /// How many TCX programs besides ours are on the hooks of an interface, where there are any.
    /// Before TCX there are filters only, and [`is_own_filter`] tells ours from others'.
    pub fn others(&self, interface: u32) -> io::Result<Vec<(Side, u32)>> {
        if self.technique == Technique::Clsact {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for (side, hook) in [
            (Side::FromPod, bpf_attach_type::BPF_TCX_INGRESS),
            (Side::ToPod, bpf_attach_type::BPF_TCX_EGRESS),
        ] {
            let others = sys::attached(interface, hook)?.saturating_sub(1);
            if others > 0 {
                found.push((side, others));
            }
        }
        Ok(found)
    }

    /// Where the kernel's tables are not what this agent wrote, a sentence each.
    pub fn drift(&self) -> Result<Vec<String>, TableError> {
        let Image {
            config,
            endpoints,
            ports,
            rulesets,
            classes,
            peers,
            frontends,
            frontend_rulesets,
            next: _,
        } = observe(&self.tables)?;
        let mine = &self.image;
        let keys = |rulesets: &BTreeMap<u32, Placed>| -> BTreeMap<u32, RulesetKey> {
            rulesets
                .iter()
                .map(|(slot, placed)| (*slot, placed.key))
                .collect()
        };
        Ok([
            ("CONFIG", config == mine.config),
            ("ENDPOINTS", endpoints == mine.endpoints),
            ("PORTS", ports == mine.ports),
            ("RULESET_KEYS", keys(&rulesets) == keys(&mine.rulesets)),
            ("RULESET_CLASSES", classes == mine.classes),
            ("PEERS", peers == mine.peers),
            ("PRESENT", self.tables.present.is_as_written()?),
            ("FRONTENDS", frontends == mine.frontends),
            (
                "RULESET_FRONTENDS",
                frontend_rulesets == mine.frontend_rulesets,
            ),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(map, _)| format!("{map} in the kernel is not what the agent wrote"))
        .collect())
    }

    /// Sets a slot's drops back to nothing, and returns what they were.
    pub fn take_drops(&self, slot: u16) -> Result<SlotDrops, TableError> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let drops = slot_drops(&counters, slot)?;
        counters.clear(slot)?;
        Ok(drops)
    }

    fn carry_out_all(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        let mut rest = steps;
        while !rest.is_empty() {
            let together = self.carry_out_together(rest);
            let (Ok(run) | Err(run)) = together;
            for _ in 0..run {
                let Some((step, after)) = rest.split_first() else {
                    break;
                };
                if together.is_err() {
                    self.carry_out(step, after).map_err(|source| ApplyError {
                        done: steps.len() - rest.len(),
                        total: steps.len(),
                        step: describe(step),
                        source,
                    })?;
                }
                self.image.apply(step);
                rest = after;
            }
        }
        Ok(())
    }

    /// Carries out the steps that come first and are all writes of one table that no packet can reach yet, or any
    /// more, by one call. Returns how many that were, or for how many steps that is not the way: after an error
    /// each of them is to be carried out, be it once more.
    fn carry_out_together(&mut self, steps: &[Step]) -> Result<usize, usize> {
        /// A call for one entry is simpler, and for a few as fast.
        const FEW: usize = 16;
        let set = steps.iter().map_while(|step| {
            let Step::SetClass {
                class,
                ruleset,
                ports,
            } = step
            else {
                return None;
            };
            Some((class_key(*ruleset, *class), U32::new(*ports)))
        });
        let unset = steps.iter().map_while(|step| {
            let Step::UnsetClass { class, ruleset } = step else {
                return None;
            };
            Some(class_key(*ruleset, *class))
        });
        let (set, unset): (Vec<_>, Vec<_>) = (set.collect(), unset.collect());
        let run = set.len().max(unset.len());
        if run < FEW {
            return Err(run.max(1));
        }
        let table = &mut self.tables.ruleset_classes;
        let result = if unset.is_empty() {
            table.set_all(&set)
        } else {
            table.remove_all(&unset)
        };
        result.map(|()| run).map_err(|error| {
            tracing::debug!(%error, "a batch was refused, writing one by one");
            run
        })
    }

    /// Carries out a step. What those `after` it need as well is got by one call.
    fn carry_out(&mut self, step: &Step, after: &[Step]) -> Result<(), TableError> {
        let tables = &mut self.tables;
        match step {
            Step::SetConfig(config) => tables.set_config(config),
            Step::AddPorts { id, set } => tables.set_ports(&set.entries(*id)),
            Step::BuildRuleset { slot, placed } => {
                if let Some(ruleset) = &placed.ruleset {
                    let next = after.iter().filter_map(|step| {
                        let Step::BuildRuleset { slot, .. } = step else {
                            return None;
                        };
                        Some(*slot)
                    });
                    let tries = tables.slots.tries(*slot, next)?;
                    Tables::build(&tries, &ruleset.trie, &placed.sets)?;
                }
                tables.set_ruleset_key(*slot, placed.key.0)
            }
            Step::SetClass {
                class,
                ruleset,
                ports,
            } => tables
                .ruleset_classes
                .set(&class_key(*ruleset, *class), &U32::new(*ports)),
            Step::AllowFrontend { frontend, ruleset } => tables.ruleset_frontends.set(
                &frontend_key(*ruleset, *frontend),
                &U32::new(egress_common::abi::FRONTEND_ALLOW),
            ),
            Step::OpenSlot { slot } => {
                let next = after.iter().filter_map(|step| {
                    let Step::OpenSlot { slot } = step else {
                        return None;
                    };
                    Some(*slot)
                });
                tables.slots.open(*slot, next)
            }
            Step::SetPeer { address, class } => {
                if !self.image.peers.contains_key(address) {
                    tables.present.add(PRESENT_PEERS, &address.bytes)?;
                }
                tables.peers.set(address, &U32::new(*class))
            }
            Step::RemovePeer { address } => {
                tables.peers.remove(address)?;
                if self.image.peers.contains_key(address) {
                    tables.present.remove(PRESENT_PEERS, &address.bytes)?;
                }
                Ok(())
            }
            Step::SetFrontend { key, frontend } => {
                if !self.image.frontends.contains_key(key) {
                    tables.present.add(PRESENT_FRONTENDS, &key.address)?;
                }
                tables.frontends.set(key, &U32::new(*frontend))
            }
            Step::RemoveFrontend { key } => {
                tables.frontends.remove(key)?;
                if self.image.frontends.contains_key(key) {
                    tables.present.remove(PRESENT_FRONTENDS, &key.address)?;
                }
                Ok(())
            }
            Step::SetEndpoint { hook, endpoint } => tables.endpoints.set(*hook, endpoint),
            Step::RemoveEndpoint { hook } => tables.endpoints.remove(*hook),
            Step::UnsetClass { class, ruleset } => {
                tables.ruleset_classes.remove(&class_key(*ruleset, *class))
            }
            Step::DisallowFrontend { frontend, ruleset } => tables
                .ruleset_frontends
                .remove(&frontend_key(*ruleset, *frontend)),
            Step::ReleaseRuleset { slot } => {
                tables.set_ruleset_key(*slot, LEFT)?;
                tables.slots.leave(*slot);
                Ok(())
            }
            Step::RemovePorts { id, set } => tables.remove_ports(&set.entries(*id)),
            Step::CloseSlot { slot } => {
                tables.slots.close(*slot);
                Ok(())
            }
        }
    }

    fn publish_fills(&mut self) {
        let image = &self.image;
        let limits = &self.limits;
        let fill = |name: &str, entries: usize, capacity: usize| MapFill {
            name: name.to_owned(),
            entries: u64::try_from(entries).unwrap_or(u64::MAX),
            capacity: u64::try_from(capacity).unwrap_or(u64::MAX),
        };
        let fills = vec![
            fill(
                "ENDPOINTS",
                image.endpoints.len(),
                usize::from(limits.endpoints),
            ),
            fill("FRONTENDS", image.frontends.len(), limits.frontends),
            fill("PEERS", image.peers.len(), limits.peers),
            fill(
                "PORTS",
                image
                    .ports
                    .iter()
                    .map(|(id, set)| set.entries(*id).len())
                    .sum(),
                limits.ports,
            ),
            fill(
                "RULESET_KEYS",
                image.rulesets.len(),
                usize::try_from(limits.rulesets).unwrap_or(usize::MAX),
            ),
            fill(
                "RULESET_CLASSES",
                image.classes.values().map(BTreeMap::len).sum(),
                limits.classes,
            ),
            fill(
                "RULESET_FRONTENDS",
                image.frontend_rulesets.values().map(BTreeSet::len).sum(),
                limits.frontend_rulesets,
            ),
        ];
        *self.fills.lock().unwrap_or_else(PoisonError::into_inner) = fills;
    }
}

/// Takes back everything that was ever made below a pin root: hooks, links, maps, folders. Returns
/// what was removed. Refuses while an agent holds the lock, unless forced.
pub fn cleanup(pin_root: &Path, force: bool) -> Result<Vec<PathBuf>, Vec<SetupError>> {
    let interfaces = interfaces().map_err(|error| vec![error])?;
    bpffs::remove_all(pin_root, force, |version| {
        // Links go with their pins. Filters of clsact stay until they are told to go.
        for interface in &interfaces {
            links::remove_filters(interface, version.version);
        }
    })
}

/// Every interface that may have a filter of ours.
fn interfaces() -> Result<Vec<String>, SetupError> {
    crate::pods::interfaces().map_err(SetupError::Interfaces)
}

impl Kernel for Reader {
    fn readings(&self, slots: &[u16]) -> Result<Readings, ReadError> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readings = read(&counters, slots).map_err(|error| ReadError {
            map: error.map.to_owned(),
            op: error.op,
            source: error.source,
        })?;
        readings
            .maps
            .clone_from(&self.fills.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(readings)
    }
}

/// The node's counters, and those of these slots.
fn read(counters: &CounterTables, slots: &[u16]) -> Result<Readings, TableError> {
    let totals = counters.drop_totals()?.into_iter();
    let dropped = totals.map(|(kind, counter)| DropCount {
        reason: kind.reason,
        protocol: Protocol::from_number(kind.protocol),
        family: Family::from_abi(kind.family),
        packets: counter.packets,
        bytes: counter.bytes,
    });
    let allowed = counters.allowed()?.map(|counter| counter.packets);
    let by_slot = slots
        .iter()
        .map(|slot| Ok((*slot, slot_drops(counters, *slot)?)))
        .collect::<Result<_, TableError>>()?;
    let (limited, full) = counters.lost()?;
    Ok(Readings {
        dropped: dropped.collect(),
        allowed: Family::ALL.into_iter().zip(allowed).collect(),
        by_slot,
        events_lost: limited + full,
        flow_events_lost: counters.flows_lost()?,
        maps: Vec::new(),
    })
}

fn slot_drops(counters: &CounterTables, slot: u16) -> Result<SlotDrops, TableError> {
    let Dropped { packets } = counters.dropped(slot)?;
    let by_reason = (0..)
        .zip(packets)
        .filter(|(_, packets)| *packets > 0)
        .filter_map(|(place, packets)| Some((Reason::from_drop_index(place)?, packets)));
    Ok(by_reason.collect())
}

/// Reads the tables back: the only way from the kernel to the core.
fn observe(tables: &Tables) -> Result<Image, TableError> {
    let mut image = Image {
        config: tables.config()?,
        ..Image::default()
    };
    image.endpoints.extend(tables.endpoints.entries()?);
    for (length, data) in tables.port_entries()? {
        image
            .ports
            .entry(data.ports.get())
            .or_insert_with(PortSet::nothing)
            .insert_entry(length, &data);
    }
    for (slot, key) in tables.ruleset_keys()? {
        image.rulesets.insert(
            slot,
            Placed {
                key: RulesetKey(key),
                ruleset: None,
                sets: Vec::new(),
                literal: BTreeSet::new(),
            },
        );
    }
    for (key, ports) in tables.ruleset_classes.entries::<RulesetClass, U32>()? {
        let column = image.classes.entry(key.class.get()).or_default();
        column.insert(key.ruleset.get(), ports.get());
    }
    for (address, class) in tables.peers.entries::<Address, U32>()? {
        image.peers.insert(address, class.get());
    }
    for (key, frontend) in tables.frontends.entries::<FrontendKey, U32>()? {
        image.frontends.insert(key, frontend.get());
    }
    for (key, _) in tables.ruleset_frontends.entries::<RulesetFrontend, U32>()? {
        let rulesets = image
            .frontend_rulesets
            .entry(key.frontend.get())
            .or_default();
        rulesets.insert(key.ruleset.get());
    }
    let after = |highest: Option<u32>| highest.map_or(1, |id| id.saturating_add(1));
    image.next.ports = after(image.ports.keys().max().copied()).max(PORTS_FIRST);
    image.next.class = after(
        image
            .classes
            .keys()
            .chain(image.peers.values())
            .max()
            .copied(),
    );
    image.next.frontend = after(
        image
            .frontends
            .values()
            .chain(image.frontend_rulesets.keys())
            .max()
            .copied(),
    );
    image.next.ruleset = after(image.rulesets.keys().max().copied());
    image.next.slot = image
        .endpoints
        .values()
        .map(|e| e.slot.get())
        .max()
        .map_or(0, |slot| slot.saturating_add(1));
    Ok(image)
}

fn class_key(ruleset: u32, class: u32) -> RulesetClass {
    RulesetClass {
        ruleset: U32::new(ruleset),
        class: U32::new(class),
    }
}

fn frontend_key(ruleset: u32, frontend: u32) -> RulesetFrontend {
    RulesetFrontend {
        ruleset: U32::new(ruleset),
        frontend: U32::new(frontend),
    }
}

/// A step in a message: its kind, without its data.
fn describe(step: &Step) -> String {
    let text = format!("{step:?}");
    text.split([' ', '{', '('])
        .next()
        .unwrap_or_default()
        .to_owned()
}
