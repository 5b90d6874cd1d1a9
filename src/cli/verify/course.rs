//! The scan under way: the line that shows it, the file that keeps how far it is,
//! and how it ends when it is stopped.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::cli::{figures, out};
use crate::clock::{BootTime, SharedClock};
use crate::epoch::Epoch;
use crate::verify::{Asked, Found, Part, Reached, ResumeFile, Sample, Scan};

/// How often the file is written: what a kill costs at most.
const SAVE: Duration = Duration::from_secs(1);
/// How often the line is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// Which slices are read.
pub(super) enum Way {
    /// All.
    All,
    /// All, with a file that keeps how far it is.
    Resumed(ResumeFile),
    /// Some.
    Sample { slices: u32, seed: u32 },
}

impl Way {
    pub fn of(sample: Option<u32>, seed: Option<u32>, resume: Option<&Path>) -> Self {
        match (sample, resume) {
            (Some(slices), _) => Way::Sample {
                slices,
                seed: seed.unwrap_or_else(crate::replay::random),
            },
            (None, Some(path)) => Way::Resumed(ResumeFile::at(path)),
            (None, None) => Way::All,
        }
    }
}

/// A scan at its end.
pub(super) struct Course {
    pub found: Found,
    pub sample: Option<Sample>,
    pub parts: Vec<Part>,
    file: Option<ResumeFile>,
}

impl Course {
    /// It was told. The file is of no more use: whoever asks again wants another
    /// scan, not the same answer.
    pub fn finish(&self) -> Result<(), Failure> {
        if let Some(file) = &self.file {
            file.remove()?;
        }
        Ok(())
    }
}

pub(super) async fn run(
    context: &Context,
    scan: &Scan,
    way: Way,
    asked: Asked,
    last_epoch: Epoch,
) -> Result<Course, Failure> {
    let mut line = Line::new(context);
    let from_ms = context.clock.wall().unix_ms();
    let (reached, sample) = match way {
        Way::Resumed(file) => return resumed(context, scan, file, asked, last_epoch).await,
        Way::Sample { slices, seed } => {
            let (reached, sample) = scan.sample(slices, seed, |r| line.show(r)).await?;
            (reached, Some(sample))
        }
        Way::All => {
            let reached = scan.run_from(Reached::default(), |r| line.show(r));
            (reached.await?, None)
        }
    };
    line.end();
    let to_ms = context.clock.wall().unix_ms();
    Ok(Course {
        found: reached.found,
        sample,
        parts: vec![Part { from_ms, to_ms }],
        file: None,
    })
}

async fn resumed(
    context: &Context,
    scan: &Scan,
    file: ResumeFile,
    asked: Asked,
    last_epoch: Epoch,
) -> Result<Course, Failure> {
    let now_ms = || context.clock.wall().unix_ms();
    let mut kept = file.load(asked, last_epoch)?;
    kept.begin_part(now_ms());
    // Before anything is read: a file that cannot be written is known at once.
    file.save(&kept)?;
    let mut line = Line::new(context);
    let mut saving = Every::new(SAVE, &context.clock);
    let mut failed = None;
    let begin = kept.reached();
    let run = scan.run_from(begin, |reached| {
        line.show(reached);
        if saving.is_due() {
            kept.note(reached, now_ms());
            failed = file.save(&kept).err();
        }
    });
    let ended = tokio::select! {
        biased;
        signal = stopped() => Err(signal),
        ended = run => Ok(ended),
    };
    line.end();
    let again = "the same command goes on from there";
    match ended {
        Ok(Ok(reached)) => {
            kept.note(&reached, now_ms());
            file.save(&kept)?;
            Ok(Course {
                found: reached.found,
                sample: None,
                parts: kept.parts,
                file: Some(file),
            })
        }
        Ok(Err(error)) => Err(Failure::from(error).or_help(again)),
        Err(signal) => {
            signal?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            let through = figures::count(kept.reached().found.slices, "slice");
            let what = format!("stopped; {through} were read and stand in the file");
            Err(Failure::new(Exit::Interrupted, what).help(again))
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() -> Result<(), Failure> {
    let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The line that shows a scan to who looks at it.
struct Line<'a> {
    context: &'a Context,
    drawing: Every,
}

impl<'a> Line<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            drawing: Every::new(DRAW, &context.clock),
        }
    }

    /// There is no percentage: nobody has counted the slices.
    fn show(&mut self, reached: &Reached) {
        if !self.context.out.is_live() || !self.drawing.is_due() {
            return;
        }
        let at = reached.last.as_ref().map(ToString::to_string);
        let text = format!(
            "{} slices, {} cells, at {}",
            figures::amount(reached.found.slices),
            figures::amount(reached.found.cells),
            at.unwrap_or_default()
        );
        // A terminal that went away is found out when the end is told.
        let _ = out::redraw(&text);
    }

    fn end(&self) {
        if self.context.out.is_live() {
            let _ = out::redraw("");
        }
    }
}

/// Something that is due now and then.
struct Every {
    span: Duration,
    clock: SharedClock,
    last: BootTime,
}

impl Every {
    fn new(span: Duration, clock: &SharedClock) -> Self {
        Self {
            span,
            clock: clock.clone(),
            last: clock.boot(),
        }
    }

    fn is_due(&mut self) -> bool {
        let now = self.clock.boot();
        let due = now.since(self.last) >= self.span;
        if due {
            self.last = now;
        }
        due
    }
}
