//! The fuzz targets on stable: every seed, and a bounded number of mutations of
//! them. fuzz/README.md says how to let them run for long.
//!
//! | file | what |
//! |---|---|
//! | `mutate` | spoils inputs, from a seed |
//! | `targets` | what each parser must hold to; the fuzzer calls the same |

mod mutate;
mod targets;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use targets::Target;

/// Environment: runs one seed again.
const SEED: &str = "REKEYD_TEST_SEED";
/// Environment: mutations for each target.
const MUTATIONS: &str = "REKEYD_TEST_MUTATIONS";
/// Mutations for each target, unless said otherwise: a few seconds in all.
const MUTATIONS_BY_DEFAULT: u64 = 20_000;
/// Seeds that each target has at least.
const SEEDS: usize = 24;
/// Most memory that this process may ever have had. The largest element that is
/// read of a list of channels has 32 MiB.
const MOST_MIB: u64 = 512;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Runs a target on an input. If a property does not hold, the input is kept and
/// named.
fn check(target: &str, run: Target, what: &str, input: &[u8]) -> bool {
    match catch_unwind(AssertUnwindSafe(|| run(input))) {
        Ok(taken) => taken,
        Err(_) => {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
            std::fs::write(&kept, input).unwrap();
            panic!(
                "{target} fails on {what}; the input is kept in {}. Once it is mended, put it \
                 into {}",
                kept.display(),
                folder(target).display()
            );
        }
    }
}

fn target(name: &str) -> Target {
    let found = targets::ALL.iter().find(|(other, _)| *other == name);
    found.expect("it is in the list").1
}

/// Each seed is taken or refused as its name says; then its mutations.
fn drive(name: &str, share: u64) {
    let run = target(name);
    let seeds = seeds(name);
    assert!(seeds.len() >= SEEDS, "{name}: {} seeds", seeds.len());
    for (file, input) in &seeds {
        let taken = check(name, run, file, input);
        let expected = match file.split_once('-').unwrap().0 {
            "good" => true,
            "bad" => false,
            _ => panic!("{file}: the name of a seed begins with `good-` or `bad-`"),
        };
        assert_eq!(taken, expected, "{name}: whether {file} is taken");
    }
    let seed = number(SEED).unwrap_or_else(|| rand::rng().next_u64());
    let mutations = number(MUTATIONS).unwrap_or(MUTATIONS_BY_DEFAULT) / share;
    // Shown by the test runner if the test fails.
    println!("{SEED}={seed} {MUTATIONS}={}", mutations * share);
    let inputs: Vec<&[u8]> = seeds.iter().map(|(_, input)| &input[..]).collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut taken = 0;
    for n in 0..mutations {
        let input = mutate::one(&inputs, &mut random);
        let what = format!("mutation {n} of {SEED}={seed}");
        taken += u64::from(check(name, run, &what, &input));
    }
    println!("{name}: {taken} of {mutations} mutations were taken");
    let most = peak_mib();
    assert!(most < MOST_MIB, "{most} MiB were in use at one time");
}

/// The most memory this process has had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

#[test]
fn cells_hold_to_their_properties() {
    drive("cell", 1);
}

#[test]
fn key_rows_hold_to_their_properties() {
    drive("key_row", 1);
}

#[test]
fn scopes_hold_to_their_properties() {
    drive("scope", 1);
}

#[test]
fn messages_hold_to_their_properties() {
    drive("message", 1);
}

#[test]
fn registry_rows_hold_to_their_properties() {
    drive("registry_rows", 1);
}

#[test]
fn job_rows_hold_to_their_properties() {
    drive("job_rows", 1);
}

// An export is several files, and it is read four times.
#[test]
fn slack_exports_hold_to_their_properties() {
    drive("slack", 4);
}

/// An entry of a list may be as long as it likes and need not be what it should
/// be; it is read over. (Taken apart and kept, this one would need a gigabyte.)
#[test]
fn what_stands_where_text_was_due_is_not_kept() {
    let zeros = "0,".repeat(14 << 20);
    let lists = format!(r#"[{{"id":[{zeros}0],"name":"general"}},{{"id":"C000000001"}}]"#);
    let day = r#"[{"ts":"1550077323.000200"}]"#;
    let export = format!("== channels.json\n{lists}\n== C000000001/2019-02-13.json\n{day}\n");
    drop((zeros, lists));
    assert!(target("slack")(export.as_bytes()));
    let most = peak_mib();
    assert!(most < MOST_MIB, "{most} MiB were in use at one time");
}

#[test]
fn the_fuzzer_has_the_same_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        std::fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                path.file_stem().unwrap().to_str().unwrap().to_owned()
            })
            .collect()
    };
    let here: BTreeSet<String> = targets::ALL.iter().map(|(n, _)| (*n).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), here);
    assert_eq!(names("seeds"), here);
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in &here {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&path), "fuzz/Cargo.toml lacks {name}");
    }
}
