//! What the kernel's ring holds, as a person and a program read it.

use std::time::Duration;

use egress_agent::attribution::Attribution;
use egress_agent::drops::{Clocks, DropRecord, render};
use egress_common::event::Record;
use jiff::Timestamp;
use zerocopy::FromBytes as _;

pub(crate) fn run(bytes: &[u8]) {
    let Ok((record, _)) = Record::read_from_prefix(bytes) else {
        return;
    };
    let clocks = Clocks {
        monotonic: Duration::from_hours(240),
        wall: Timestamp::UNIX_EPOCH,
    };
    let drop = DropRecord::new(&record, clocks, &Attribution::new());
    let line = render(&drop);
    assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    match serde_json::to_string(&drop) {
        Ok(json) => assert!(!json.contains('\n'), "{json}"),
        Err(error) => panic!("{drop:?} is no JSON: {error}"),
    }
}
