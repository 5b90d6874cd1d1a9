//! Tests of the whole: a store, a queue, a key ring, workers and clients.
//!
//! | file | what |
//! |---|---|
//! | `architecture` | the source against ARCHITECTURE.md |
//! | `blocked` | what cannot be rewritten is parked or left, never hidden |
//! | `overlaps` | jobs that overlap, repeat, turn back or are cancelled |
//! | `refusals` | what may not be done, and that nothing is done |
//! | `rig` | a data directory with an organization in it, and workers on it |
//! | `rekey` | a job from the queue to its verdict, in both modes |

mod architecture;
mod blocked;
mod overlaps;
mod refusals;
mod rekey;
mod rig;
