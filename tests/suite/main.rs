//! Tests of the whole: a store, a queue, a key ring, workers and clients.
//!
//! | file | what |
//! |---|---|
//! | `architecture` | the source against ARCHITECTURE.md |
//! | `rig` | a data directory with an organization in it, and workers on it |
//! | `rekey` | a job from the queue to its verdict, in both modes |

mod architecture;
mod rekey;
mod rig;
