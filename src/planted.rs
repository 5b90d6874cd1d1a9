//! Bugs that are planted to show that the tests find them.
//!
//! Each breaks one rule of the design in one place. They are compiled in by the
//! feature `planted-bugs` alone, which no release build may have, and do nothing
//! until one is asked for: on a thread by [`plant`], in a process by the
//! environment, `REKEYD_PLANTED=<name>`. Without the feature [`is`] is the
//! constant `false`.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature `planted-bugs` breaks promises on purpose; it is for debug builds");

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            /// Its name, as the environment has it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// I7: a page counts as written before the store has acknowledged it.
    CheckpointBeforeData = "checkpoint-before-data",
    /// I2: a cell is written one microsecond after what it replaces.
    WriteTimePlusOne = "write-time-plus-one",
    /// I4: the store gets the time to live that was read, and not one from the
    /// expiry in the header.
    RemainingTtl = "remaining-ttl",
    /// I6: who has lost a row to another writes it none the less.
    NoFencing = "no-fencing",
    /// I7: who takes a task up goes on behind the slice of the checkpoint.
    ResumeTooFar = "resume-too-far",
    /// I11: cells are written, and after a while the row of their key.
    KeyAfterCells = "key-after-cells",
    /// I8: a scan looks at the first page of a slice and at no other.
    ScanSkipsAPage = "scan-skips-a-page",
    /// I5: work begins before every writer follows the new state.
    SettleTooShort = "settle-too-short",
    /// I5: the verdict comes before late writes can have landed.
    NoDrain = "no-drain",
    /// I13: a slice that waits for a key passes for done.
    BlockedIsDone = "blocked-is-done",
    /// I14: a client does not look whether the registry has changed when its
    /// write is acknowledged.
    ClientDoesNotLookAgain = "client-does-not-look-again",
    /// I14: a client writes to the first place of a route and not to the others.
    OnePlaceOnly = "one-place-only",
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use planting::{Planted, is, plant};

#[cfg(feature = "planted-bugs")]
mod planting {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Bug;

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted.
    pub fn is(bug: Bug) -> bool {
        static EVERYWHERE: OnceLock<Option<Bug>> = OnceLock::new();
        let everywhere = EVERYWHERE.get_or_init(|| {
            let name = std::env::var("REKEYD_PLANTED").ok()?;
            let found = Bug::ALL.iter().find(|bug| bug.name() == name);
            assert!(found.is_some(), "no planted bug is called {name}");
            found.copied()
        });
        HERE.get() == Some(bug) || *everywhere == Some(bug)
    }

    /// Plants a bug on this thread until what it returns is dropped.
    pub fn plant(bug: Bug) -> Planted {
        HERE.set(Some(bug));
        Planted(std::marker::PhantomData)
    }

    /// While this lives, its thread has a planted bug.
    // Not `Send`: it belongs to its thread.
    pub struct Planted(std::marker::PhantomData<*const ()>);

    impl Drop for Planted {
        fn drop(&mut self) {
            HERE.set(None);
        }
    }
}
