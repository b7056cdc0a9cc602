//! Loading the object: over pinned maps, for this kernel's features.

use std::fs;

use aya::maps::MapInfo;
use aya::programs::{ProgramError, ProgramType, SchedClassifier};
use aya::sys::is_helper_supported;
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_func_id;
use egress_core::plan::Limits;
use sha2::{Digest as _, Sha256};

use super::Sizes;
use super::bpffs::PinRoot;
use super::error::SetupError;

/// The kernel programs, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress-ebpf"));

/// Every map, pinned under its name, with the bytes of a key and of a value.
const MAPS: [(&str, u32, u32); 21] = [
    ("ALLOWED", 4, 16),
    ("CONFIG", 4, 48),
    ("DROPPED", 4, 64),
    ("DROP_TOTALS", 4, 16),
    ("ENDPOINTS", 8, 96),
    ("EVENTS", 0, 0),
    ("EVENTS_LOST", 4, 8),
    ("EVENT_BUDGET", 4, 8),
    ("FLOWS", 4, 256),
    ("FRAGMENTS", 40, 4),
    ("FRONTENDS", 20, 4),
    ("INBOUND", 4, 4),
    ("PEERS", 20, 4),
    ("PORTS", 11, 1),
    ("PRESENT", 4, 8),
    ("RULESET_CIDRS_V4", 4, 4),
    ("RULESET_CIDRS_V6", 4, 4),
    ("RULESET_CLASSES", 8, 4),
    ("RULESET_FRONTENDS", 8, 4),
    ("RULESET_KEYS", 4, 32),
    ("SEATS", 4, 208),
];

/// Sets of a new FLOWS, unless the operator asks for others: 262,144 flows of each family, 24 MiB.
const FLOW_SETS: u32 = 98_304;

/// Loads the object. Maps that are pinned are taken over with what they hold and the size they have.
pub(super) fn load(pins: &PinRoot, sizes: &Sizes) -> Result<Ebpf, SetupError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| SetupError::Load {
        kernel: kernel(),
        missing: missing_capabilities(),
        source,
    };
    let coarse = has_coarse_clock();
    let coarse = u8::from(coarse);
    let ticks = ticks_per_second();
    let asked = sizes.maps.iter().find(|(map, _)| *map == "FLOWS");
    let sets = match flow_sets(pins) {
        Ok(sets) => sets,
        Err(_) => asked.map_or(FLOW_SETS, |(_, sets)| *sets),
    };
    let mut loader = EbpfLoader::new();
    loader.override_global("COARSE_CLOCK", &coarse, true);
    loader.override_global("FLOW_EVENTS", &sizes.flow_events, true);
    loader.override_global("TICKS_PER_SECOND", &ticks, true);
    loader.override_global("FLOW_SETS", &sets, true);
    let mut taken_over = Vec::new();
    for (map, _, _) in MAPS {
        let path = pins.map(map);
        if path.exists() {
            taken_over.push(map);
        }
        loader.map_pin_path(map, path);
    }
    for (map, entries) in &sizes.maps {
        loader.map_max_entries(map, *entries);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|e| failed(e.into()))?;
    for (map, key, value) in MAPS {
        if taken_over.contains(&map) {
            check_layout(pins, map, key, value)?;
        }
    }
    for (map, asked) in &sizes.maps {
        note_other_size(pins, map, *asked)?;
    }
    #[cfg(feature = "datapath-log")]
    follow_log(&mut ebpf);
    let stamp = stamp(pins, &[coarse.into(), sizes.flow_events, ticks, sets])?;
    for name in ["from_pod", "to_pod"] {
        let program: &mut SchedClassifier = ebpf
            .program_mut(name)
            .ok_or(SetupError::Missing(name))?
            .try_into()
            .map_err(|e: ProgramError| failed(e.into()))?;
        let pin = pins.programs().join(format!("{stamp}-{name}"));
        if !cfg!(feature = "datapath-log")
            && let Ok(loaded) = SchedClassifier::from_pin(&pin)
        {
            tracing::debug!(name, "the program of an earlier agent is taken over");
            *program = loaded;
            continue;
        }
        program.load().map_err(|e| failed(e.into()))?;
        if let Err(error) = program.pin(&pin) {
            tracing::debug!(%error, name, "the next agent verifies the program again");
        }
    }
    forget_programs(pins, &stamp);
    tracing::debug!(
        coarse_clock = coarse,
        maps_taken_over = taken_over.len(),
        "programs loaded"
    );
    Ok(ebpf)
}

/// What a program in the kernel follows from: the object, the constants set in it, and the maps that it
/// holds. To verify it takes the kernel half a second; of the same an earlier agent has pinned the same.
fn stamp(pins: &PinRoot, constants: &[u32]) -> Result<String, SetupError> {
    let mut hasher = Sha256::new();
    hasher.update(OBJECT);
    for constant in constants {
        hasher.update(constant.to_ne_bytes());
    }
    for (map, _, _) in MAPS {
        let info =
            MapInfo::from_pin(pins.map(map)).map_err(|source| SetupError::Map { map, source })?;
        hasher.update(info.id().to_ne_bytes());
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let start = digest.first_chunk().copied();
    Ok(format!("{:032x}", start.map_or(0, u128::from_be_bytes)))
}

/// Removes the pins of programs that follow from something else. What is attached stays so.
fn forget_programs(pins: &PinRoot, stamp: &str) {
    let Ok(entries) = fs::read_dir(pins.programs()) else {
        return;
    };
    for pin in entries.flatten().map(|entry| entry.path()) {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(stamp)
            && let Err(error) = fs::remove_file(&pin)
        {
            tracing::debug!(%error, pin = %pin.display(), "a program's pin stays");
        }
    }
}

/// Whether programs may ask the coarse clock (5.11). Asked of the kernel, not told by its version.
pub(super) fn has_coarse_clock() -> bool {
    is_helper_supported(
        ProgramType::SchedClassifier,
        bpf_func_id::BPF_FUNC_ktime_get_coarse_ns,
    )
    .unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot tell whether there is a coarse clock; using the precise one");
        false
    })
}

/// Forwards what the programs say to the log, at debug level.
#[cfg(feature = "datapath-log")]
fn follow_log(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            std::thread::spawn(move || {
                loop {
                    logger.flush();
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            });
        }
        Err(error) => tracing::warn!(%error, "the programs' own log cannot be read"),
    }
}

/// What the maps hold, as they are: a pinned map keeps the size it was made with.
pub(super) fn limits(pins: &PinRoot, sizes: &Sizes) -> Result<Limits, SetupError> {
    let capacity = |map: &'static str| {
        let info =
            MapInfo::from_pin(pins.map(map)).map_err(|source| SetupError::Map { map, source })?;
        Ok::<u32, SetupError>(info.max_entries())
    };
    let entries = |map| capacity(map).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(Limits {
        endpoints: ["ENDPOINTS", "INBOUND", "DROPPED"]
            .into_iter()
            .map(capacity)
            .try_fold(u16::MAX, |least, slots| {
                Ok::<_, SetupError>(u16::try_from(slots?).map_or(least, |slots| least.min(slots)))
            })?,
        rulesets: capacity("RULESET_KEYS")?,
        trie: usize::try_from(sizes.trie).unwrap_or(usize::MAX),
        peers: entries("PEERS")?,
        classes: entries("RULESET_CLASSES")?,
        ports: entries("PORTS")?,
        frontends: entries("FRONTENDS")?,
        frontend_rulesets: entries("RULESET_FRONTENDS")?,
    })
}

/// How many sets the pinned FLOWS has.
pub(super) fn flow_sets(pins: &PinRoot) -> Result<u32, SetupError> {
    let info = MapInfo::from_pin(pins.map("FLOWS")).map_err(|source| SetupError::Map {
        map: "FLOWS",
        source,
    })?;
    Ok(info.max_entries())
}

/// The kernel's `HZ`: its coarse clocks advance by ticks, and say how long one is.
fn ticks_per_second() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    1_000_000_000_i64
        .checked_div(tick.tv_nsec)
        .and_then(|ticks| u32::try_from(ticks).ok())
        .unwrap_or(250)
}

/// Version of the running kernel.
pub(super) fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Those of the needed capabilities that this process does not have.
pub(super) fn missing_capabilities() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    // Bits of linux/capability.h; CAP_SYS_ADMIN stands for the newer two.
    let has = |bit: u32| effective & (1 << bit) != 0;
    let missing: Vec<&str> = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)]
        .into_iter()
        .filter(|(_, bit)| !(has(*bit) || *bit >= 38 && has(21)))
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        "none".to_owned()
    } else {
        missing.join(", ")
    }
}

/// A table that was there keeps its size, whatever was asked for.
fn note_other_size(pins: &PinRoot, map: &'static str, asked: u32) -> Result<(), SetupError> {
    let info =
        MapInfo::from_pin(pins.map(map)).map_err(|source| SetupError::Map { map, source })?;
    if info.max_entries() != asked {
        tracing::warn!(
            map,
            asked,
            is = info.max_entries(),
            "a pinned table keeps the size it was made with; `cleanup` removes it"
        );
    }
    Ok(())
}

/// aya opens a pin as whatever the object says it is; the kernel knows better.
fn check_layout(pins: &PinRoot, map: &'static str, key: u32, value: u32) -> Result<(), SetupError> {
    let info =
        MapInfo::from_pin(pins.map(map)).map_err(|source| SetupError::Map { map, source })?;
    for (field, found, wanted) in [
        ("key size", info.key_size(), key),
        ("value size", info.value_size(), value),
    ] {
        if found != wanted {
            return Err(SetupError::Layout {
                map: map.to_owned(),
                field,
                found,
                wanted,
            });
        }
    }
    Ok(())
}
