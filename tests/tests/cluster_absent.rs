//! The negative control: without an agent, what policies forbid flows.

mod scenarios;

use egress_tests::cluster::Stage;

scenarios!(Stage::without_agent());
