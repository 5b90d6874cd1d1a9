//! The client on the embedded store and the local key ring, with a clock whose
//! hands the tests turn.

mod bench;
mod caches;
mod follow;
mod histories;
mod jobs;
mod mover;
mod phases;
mod trust;
mod writes;
