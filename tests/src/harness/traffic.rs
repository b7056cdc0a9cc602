//! Datagrams that must arrive, and datagrams that must not, while something else happens.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::{Echo, Load, OUTSIDE, Pod, World, until};

/// Datagrams of a pod that flow all the time, allowed and denied ones, of both families; each kind
/// in one flow that lives on and in flows that are new all the time.
#[derive(Debug)]
pub struct Traffic {
    open: Vec<(Echo, Vec<Load>)>,
    shut: Vec<(Echo, u64, Vec<Load>)>,
}

impl Traffic {
    /// The UDP port that every policy of the test must allow.
    pub const ALLOWED: u16 = 8081;
    /// The one that none may allow.
    pub const DENIED: u16 = 9090;

    /// The policy must be there, and a control have shown that without it either port is reached.
    pub fn start(world: &World, pod: &Pod) -> Result<Self> {
        let loads = |to: SocketAddr| {
            Ok::<_, anyhow::Error>(vec![
                Load::start(&pod.ns, to, u64::MAX)?,
                Load::start(&pod.ns, to, 50)?,
            ])
        };
        let (v4, v6) = OUTSIDE[1];
        let (mut open, mut shut) = (Vec::new(), Vec::new());
        for address in [IpAddr::from(v4), v6.into()] {
            let to = SocketAddr::new(address, Self::ALLOWED);
            open.push((Echo::udp(&world.outside.ns, to)?, loads(to)?));
            let to = SocketAddr::new(address, Self::DENIED);
            let echo = Echo::udp(&world.outside.ns, to)?;
            shut.push((echo, 0, loads(to)?));
        }
        Ok(Self { open, shut })
    }

    /// Everything allowed has arrived, and nothing else.
    pub fn stop(self) -> Result<()> {
        let sum = |loads: Vec<Load>| -> Result<u64> { loads.into_iter().map(Load::stop).sum() };
        for (echo, loads) in self.open {
            let sent = sum(loads)?;
            ensure!(sent > 200, "only {sent} datagrams were sent");
            until("every allowed datagram has arrived", || {
                Ok(echo.received() >= sent)
            })
            .with_context(|| format!("{} of {sent} arrived", echo.received()))?;
        }
        for (echo, before, loads) in self.shut {
            let sent = sum(loads)?;
            ensure!(sent > 200, "only {sent} datagrams were sent");
            let leaked = echo.received() - before;
            ensure!(leaked == 0, "{leaked} of {sent} leaked");
        }
        Ok(())
    }
}
