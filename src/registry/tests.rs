//! The registry on the embedded store.

mod bench;
mod floors;
mod moves;
mod route;
