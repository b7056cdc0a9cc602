//! A file of libcni's cache: only what says whose it is counts.

use egress_agent::pods::CachedResult;

pub(crate) fn run(bytes: &[u8]) {
    let Some(CachedResult { pod, .. }) = CachedResult::read(bytes) else {
        return;
    };
    // An older pod of the same name must not be taken for this one.
    assert!(
        !pod.name.namespace.is_empty() && !pod.name.name.is_empty() && !pod.uid.is_empty(),
        "{pod:?}"
    );
}
