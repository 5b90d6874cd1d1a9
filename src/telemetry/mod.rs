//! What a running process shows of itself, and what it takes care not to show.
//!
//! | file | what |
//! |---|---|
//! | `logs` | log lines on standard error, for people or as JSON |
//! | `span` | the spans that say which worker, job and task a line is about |
//! | `metrics` | the name of every metric, and the text that Prometheus fetches |
//! | `panic` | a panic message that names the place and nothing else |
//! | `pulse` | whether its loops move, and when it last reached store and queue |
//! | `waiting` | what the process waits for, for the status |
//! | `hygiene` | no core dump, no tracing by others, memory kept out of swap |

pub mod hygiene;
pub mod logs;
pub mod metrics;
pub mod panic;
pub mod pulse;
pub mod span;
pub mod waiting;

pub use hygiene::{HardeningReport, harden};
pub use logs::{LogError, init_logs};
pub use panic::quiet_panics;
