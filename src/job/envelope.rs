//! A message may come through SNS or EventBridge, each of which puts it into an
//! envelope. Nothing of an envelope is trusted, its signature included: what may
//! be done comes from the registry (I15). Fields of envelopes that are not
//! needed are not read, since AWS adds to them.

use serde_json::{Map, Value};

use super::MessageError;
use crate::queue::MAX_BODY_BYTES;

/// What a JSON object looks like from outside.
enum Looks {
    /// A message has a version.
    Message,
    Sns,
    EventBridge,
    /// Something else of AWS, by name.
    Other(String),
    Nothing,
}

fn looks(fields: &Map<String, Value>) -> Looks {
    if fields.contains_key("v") {
        return Looks::Message;
    }
    match fields
        .get("Type")
        .map(|kind| kind.as_str().unwrap_or_default())
    {
        Some("Notification") => return Looks::Sns,
        Some(kind) => return Looks::Other(format!("SNS `{}`", short(kind))),
        None => {}
    }
    if fields.contains_key("detail-type") || fields.contains_key("detail") {
        return Looks::EventBridge;
    }
    if fields.contains_key("Records") {
        return Looks::Other("a list of `Records`".to_owned());
    }
    Looks::Nothing
}

/// The message in an envelope; `None` if there is none around it, or it is none
/// of JSON at all: then the message itself is to be judged.
pub(super) fn open(text: &str) -> Result<Option<String>, MessageError> {
    if text.len() > MAX_BODY_BYTES {
        return Err(MessageError::TooLarge(text.len()));
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else {
        return Ok(None);
    };
    let inner = match looks(&fields) {
        Looks::Message | Looks::Nothing => return Ok(None),
        Looks::Other(name) => {
            return Err(MessageError::Envelope(format!(
                "this is {name}; messages come alone, in an SNS Notification or in an \
                 EventBridge event"
            )));
        }
        Looks::Sns => match fields.remove("Message") {
            Some(Value::String(message)) => message,
            _ => return Err(lacks("the SNS Notification has no text in `Message`")),
        },
        Looks::EventBridge => match fields.remove("detail") {
            Some(detail @ Value::Object(_)) => detail.to_string(),
            _ => return Err(lacks("the EventBridge event has no object in `detail`")),
        },
    };
    if let Ok(Value::Object(fields)) = serde_json::from_str(&inner)
        && !matches!(looks(&fields), Looks::Message | Looks::Nothing)
    {
        return Err(lacks("an envelope within an envelope; one is opened"));
    }
    Ok(Some(inner))
}

fn lacks(what: &str) -> MessageError {
    MessageError::Envelope(what.to_owned())
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::JobMessage;

    fn message() -> Value {
        json!({
            "v": 1, "kind": "rekey", "job_id": "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
            "org": "acme", "to_cmk": "arn:aws:kms:local:000000000000:key/b",
            "requested_by": "ops@acme",
        })
    }

    fn sns(message: &str) -> Value {
        json!({
            "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-west-1:111122223333:jobs", "Subject": "rekey",
            "Message": message, "Timestamp": "2026-01-02T03:04:05.678Z",
            "SignatureVersion": "1", "Signature": "EXAMPLE",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/cert.pem",
            "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        })
    }

    fn event(detail: Value) -> Value {
        json!({
            "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
            "detail-type": "rekey asked for", "source": "acme.ops", "account": "111122223333",
            "time": "2026-01-02T03:04:05Z", "region": "eu-west-1", "resources": [],
            "detail": detail,
        })
    }

    #[test]
    fn one_message_comes_out_however_it_was_wrapped() {
        let plain = message().to_string();
        let bare = JobMessage::parse(&plain).unwrap();
        for wrapped in [
            plain.clone(),
            sns(&plain).to_string(),
            event(message()).to_string(),
        ] {
            let received = JobMessage::receive(&wrapped).unwrap();
            assert_eq!(received, bare, "{wrapped}");
            assert_eq!(received.body_sha256(), bare.body_sha256());
        }
    }

    #[test]
    fn what_is_wrapped_otherwise_is_refused_by_name() {
        let plain = message().to_string();
        let mut confirm = sns(&plain);
        confirm["Type"] = json!("SubscriptionConfirmation");
        let mut not_text = sns(&plain);
        not_text["Message"] = message();
        let mut both = message();
        both["Type"] = json!("Notification");
        let mut newer = message();
        newer["v"] = json!(2);
        for (text, expected) in [
            (
                confirm.to_string(),
                "unknown_envelope: this is SNS `SubscriptionConfirmation`",
            ),
            (
                json!({"Records": []}).to_string(),
                "unknown_envelope: this is a list of `Records`",
            ),
            (json!({"Type": 7}).to_string(), "unknown_envelope"),
            (
                not_text.to_string(),
                "unknown_envelope: the SNS Notification has no text",
            ),
            (
                event(json!("text")).to_string(),
                "unknown_envelope: the EventBridge event",
            ),
            (
                json!({"detail-type": "x"}).to_string(),
                "unknown_envelope: the EventBridge event",
            ),
            (
                sns(&sns(&plain).to_string()).to_string(),
                "unknown_envelope: an envelope within",
            ),
            (
                sns(&event(message()).to_string()).to_string(),
                "unknown_envelope: an envelope within",
            ),
            (
                event(sns(&plain)).to_string(),
                "unknown_envelope: an envelope within",
            ),
            // What has a version is a message, and may not have more fields.
            (both.to_string(), "bad_field"),
            (sns("not json").to_string(), "not_json"),
            (sns(&newer.to_string()).to_string(), "unknown_version"),
            (event(json!({})).to_string(), "unknown_version"),
            ("{".to_owned(), "not_json"),
            (sns(&"x".repeat(MAX_BODY_BYTES)).to_string(), "too_large"),
        ] {
            let error = JobMessage::receive(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{expected}: {error}");
        }
        // A command sends messages, not envelopes.
        assert!(JobMessage::parse(&sns(&plain).to_string()).is_err());
    }
}
