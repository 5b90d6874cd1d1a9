//! The errors of the library, turned into what people and scripts see: what
//! happened, to what, what to do next, and an exit code. Only here.

use std::fmt;

use miette::Diagnostic;

use crate::audit::AuditError;
use crate::cli::exit::Exit;
use crate::config::ConfigError;
use crate::ids::{CmkArn, InvalidId, JobId, OrgId};
use crate::import::ImportError;
use crate::import::load::LoadError;
use crate::job::{BookError, HoldError, MessageError};
use crate::kms::local::RingError;
use crate::kms::{KmsClass, KmsError};
use crate::pipeline::TaskError;
use crate::queue::QueueError;
use crate::registry::RegistryError;
use crate::steer::SteerError;
use crate::store::{StoreError, StoreErrorClass};
use crate::telemetry::logs::LogError;
use crate::verify::ResumeError;
use crate::wiring::WiringError;
use crate::worker::WorkerError;

/// Something that was named and is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    Org(OrgId),
    Job(JobId),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub exit: Exit,
    /// What it is about, where that is not there: `near` looks for what was meant.
    pub missing: Option<Missing>,
    what: String,
    help: Option<String>,
    /// The reader of our output is gone: nobody is left to be told.
    quiet: bool,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            missing: None,
            what: what.into(),
            help: None,
            quiet: false,
        }
    }

    /// What it is about, without what to do next.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What to do next, unless something better is known.
    #[must_use]
    pub fn or_help(mut self, help: &str) -> Self {
        self.help.get_or_insert_with(|| help.to_owned());
        self
    }

    /// The name that was probably meant, before the other help.
    #[must_use]
    pub fn did_you_mean(mut self, name: &str) -> Self {
        let help = self.help.take().unwrap_or_default();
        self.help = Some(format!("did you mean `{name}`? {help}").trim().to_owned());
        self
    }

    /// Says that something that was named is not there.
    #[must_use]
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = Some(missing);
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn exiting(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub fn no_job(job: JobId) -> Self {
        let failure = Self::new(Exit::NotFound, format!("no job {job} is recorded"));
        failure.missing(Missing::Job(job)).help(
            "a job is recorded when a worker takes its message: start one with `rekeyd worker`, \
             or wait with `rekeyd status --wait`. `rekeyd jobs` lists the jobs there are, \
             `rekeyd dlq list` the messages that were refused",
        )
    }

    pub fn reader_gone() -> Self {
        Self {
            quiet: true,
            ..Self::new(Exit::Done, "the reader of the output is gone")
        }
    }

    /// Prints it on standard error and gives the exit code.
    pub fn show(self, json: bool) -> Exit {
        use std::io::Write;
        let exit = self.exit;
        if !self.quiet {
            let text = if json {
                serde_json::json!({"error": {
                    "code": exit.as_str(), "exit": exit.number(),
                    "message": self.what, "help": self.help,
                }})
                .to_string()
            } else {
                format!("{:?}", miette::Report::new(self))
            };
            // Standard error may be closed as well.
            let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
        }
        exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("rekeyd::{}", self.exit.as_str())))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_deref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// ARNs are to be copied: nothing is broken in two.
pub(super) fn set_up() {
    // Fails only if a hook is set already, which then stays.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(
            miette::MietteHandlerOpts::new()
                .terminal_links(false)
                .break_words(false)
                .wrap_lines(false)
                .build(),
        )
    }));
}

const TRY_AGAIN: &str = "it may pass by itself: run the same command again";
const RUN_INIT: &str =
    "make one with `rekeyd init`, or name the right place with `--data-dir` or `--config`";
const APPLY: &str = "`rekeyd schema apply --replication …` makes keyspace and tables \
                     (docs/store-scylla.md); `store.keyspace` says which keyspace is looked for";

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string()).help("docs/configuration.md lists every setting")
    }
}

impl From<InvalidId> for Failure {
    fn from(error: InvalidId) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::new(Exit::Usage, error.to_string())
            .help("nothing was sent; `rekeyd enqueue rekey --help` and `rekeyd enqueue move --help` show what a job message needs")
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let what = error.to_string();
        if error.is_not_set_up {
            return Self::new(Exit::NotSetUp, what).help(APPLY);
        }
        match error.class {
            StoreErrorClass::Transient => Self::new(Exit::Unavailable, what).help(TRY_AGAIN),
            StoreErrorClass::Invalid | StoreErrorClass::Fatal => Self::new(Exit::Failed, what),
        }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        let what = error.to_string();
        match error {
            QueueError::Transient(_) | QueueError::ReceiptExpired => {
                Self::new(Exit::Unavailable, what).help(TRY_AGAIN)
            }
            QueueError::BodySize(_) => Self::new(Exit::Usage, what),
            QueueError::Settings(_) => Self::new(Exit::Config, what)
                .help("`rekeyd config check` says what is set and where; see docs/queue-sqs.md"),
            QueueError::Fatal(_) => Self::new(Exit::Failed, what),
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let what = error.to_string();
        match error {
            RegistryError::Store(error) => error.into(),
            RegistryError::UnknownOrg(org) => Self::new(Exit::NotFound, what)
                .missing(Missing::Org(org))
                .help("`rekeyd org list` shows those there are"),
            RegistryError::UnknownChannel { org, .. } => Self::new(Exit::NotFound, what)
                .help(format!("`rekeyd org show {org}` lists its channels")),
            RegistryError::OrgExists(org) => Self::new(
                Exit::Conflict,
                format!("organization `{org}` is in the registry already; nothing was changed"),
            )
            .help(format!(
                "see `rekeyd org show {org}`; another CMK is let in with `rekeyd org allow-cmk {org} <ARN>`"
            )),
            RegistryError::WrongWorkspace { .. } | RegistryError::Refused(_) => {
                Self::new(Exit::Conflict, what)
            }
            RegistryError::WindowOpen { org, .. } => Self::new(Exit::Conflict, what)
                .help(format!("close it with `rekeyd restore-window close {org} --reason <TEXT>`")),
            RegistryError::NoWindow(org) => Self::new(Exit::Conflict, what)
                .help(format!("see `rekeyd org show {org}`")),
            RegistryError::NoTiming => Self::new(Exit::NotSetUp, what).help(RUN_INIT),
            RegistryError::Contended(_) | RegistryError::NotMine(_) => Self::new(Exit::Unavailable, what).help(TRY_AGAIN),
            RegistryError::Timing(_) | RegistryError::Malformed { .. } => {
                Self::new(Exit::Failed, what)
            }
        }
    }
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        let what = error.to_string();
        match error {
            BookError::Store(error) => error.into(),
            BookError::Malformed { .. } => Self::new(Exit::Failed, what),
            BookError::Overtaken(_) => Self::new(Exit::Unavailable, what).help(TRY_AGAIN),
            BookError::NoSuchWay { .. } => Self::new(Exit::Conflict, what),
        }
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        let what = error.to_string();
        let exit = match error {
            RingError::NotARing { .. } => {
                return Self::new(Exit::NotSetUp, what).help(RUN_INIT);
            }
            RingError::NoSuchKey { .. } => {
                return Self::new(Exit::NotFound, what)
                    .help("`rekeyd kms list` shows the CMKs there are");
            }
            RingError::NoSuchRule { .. } => {
                return Self::new(Exit::NotFound, what)
                    .help("`rekeyd kms deny list` and `rekeyd kms fault list` show what is set");
            }
            RingError::State { .. } | RingError::Exists { .. } | RingError::RuleExists { .. } => {
                Exit::Conflict
            }
            RingError::Window { .. }
            | RingError::BadArn(_)
            | RingError::BadName { .. }
            | RingError::EmptyRule { .. }
            | RingError::BadFault { .. }
            | RingError::UnknownOperation { .. } => Exit::Usage,
            RingError::WrongUnlock | RingError::NeedsKeyFile | RingError::NeedsPassphrase => {
                return Self::new(Exit::Config, what).help(
                    "set `kms.key_file` in the configuration, or REKEYD_RING_PASSPHRASE in the environment",
                );
            }
            _ => Exit::Failed,
        };
        Self::new(exit, what)
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let what = format!(
            "the KMS refused {}: {} ({})",
            error.operation, error.code, error.message
        );
        match error.class {
            KmsClass::Transient { .. } | KmsClass::Unavailable => {
                let what = format!(
                    "the KMS did not answer {}: {} ({})",
                    error.operation, error.code, error.message
                );
                Self::new(Exit::Unavailable, what)
                    .help(format!("{TRY_AGAIN}; `kms.endpoint` says where the KMS is looked for"))
            }
            KmsClass::Denied | KmsClass::RoleDenied => Self::new(Exit::KmsRefused, what)
                .help("the key's policy denies this use; ask the owner of the CMK (of the local key ring: `rekeyd kms deny list`)"),
            KmsClass::CmkUnusable => Self::new(Exit::KmsRefused, what)
                .help("ask the owner of the CMK for its state (of the local key ring: `rekeyd kms list`, and `rekeyd kms enable <ARN>` enables a disabled one)"),
            KmsClass::FatalJob if error.code == "NotFoundException" => {
                Self::new(Exit::NotFound, what).help(
                    "look at its account and Region, or ask the owner of the CMK (of the local key \
                     ring: `rekeyd kms list`)",
                )
            }
            KmsClass::QuarantinedKey => Self::new(Exit::BadData, what),
            KmsClass::FatalJob | KmsClass::FatalWorker | KmsClass::Unknown => {
                Self::new(Exit::KmsRefused, what)
            }
        }
    }
}

impl From<SteerError> for Failure {
    fn from(error: SteerError) -> Self {
        let what = error.to_string();
        match error {
            SteerError::NoJob(id) => Self::no_job(id),
            SteerError::Book(error) => error.into(),
            SteerError::Audit(error) => error.into(),
            SteerError::Reason => Self::new(Exit::Usage, what),
            SteerError::Limits(_) => Self::new(Exit::Usage, what)
                .help("give --rows-per-s, --kms-per-s or --tasks; `rekeyd pause` stops a job"),
            SteerError::NoThrottle(_) => {
                Self::new(Exit::NotFound, what).help("`rekeyd throttle show` lists those there are")
            }
            SteerError::Refused { job, is_paused, .. } => {
                Self::new(Exit::Conflict, what).help(match is_paused {
                    true => format!("let it go on with `rekeyd resume {job}`"),
                    false => format!("see `rekeyd status {job}`"),
                })
            }
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::new(Exit::Failed, error.to_string())
            .help("nothing is done that cannot be recorded; `audit.dir` says where the log goes")
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let exit = match &error {
            ImportError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
            .help("give the folder of the export, or the ZIP file as Slack gave it")
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let what = error.to_string();
        match error {
            LoadError::Store(e) => e.into(),
            LoadError::Registry(e) => e.into(),
            LoadError::Kms(e) => e.into(),
            LoadError::Audit(e) => e.into(),
            LoadError::Cell { .. } => Self::new(Exit::BadData, what),
            LoadError::BeingCopied { .. } => Self::new(Exit::Conflict, what),
            LoadError::SelfCheck(_) | LoadError::KeyRow(_) => Self::new(Exit::Failed, what),
            LoadError::Spent(_) | LoadError::Unsettled(_) => Self::new(Exit::Unavailable, what),
        }
    }
}

impl From<WiringError> for Failure {
    fn from(error: WiringError) -> Self {
        match error {
            WiringError::Store(e) => e.into(),
            WiringError::Queue(e) => e.into(),
            WiringError::Ring(e) => e.into(),
            WiringError::Registry(e) => e.into(),
            WiringError::Audit(e) => e.into(),
            WiringError::Log(e) => e.into(),
            WiringError::RequestTimeout { most, .. } => Self::new(Exit::Config, error.to_string())
                .help(format!("set `store.request_timeout_ms` to {most} or less")),
            WiringError::WhoAmI(_) => Self::new(Exit::Unavailable, error.to_string()),
            WiringError::Dir { .. } | WiringError::Compute(_) => {
                Self::new(Exit::Failed, error.to_string())
            }
        }
    }
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Book(e) => e.into(),
            other => Self::new(Exit::Unavailable, other.to_string()).help(TRY_AGAIN),
        }
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Store(e) => e.into(),
            TaskError::Registry(e) => e.into(),
            TaskError::Book(e) => e.into(),
            TaskError::Hold(e) => e.into(),
            TaskError::Audit(e) => e.into(),
            TaskError::Kms(e) => e.into(),
            TaskError::Compute | TaskError::CalledOff(_) => {
                Self::new(Exit::Failed, error.to_string())
            }
        }
    }
}

impl From<ResumeError> for Failure {
    fn from(error: ResumeError) -> Self {
        let what = error.to_string();
        match error {
            ResumeError::Io { .. } => {
                Self::new(Exit::Failed, what).help("name a file in a directory that can be written")
            }
            ResumeError::NotAScan { .. } => Self::new(Exit::BadData, what)
                .help("name another file, or remove this one to begin anew"),
            ResumeError::Another { .. } => Self::new(Exit::Conflict, what)
                .help("give the command that began it, or name another file"),
            ResumeError::OlderEpoch { .. } => {
                Self::new(Exit::Conflict, what).help("remove the file; the scan has to begin anew")
            }
        }
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Registry(e) => e.into(),
            WorkerError::Book(e) => e.into(),
            WorkerError::Queue(e) => e.into(),
            WorkerError::Audit(e) => e.into(),
            WorkerError::Kms(e) => e.into(),
            WorkerError::Task(e) => e.into(),
            WorkerError::Hold(e) => e.into(),
        }
    }
}

/// Something of the operating system that no library error covers.
pub(super) fn system(what: &str, error: impl fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: {error}"))
}

/// A CMK that the KMS could not use, with the CMK's name.
pub(super) fn about_cmk(error: KmsError, cmk: &CmkArn) -> Failure {
    let mut failure = Failure::from(error);
    failure.what = format!("{cmk}: {}", failure.what);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_set_wrong_have_codes_of_their_own() {
        let missing = StoreError::not_set_up("keyspace rekeyd does not exist");
        assert_eq!(Failure::from(missing).exit, Exit::NotSetUp);
        let wrong = StoreError::new(StoreErrorClass::Fatal, "not ours");
        assert_eq!(Failure::from(wrong).exit, Exit::Failed);
        let queue = QueueError::Settings("there is no such queue".to_owned());
        assert_eq!(Failure::from(queue).exit, Exit::Config);
    }

    #[test]
    fn a_failure_shows_what_and_what_to_do_and_breaks_no_arn() {
        set_up();
        let arn = "arn:aws:kms:eu-central-1:111122223333:key/0b4ab0a8-8f4c-4f0a-9d7e-5a2f6f7b8c9d";
        let failure = Failure::from(RingError::NoSuchKey {
            cmk: CmkArn::new(arn).unwrap(),
        });
        assert_eq!(failure.exit, Exit::NotFound);
        let shown = format!("{:?}", miette::Report::new(failure));
        assert!(shown.contains(arn), "{shown}");
        assert!(shown.contains("rekeyd kms list"), "{shown}");
        assert!(shown.contains("rekeyd::not_found"), "{shown}");
    }
}
