//! The local key ring: a KMS in a folder, for trial and tests. Not a vault: who
//! can read the folder and its key file has the keys.
//!
//! It answers as AWS KMS does, code for code, so that everything above it can be
//! tried without an account: key states, refusals by a policy, damaged wraps,
//! latency, throttling. docs/kms-local.md describes it for people.
//!
//! | file | what |
//! |---|---|
//! | `file` | the ring's file: replaced as a whole, re-read when another process did so |
//! | `ring` | the ring in memory, keys opened, and what it refuses |
//! | `seal` | CMKs at rest, and the form of a wrapped data key |
//! | `policy` | deny rules: a key policy in small |
//! | `fault` | latency, throttling and errors that can be set |
//! | `throttle` | a rate limit over all processes |
//! | `serve` | the ring over HTTP, in the words of AWS KMS |
//! | `log` | the call log |
//! | `trail` | the call log in the form of CloudTrail |
//! | `admin` | what an administrator does: create, disable, deny, set faults |

mod admin;
mod error;
mod fault;
mod file;
mod log;
mod policy;
mod ring;
mod seal;
pub mod serve;
#[cfg(test)]
pub(in crate::kms) mod tests;
mod throttle;
mod trail;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use admin::{KeyListing, NewKey, RingAdmin};
pub use error::RingError;
pub use fault::{Effect, Fault, OPERATIONS};
pub use log::CallRecord;
pub use policy::{DenyRule, Permission};
pub use seal::Unlock;
pub use trail::TrailWriter;

use self::file::RingFiles;
use self::log::CallLog;
use self::policy::Attempt;
use self::ring::{Refusal, Ring, usable};
use self::seal::Sealer;
use self::throttle::Throttles;
use super::codes::{
    Circumstance, DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT, Side,
};
use super::{Answered, CmkDescription, Dek, GeneratedKey, KmsError, Wrapped};
use crate::clock::{SharedClock, SystemClock};
use crate::ids::{CmkArn, OrgId};
use crate::scope::{EncryptionContext, Scope};

/// A key ring, opened by one caller. Any number of processes may use one ring;
/// what an administrator changes holds for their next call.
///
/// Its answers are made in microseconds and inline; latency that is set is
/// waited for without holding a thread.
#[derive(Clone)]
pub struct LocalKeyRing {
    ring: Arc<Opened>,
    caller: Arc<str>,
}

/// What all callers of one process share.
struct Opened {
    files: RingFiles,
    own_key: Sealer,
    cached: RwLock<Arc<Ring>>,
    log: CallLog,
    throttles: Throttles,
    clock: SharedClock,
}

impl LocalKeyRing {
    /// Opens the ring in `dir` as `caller`, the name that deny rules and the call
    /// log see.
    ///
    /// # Errors
    /// If there is no ring, it is damaged, or `unlock` does not open it.
    pub fn open(dir: &Path, caller: &str, unlock: &Unlock) -> Result<Self, RingError> {
        Self::open_with_clock(dir, caller, unlock, SystemClock::shared())
    }

    /// As [`LocalKeyRing::open`], with a clock to judge deletion dates and
    /// throttling by. Latency is always real time.
    pub fn open_with_clock(
        dir: &Path,
        caller: &str,
        unlock: &Unlock,
        clock: SharedClock,
    ) -> Result<Self, RingError> {
        let files = RingFiles::at(dir);
        let (state, _) = files.read()?;
        let own_key = Sealer::unlock(unlock, &state.protection)?;
        let ring = Ring::read(&files, &own_key)?;
        let log = CallLog::open(&files.log()).map_err(|e| RingError::io(&files.log(), e))?;
        let opened = Opened {
            own_key,
            cached: RwLock::new(Arc::new(ring)),
            log,
            throttles: Throttles::new(files.dir()),
            clock,
            files,
        };
        Ok(Self {
            ring: Arc::new(opened),
            caller: caller.into(),
        })
    }

    /// The same ring for another caller.
    fn called_by(&self, caller: &str) -> Self {
        Self {
            ring: self.ring.clone(),
            caller: caller.into(),
        }
    }

    /// Makes a ring in `dir` that is opened by the key file `dir/ring.key`, which
    /// it also makes, and opens it as `caller`.
    ///
    /// # Errors
    /// If there is a ring already, or a file cannot be written.
    pub fn create_with_key_file(dir: &Path, caller: &str) -> Result<Self, RingError> {
        let admin = RingAdmin::create_with_key_file(dir)?;
        Self::open(dir, caller, &Unlock::KeyFile(admin.default_key_file()))
    }
}

impl Opened {
    /// The ring as it is now: read again only if another file stands in its place.
    fn ring(&self) -> Result<Arc<Ring>, RingError> {
        let cached = Arc::clone(&self.cached.read().unwrap_or_else(PoisonError::into_inner));
        if self.files.is_unchanged(&cached.identity)? {
            return Ok(cached);
        }
        let fresh = Arc::new(Ring::read(&self.files, &self.own_key)?);
        *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        Ok(fresh)
    }
}

impl LocalKeyRing {
    fn ring(&self) -> Result<Arc<Ring>, RingError> {
        self.ring.ring()
    }

    /// One call, from arrival to record: throttling is judged at arrival, the
    /// rest when the latency is over, by the rules that hold then.
    async fn call<T>(
        &self,
        call: Call<'_>,
        answer: impl FnOnce(&Ring, &EncryptionContext) -> Result<T, Refusal>,
    ) -> Replied<T> {
        let clock = &self.ring.clock;
        let arrived = clock.boot();
        let outcome = match self.admit(call.operation) {
            Err(refusal) => Err(refusal),
            // Without latency it is one moment, and one look at the ring.
            Ok((ring, latency)) if latency.is_zero() => self.answer(&ring, &call, answer),
            Ok((_, latency)) => {
                tokio::time::sleep(latency).await;
                match self.ring() {
                    Ok(ring) => self.answer(&ring, &call, answer),
                    Err(error) => Err(error.into()),
                }
            }
        };
        // Only to find a call again: the thread's own generator will do.
        let request_id = uuid::Builder::from_random_bytes(rand::random())
            .into_uuid()
            .to_string();
        let record = CallRecord {
            ts: clock.wall().to_string(),
            request_id: request_id.clone(),
            operation: call.operation.to_owned(),
            cmk: call.uses[0].0.clone(),
            cmk_to: call.uses.get(1).map(|(cmk, _)| (*cmk).clone()),
            context: call.context,
            caller: self.caller.as_ref().to_owned(),
            result: match &outcome {
                Ok(_) => "ok".to_owned(),
                Err(refusal) => refusal.code.clone(),
            },
            latency_us: u64::try_from(clock.boot().since(arrived).as_micros()).unwrap_or(u64::MAX),
        };
        // An answer that is not in the log is not given.
        let log = self.ring.files.log();
        let outcome = match self.ring.log.append(&record) {
            Ok(()) => outcome,
            Err(e) => Err(Refusal::internal(&RingError::io(&log, e))),
        };
        Replied {
            operation: call.operation,
            request_id,
            side: call.side,
            outcome,
        }
    }

    /// The ring at a call's arrival and the call's latency, if it may come in.
    fn admit(&self, operation: &str) -> Result<(Arc<Ring>, Duration), Refusal> {
        let ring = self.ring()?;
        let mut latency_ms = 0;
        for fault in ring.faults(operation, &self.caller) {
            match &fault.effect {
                Effect::LatencyMs(ms) => latency_ms = latency_ms.max(*ms),
                Effect::Throttle { rate_per_s, burst } => {
                    let opened = &self.ring;
                    let admitted = opened
                        .throttles
                        .admit(&fault.id, *rate_per_s, *burst, opened.clock.boot())
                        .map_err(|e| Refusal::from(RingError::io(opened.files.dir(), e)))?;
                    if !admitted {
                        return Err(Refusal::new("ThrottlingException", "Rate exceeded"));
                    }
                }
                Effect::Error { .. } => {}
            }
        }
        Ok((ring, Duration::from_millis(latency_ms)))
    }

    /// Every check that precedes the answer, in AWS's order: the CMK is there,
    /// the policy allows, the state allows.
    fn answer<T>(
        &self,
        ring: &Ring,
        call: &Call<'_>,
        answer: impl FnOnce(&Ring, &EncryptionContext) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.faulty(ring, call.operation)?;
        let now_ms = self.ring.clock.wall().unix_ms();
        for (index, (cmk, permission)) in call.uses.iter().enumerate() {
            let side = (call.uses.len() == 2).then_some([Side::Source, Side::Target][index]);
            let key = ring.key(cmk, now_ms).map_err(|refusal| refusal.on(side))?;
            let attempt = Attempt {
                cmk,
                permission: *permission,
                context: &call.context,
                caller: &self.caller,
            };
            if let Some(rule) = ring.state.denies.iter().find(|rule| rule.denies(&attempt)) {
                let message = format!(
                    "User: {} is not authorized to perform: kms:{} on resource: {cmk} \
                     with an explicit deny in a resource-based policy (rule {})",
                    self.caller,
                    permission.as_str(),
                    rule.id,
                );
                return Err(Refusal::new("AccessDeniedException", message).on(side));
            }
            if !matches!(
                permission,
                Permission::DescribeKey | Permission::GetKeyPolicy
            ) {
                usable(cmk, key.state).map_err(|refusal| refusal.on(side))?;
            }
        }
        answer(ring, &call.context)
    }

    /// Fails as the faults that are set say.
    fn faulty(&self, ring: &Ring, operation: &str) -> Result<(), Refusal> {
        for fault in ring.faults(operation, &self.caller) {
            if let Effect::Error { code, message } = &fault.effect {
                return Err(Refusal::new(code, message));
            }
        }
        Ok(())
    }

    async fn make(&self, cmk: &CmkArn, context: EncryptionContext) -> Replied<GeneratedKey> {
        let call = Call {
            operation: GENERATE_DATA_KEY,
            uses: &[(cmk, Permission::GenerateDataKey)],
            context,
            side: Some(Side::Target),
        };
        self.call(call, |ring, context| {
            let key = seal::random_key()?;
            let wrapped = ring.wrap(cmk, context, &key)?;
            Ok(GeneratedKey {
                dek: Dek::new(key),
                wrapped,
            })
        })
        .await
    }

    async fn open_wrap(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        context: EncryptionContext,
    ) -> Replied<Dek> {
        let call = Call {
            operation: DECRYPT,
            uses: &[(cmk, Permission::Decrypt)],
            context,
            side: Some(Side::Source),
        };
        self.call(call, |ring, context| {
            Ok(Dek::new(ring.unwrap(cmk, context, wrapped)?))
        })
        .await
    }

    async fn move_wrap(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        context: EncryptionContext,
    ) -> Replied<Wrapped> {
        let call = Call {
            operation: RE_ENCRYPT,
            uses: &[
                (from, Permission::ReEncryptFrom),
                (to, Permission::ReEncryptTo),
            ],
            context,
            side: None,
        };
        self.call(call, |ring, context| {
            let key = ring.unwrap(from, context, wrapped)?;
            ring.wrap(to, context, &key)
        })
        .await
    }

    async fn tell(&self, cmk: &CmkArn) -> Replied<Described> {
        let call = Call {
            operation: DESCRIBE_KEY,
            uses: &[(cmk, Permission::DescribeKey)],
            context: EncryptionContext::new(),
            side: None,
        };
        let now_ms = self.ring.clock.wall().unix_ms();
        self.call(call, |ring, _| {
            let key = ring.key(cmk, now_ms)?;
            Ok(Described {
                created_ms: key.created_ms,
                told: CmkDescription {
                    arn: cmk.clone(),
                    state: key.state,
                    symmetric: true,
                    deletion_ms: key.deletion_ms,
                    replicas: Vec::new(),
                },
            })
        })
        .await
    }

    async fn tell_policy(&self, cmk: &CmkArn) -> Replied<String> {
        let call = Call {
            operation: GET_KEY_POLICY,
            uses: &[(cmk, Permission::GetKeyPolicy)],
            context: EncryptionContext::new(),
            side: None,
        };
        self.call(call, |ring, _| {
            Ok(policy::document(cmk, &ring.state.denies))
        })
        .await
    }
}

/// What `DescribeKey` tells, and what only AWS's form of it has.
struct Described {
    created_ms: u64,
    told: CmkDescription,
}

/// What one call asks for: the CMKs with the permission needed on each.
struct Call<'a> {
    operation: &'static str,
    uses: &'a [(&'a CmkArn, Permission)],
    context: EncryptionContext,
    side: Option<Side>,
}

/// What came of a call, before it is classified.
struct Replied<T> {
    operation: &'static str,
    request_id: String,
    side: Option<Side>,
    outcome: Result<T, Refusal>,
}

impl<T> Replied<T> {
    fn classified(self) -> Result<Answered<T>, KmsError> {
        let request_id = self.request_id;
        match self.outcome {
            Ok(value) => Ok(Answered {
                request_id: Some(request_id),
                ..Answered::plain(value)
            }),
            Err(refusal) => {
                let around = Circumstance {
                    side: refusal.side.or(self.side),
                    ..Circumstance::default()
                };
                let error = KmsError::new(self.operation, refusal.code, refusal.message, &around);
                Err(error.with_request_id(request_id))
            }
        }
    }
}

#[async_trait::async_trait]
impl super::KmsBackend for LocalKeyRing {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<GeneratedKey>, KmsError> {
        self.make(cmk, scope.context()).await.classified()
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<Answered<Dek>, KmsError> {
        let replied = self.open_wrap(cmk, wrapped, scope.context()).await;
        replied.classified()
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<Wrapped>, KmsError> {
        let replied = self.move_wrap(from, wrapped, to, scope.context()).await;
        replied.classified()
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        _org: &OrgId,
    ) -> Result<Answered<CmkDescription>, KmsError> {
        let answered = self.tell(cmk).await.classified()?;
        Ok(Answered {
            value: answered.value.told,
            request_id: answered.request_id,
            key_material_id: answered.key_material_id,
        })
    }

    async fn key_policy(&self, cmk: &CmkArn, _org: &OrgId) -> Result<Answered<String>, KmsError> {
        self.tell_policy(cmk).await.classified()
    }
}

/// Names of rules and faults: they also name files.
fn check_id(id: &str) -> Result<(), RingError> {
    let fits = (1..=40).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if fits {
        Ok(())
    } else {
        Err(RingError::BadName {
            given: id.chars().take(80).collect(),
        })
    }
}
