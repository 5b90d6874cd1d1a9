//! Tests against real servers, which are started by themselves.
//!
//! | file | what |
//! |---|---|
//! | `aws` | clients of the AWS SDK for a server on this machine |
//! | `cluster` | three nodes, of which one is killed and comes back |
//! | `faults` | the proxy does to a connection what its modes say |
//! | `keeper` | no server outlives its test process |
//! | `kms` | the client of AWS KMS on moto |
//! | `servers` | the servers do what the other tests rely on |

mod aws;
mod cluster;
mod faults;
mod keeper;
mod kms;
mod servers;
// Shared with other test programs, which use the rest.
#[allow(dead_code, unused_imports)]
#[path = "../services/mod.rs"]
mod services;
