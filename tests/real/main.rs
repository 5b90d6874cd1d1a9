//! Tests against real servers, which are started by themselves.
//!
//! | file | what |
//! |---|---|
//! | `aws` | clients of the AWS SDK for a server on this machine |
//! | `chaos` | `rekeyd chaos` on a cluster, in its own keyspace and no other |
//! | `commands` | what an operator runs: `schema`, `doctor`, `iam-policy` |
//! | `cluster` | three nodes, of which one is killed and comes back |
//! | `faults` | the proxy does to a connection what its modes say |
//! | `keeper` | no server outlives its test process |
//! | `queue` | the queue on SQS, which ElasticMQ speaks |
//! | `kms` | the client of AWS KMS on moto |
//! | `servers` | the servers do what the other tests rely on |
//! | `backend`, `copy` | the parts that a rig stands on, and how one is copied |
//! | `nodes_die` | a rekey on three nodes, two of which are killed |
//! | `network` | a rekey while the network to each server fails |
//! | `roles` | a rewrap by a role that may not decrypt, and the verifier's role |
//! | of `../suite`: `rekey`, `moves`, `blocked`, `invariants`, `refusals`, `retire` | the same jobs on these parts |
//! | of `../recovery`: `kill_points`, `move_storms`, `random_kills` | the same deaths on these parts |
//! | `store` | the store on Cassandra |

mod aws;
mod backend;
mod chaos;
mod cluster;
mod commands;
mod copy;
mod faults;
mod keeper;
mod kms;
mod network;
mod nodes_die;
mod queue;
mod roles;
mod servers;
// Shared with other test programs, which use the rest.
#[allow(dead_code, unused_imports)]
#[path = "../services/mod.rs"]
mod services;
mod store;

#[path = "../suite/blocked.rs"]
mod blocked;
#[allow(dead_code)]
#[path = "../suite/holding.rs"]
mod holding;
#[path = "../suite/invariants.rs"]
mod invariants;
#[path = "../recovery/kill_points.rs"]
mod kill_points;
#[path = "../recovery/move_storms.rs"]
mod move_storms;
#[path = "../suite/moves.rs"]
mod moves;
#[path = "../recovery/process.rs"]
mod process;
#[path = "../recovery/random_kills.rs"]
mod random_kills;
#[path = "../suite/refusals.rs"]
mod refusals;
#[path = "../suite/rekey.rs"]
mod rekey;
#[allow(dead_code)]
#[path = "../suite/retire.rs"]
mod retire;
#[allow(dead_code)]
#[path = "../suite/rig.rs"]
mod rig;
#[path = "../schema/mod.rs"]
mod schema;
#[path = "../recovery/site.rs"]
mod site;
#[allow(dead_code)]
#[path = "../suite/watched.rs"]
mod watched;
