//! Which links are the node's own.
//!
//! A node may itself be in a network namespace: its way out is then one end of a pair like a
//! pod's. It is told by what only the node's own link has: a default route, or an address of
//! the node. Such a link is never taken for a pod's, whoever names it: hooks there would judge
//! the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustix::io::Errno;

use super::links::{Link, Mac, addresses_of};
use super::netlink::Socket;
use super::reach::carries_default_route;
use super::{Error, Located, Place, Word, kernel};

/// What was found out of links that are still there.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    /// Those that are none. One that is, is asked about again.
    cleared: BTreeMap<u32, (String, Option<Mac>)>,
}

impl Uplinks {
    /// Forgets links that are gone: their index may become another's.
    pub(super) fn forget_all_but(&mut self, host: &[Link]) {
        let there: BTreeMap<u32, &Link> = host.iter().map(|link| (link.index, link)).collect();
        self.cleared.retain(|index, (name, mac)| {
            there
                .get(index)
                .is_some_and(|link| link.name == *name && link.mac == *mac)
        });
    }

    /// Whether it is one of the node's own.
    pub(super) fn is_one(
        &mut self,
        socket: &mut Socket,
        link: &Link,
        node: &BTreeSet<IpAddr>,
    ) -> Result<bool, Error> {
        if self.cleared.contains_key(&link.index) {
            return Ok(false);
        }
        let asked = carries_default_route(socket, link.index).and_then(|carries| {
            Ok(carries || !addresses_of(socket, link.index)?.is_disjoint(node))
        });
        let own = match asked {
            // It went since the links were listed: nothing can be hooked there.
            Err(error) if error.refusal() == Some(Errno::NODEV) => return Ok(true),
            asked => asked.map_err(kernel("what a link is for"))?,
        };
        if !own {
            self.cleared
                .insert(link.index, (link.name.clone(), link.mac));
        }
        Ok(own)
    }

    /// The namespace behind the first of these links that a pod can be behind.
    pub(super) fn first_behind<'a>(
        &mut self,
        socket: &mut Socket,
        named: impl Iterator<Item = &'a Link>,
        node: &BTreeSet<IpAddr>,
        word: Word,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Option<Located>, Error> {
        for link in named {
            if let Some(nsid) = link.far_side()
                && !self.is_one(socket, link, node)?
            {
                return Ok(Some(Located {
                    place: Place::Behind(nsid.0),
                    nsid,
                    word,
                    called: format!("network namespace behind {}", link.name),
                    addresses: addresses.clone(),
                    _held: None,
                }));
            }
        }
        Ok(None)
    }
}
