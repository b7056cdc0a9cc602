//! The API server at an address of this machine's loopback.
//!
//! The listening socket comes from outside, as standard input: a socket stays in the network
//! namespace it was made in. What it accepts is connected to the API server in here, so that
//! nothing has to be routed between a cluster and the machine it runs on.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::thread;

use anyhow::{Context as _, Result};

use super::addresses::API_PORT;

/// Accepts from now on.
pub(super) fn start() -> Result<()> {
    let inherited = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("taking the listening socket over")?;
    let listener = TcpListener::from(inherited);
    listener
        .local_addr()
        .context("standard input is not a listening socket")?;
    thread::spawn(move || {
        for accepted in listener.incoming() {
            let passed = accepted.and_then(pass);
            if let Err(error) = passed {
                println!("a connection to the API server: {error}");
            }
        }
    });
    Ok(())
}

/// Two threads a connection, one a direction. The API server gone, the client sees its
/// connection closed.
fn pass(client: TcpStream) -> io::Result<()> {
    let server = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)))?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
    }
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || copy(from, to));
    }
    Ok(())
}

/// Until one side is done; then the other one is told. An error says no more than that the
/// connection is over, which both sides see for themselves.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let how = match io::copy(&mut from, &mut to) {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    for (socket, how) in [(&to, how), (&from, Shutdown::Read)] {
        if let Err(error) = socket.shutdown(how)
            && error.kind() != io::ErrorKind::NotConnected
        {
            println!("closing a connection to the API server: {error}");
        }
    }
}
