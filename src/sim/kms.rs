//! A KMS with key states and a policy, and the way to it.
//!
//! A wrapped key is a number; what it stands for only the KMS knows. That is as
//! far from the caller as a ciphertext is, and costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::process::Process;
use super::replicas::Replicas;
use crate::ids::{CmkArn, OrgId};
use crate::kms::codes::{
    Circumstance, DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT,
};
use crate::kms::{
    Answered, CmkDescription, CmkState, Dek, GeneratedKey, KmsBackend, KmsError, Wrapped,
};
use crate::replay;
use crate::scope::Scope;

/// What the customer refuses: uses of a CMK with this pair in their context.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Denial {
    pub(super) cmk: CmkArn,
    pub(super) key: String,
    pub(super) value: String,
}

struct Secret {
    cmk: CmkArn,
    context: Vec<u8>,
    dek: Zeroizing<[u8; 32]>,
}

#[derive(Default)]
struct State {
    secrets: Vec<Secret>,
    cmks: BTreeMap<CmkArn, bool>,
    denials: BTreeSet<Denial>,
}

/// The KMS of a history.
#[derive(Default)]
pub(super) struct Keys(Mutex<State>);

impl Keys {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a CMK, or says whether one is enabled.
    pub(super) fn set(&self, cmk: &CmkArn, enabled: bool) {
        self.state().cmks.insert(cmk.clone(), enabled);
    }

    pub(super) fn disable(&self, cmk: &CmkArn) {
        if let Some(enabled) = self.state().cmks.get_mut(cmk) {
            *enabled = false;
        }
    }

    pub(super) fn deny(&self, denial: Denial) {
        self.state().denials.insert(denial);
    }

    pub(super) fn allow_all(&self) {
        let mut state = self.state();
        state.denials.clear();
        for enabled in state.cmks.values_mut() {
            *enabled = true;
        }
    }
}

impl State {
    fn may(&self, cmk: &CmkArn, scope: &Scope) -> Result<(), &'static str> {
        let context = scope.context();
        let denied = |d: &&Denial| {
            d.cmk == *cmk && context.iter().any(|(k, v)| *k == d.key && *v == d.value)
        };
        if self.denials.iter().any(|d| denied(&d)) {
            return Err("AccessDeniedException");
        }
        match self.cmks.get(cmk) {
            Some(true) => Ok(()),
            Some(false) => Err("DisabledException"),
            None => Err("NotFoundException"),
        }
    }

    fn wrap(&mut self, cmk: &CmkArn, scope: &Scope, dek: [u8; 32]) -> Wrapped {
        self.secrets.push(Secret {
            cmk: cmk.clone(),
            context: scope.to_bytes(),
            dek: Zeroizing::new(dek),
        });
        Wrapped {
            cmk: cmk.clone(),
            bytes: (self.secrets.len() as u64 - 1).to_be_bytes().to_vec(),
            key_material_id: None,
        }
    }

    fn unwrap(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<[u8; 32], &'static str> {
        let number = <[u8; 8]>::try_from(wrapped).map(u64::from_be_bytes);
        let secret = number.ok().and_then(|n| self.secrets.get(n as usize));
        let secret = secret.ok_or("InvalidCiphertextException")?;
        if secret.cmk != *cmk {
            return Err("IncorrectKeyException");
        }
        if secret.context != scope.to_bytes() {
            return Err("InvalidCiphertextException");
        }
        Ok(*secret.dek)
    }
}

/// A connection to the KMS.
pub(super) struct SimKms {
    pub(super) keys: Arc<Keys>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) process: Arc<Process>,
}

impl SimKms {
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        answer: impl FnOnce(&mut State) -> Result<T, &'static str> + Send + 'static,
    ) -> Result<Answered<T>, KmsError> {
        self.process.gate().await;
        let (replicas, keys) = (&self.replicas, self.keys.clone());
        let weather = replicas.weather();
        let fails = replicas.dice.chance(weather.kms_fails).then(|| {
            let codes = ["ThrottlingException", "KMSInternalException", "NoResponse"];
            codes[replicas.dice.below(codes.len())]
        });
        let (tell, told) = oneshot::channel();
        let there = replicas.dice.span(0.5, weather.kms_ms);
        replicas.time.after(there, move || {
            let answer = match fails {
                Some(code) => Err(code),
                None => answer(&mut keys.state()),
            };
            // Who asked may be gone.
            let _ = tell.send(answer);
        });
        let answer = told.await.unwrap_or(Err("NoResponse"));
        self.process.gate().await;
        let around = Circumstance::default();
        answer
            .map(Answered::plain)
            .map_err(|code| KmsError::new(operation, code, "", &around))
    }
}

#[async_trait::async_trait]
impl KmsBackend for SimKms {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<GeneratedKey>, KmsError> {
        let (cmk, scope) = (cmk.clone(), scope.clone());
        self.call(GENERATE_DATA_KEY, move |keys| {
            keys.may(&cmk, &scope)?;
            let dek: [u8; 32] = replay::random();
            Ok(GeneratedKey {
                wrapped: keys.wrap(&cmk, &scope, dek),
                dek: Dek::new(Zeroizing::new(dek)),
            })
        })
        .await
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<Answered<Dek>, KmsError> {
        let (cmk, wrapped, scope) = (cmk.clone(), wrapped.to_vec(), scope.clone());
        self.call(DECRYPT, move |keys| {
            keys.may(&cmk, &scope)?;
            let dek = keys.unwrap(&cmk, &wrapped, &scope)?;
            Ok(Dek::new(Zeroizing::new(dek)))
        })
        .await
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<Wrapped>, KmsError> {
        let (from, wrapped) = (from.clone(), wrapped.to_vec());
        let (to, scope) = (to.clone(), scope.clone());
        self.call(RE_ENCRYPT, move |keys| {
            keys.may(&from, &scope)?;
            keys.may(&to, &scope)?;
            let dek = keys.unwrap(&from, &wrapped, &scope)?;
            Ok(keys.wrap(&to, &scope, dek))
        })
        .await
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        _org: &OrgId,
    ) -> Result<Answered<CmkDescription>, KmsError> {
        let cmk = cmk.clone();
        self.call(DESCRIBE_KEY, move |keys| {
            let enabled = *keys.cmks.get(&cmk).ok_or("NotFoundException")?;
            Ok(CmkDescription {
                arn: cmk,
                state: if enabled {
                    CmkState::Enabled
                } else {
                    CmkState::Disabled
                },
                symmetric: true,
                deletion_ms: None,
                replicas: Vec::new(),
            })
        })
        .await
    }

    /// Denies of the simulation hold for every CMK, so no policy differs.
    async fn key_policy(&self, cmk: &CmkArn, _org: &OrgId) -> Result<Answered<String>, KmsError> {
        let cmk = cmk.clone();
        self.call(GET_KEY_POLICY, move |keys| {
            keys.cmks.get(&cmk).ok_or("NotFoundException")?;
            Ok(r#"{"Version":"2012-10-17","Statement":[]}"#.to_owned())
        })
        .await
    }
}
