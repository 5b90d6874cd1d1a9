//! Tests against real servers, which are started by themselves.
//!
//! | file | what |
//! |---|---|
//! | `servers` | the servers do what the other tests rely on |
//! | `store` | the store on Cassandra |

mod servers;
// Shared with other test programs, which use the rest.
#[allow(dead_code, unused_imports)]
#[path = "../services/mod.rs"]
mod services;
mod store;
