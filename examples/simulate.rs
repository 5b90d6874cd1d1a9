//! Plays simulated histories: `cargo run --example simulate -- --histories 1000`.
//!
//! `--seed S` begins with that seed; the next ones follow. `--threads N` plays so
//! many at once. One seed alone, with its log: `--histories 1 --seed S --log`.
//! Ends with 1 if a promise was broken, and names the seeds.

#[cfg(not(debug_assertions))]
fn main() {
    eprintln!(
        "the simulation is left out of release builds; \
         for speed: CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo run --example simulate"
    );
    std::process::exit(2);
}

#[cfg(debug_assertions)]
fn main() -> std::process::ExitCode {
    long::main()
}

#[cfg(debug_assertions)]
mod long {
    use std::process::ExitCode;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

    use clap::Parser;
    use rekeyd::sim::{self, Outcome, Tally};

    /// Plays simulated histories.
    #[derive(Parser)]
    struct Args {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        histories: u64,
        /// The first seed; without it, a random one.
        #[arg(long)]
        seed: Option<u64>,
        /// How many at once.
        #[arg(long, default_value_t = 2)]
        threads: u64,
        /// A planted bug, by its name (needs the feature `planted-bugs`).
        #[arg(long)]
        planted: Option<String>,
        /// Prints what happened in each.
        #[arg(long)]
        log: bool,
    }

    pub fn main() -> ExitCode {
        let args = Args::parse();
        let first = args.seed.unwrap_or_else(|| rand::random::<u64>() >> 1);
        println!(
            "seeds {first} to {}",
            first.wrapping_add(args.histories - 1)
        );
        let begun = Instant::now();
        let (next, sum, failed) = (
            AtomicU64::new(0),
            Mutex::new(Sum::default()),
            AtomicU64::new(0),
        );
        std::thread::scope(|scope| {
            for _ in 0..args.threads {
                scope.spawn(|| {
                    let _planted = args.planted.as_deref().map(plant);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= args.histories {
                            return;
                        }
                        let outcome = sim::play(first.wrapping_add(n));
                        if !outcome.wrong.is_empty() || args.log {
                            let log = outcome.log.join("\n");
                            println!("seed {}: {:#?}\n{log}", outcome.seed, outcome.wrong);
                        }
                        if !outcome.wrong.is_empty() {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        sum.add(&outcome);
                        if (n + 1).is_multiple_of(1000) {
                            eprintln!("{} played in {:.0} s", n + 1, begun.elapsed().as_secs_f64());
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner();
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        let took = begun.elapsed().as_secs_f64();
        println!(
            "{} histories in {took:.0} s ({:.0} a minute): {} jobs, {} deaths, {} freezes, \
             {} operations, {} events, {} days of their own time, trace {:016x}; \
             {failed} broke a promise",
            args.histories,
            args.histories as f64 / took * 60.0,
            sum.tally.jobs,
            sum.tally.deaths,
            sum.tally.freezes,
            sum.tally.operations,
            sum.events,
            sum.lasted_s / 86_400,
            sum.trace,
        );
        ExitCode::from(u8::from(failed > 0))
    }

    #[cfg(feature = "planted-bugs")]
    fn plant(name: &str) -> rekeyd::planted::Planted {
        let found = rekeyd::planted::Bug::ALL
            .iter()
            .find(|bug| bug.name() == name);
        rekeyd::planted::plant(*found.expect("a planted bug of this name"))
    }

    #[cfg(not(feature = "planted-bugs"))]
    fn plant(_: &str) {
        panic!("build it with --features planted-bugs")
    }

    #[derive(Default)]
    struct Sum {
        tally: Tally,
        events: u64,
        lasted_s: u64,
        // The same for the same seeds, whatever their order.
        trace: u64,
    }

    impl Sum {
        fn add(&mut self, outcome: &Outcome) {
            let tally = &outcome.tally;
            self.tally.jobs += tally.jobs;
            self.tally.deaths += tally.deaths;
            self.tally.freezes += tally.freezes;
            self.tally.operations += tally.operations;
            self.events += outcome.events;
            self.lasted_s += outcome.lasted.as_secs();
            self.trace ^= outcome.trace;
        }
    }
}
