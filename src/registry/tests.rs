//! The registry on the embedded store.

mod bench;
mod moves;
mod route;
