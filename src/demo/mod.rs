//! What `rekeyd demo` needs besides the product itself.
//!
//! | file | what |
//! |---|---|
//! | `generate` | messages to fill a store with |

pub mod generate;
