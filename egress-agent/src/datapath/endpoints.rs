//! Who sends through which hook: SEATS, and ENDPOINTS for those whose seat another one has.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use egress_common::abi::{Endpoint, HookKey, SEAT_FIRST, SEAT_SECOND, SEAT_VACANT, SEATS, Seat};
use zerocopy::IntoBytes as _;
use zerocopy::network_endian::U64;

use super::error::{SetupError, TableError};
use super::tables::{Hash, failed, take, values};

const SEAT_BYTES: usize = size_of::<Seat>();

/// The endpoints of the node, by hook.
pub(super) struct Endpoints {
    seats: Array<MapData, [u8; SEAT_BYTES]>,
    others: Hash<8, 96>,
    /// What SEATS says, where it says something.
    seated: BTreeMap<u32, Seat>,
}

impl Endpoints {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SetupError> {
        let seats: Array<MapData, [u8; SEAT_BYTES]> = take(ebpf, "SEATS")?;
        let taken = values(&seats).map_err(|source| SetupError::Map {
            map: "SEATS",
            source,
        })?;
        let mut seated = BTreeMap::new();
        for (index, bytes) in (0..).zip(taken) {
            let seat: Seat = zerocopy::transmute!(bytes);
            if seat.endpoint().is_some() {
                seated.insert(index, seat);
            }
        }
        Ok(Self {
            seats,
            others: Hash::take(ebpf, "ENDPOINTS")?,
            seated,
        })
    }

    /// Writes an endpoint: a packet sees what was there before, or this.
    pub(super) fn set(&mut self, hook: u64, endpoint: &Endpoint) -> Result<(), TableError> {
        let index = seat_of(hook);
        let seat = self.seated.get(&index).copied();
        match seat.as_ref().map(Seat::endpoint) {
            Some(Some((whose, _))) if whose != hook => self.others.set(&hook_key(hook), endpoint),
            _ if self.others.has(&hook_key(hook))? => self.others.set(&hook_key(hook), endpoint),
            _ => self.flip(index, hook, seat, endpoint),
        }
    }

    /// Deletes an endpoint; what is not there is deleted already.
    pub(super) fn remove(&mut self, hook: u64) -> Result<(), TableError> {
        let index = seat_of(hook);
        if let Some(seat) = self.seated.get(&index).copied()
            && seat.hook == hook_key(hook)
        {
            let vacant = Seat {
                current: SEAT_VACANT,
                ..seat
            };
            self.write(index, &vacant)?;
            self.seated.remove(&index);
            return Ok(());
        }
        self.others.remove(&hook_key(hook))
    }

    /// Every endpoint, as the kernel has it.
    pub(super) fn entries(&self) -> Result<Vec<(u64, Endpoint)>, TableError> {
        let mut entries = Vec::new();
        for bytes in values(&self.seats).map_err(|e| failed("SEATS", "iterate", e))? {
            let seat: Seat = zerocopy::transmute!(bytes);
            entries.extend(seat.endpoint().map(|(hook, endpoint)| (hook, *endpoint)));
        }
        let others = self.others.entries::<HookKey, Endpoint>()?;
        entries.extend(
            others
                .into_iter()
                .map(|(key, endpoint)| (key.hook.get(), endpoint)),
        );
        Ok(entries)
    }

    /// Writes the copy that does not count, and then that it does. The first write of a seat that
    /// nobody has leaves it vacant.
    fn flip(
        &mut self,
        index: u32,
        hook: u64,
        before: Option<Seat>,
        endpoint: &Endpoint,
    ) -> Result<(), TableError> {
        let mut seat = before.unwrap_or(Seat {
            hook: hook_key(hook),
            current: SEAT_VACANT,
            reserved: [0; 7],
            copies: [*endpoint; 2],
        });
        let [first, second] = &mut seat.copies;
        let next = if seat.current == SEAT_FIRST {
            *second = *endpoint;
            SEAT_SECOND
        } else {
            *first = *endpoint;
            SEAT_FIRST
        };
        self.write(index, &seat)?;
        seat.current = next;
        self.write(index, &seat)?;
        self.seated.insert(index, seat);
        Ok(())
    }

    fn write(&mut self, index: u32, seat: &Seat) -> Result<(), TableError> {
        let mut bytes = [0; SEAT_BYTES];
        bytes.copy_from_slice(seat.as_bytes());
        self.seats
            .set(index, bytes, 0)
            .map_err(|e| failed("SEATS", "update", e))
    }
}

/// The seat that a hook has when it is free.
fn seat_of(hook: u64) -> u32 {
    u32::try_from(hook % u64::from(SEATS)).unwrap_or_default()
}

/// A hook as ENDPOINTS has it.
pub(super) fn hook_key(hook: u64) -> HookKey {
    HookKey {
        hook: U64::new(hook),
    }
}
