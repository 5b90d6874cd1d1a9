//! Workers that are killed, and what is left of their work.
//!
//! Real worker processes, SIGKILL, and live traffic on the client library. After
//! each death everything is held against the traffic's ledger.
//!
//! | file | what |
//! |---|---|
//! | `kill_points` | a death before and after every durable step |
//! | `move_kill_points` | the same for a channel's move |
//! | `move_storms` | channels that move under traffic, deaths and a rekey |
//! | `random_kills` | deaths at any instant, and zombies |
//! | `site` | a store with traffic on it, and what must be true at the end |
//! | `process` | a worker process |

#[path = "../suite/backend.rs"]
#[allow(dead_code)]
mod backend;
#[path = "../suite/holding.rs"]
#[allow(dead_code)]
mod holding;
mod kill_points;
mod move_kill_points;
mod move_storms;
mod process;
mod random_kills;
#[path = "../suite/rig.rs"]
// The whole of it is used by tests/suite.
#[allow(dead_code)]
mod rig;
mod site;
