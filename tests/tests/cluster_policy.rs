//! Policies that come from the API server, and the traffic of pods that a kubelet started.

mod scenarios;

use egress_tests::cluster::Stage;

scenarios!(Stage::with_agent());
