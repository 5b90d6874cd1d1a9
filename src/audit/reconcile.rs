//! Holds the audit log against CloudTrail: every call that the KMS has seen from us
//! has its record, and every record its call. The two are joined by the id of the
//! request, which the KMS gives to both.
//!
//! It streams. What it holds is about 50 bytes for each call in the audit log, the
//! names of who called, and a bounded number of what is listed; files may be of any
//! size. Each is read twice: who we are is known only when all of it was seen.
//!
//! | file | what |
//! |---|---|
//! | `records` | calls as the audit log has them |
//! | `trail` | calls as CloudTrail has them |
//! | `others` | calls by others to the same CMKs |

mod others;
mod records;
mod trail;

pub use others::Other;
pub use records::Call;
pub use trail::{Event, files_of as trail_files_of};

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::kms::codes::{DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT};
use others::Others;

/// The calls that rekeyd makes.
pub(super) const CALLS: [&str; 5] = [
    DECRYPT,
    DESCRIBE_KEY,
    GENERATE_DATA_KEY,
    GET_KEY_POLICY,
    RE_ENCRYPT,
];

/// What is held against what.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// A directory of streams, or one.
    pub audit: &'a Path,
    /// CloudTrail's files.
    pub trail: &'a [PathBuf],
    /// How late CloudTrail may deliver: what is missing that near to the ends of
    /// its files is not missing yet.
    pub slack: Duration,
    /// The span, if not that which both cover.
    pub from: Option<Timestamp>,
    /// Its end.
    pub to: Option<Timestamp>,
    /// Who we are besides those whom the audit log names.
    pub principals: &'a [String],
    /// How many of each list are named.
    pub list: usize,
}

/// Some of a number of things.
#[derive(Debug, Clone, Serialize)]
pub struct Listed<T> {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<T>,
    #[serde(skip)]
    most: usize,
}

impl<T> Listed<T> {
    fn up_to(most: usize) -> Self {
        Self {
            count: 0,
            listed: Vec::new(),
            most,
        }
    }

    fn push(&mut self, item: impl FnOnce() -> T) {
        self.count += 1;
        if self.listed.len() < self.most {
            self.listed.push(item());
        }
    }
}

/// What cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadLine {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub at: String,
    /// Why.
    pub why: String,
}

/// A call of which record and event say different things.
#[derive(Debug, Clone, Serialize)]
pub struct Disagreement {
    /// The event.
    pub event: Event,
    /// What differs, in words.
    pub what: String,
}

/// Times, the first and the last. Both belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
}

impl Span {
    fn add(span: &mut Option<Span>, at: Timestamp) {
        let was = span.get_or_insert(Span { from: at, to: at });
        was.from = was.from.min(at);
        was.to = was.to.max(at);
    }

    fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.to
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Reconciled {
    /// What the audit log covers.
    pub audit: Span,
    /// What CloudTrail's files cover.
    pub trail: Span,
    /// In which span an event has to have its record.
    pub calls_judged: Option<Span>,
    /// In which span a record has to have its event.
    pub records_judged: Option<Span>,
    /// Calls in the audit log.
    pub records: u64,
    /// Events of the KMS in CloudTrail's files.
    pub events: u64,
    /// Records that have their event.
    pub joined: u64,
    /// Events that came more than once.
    pub copies: u64,
    /// Records of calls that were never answered, or could not be made: they have
    /// no id of a request. The KMS may have seen them all the same.
    pub unanswered: u64,
    /// Calls of ours without a record.
    pub calls_without_record: Listed<Event>,
    /// Records without a call.
    pub records_without_call: Listed<Call>,
    /// Joined, and not the same.
    pub disagree: Listed<Disagreement>,
    /// Records without a call, too near to an end of the trail to be missed.
    pub not_yet_delivered: u64,
    /// Records without a call, of a time for which there is no trail.
    pub records_outside: u64,
    /// Calls of ours without a record, of a time for which there is no audit log.
    pub calls_outside: u64,
    /// Calls by others to the CMKs that the audit log names, and by us for which
    /// rekeyd has no use.
    pub others: Vec<Other>,
    /// Of others that were too many to be told apart.
    pub others_untold: u64,
    /// Lines that could not be read: nothing is known of what is in them.
    pub bad_lines: Listed<BadLine>,
}

impl Reconciled {
    /// Every call that is judged has its record, every record its call, and all
    /// could be read.
    pub fn all_joined(&self) -> bool {
        self.calls_without_record.count == 0
            && self.records_without_call.count == 0
            && self.disagree.count == 0
            && self.bad_lines.count == 0
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing on one side.
    #[error("there is no {0} here")]
    Nothing(&'static str),
    /// The two have no time in common.
    #[error(
        "the audit log is of {} to {}, CloudTrail's files are of {} to {}: they have no time in \
         common", audit.from, audit.to, trail.from, trail.to
    )]
    Apart {
        /// What the audit log covers.
        audit: Span,
        /// What CloudTrail's files cover.
        trail: Span,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReconcileError {
    let path = path.to_owned();
    move |source| ReconcileError::Io { path, source }
}

/// The id of a request, as it is held: ids are of any form and length.
type Id = [u8; 16];

fn id_of(request_id: &str) -> Id {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(request_id.as_bytes())[..16]);
    id
}

/// What is held of a record.
struct Held {
    operation: u8,
    failed: bool,
    events: u8,
}

/// What the first reading of the audit log knows.
#[derive(Default)]
struct Known {
    calls: HashMap<Id, Held>,
    span: Option<Span>,
    unanswered: u64,
    cmks: BTreeSet<String>,
    principals: BTreeSet<String>,
}

impl Known {
    fn take(&mut self, call: &Call) {
        self.cmks.extend(call.cmks().map(str::to_owned));
        self.principals.extend(call.principal.clone());
        let operation = CALLS.iter().position(|name| *name == call.action);
        // Kept by the caller to what is one of these.
        let Some(operation) = operation.and_then(|at| u8::try_from(at).ok()) else {
            return;
        };
        match &call.kms_request_id {
            None => self.unanswered += 1,
            Some(id) => {
                let held = Held {
                    operation,
                    failed: call.failed(),
                    events: 0,
                };
                self.calls.insert(id_of(id), held);
            }
        }
    }

    /// Whether it is one of us who called, where the id does not say.
    fn is_ours(&self, event: &Event, learned: &BTreeSet<String>) -> bool {
        learned.contains(&event.principal)
            || [&event.principal, &event.session]
                .into_iter()
                .any(|name| self.principals.contains(name))
    }
}

/// Holds the two against each other.
///
/// # Errors
/// If a file cannot be opened or read, one side is empty, or they have no time in
/// common. What is wrong with a line is in the answer.
pub fn reconcile(inputs: &Inputs<'_>) -> Result<Reconciled, ReconcileError> {
    let mut bad = Listed::up_to(inputs.list);
    let mut known = Known {
        principals: inputs.principals.iter().cloned().collect(),
        ..Known::default()
    };
    let mut audit = None;
    records::read(inputs.audit, |line| match line {
        records::Line::Other(at) => Span::add(&mut audit, at),
        records::Line::Call(call) => {
            Span::add(&mut audit, call.ts);
            known.take(&call);
        }
        records::Line::Bad(line) => bad.push(|| line),
    })?;
    known.span = audit;

    let mut seen = Seen::new(inputs.list);
    for file in inputs.trail {
        trail::read(file, |line| match line {
            trail::Line::Other(at) => Span::add(&mut seen.span, at),
            trail::Line::Kms(event) => seen.first(&mut known, &event),
            trail::Line::Bad(line) => bad.push(|| line),
        })?;
    }
    let audit = known.span.ok_or(ReconcileError::Nothing("audit record"))?;
    let trail = seen
        .span
        .ok_or(ReconcileError::Nothing("event of CloudTrail"))?;
    if audit.to < trail.from || trail.to < audit.from {
        return Err(ReconcileError::Apart { audit, trail });
    }
    let calls_judged = inputs.span(audit, trail, Duration::ZERO);
    let records_judged = inputs.span(audit, trail, inputs.slack);
    let mut done = Reconciled {
        audit,
        trail,
        calls_judged,
        records_judged,
        records: known.calls.len() as u64 + known.unanswered,
        events: seen.events,
        joined: known.calls.values().filter(|held| held.events > 0).count() as u64,
        copies: seen.copies,
        unanswered: known.unanswered,
        calls_without_record: Listed::up_to(inputs.list),
        records_without_call: Listed::up_to(inputs.list),
        disagree: seen.disagree,
        not_yet_delivered: 0,
        records_outside: 0,
        calls_outside: 0,
        others: Vec::new(),
        others_untold: 0,
        bad_lines: bad,
    };
    let mut others = Others::default();
    for file in inputs.trail {
        trail::read(file, |line| {
            if let trail::Line::Kms(event) = line {
                second(&known, &seen.learned, &mut others, &mut done, event);
            }
        })?;
    }
    (done.others, done.others_untold) = others.finish();
    records::read(inputs.audit, |line| {
        if let records::Line::Call(call) = line {
            missed(&known, trail, &mut done, *call);
        }
    })?;
    Ok(done)
}

impl Inputs<'_> {
    /// What both cover, less the slack at both ends; `None` if nothing is left. A
    /// time that was named is taken as it is.
    fn span(&self, audit: Span, trail: Span, slack: Duration) -> Option<Span> {
        let both = Span {
            from: audit.from.max(trail.from),
            to: audit.to.min(trail.to),
        };
        let from = self.from.or_else(|| both.from.checked_add(slack).ok())?;
        let to = self.to.or_else(|| both.to.checked_sub(slack).ok())?;
        (from <= to).then_some(Span { from, to })
    }
}

/// What the first reading of the trail knows.
struct Seen {
    span: Option<Span>,
    events: u64,
    copies: u64,
    learned: BTreeSet<String>,
    disagree: Listed<Disagreement>,
}

impl Seen {
    fn new(list: usize) -> Self {
        Self {
            span: None,
            events: 0,
            copies: 0,
            learned: BTreeSet::new(),
            disagree: Listed::up_to(list),
        }
    }

    fn first(&mut self, known: &mut Known, event: &Event) {
        Span::add(&mut self.span, event.time);
        self.span = self.span.map(|span| Span {
            // Its time is cut to the second.
            to: span.to.max(event.latest()),
            ..span
        });
        self.events += 1;
        let id = event.request_id.as_deref().map(id_of);
        let Some(held) = id.and_then(|id| known.calls.get_mut(&id)) else {
            return;
        };
        if held.events > 0 {
            // In the trails of two accounts, or delivered twice.
            self.copies += 1;
            return;
        }
        held.events = 1;
        self.learned.insert(event.principal.clone());
        let recorded = CALLS.get(usize::from(held.operation)).copied();
        if recorded != Some(event.operation.as_str()) {
            let what = format!("the record says {}", recorded.unwrap_or_default());
            let event = event.clone();
            self.disagree.push(|| Disagreement { event, what });
        } else if held.failed != event.error.is_some() {
            let what = match held.failed {
                true => "the record says that it failed",
                false => "the record says that it was done",
            };
            self.disagree.push(|| Disagreement {
                event: event.clone(),
                what: what.to_owned(),
            });
        }
    }
}

/// An event when all is known.
fn second(
    known: &Known,
    learned: &BTreeSet<String>,
    others: &mut Others,
    done: &mut Reconciled,
    event: Event,
) {
    let id = event.request_id.as_deref().map(id_of);
    if id.is_some_and(|id| known.calls.contains_key(&id)) {
        return;
    }
    if CALLS.contains(&event.operation.as_str()) && known.is_ours(&event, learned) {
        let judged = done.calls_judged;
        // An event may be as late as the end of its second.
        match judged.is_some_and(|span| span.from <= event.latest() && event.time <= span.to) {
            true => done.calls_without_record.push(|| event),
            false => done.calls_outside += 1,
        }
    } else if event.cmks.iter().any(|cmk| known.cmks.contains(cmk)) {
        others.take(&event);
    }
}

/// A record when all is known.
fn missed(known: &Known, trail: Span, done: &mut Reconciled, call: Call) {
    let Some(id) = call.kms_request_id.as_deref().map(id_of) else {
        return;
    };
    if known.calls.get(&id).is_none_or(|held| held.events > 0) {
        return;
    }
    let at = call.ts;
    if done.records_judged.is_some_and(|span| span.holds(at)) {
        done.records_without_call.push(|| call);
    } else if trail.holds(at) || at > trail.to {
        done.not_yet_delivered += 1;
    } else {
        done.records_outside += 1;
    }
}

#[cfg(test)]
mod tests;
