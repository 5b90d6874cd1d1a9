//! Small cases, looked at exhaustively: every order of steps, every death, every
//! freeze. What is pure in the crate is called as it is; the rest is modelled.
//! Each model is shown to find what it is for, by doing one thing otherwise.
//!
//! | file | what |
//! |---|---|
//! | `data` | cells, clients, passes, zombies and time: nothing is lost, `verified` and `drained` are true |
//! | `job` | a job from state to state, two workers, two tasks: none is stuck, none ends in a lie |
//! | `lease` | two workers and one row: never two owners, and one that was overtaken writes nothing |
//! | `pages` | pages finish in any order: a checkpoint covers no gap |
//! | `search` | goes through every state that can be reached |

mod data;
mod job;
mod lease;
mod pages;
mod search;
