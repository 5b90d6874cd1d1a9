//! The calls of KMS: JSON in, JSON out.

use std::time::Duration;

use aws_smithy_types::base64;
use axum::body::Body;
use axum::http::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{reply, status_of};
use crate::ids::CmkArn;
use crate::kms::CmkState;
use crate::kms::local::ring::Refusal;
use crate::kms::local::{LocalKeyRing, Replied, seal};
use crate::scope::EncryptionContext;

const JSON: &str = "application/x-amz-json-1.1";
/// Longest wrapped key that KMS takes.
const WRAPPED_MAX: usize = 6144;
/// Pairs that a context may have here. KMS counts characters, not pairs.
const PAIRS_MAX: usize = 255;

/// What the four calls ask, all fields of all of them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    key_id: Option<String>,
    key_spec: Option<String>,
    number_of_bytes: Option<u32>,
    ciphertext_blob: Option<String>,
    #[serde(default)]
    encryption_context: EncryptionContext,
    source_key_id: Option<String>,
    #[serde(default)]
    source_encryption_context: EncryptionContext,
    destination_key_id: Option<String>,
    #[serde(default)]
    destination_encryption_context: EncryptionContext,
}

/// Answers one call.
pub(super) async fn answer(
    ring: &LocalKeyRing,
    caller: Option<&str>,
    target: &str,
    body: &[u8],
) -> Response<Body> {
    let (request_id, outcome) = call(ring, caller, target, body).await;
    match outcome {
        Ok(answer) => reply(200, JSON, &request_id, answer.to_string()),
        Err(refusal) => {
            let mut error = json!({"__type": refusal.code});
            if !refusal.message.is_empty() {
                error["message"] = refusal.message.into();
            }
            reply(
                status_of(&refusal.code),
                JSON,
                &request_id,
                error.to_string(),
            )
        }
    }
}

async fn call(
    ring: &LocalKeyRing,
    caller: Option<&str>,
    target: &str,
    body: &[u8],
) -> (String, Result<Value, Refusal>) {
    match call_asked(ring, caller, target, body).await {
        Ok(answered) => answered,
        // Refused before the ring was asked: not in its log, so the id is new.
        Err(refusal) => (uuid::Uuid::new_v4().to_string(), Err(refusal)),
    }
}

async fn call_asked(
    ring: &LocalKeyRing,
    caller: Option<&str>,
    target: &str,
    body: &[u8],
) -> Result<(String, Result<Value, Refusal>), Refusal> {
    let caller = caller.ok_or_else(|| {
        Refusal::new(
            "MissingAuthenticationToken",
            "The request has no Authorization header that names an access key id",
        )
    })?;
    let ring = ring.called_by(caller);
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|e| Refusal::new("SerializationException", e.to_string()))?;
    for context in [
        &asked.encryption_context,
        &asked.source_encryption_context,
        &asked.destination_encryption_context,
    ] {
        if context.len() > PAIRS_MAX {
            return Err(invalid("an encryption context has at most 255 pairs here"));
        }
    }
    Ok(match target.strip_prefix("TrentService.") {
        Some("GenerateDataKey") => generate(&ring, asked).await?,
        Some("Decrypt") => decrypt(&ring, asked).await?,
        Some("ReEncrypt") => re_encrypt(&ring, asked).await?,
        Some("DescribeKey") => describe(&ring, asked).await?,
        Some("GetKeyPolicy") => key_policy(&ring, asked).await?,
        _ => {
            let message = "The local key ring answers GenerateDataKey, Decrypt, ReEncrypt, \
                           DescribeKey and GetKeyPolicy";
            return Err(Refusal::new("UnknownOperationException", message));
        }
    })
}

fn invalid(message: &str) -> Refusal {
    Refusal::new("ValidationException", message)
}

/// The CMK of an ARN or of a bare key id.
fn cmk(ring: &LocalKeyRing, name: Option<String>, field: &str) -> Result<CmkArn, Refusal> {
    let name = name.ok_or_else(|| invalid(&format!("{field} is missing")))?;
    if let Ok(cmk) = CmkArn::new(name.as_str()) {
        return Ok(cmk);
    }
    let ring = ring.ring()?;
    let found = ring.named(&name).cloned();
    found.ok_or_else(|| {
        let message = format!("Key '{}' does not exist", name.escape_debug());
        Refusal::new("NotFoundException", message)
    })
}

fn wrapped(blob: Option<String>) -> Result<Vec<u8>, Refusal> {
    let blob = blob.ok_or_else(|| invalid("CiphertextBlob is missing"))?;
    let bytes = base64::decode(blob)
        .map_err(|_| Refusal::new("SerializationException", "CiphertextBlob is not base64"))?;
    if (1..=WRAPPED_MAX).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(invalid("CiphertextBlob has 1 to 6144 bytes"))
    }
}

/// The CMK named, or the one that the wrap says it is of.
fn opener(
    ring: &LocalKeyRing,
    name: Option<String>,
    field: &str,
    wrapped: &[u8],
) -> Result<CmkArn, Refusal> {
    match name {
        Some(name) => cmk(ring, Some(name), field),
        None => seal::named(wrapped).ok_or_else(|| Refusal::new("InvalidCiphertextException", "")),
    }
}

type Answer = Result<(String, Result<Value, Refusal>), Refusal>;

fn told<T>(replied: Replied<T>, tell: impl FnOnce(T) -> Value) -> Answer {
    Ok((replied.request_id, replied.outcome.map(tell)))
}

async fn generate(ring: &LocalKeyRing, asked: Asked) -> Answer {
    match (asked.key_spec.as_deref(), asked.number_of_bytes) {
        (Some("AES_256"), None) | (None, Some(32)) => {}
        _ => return Err(invalid("data keys have 32 bytes here: KeySpec AES_256")),
    }
    let cmk = cmk(ring, asked.key_id, "KeyId")?;
    told(ring.make(&cmk, asked.encryption_context).await, |made| {
        json!({
            "KeyId": made.wrapped.cmk,
            "CiphertextBlob": base64::encode(&made.wrapped.bytes),
            "Plaintext": base64::encode(made.dek.expose()),
        })
    })
}

async fn decrypt(ring: &LocalKeyRing, asked: Asked) -> Answer {
    let wrapped = wrapped(asked.ciphertext_blob)?;
    let cmk = opener(ring, asked.key_id, "KeyId", &wrapped)?;
    let replied = ring.open_wrap(&cmk, &wrapped, asked.encryption_context);
    told(replied.await, |dek| {
        json!({
            "KeyId": cmk,
            "Plaintext": base64::encode(dek.expose()),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        })
    })
}

async fn re_encrypt(ring: &LocalKeyRing, asked: Asked) -> Answer {
    let wrapped = wrapped(asked.ciphertext_blob)?;
    let from = opener(ring, asked.source_key_id, "SourceKeyId", &wrapped)?;
    let to = cmk(ring, asked.destination_key_id, "DestinationKeyId")?;
    if asked.source_encryption_context != asked.destination_encryption_context {
        // A wrap that changes its scope is nothing that rekeyd ever asks for.
        return Err(invalid("both encryption contexts are the same here"));
    }
    let replied = ring.move_wrap(&from, &wrapped, &to, asked.source_encryption_context);
    told(replied.await, |moved| {
        json!({
            "SourceKeyId": from,
            "KeyId": moved.cmk,
            "CiphertextBlob": base64::encode(&moved.bytes),
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        })
    })
}

async fn describe(ring: &LocalKeyRing, asked: Asked) -> Answer {
    let cmk = cmk(ring, asked.key_id, "KeyId")?;
    told(ring.tell(&cmk).await, |described| {
        let about = described.told;
        let id = about.arn.as_str().split_once(":key/").map(|parts| parts.1);
        let mut metadata = json!({
            "AWSAccountId": about.arn.account(),
            "KeyId": id,
            "Arn": about.arn,
            "CreationDate": seconds(described.created_ms),
            "Enabled": about.state == CmkState::Enabled,
            "KeyState": state(about.state),
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "KeyManager": "CUSTOMER",
            "Origin": "AWS_KMS",
            "MultiRegion": false,
        });
        if let Some(at_ms) = about.deletion_ms {
            metadata["DeletionDate"] = seconds(at_ms).into();
        }
        json!({"KeyMetadata": metadata})
    })
}

async fn key_policy(ring: &LocalKeyRing, asked: Asked) -> Answer {
    let cmk = cmk(ring, asked.key_id, "KeyId")?;
    told(
        ring.tell_policy(&cmk).await,
        |text| json!({"Policy": text, "PolicyName": "default"}),
    )
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn state(state: CmkState) -> &'static str {
    match state {
        CmkState::Enabled => "Enabled",
        CmkState::Disabled => "Disabled",
        CmkState::PendingDeletion => "PendingDeletion",
        CmkState::PendingImport => "PendingImport",
        CmkState::Unavailable => "Unavailable",
        CmkState::Creating => "Creating",
    }
}
