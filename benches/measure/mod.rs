//! The whole rekey against a bare read-and-write-back of the same rows, in one
//! run on the same store. The benches `end_to_end` and `end_to_end_cassandra`
//! differ in the parts beneath.
//!
//! The floor reads every row through the store and writes back other bytes of
//! the same size, with the same pages, batches, durability and as many slices
//! in flight; twice, so that the data is as it was. Then a worker process
//! rekeys the same rows. The ratio is the rekey's rows per second in its
//! rewriting state to the floor's.
//!
//! Options: `--rows N`, `--shape realistic|one|N` (messages a slice),
//! `--latency-ms N` and `--budget N` (of the KMS), `--rewrap`, `--move` (see
//! `moves`).

mod moves;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use rekeyd::clock::WriteTime;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::ids::{ChannelId, RecordId};
use rekeyd::job::{JobState, Mode, SliceId};
use rekeyd::pipeline::Limits;
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::store::{CellWrite, Consistency, PageLimit, StoredCell};

use crate::rig::Rig;

/// What the command line says.
pub struct Options {
    rows: u32,
    shape: Shape,
    latency_ms: u64,
    budget: u32,
    mode: Mode,
    moves: bool,
}

/// Reads the command line.
pub fn options() -> Options {
    let mut options = Options {
        rows: 100_000,
        shape: Shape::Realistic,
        latency_ms: 0,
        budget: 100_000,
        mode: Mode::Reencrypt,
        moves: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{word} needs a value"))
        };
        match word.as_str() {
            "--rows" => options.rows = value().parse().expect("--rows takes a number"),
            "--latency-ms" => options.latency_ms = value().parse().expect("a number"),
            "--budget" => options.budget = value().parse().expect("calls per second"),
            "--rewrap" => options.mode = Mode::Rewrap,
            "--move" => options.moves = true,
            "--shape" => {
                options.shape = match value().as_str() {
                    "realistic" => Shape::Realistic,
                    "one" => Shape::OneSlice,
                    n => Shape::Even {
                        per_slice: n.parse().expect("realistic, one or a number"),
                    },
                }
            }
            // What `cargo bench` itself passes.
            "--bench" => {}
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// Fills the rig, runs the floor and then the rekey, and prints what came out.
pub async fn measure(mut rig: Rig, options: &Options) {
    rig.config.kms.rate_per_s = options.budget;
    let recipe = Recipe {
        seed: 1,
        messages: options.rows,
        shape: options.shape,
        expiries_from_s: None,
    };
    let slices = recipe.slices();
    let rows = rig.fill(&recipe).await;
    println!(
        "rows {rows}, slices {slices}, {:.1} rows a slice",
        rows as f64 / slices as f64
    );

    if options.moves {
        return moves::measure(&rig, options).await;
    }
    let cpu_before = cpu_seconds(std::process::id());
    let all = slices_of(&rig, None).await;
    let first = floor(&rig, &all).await;
    let second = floor(&rig, &all).await;
    let floor_cpu_s = (cpu_seconds(std::process::id()) - cpu_before) / 2.0;
    let floor_s = (first + second) / 2.0;
    println!(
        "floor    {:>8.2} s  {:>9.0} rows/s   (two passes: {first:.2} s, {second:.2} s)",
        floor_s,
        rows as f64 / floor_s
    );

    rig.ring.set_latency_ms(options.latency_ms).unwrap();
    let mut worker = Worker::start(&rig, options);
    let job = rig.enqueue(rig.request(&rig.new, options.mode)).await;
    let mut cpu = CpuSpan::default();
    let done = loop {
        let row = rig.book.get(&rig.org, job).await.unwrap();
        worker.look();
        if let Some(found) = &row {
            cpu.look(found.row.state, worker.child.id());
        }
        match row {
            Some(found) if found.row.state == JobState::Drained => break found.row,
            Some(found) if found.row.state == JobState::Blocked => panic!("{}", found.row.why),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    worker.look();
    let history = rig.book.history(&rig.org, job).await.unwrap();
    let at = |state| {
        history
            .iter()
            .find(|t| t.to == state)
            .expect("it went there")
            .at_ms
    };
    let rekey_s = (at(JobState::Verifying) - at(JobState::Rewriting)) as f64 / 1000.0;
    println!(
        "rekey    {:>8.2} s  {:>9.0} rows/s   ratio {:.2}",
        rekey_s,
        rows as f64 / rekey_s,
        floor_s / rekey_s
    );
    let calls = match options.mode {
        Mode::Reencrypt => 2 * slices,
        Mode::Rewrap => slices,
    };
    println!(
        "KMS      {:.2} calls a slice in the whole job",
        done.effort.kms_calls as f64 / slices as f64
    );
    println!(
        "KMS      {calls} calls while rewriting, {:.0}/s of a budget of {} ({:.2})",
        calls as f64 / rekey_s,
        options.budget,
        calls as f64 / rekey_s / f64::from(options.budget)
    );
    println!(
        "CPU      {:.2} s in the floor, {:.2} s in the rekey: {:.1} and {:.1} µs a row",
        floor_cpu_s,
        cpu.seconds(),
        floor_cpu_s * 1e6 / rows as f64,
        cpu.seconds() * 1e6 / rows as f64
    );
    println!(
        "memory   {:.0} MB at most in the worker",
        worker.peak_kib as f64 / 1024.0
    );
    assert_eq!(done.proof.scanned, rows);
    if options.mode == Mode::Reencrypt {
        assert_eq!(done.rewriting.rewritten, rows);
    }
}

/// Reads every row and writes back other bytes of the same size, with the
/// worker's own batches: as many slices at once as its tasks have together, one
/// batch of a slice in flight, the next read meanwhile.
async fn floor(rig: &Rig, slices: &[SliceId]) -> f64 {
    let begun = Instant::now();
    stream::iter(slices.to_vec())
        .for_each_concurrent(FLOOR_SLICES, |slice| rewrite_slice(rig, slice))
        .await;
    begun.elapsed().as_secs_f64()
}

/// The slices there are, of one channel or of all.
async fn slices_of(rig: &Rig, channel: Option<ChannelId>) -> Vec<SliceId> {
    let mut walk = SliceWalk::new(
        rig.store.clone(),
        rig.registry.clone(),
        rig.org.clone(),
        channel,
        None,
    );
    let mut slices = Vec::new();
    while let Some(slice) = walk.next().await.unwrap() {
        slices.push(slice);
    }
    slices
}

/// Slices in flight in the floor.
const FLOOR_SLICES: usize = 256;

async fn rewrite_slice(rig: &Rig, slice: SliceId) {
    let limits = Limits::default();
    let limit = PageLimit {
        rows: limits.batch_rows,
        bytes: limits.batch_bytes,
    };
    let view = rig.registry.view(&rig.org, &slice.channel).await.unwrap();
    let partition = view.partition(slice.hour);
    let read = async |after: Option<RecordId>| {
        let page = rig
            .store
            .read_page(&partition, after.as_ref(), limit, Consistency::Quorum)
            .await;
        page.unwrap()
    };
    let mut page = read(None).await;
    loop {
        let writes: Vec<CellWrite> = page.cells.into_iter().map(other_bytes).collect();
        let write = rig.store.write_cells(&partition, &writes);
        let Some(after) = page.next else {
            return write.await.unwrap();
        };
        let (written, next) = tokio::join!(write, read(Some(after)));
        written.unwrap();
        page = next;
    }
}

/// Other bytes of the same size; twice is the same bytes again. SQLite skips
/// writing identical bytes, so every byte behind the header changes.
fn other_bytes(mut stored: StoredCell) -> CellWrite {
    for byte in &mut stored.cell[26..] {
        *byte ^= 0x5a;
    }
    CellWrite {
        record: stored.record,
        cell: stored.cell.into(),
        write_time: WriteTime(stored.write_time.0 + 1),
        ttl_s: 0,
    }
}

/// Processor time of a process so far, user and system. On a busy machine it
/// says more than the clock on the wall.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold spaces; the times are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}

/// The worker's processor time in its rewriting state.
#[derive(Default)]
struct CpuSpan {
    from: Option<f64>,
    to: Option<f64>,
}

impl CpuSpan {
    fn look(&mut self, state: JobState, pid: u32) {
        match state {
            JobState::Rewriting => {
                self.from.get_or_insert_with(|| cpu_seconds(pid));
            }
            JobState::Verifying => {
                self.to.get_or_insert_with(|| cpu_seconds(pid));
            }
            _ => {}
        }
    }

    fn seconds(&self) -> f64 {
        self.to.unwrap_or(0.0) - self.from.unwrap_or(0.0)
    }
}

/// A worker process and the most memory it was seen to hold.
struct Worker {
    child: Child,
    peak_kib: u64,
}

impl Worker {
    fn start(rig: &Rig, options: &Options) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
        command
            .arg("worker")
            .env("REKEYD_KMS__RATE_PER_S", options.budget.to_string())
            .env("REKEYD_WORKER__POLL_MS", "20")
            // The default: a rig's own configuration saves more often.
            .env("REKEYD_WORKER__CHECKPOINT_MS", "1000")
            .env("REKEYD_LOG__FILTER", "warn");
        rig.backend.tell(&mut command);
        let child = command.spawn().unwrap();
        Self { child, peak_kib: 0 }
    }

    fn look(&mut self) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let peak = status.ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        });
        self.peak_kib = self.peak_kib.max(peak.unwrap_or(0));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
