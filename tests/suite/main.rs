//! Tests of the whole: a store, a queue, a key ring, workers and clients.
//!
//! | file | what |
//! |---|---|
//! | `architecture` | the source against ARCHITECTURE.md |
//! | `backend` | the parts that a rig stands on: the embedded ones |
//! | `blocked` | what cannot be rewritten is parked or left, never hidden |
//! | `docs` | pages that are made from the code, and the links between pages |
//! | `doctor` | each CMK is tried, and what is wrong with it is named |
//! | `floors` | what a finished job left behind cannot be put back |
//! | `holding` | what a channel holds, read by hand |
//! | `invariants` | those that no test of another file is named after |
//! | `monitoring` | metrics, alerts and dashboard name what there is |
//! | `move_overlaps` | moves that overlap with other jobs, are refused or called off |
//! | `moves` | a channel's move from the queue to its end |
//! | `overlaps` | jobs that overlap, repeat, turn back or are cancelled |
//! | `page` | the status page over HTTP: what it answers, to whom, and at which cost |
//! | `pauses` | a paused job stands still and goes on where it was |
//! | `policies` | what workers call is what the printed policies allow |
//! | `refusals` | what may not be done, and that nothing is done |
//! | `rig` | a data directory with an organization in it, and workers on it |
//! | `rekey` | a job from the queue to its verdict, in both modes |
//! | `retire` | what a retire deletes, and that what it deleted is not lost |
//! | `set_aside` | what is set aside, for how long, and who cannot get at it |
//! | `throttles` | an operator's throttle takes effect, outlives a worker, and ends |
//! | `watched` | a store that notes what is done to it |

mod architecture;
// Shared, as `rig` is.
#[allow(dead_code)]
mod backend;
mod blocked;
mod docs;
mod doctor;
mod floors;
mod holding;
mod invariants;
mod monitoring;
mod move_overlaps;
mod moves;
mod overlaps;
mod page;
mod pauses;
mod policies;
mod refusals;
mod rekey;
mod retire;
// Shared with tests/recovery and tests/secrets, which use the rest.
#[allow(dead_code)]
mod rig;
mod set_aside;
mod throttles;
mod watched;
