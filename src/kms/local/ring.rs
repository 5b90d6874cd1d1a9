//! The ring as a process holds it, and the refusals it gives.

use std::collections::HashMap;

use super::RingError;
use super::fault::Fault;
use super::file::{Identity, KeyEntry, RingFiles, RingState};
use super::seal::{self, KeyBytes, Sealer, WrapError};
use crate::ids::CmkArn;
use crate::kms::codes::Side;
use crate::kms::{CmkState, Wrapped};
use crate::scope::EncryptionContext;

/// The ring as it was last read, keys opened.
pub(super) struct Ring {
    pub state: RingState,
    sealers: HashMap<CmkArn, Sealer>,
    pub identity: Identity,
}

impl Ring {
    pub fn read(files: &RingFiles, own_key: &Sealer) -> Result<Self, RingError> {
        let (state, identity) = files.read()?;
        let check = hex::decode(&state.check).map_err(|_| RingError::WrongUnlock)?;
        own_key
            .open(seal::CHECK, &check)
            .ok_or(RingError::WrongUnlock)?;
        let mut sealers = HashMap::new();
        for (cmk, entry) in &state.keys {
            let damaged = || RingError::DamagedKey { cmk: cmk.clone() };
            let sealed = hex::decode(&entry.sealed).map_err(|_| damaged())?;
            let material = own_key
                .open(&seal::at_rest(cmk), &sealed)
                .ok_or_else(damaged)?;
            sealers.insert(cmk.clone(), Sealer::new(&material));
        }
        Ok(Self {
            state,
            sealers,
            identity,
        })
    }

    pub fn faults<'a>(
        &'a self,
        operation: &'a str,
        caller: &'a str,
    ) -> impl Iterator<Item = &'a Fault> {
        self.state
            .faults
            .iter()
            .filter(move |fault| fault.touches(operation, caller))
    }

    /// The CMK's entry. One whose deletion date has passed is gone.
    pub fn key(&self, cmk: &CmkArn, now_ms: u64) -> Result<&KeyEntry, Refusal> {
        self.state
            .keys
            .get(cmk)
            .filter(|entry| entry.deletion_ms.is_none_or(|at| now_ms < at))
            .ok_or_else(|| Refusal::new("NotFoundException", format!("Key '{cmk}' does not exist")))
    }

    fn sealer(&self, cmk: &CmkArn) -> Result<&Sealer, Refusal> {
        self.sealers
            .get(cmk)
            .ok_or_else(|| Refusal::new("NotFoundException", format!("Key '{cmk}' does not exist")))
    }

    /// The CMK of this ARN or of this bare key id.
    pub fn named(&self, name: &str) -> Option<&CmkArn> {
        let is = |cmk: &&CmkArn| {
            cmk.as_str() == name || cmk.as_str().split_once(":key/").map(|p| p.1) == Some(name)
        };
        self.state.keys.keys().find(is)
    }

    pub fn unwrap(
        &self,
        cmk: &CmkArn,
        context: &EncryptionContext,
        wrapped: &[u8],
    ) -> Result<KeyBytes, Refusal> {
        seal::unwrap(cmk, self.sealer(cmk)?, context, wrapped).map_err(|e| match e {
            WrapError::Invalid => Refusal::new("InvalidCiphertextException", ""),
            WrapError::OtherCmk => Refusal::new(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation",
            ),
        })
    }

    pub fn wrap(
        &self,
        cmk: &CmkArn,
        context: &EncryptionContext,
        key: &KeyBytes,
    ) -> Result<Wrapped, Refusal> {
        Ok(Wrapped {
            cmk: cmk.clone(),
            bytes: seal::wrap(cmk, self.sealer(cmk)?, context, key)?,
            key_material_id: None,
        })
    }
}

/// The states in which a CMK does its work, and the answers in the others.
pub(super) fn usable(cmk: &CmkArn, state: CmkState) -> Result<(), Refusal> {
    let invalid = |what| Refusal::new("KMSInvalidStateException", format!("{cmk} is {what}."));
    match state {
        CmkState::Enabled => Ok(()),
        CmkState::Disabled => Err(Refusal::new(
            "DisabledException",
            format!("{cmk} is disabled."),
        )),
        CmkState::PendingDeletion => Err(invalid("pending deletion")),
        CmkState::PendingImport => Err(invalid("pending import")),
        CmkState::Unavailable => Err(invalid("unavailable")),
        CmkState::Creating => Err(invalid("creating")),
    }
}

/// A call that is refused, before it is classified.
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
    pub side: Option<Side>,
}

impl Refusal {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            side: None,
        }
    }

    pub fn internal(error: &RingError) -> Self {
        Self::new("KMSInternalException", error.to_string())
    }

    pub fn on(self, side: Option<Side>) -> Self {
        Self { side, ..self }
    }
}

impl From<RingError> for Refusal {
    fn from(error: RingError) -> Self {
        Self::internal(&error)
    }
}
