//! Each CMK of each organization, by canaries: the questions of a job's
//! preflight, asked of every CMK on the allow-list and without a job.

use std::time::Duration;

use super::{Check, Part, State, within};
use crate::clock::SharedClock;
use crate::config::KmsKind;
use crate::iam::Sides;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{JobBook, Mode};
use crate::kms::trial::{Trial, Unfit};
use crate::kms::{CmkState, Kms, KmsClass, KmsError, ReasonCode, Use};
use crate::registry::{AllowList, CmkRole, OrgRow, Registry, RegistryError};

/// An organization as the registry has it.
pub struct Entered {
    org: OrgId,
    row: OrgRow,
    list: AllowList,
    sides: Sides,
}

/// Reads the organizations to look at: one, or all.
///
/// # Errors
/// If the registry cannot be read, or has no such organization.
pub async fn entered(
    registry: &Registry,
    book: &JobBook,
    only: Option<&OrgId>,
) -> Result<Vec<Entered>, RegistryError> {
    let names = match only {
        Some(org) => vec![org.clone()],
        None => all_orgs(registry).await?,
    };
    let mut found = Vec::new();
    for org in names {
        let row = registry.org(&org).await?;
        let list = registry.allow_list(&org).await?;
        let moving = is_moving(book, &org, &row.cmk).await?;
        // Nothing is asked for by name, so nothing can be refused.
        let sides = Sides::of(&row, &list, &[], moving).unwrap_or(Sides {
            old: Vec::new(),
            new: vec![row.cmk.clone()],
        });
        found.push(Entered {
            org,
            row,
            list,
            sides,
        });
    }
    Ok(found)
}

/// Every organization of a registry.
///
/// # Errors
/// If it cannot be read.
pub async fn all_orgs(registry: &Registry) -> Result<Vec<OrgId>, RegistryError> {
    let mut all: Vec<OrgId> = Vec::new();
    loop {
        let page = registry.orgs(all.last(), 500).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Whether a job that made this CMK active is unfinished: it still makes keys
/// under it.
///
/// # Errors
/// If the store cannot be read.
pub async fn is_moving(
    book: &JobBook,
    org: &OrgId,
    active: &CmkArn,
) -> Result<bool, RegistryError> {
    let malformed = |error: crate::job::BookError| match error {
        crate::job::BookError::Store(error) => RegistryError::Store(error),
        other => RegistryError::Malformed {
            partition: org.to_string(),
            row: "jobs".to_owned(),
            why: other.to_string(),
        },
    };
    let open: Vec<JobId> = book.open(org).await.map_err(malformed)?;
    for id in open {
        let job = book.get(org, id).await.map_err(malformed)?;
        if job.is_some_and(|j| {
            let to_cmk = j.row.request.rekey().map(|rekey| &rekey.to_cmk);
            j.row.activated.is_some() && to_cmk == Some(active)
        }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A clock that is behind what others have written is wrong, whatever the
/// store's server says. `None` if it is not.
pub fn clock_behind(all: &[Entered], clock: &SharedClock, skew_ms: u64) -> Option<Check> {
    let newest = all
        .iter()
        .flat_map(|e| {
            let cmks = e.list.iter().map(|(_, row)| row.entered_ms);
            cmks.chain([e.row.created_ms])
        })
        .max()?;
    let ahead_ms = newest.saturating_sub(clock.wall().unix_ms());
    (ahead_ms > skew_ms).then(|| {
        Check::wrong(
            Part::Clock,
            format!("a row of the registry was written {ahead_ms} ms in the future of our clock"),
            "set this machine's clock (NTP), or that of the machine where it was entered",
        )
    })
}

/// How the KMS is asked.
pub struct Asking<'a> {
    /// The KMS, as the worker calls it: audited.
    pub kms: &'a dyn Kms,
    /// Which one it is, for what to do.
    pub kind: KmsKind,
    /// Which rights the worker has.
    pub mode: Mode,
    /// The longest wait for one answer.
    pub limit: Duration,
}

/// Tries every CMK of one organization.
pub async fn check(asking: &Asking<'_>, entered: &Entered) -> Vec<Check> {
    let why = Use::new(ReasonCode::Canary, "doctor");
    let one = One {
        asking,
        entered,
        trial: Trial {
            kms: asking.kms,
            org: &entered.org,
            why: &why,
        },
    };
    let mut checks = Vec::new();
    if let Some(window) = &entered.row.restore_window {
        let mut check = Check::warning(
            Part::Store,
            format!(
                "a restore window is open: readers accept what is older than the last finished \
                 rekey, from epoch {} on",
                window.floor
            ),
            format!(
                "once a rekey after the restore is drained: rekeyd restore-window close {} --reason …",
                entered.org
            ),
        );
        check.org = Some(entered.org.to_string());
        checks.push(check);
    }
    for (cmk, row) in entered.list.iter() {
        for mut check in one.cmk(cmk, &row.canary_hex).await {
            // Nothing live is under a CMK that a rekey has left: its owner may
            // have disabled it, as the verdict said.
            if row.role == CmkRole::SourceOnly && *cmk != entered.row.cmk {
                check = left(check);
            }
            check.org = Some(entered.org.to_string());
            check.cmk = Some(cmk.to_string());
            checks.push(check);
        }
    }
    checks
}

/// Of a CMK that a rekey has left: what would be wrong with another is as it may be.
fn left(mut check: Check) -> Check {
    if check.state == State::Wrong {
        check.state = State::Warning;
        check.fix = Some(
            "nothing live needs it: a finished rekey has left it. Only what is older needs it \
             (a backup, old wraps)"
                .to_owned(),
        );
    }
    check
}

struct One<'a> {
    asking: &'a Asking<'a>,
    entered: &'a Entered,
    trial: Trial<'a>,
}

impl One<'_> {
    async fn cmk(&self, cmk: &CmkArn, canary_hex: &str) -> Vec<Check> {
        let mut checks = Vec::new();
        let described = self.ask(self.trial.describe(cmk)).await;
        let goes_on = match &described {
            Ok(_) => {
                checks.push(Check::ok(Part::Kms, "is there, enabled and symmetric"));
                true
            }
            // A role that may not describe it may still be able to use it.
            Err(Refusal::Unfit(Unfit::Kms(error))) => {
                matches!(error.class, KmsClass::Denied | KmsClass::FatalJob)
                    && error.code != "NotFoundException"
            }
            Err(_) => false,
        };
        if let Err(refusal) = described {
            checks.push(self.refused(cmk, "cannot be described", refusal));
        }
        let is_new = self.entered.sides.new.contains(cmk);
        if !goes_on {
            checks.push(Check::not_checked(Part::Kms, "whether its canary opens"));
            if is_new {
                checks.push(Check::not_checked(
                    Part::Kms,
                    "whether it wraps and minds the context",
                ));
            }
            return checks;
        }
        match hex::decode(canary_hex) {
            Ok(canary) if !canary.is_empty() => {
                checks.push(self.canary(cmk, &canary).await);
                if is_new {
                    checks.push(self.target(cmk, &canary).await);
                }
            }
            _ => checks.push(Check::wrong(
                Part::Kms,
                "the registry has no canary of it",
                format!(
                    "enter it again: rekeyd org allow-cmk {} {cmk}",
                    self.entered.org
                ),
            )),
        }
        checks
    }

    /// What was wrapped when the CMK was entered can still be used.
    async fn canary(&self, cmk: &CmkArn, canary: &[u8]) -> Check {
        let (answer, good, bad) = match self.asking.mode {
            Mode::Reencrypt => (
                self.ask(self.trial.opens(cmk, canary)).await,
                "opens its canary",
                "does not open its canary",
            ),
            Mode::Rewrap => {
                // There is always one.
                let to = self.entered.sides.new.first().unwrap_or(cmk);
                (
                    self.ask(self.trial.rewraps(cmk, canary, to)).await,
                    "its canary is wrapped anew",
                    "its canary cannot be wrapped anew",
                )
            }
        };
        match answer {
            Ok(()) => Check::ok(Part::Kms, good),
            Err(refusal) => self.refused(cmk, bad, refusal),
        }
    }

    /// A CMK that a job goes to does what it is for.
    async fn target(&self, cmk: &CmkArn, canary: &[u8]) -> Check {
        let (answer, good, bad) = match self.asking.mode {
            Mode::Reencrypt => (
                self.ask(self.trial.wraps(cmk)).await,
                "makes and opens a key, and refuses a wrong context",
                "cannot be a target",
            ),
            Mode::Rewrap => (
                self.ask(self.trial.refuses_to_rewrap(cmk, canary, cmk))
                    .await,
                "refuses a wrong context",
                "cannot be a target",
            ),
        };
        match answer {
            Ok(()) => Check::ok(Part::Kms, good),
            Err(refusal) => self.refused(cmk, bad, refusal),
        }
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, Unfit>>) -> Result<T, Refusal> {
        match within(self.asking.limit, question).await {
            Ok(answer) => answer.map_err(Refusal::Unfit),
            Err(silence) => Err(Refusal::Silence(silence)),
        }
    }

    fn refused(&self, cmk: &CmkArn, what: &str, refusal: Refusal) -> Check {
        match refusal {
            Refusal::Silence(silence) => {
                Check::wrong(Part::Kms, format!("{what}: {silence}"), REACH)
            }
            Refusal::Unfit(unfit) => {
                let fix = self.fix(cmk, &unfit);
                Check::wrong(Part::Kms, format!("{what}: {unfit}"), fix)
            }
        }
    }

    fn fix(&self, cmk: &CmkArn, unfit: &Unfit) -> String {
        let is_ring = self.asking.kind == KmsKind::Ring;
        let owner = |ring: &str, aws: &str| match is_ring {
            true => format!("rekeyd kms {ring} {cmk}"),
            false => format!("its owner runs: aws kms {aws} --key-id {cmk}"),
        };
        match unfit {
            Unfit::NotEnabled(described) => match described.state {
                CmkState::Disabled => owner("enable", "enable-key"),
                CmkState::PendingDeletion => {
                    let stop = owner("cancel-deletion", "cancel-key-deletion");
                    format!("{stop}, and enables it; else what is under it is lost")
                }
                CmkState::PendingImport => {
                    "its owner imports the same key material again".to_owned()
                }
                CmkState::Unavailable => "its owner connects the custom key store again".to_owned(),
                CmkState::Creating => "wait some minutes and look again".to_owned(),
                CmkState::Enabled => "look again".to_owned(),
            },
            Unfit::NotSymmetric => {
                "allow a symmetric encryption key in its place: rekeyd org allow-cmk".to_owned()
            }
            Unfit::ContextNotBound => "rekey nothing to it: a KMS that does not bind the \
                 encryption context keeps no scope apart"
                .to_owned(),
            Unfit::Kms(error) => self.mend(cmk, error, is_ring),
        }
    }

    fn mend(&self, cmk: &CmkArn, error: &KmsError, is_ring: bool) -> String {
        let org = &self.entered.org;
        match error.class {
            KmsClass::Transient { .. } | KmsClass::Unavailable => REACH.to_owned(),
            KmsClass::Denied if is_ring => {
                "see `rekeyd kms deny list`; `rekeyd kms deny remove` lifts a rule".to_owned()
            }
            KmsClass::FatalJob if error.code == "NotFoundException" => {
                "there is no such CMK here: look at its ARN, its region and kms.endpoint".to_owned()
            }
            KmsClass::CmkUnusable if error.code == "NotFoundException" => {
                "there is no such CMK here: look at its ARN, its region and kms.endpoint".to_owned()
            }
            KmsClass::Denied | KmsClass::FatalJob => format!(
                "unless its owner revoked it: `rekeyd iam-policy --org {org} --mode {}` prints \
                 what our role and the key policy have to allow",
                self.asking.mode.as_str()
            ),
            KmsClass::RoleDenied => format!(
                "the customer's role must trust ours, with the external id of the registry: \
                 `rekeyd iam-policy --org {org}` prints the trust policy"
            ),
            KmsClass::QuarantinedKey => format!(
                "if this is the KMS it was entered with, find out who changed the registry's row; \
                 to make its canary anew: rekeyd org allow-cmk {org} {cmk}"
            ),
            KmsClass::CmkUnusable => match is_ring {
                true => "see its state with `rekeyd kms list`".to_owned(),
                false => format!("see its state: aws kms describe-key --key-id {cmk}"),
            },
            KmsClass::FatalWorker => {
                "mend the credentials or the region of this process".to_owned()
            }
            KmsClass::Unknown => "look the code up in the KMS's documentation".to_owned(),
        }
    }
}

const REACH: &str =
    "see that this machine reaches the KMS (kms.endpoint, network, proxy), and look again";

/// Why a question got no good answer.
enum Refusal {
    Unfit(Unfit),
    Silence(String),
}
