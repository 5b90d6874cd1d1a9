//! rekeyd moves a live, encrypted message store from one customer master key to
//! another. ARCHITECTURE.md is the map of this crate.

pub mod ask;
pub mod audit;
pub mod aws;
pub mod certificate;
pub mod chaos;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod demo;
pub mod doctor;
pub mod epoch;
pub mod faults;
pub mod iam;
pub mod ids;
pub mod import;
pub mod job;
pub mod keys;
pub mod killpoint;
pub mod kms;
pub mod pipeline;
pub mod plan;
pub mod planted;
pub mod progress;
pub mod queue;
pub mod registry;
pub mod replay;
pub mod retire;
pub mod retry;
pub mod scope;
pub mod set_aside;
#[cfg(debug_assertions)]
pub mod sim;
pub mod steer;
pub mod store;
pub mod telemetry;
pub mod ui;
pub mod verify;
pub mod wiring;
pub mod worker;
