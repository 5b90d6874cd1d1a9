//! What a job would come to, before it is asked for: its size, its calls of the
//! KMS and their price, its time and what it is bound by.
//!
//! | file | what |
//! |---|---|
//! | `arithmetic` | calls and seconds from counts, budgets and waits; pure |
//! | `survey` | counts the slices, and looks into a bounded number of them |
//! | `document` | the plan as it is printed, stored and hashed |
//!
//! A worker's preflight reckons with the same functions.

mod arithmetic;
mod document;
mod survey;

pub use arithmetic::{
    Bottleneck, Budgets, KmsCalls, Price, Time, Waits, Way, calls, estimate, of_survey,
};
pub use document::{Cost, Plan, PlanFile, Size};
pub use survey::{Figure, Sample, Survey, survey};
