//! What an administrator does with a ring. Each change is durable, and holds in
//! every process for its next call, when the method returns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RingError;
use super::fault::{Effect, Fault};
use super::file::{KeyEntry, RingFiles, RingState};
use super::log::{self, CallRecord};
use super::policy::DenyRule;
use super::seal::{self, Protection, Sealer, Unlock};
use crate::clock::{SharedClock, SystemClock};
use crate::ids::CmkArn;
use crate::kms::CmkState;

/// The fault that [`RingAdmin::set_latency_ms`] sets.
const LATENCY: &str = "latency";
/// The fault that [`RingAdmin::set_throttle`] sets.
const THROTTLE: &str = "throttle";

/// Administration of a ring. Only making keys needs what opens the ring; the
/// rest changes the file, so who may write the folder may do it.
pub struct RingAdmin {
    files: RingFiles,
    clock: SharedClock,
}

/// Where a new CMK claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The region part of its ARN.
    pub region: String,
    /// The account part of its ARN.
    pub account: String,
}

impl Default for NewKey {
    fn default() -> Self {
        Self {
            region: "local".to_owned(),
            account: "000000000000".to_owned(),
        }
    }
}

/// One CMK, as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyListing {
    /// Its ARN.
    pub cmk: CmkArn,
    /// Its state.
    pub state: CmkState,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When a pending deletion takes place, Unix milliseconds.
    pub deletion_ms: Option<u64>,
}

impl RingAdmin {
    /// Makes a ring in `dir`, opened by `unlock`. A key file that `unlock` names
    /// must be there already.
    ///
    /// # Errors
    /// If there is a ring already, or a file cannot be read or written.
    pub fn create(dir: &Path, unlock: &Unlock) -> Result<Self, RingError> {
        let files = RingFiles::at(dir);
        files.create_dir()?;
        let protection = Protection::fresh(unlock)?;
        let own_key = Sealer::unlock(unlock, &protection)?;
        let check = own_key.seal(seal::CHECK, &seal::KeyBytes::default())?;
        files.create(&RingState::new(protection, hex::encode(check)))?;
        Self::open(dir)
    }

    /// Makes a ring in `dir`, opened by the key file `dir/ring.key`, which it
    /// also makes, with permissions 0600.
    ///
    /// # Errors
    /// As [`RingAdmin::create`], and if there is such a file already.
    pub fn create_with_key_file(dir: &Path) -> Result<Self, RingError> {
        let files = RingFiles::at(dir);
        files.create_dir()?;
        files.check_free()?;
        seal::create_key_file(&files.key_file())?;
        Self::create(dir, &Unlock::KeyFile(files.key_file()))
    }

    /// Administers the ring in `dir`.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, RingError> {
        Self::open_with_clock(dir, SystemClock::shared())
    }

    /// As [`RingAdmin::open`], with a clock for creation and deletion dates.
    pub fn open_with_clock(dir: &Path, clock: SharedClock) -> Result<Self, RingError> {
        let files = RingFiles::at(dir);
        files.read()?;
        Ok(Self { files, clock })
    }

    /// Where the ring's own key file is, if it was made with one.
    pub fn default_key_file(&self) -> PathBuf {
        self.files.key_file()
    }

    /// Makes a CMK and returns its ARN.
    ///
    /// # Errors
    /// If `unlock` does not open the ring, or region or account cannot stand in
    /// an ARN.
    pub fn create_key(&self, unlock: &Unlock, new: &NewKey) -> Result<CmkArn, RingError> {
        let cmk = CmkArn::new(format!(
            "arn:aws:kms:{}:{}:key/{}",
            new.region,
            new.account,
            uuid::Uuid::new_v4()
        ))?;
        self.files.update(|state| {
            let own_key = Sealer::unlock(unlock, &state.protection)?;
            let check = hex::decode(&state.check).map_err(|_| RingError::WrongUnlock)?;
            own_key
                .open(seal::CHECK, &check)
                .ok_or(RingError::WrongUnlock)?;
            let sealed = own_key.seal(&seal::at_rest(&cmk), &seal::random_key()?)?;
            state.keys.insert(
                cmk.clone(),
                KeyEntry {
                    created_ms: self.clock.wall().unix_ms(),
                    state: CmkState::Enabled,
                    deletion_ms: None,
                    sealed: hex::encode(sealed),
                },
            );
            Ok(())
        })?;
        Ok(cmk)
    }

    /// The CMKs, by ARN. One whose deletion date has passed is gone.
    pub fn list(&self) -> Result<Vec<KeyListing>, RingError> {
        let now_ms = self.clock.wall().unix_ms();
        let (state, _) = self.files.read()?;
        Ok(state
            .keys
            .into_iter()
            .filter(|(_, entry)| entry.deletion_ms.is_none_or(|at| now_ms < at))
            .map(|(cmk, entry)| KeyListing {
                cmk,
                state: entry.state,
                created_ms: entry.created_ms,
                deletion_ms: entry.deletion_ms,
            })
            .collect())
    }

    /// Enables a CMK that is disabled.
    pub fn enable(&self, cmk: &CmkArn) -> Result<(), RingError> {
        self.change(cmk, |entry| match entry.state {
            CmkState::Enabled | CmkState::Disabled => {
                entry.state = CmkState::Enabled;
                true
            }
            _ => false,
        })
    }

    /// Disables a CMK that is enabled.
    pub fn disable(&self, cmk: &CmkArn) -> Result<(), RingError> {
        self.change(cmk, |entry| match entry.state {
            CmkState::Enabled | CmkState::Disabled => {
                entry.state = CmkState::Disabled;
                true
            }
            _ => false,
        })
    }

    /// Puts a CMK into any state but pending deletion, so that tests and trials
    /// meet the states that only AWS's own doings lead to.
    pub fn force_state(&self, cmk: &CmkArn, to: CmkState) -> Result<(), RingError> {
        self.change(cmk, |entry| {
            let fits = to != CmkState::PendingDeletion && entry.state != CmkState::PendingDeletion;
            if fits {
                entry.state = to;
            }
            fits
        })
    }

    /// Schedules a CMK's deletion after 7 to 30 days and returns when it will be,
    /// in Unix milliseconds. From now on it cannot be used.
    pub fn schedule_deletion(&self, cmk: &CmkArn, days: u32) -> Result<u64, RingError> {
        if !(7..=30).contains(&days) {
            return Err(RingError::Window { days });
        }
        let window = Duration::from_secs(u64::from(days) * 24 * 3600);
        let at_ms = self.clock.wall().plus(window).unix_ms();
        self.change(cmk, |entry| {
            let fits = entry.state != CmkState::PendingDeletion;
            if fits {
                entry.state = CmkState::PendingDeletion;
                entry.deletion_ms = Some(at_ms);
            }
            fits
        })?;
        Ok(at_ms)
    }

    /// Takes a scheduled deletion back. The CMK is disabled then, as in AWS.
    pub fn cancel_deletion(&self, cmk: &CmkArn) -> Result<(), RingError> {
        self.change(cmk, |entry| {
            let fits = entry.state == CmkState::PendingDeletion;
            if fits {
                entry.state = CmkState::Disabled;
                entry.deletion_ms = None;
            }
            fits
        })
    }

    fn change(
        &self,
        cmk: &CmkArn,
        change: impl FnOnce(&mut KeyEntry) -> bool,
    ) -> Result<(), RingError> {
        let now_ms = self.clock.wall().unix_ms();
        self.files.update(|state| {
            let entry = state
                .keys
                .get_mut(cmk)
                .filter(|entry| entry.deletion_ms.is_none_or(|at| now_ms < at))
                .ok_or_else(|| RingError::NoSuchKey { cmk: cmk.clone() })?;
            let before = entry.state;
            if change(entry) {
                Ok(())
            } else {
                Err(RingError::State {
                    cmk: cmk.clone(),
                    state: before,
                })
            }
        })
    }

    /// Adds a deny rule.
    pub fn add_deny(&self, rule: DenyRule) -> Result<(), RingError> {
        rule.check()?;
        self.files.update(|state| {
            if state.denies.iter().any(|other| other.id == rule.id) {
                return Err(RingError::RuleExists {
                    id: rule.id.clone(),
                });
            }
            state.denies.push(rule);
            Ok(())
        })
    }

    /// Removes a deny rule.
    pub fn remove_deny(&self, id: &str) -> Result<(), RingError> {
        self.files
            .update(|state| remove(&mut state.denies, id, |rule| &rule.id))
    }

    /// The deny rules, in the order they were added.
    pub fn denies(&self) -> Result<Vec<DenyRule>, RingError> {
        Ok(self.files.read()?.0.denies)
    }

    /// Sets a fault; one of the same name is replaced.
    pub fn set_fault(&self, fault: Fault) -> Result<(), RingError> {
        fault.check()?;
        self.files.update(|state| {
            state.faults.retain(|other| other.id != fault.id);
            state.faults.push(fault);
            Ok(())
        })
    }

    /// Clears a fault.
    pub fn clear_fault(&self, id: &str) -> Result<(), RingError> {
        self.files
            .update(|state| remove(&mut state.faults, id, |fault| &fault.id))
    }

    /// The faults that are set.
    pub fn faults(&self) -> Result<Vec<Fault>, RingError> {
        Ok(self.files.read()?.0.faults)
    }

    /// Sets the latency of every call; 0 clears it.
    pub fn set_latency_ms(&self, latency_ms: u64) -> Result<(), RingError> {
        self.set_or_clear(
            LATENCY,
            (latency_ms > 0).then_some(Effect::LatencyMs(latency_ms)),
        )
    }

    /// Limits the calls per second over all processes; 0 lifts the limit. A
    /// tenth of a second's worth of calls may come at once.
    pub fn set_throttle(&self, rate_per_s: f64) -> Result<(), RingError> {
        // A cast of a float saturates; `check` refuses what makes no sense.
        let burst = ((rate_per_s / 10.0) as u32).max(1);
        self.set_or_clear(
            THROTTLE,
            (rate_per_s != 0.0).then_some(Effect::Throttle { rate_per_s, burst }),
        )
    }

    fn set_or_clear(&self, id: &str, effect: Option<Effect>) -> Result<(), RingError> {
        match effect {
            Some(effect) => self.set_fault(Fault {
                id: id.to_owned(),
                operations: Vec::new(),
                callers: Vec::new(),
                effect,
            }),
            None => match self.clear_fault(id) {
                Err(RingError::NoSuchRule { .. }) => Ok(()),
                other => other,
            },
        }
    }

    /// The last `count` calls, oldest first.
    pub fn log_tail(&self, count: usize) -> Result<Vec<CallRecord>, RingError> {
        let path = self.files.log();
        log::tail(&path, count).map_err(|e| RingError::io(&path, e))
    }

    /// Hands every call to `take`, oldest first.
    pub fn each_call(&self, take: impl FnMut(CallRecord)) -> Result<(), RingError> {
        let path = self.files.log();
        log::each(&path, take).map_err(|e| RingError::io(&path, e))
    }
}

fn remove<T>(from: &mut Vec<T>, id: &str, name: impl Fn(&T) -> &str) -> Result<(), RingError> {
    let before = from.len();
    from.retain(|each| name(each) != id);
    if from.len() == before {
        return Err(RingError::NoSuchRule { id: id.to_owned() });
    }
    Ok(())
}
