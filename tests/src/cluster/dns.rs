//! A question to a DNS server, as a resolver sends it.
//!
//! Source: RFC 1035, section 4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::harness::NetNs;

/// Long enough for a server beside other tests.
const PATIENCE: Duration = Duration::from_secs(2);

const HEADER: usize = 12;

/// The addresses of `name`, of the family of the server that is asked; `None` when nothing
/// comes back.
pub fn resolve(ns: &NetNs, server: IpAddr, name: &str) -> Result<Option<Vec<IpAddr>>> {
    let kind: u16 = if server.is_ipv4() { 1 } else { 28 };
    let mut question = vec![0xe6, 0xe6, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend([0, 1]);
    let answer = ns.run(|| {
        let any: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(SocketAddr::new(server, 53))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; 4096];
        match socket
            .send(&question)
            .and_then(|_| socket.recv(&mut buffer))
        {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("asking a DNS server"),
        }
    })?;
    answer
        .map(|answer| addresses(&answer, question.len(), kind))
        .transpose()
}

/// Of the answer's records, which follow the question.
fn addresses(answer: &[u8], question: usize, kind: u16) -> Result<Vec<IpAddr>> {
    ensure!(
        answer.len() >= HEADER,
        "an answer of {} bytes",
        answer.len()
    );
    let mut rest = answer
        .get(question..)
        .context("an answer without question")?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        rest = skip_name(rest)?;
        let (head, tail) = rest.split_at_checked(10).context("half a record")?;
        let [k0, k1, _, _, _, _, _, _, l0, l1] = *head else {
            anyhow::bail!("half a record");
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let (data, tail) = tail.split_at_checked(length).context("half an address")?;
        if u16::from_be_bytes([k0, k1]) == kind {
            found.push(match kind {
                1 => IpAddr::from(<[u8; 4]>::try_from(data)?),
                _ => IpAddr::from(<[u8; 16]>::try_from(data)?),
            });
        }
        rest = tail;
    }
    Ok(found)
}

/// Labels, or a pointer to some.
fn skip_name(mut rest: &[u8]) -> Result<&[u8]> {
    loop {
        let (length, tail) = rest.split_first().context("half a name")?;
        match length {
            0 => return Ok(tail),
            0xc0.. => return tail.get(1..).context("half a pointer"),
            _ => rest = tail.get(usize::from(*length)..).context("half a label")?,
        }
    }
}
