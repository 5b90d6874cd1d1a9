//! What `rekeyd demo` needs besides the product itself.
//!
//! | file | what |
//! |---|---|
//! | `generate` | messages to fill a store with |
//! | `run` | the demo itself, from the empty directory to the report |
//! | `ledger` | the truth about what traffic did, and the judgement of reads |
//! | `traffic` | live readers, writers, editors and deleters |

pub mod generate;
pub mod ledger;
pub mod run;
pub mod traffic;
