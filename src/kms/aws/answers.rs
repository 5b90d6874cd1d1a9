//! What an answer must be before it is believed: it names the CMK that was
//! asked, and its lengths are right. Anything else is `ResponseMismatch`, and
//! nothing of it is used.

use aws_sdk_kms::operation::decrypt::DecryptOutput;
use aws_sdk_kms::operation::describe_key::DescribeKeyOutput;
use aws_sdk_kms::operation::generate_data_key::GenerateDataKeyOutput;
use aws_sdk_kms::operation::get_key_policy::GetKeyPolicyOutput;
use aws_sdk_kms::operation::re_encrypt::ReEncryptOutput;
use aws_sdk_kms::primitives::{Blob, DateTime};
use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType, MultiRegionKey};
use zeroize::{Zeroize, Zeroizing};

use crate::clock::WallTime;
use crate::ids::CmkArn;
use crate::kms::codes::{
    Circumstance, DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT,
    RESPONSE_MISMATCH,
};
use crate::kms::{Answered, CmkDescription, CmkState, Dek, GeneratedKey, KmsError, Wrapped};

/// Longest wrapped key that KMS makes.
const WRAPPED_MAX: usize = 6144;

fn mismatch(operation: &'static str, what: String, request_id: &Option<String>) -> KmsError {
    let mut error = KmsError::new(operation, RESPONSE_MISMATCH, what, &Circumstance::default());
    error.request_id.clone_from(request_id);
    error
}

/// Takes the key out of the client's buffer and wipes that. Copies that the
/// client made on the way (the body, its parsing) are out of our reach.
fn dek(blob: Option<Blob>) -> Result<Dek, String> {
    let mut bytes = blob.map(Blob::into_inner).unwrap_or_default();
    let mut key = Zeroizing::new([0; 32]);
    let fits = bytes.len() == key.len();
    if fits {
        key.copy_from_slice(&bytes);
    }
    let length = bytes.len();
    bytes.zeroize();
    if fits {
        Ok(Dek::new(key))
    } else {
        Err(format!("the plaintext key has {length} bytes, not 32"))
    }
}

fn names(cmk: &CmkArn, named: Option<&str>) -> Result<(), String> {
    match named {
        Some(named) if named == cmk.as_str() => Ok(()),
        Some(other) => Err(format!("asked {cmk}, and the answer is of {other}")),
        None => Err(format!("asked {cmk}, and the answer names no CMK")),
    }
}

fn wrapped(blob: Option<Blob>) -> Result<Vec<u8>, String> {
    let bytes = blob.map(Blob::into_inner).unwrap_or_default();
    if (1..=WRAPPED_MAX).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(format!(
            "the wrapped key has {} bytes, not 1 to {WRAPPED_MAX}",
            bytes.len()
        ))
    }
}

pub(super) fn generated(
    cmk: &CmkArn,
    answer: GenerateDataKeyOutput,
    request_id: Option<String>,
) -> Result<Answered<GeneratedKey>, KmsError> {
    // The key first: whatever else is wrong, the buffer is wiped.
    let read = dek(answer.plaintext)
        .and_then(|dek| names(cmk, answer.key_id.as_deref()).map(|()| dek))
        .and_then(|dek| Ok((dek, wrapped(answer.ciphertext_blob)?)));
    let (dek, bytes) = read.map_err(|what| mismatch(GENERATE_DATA_KEY, what, &request_id))?;
    let key_material_id = answer.key_material_id;
    Ok(Answered {
        value: GeneratedKey {
            dek,
            wrapped: Wrapped {
                cmk: cmk.clone(),
                bytes,
                key_material_id: key_material_id.clone(),
            },
        },
        request_id,
        key_material_id,
    })
}

pub(super) fn decrypted(
    cmk: &CmkArn,
    answer: DecryptOutput,
    request_id: Option<String>,
) -> Result<Answered<Dek>, KmsError> {
    let read =
        dek(answer.plaintext).and_then(|dek| names(cmk, answer.key_id.as_deref()).map(|()| dek));
    Ok(Answered {
        value: read.map_err(|what| mismatch(DECRYPT, what, &request_id))?,
        request_id,
        key_material_id: answer.key_material_id,
    })
}

pub(super) fn re_encrypted(
    from: &CmkArn,
    to: &CmkArn,
    answer: ReEncryptOutput,
    request_id: Option<String>,
) -> Result<Answered<Wrapped>, KmsError> {
    let read = names(from, answer.source_key_id.as_deref())
        .and_then(|()| names(to, answer.key_id.as_deref()))
        .and_then(|()| wrapped(answer.ciphertext_blob));
    let bytes = read.map_err(|what| mismatch(RE_ENCRYPT, what, &request_id))?;
    let key_material_id = answer.destination_key_material_id;
    Ok(Answered {
        value: Wrapped {
            cmk: to.clone(),
            bytes,
            key_material_id: key_material_id.clone(),
        },
        request_id,
        key_material_id,
    })
}

/// The description, and when the CMK was created.
pub(super) fn described(
    cmk: &CmkArn,
    answer: DescribeKeyOutput,
    request_id: Option<String>,
) -> Result<(Answered<CmkDescription>, Option<WallTime>), KmsError> {
    let wrong = |what: String| mismatch(DESCRIBE_KEY, what, &request_id);
    let about = answer
        .key_metadata
        .ok_or_else(|| wrong("the answer describes no CMK".to_owned()))?;
    names(cmk, about.arn.as_deref()).map_err(wrong)?;
    let created = about.creation_date.as_ref().and_then(wall);
    let description = CmkDescription {
        arn: cmk.clone(),
        state: state(about.key_state.as_ref()),
        symmetric: is_symmetric(&about),
        deletion_ms: about
            .deletion_date
            .as_ref()
            .and_then(wall)
            .map(WallTime::unix_ms),
        replicas: replicas(cmk, &about),
    };
    let answered = Answered {
        request_id,
        ..Answered::plain(description)
    };
    Ok((answered, created))
}

fn wall(at: &DateTime) -> Option<WallTime> {
    let micros = at.as_nanos() / 1000;
    i64::try_from(micros).ok().map(WallTime)
}

fn state(state: Option<&KeyState>) -> CmkState {
    match state {
        Some(KeyState::Enabled) => CmkState::Enabled,
        Some(KeyState::Disabled) => CmkState::Disabled,
        Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
            CmkState::PendingDeletion
        }
        Some(KeyState::PendingImport) => CmkState::PendingImport,
        Some(KeyState::Creating | KeyState::Updating) => CmkState::Creating,
        // A state of a later year is none to rely on.
        _ => CmkState::Unavailable,
    }
}

fn is_symmetric(about: &KeyMetadata) -> bool {
    about.key_spec == Some(KeySpec::SymmetricDefault)
        && about.key_usage == Some(KeyUsageType::EncryptDecrypt)
}

/// The other keys of a multi-Region key: each of them opens what this one wraps.
fn replicas(cmk: &CmkArn, about: &KeyMetadata) -> Vec<CmkArn> {
    let Some(config) = &about.multi_region_configuration else {
        return Vec::new();
    };
    let arn = |key: &MultiRegionKey| CmkArn::new(key.arn.clone()?).ok();
    config
        .primary_key
        .iter()
        .chain(config.replica_keys.iter().flatten())
        .filter_map(arn)
        .filter(|other| other != cmk)
        .collect()
}

/// The answer names no CMK, so its text is all there is to look at.
pub(super) fn policy(
    answer: GetKeyPolicyOutput,
    request_id: Option<String>,
) -> Result<Answered<String>, KmsError> {
    let Some(text) = answer.policy else {
        let what = "the answer has no policy".to_owned();
        return Err(mismatch(GET_KEY_POLICY, what, &request_id));
    };
    Ok(Answered {
        request_id,
        ..Answered::plain(text)
    })
}
