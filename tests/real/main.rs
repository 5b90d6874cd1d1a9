//! Tests against real servers, which are started by themselves.
//!
//! | file | what |
//! |---|---|
//! | `queue` | the queue on SQS, which ElasticMQ speaks |
//! | `servers` | the servers do what the other tests rely on |

mod queue;
mod servers;
// Shared with other test programs, which use the rest.
#[allow(dead_code, unused_imports)]
#[path = "../services/mod.rs"]
mod services;
