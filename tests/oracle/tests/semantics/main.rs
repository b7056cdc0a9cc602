//! The numbered statements as tests: what each says, with expectations written by hand.
//!
//! Everything happens in one small cluster ([`world`]) unless a test says otherwise, and is
//! asked from pod `x/a`. Statements about existing connections and packets (S8, S17, S18,
//! S50–S58, S71–S74, S97) are about things that the oracle does not model.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "json!() without an & at every use keeps the tables readable"
)]

mod a_isolation;
mod b_rules;
mod c_peers;
mod d_blocks;
mod e_ports;
mod f_protocols;
mod h_pods;
mod i_services;
mod k_unreadable;
mod world;
