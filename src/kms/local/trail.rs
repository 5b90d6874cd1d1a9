//! The call log in the form of CloudTrail, so that what reads CloudTrail can be
//! tried on the ring.
//!
//! What the ring does not know is not made up: there is no address and no access
//! key, and who called is a bare name. The form is AWS's, see its [record contents]
//! and its examples of the [events of the KMS].
//!
//! [record contents]: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
//! [events of the KMS]: https://docs.aws.amazon.com/kms/latest/developerguide/understanding-kms-entries.html

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::log::CallRecord;
use crate::ids::CmkArn;
use crate::kms::codes::RE_ENCRYPT;

/// One event.
///
/// # Errors
/// If the record's time is no time.
fn event(call: &CallRecord) -> io::Result<Value> {
    let at: Timestamp = call.ts.parse().map_err(io::Error::other)?;
    let mut asked = json!({"keyId": call.cmk});
    let mut cmks = vec![&call.cmk];
    if call.operation == RE_ENCRYPT {
        asked = json!({"sourceKeyId": call.cmk, "sourceEncryptionContext": call.context});
        if let Some(to) = &call.cmk_to {
            asked["destinationKeyId"] = json!(to);
            asked["destinationEncryptionContext"] = json!(call.context);
            cmks.push(to);
        }
    } else if call.context.iter().next().is_some() {
        asked["encryptionContext"] = json!(call.context);
    }
    let resource =
        |cmk: &&CmkArn| json!({"accountId": cmk.account(), "type": "AWS::KMS::Key", "ARN": cmk});
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(call.request_id.as_bytes())[..16]);
    let id = uuid::Builder::from_random_bytes(id).into_uuid();
    let mut event = json!({
        "eventVersion": "1.08",
        "userIdentity": {"type": "Unknown", "userName": call.caller},
        // Cut to the second, as CloudTrail's are.
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "eventSource": "kms.amazonaws.com",
        "eventName": call.operation,
        "awsRegion": call.cmk.region(),
        "sourceIPAddress": "local key ring",
        "userAgent": "local key ring",
        "requestParameters": asked,
        "responseElements": null,
        "requestID": call.request_id,
        "eventID": id,
        "readOnly": true,
        "resources": cmks.iter().map(resource).collect::<Vec<_>>(),
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "eventCategory": "Management",
        "recipientAccountId": call.cmk.account(),
    });
    if call.result != "ok" {
        event["errorCode"] = json!(call.result);
    }
    Ok(event)
}

/// Writes `{"Records": [...]}`, event by event.
pub struct TrailWriter<W: Write> {
    out: W,
    events: u64,
}

impl<W: Write> TrailWriter<W> {
    /// Begins.
    ///
    /// # Errors
    /// Of the writer, as of all below.
    pub fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"Records\":[")?;
        Ok(Self { out, events: 0 })
    }

    /// Writes one call.
    ///
    /// # Errors
    /// Also if the record's time is no time.
    pub fn write(&mut self, call: &CallRecord) -> io::Result<()> {
        if self.events > 0 {
            self.out.write_all(b",")?;
        }
        serde_json::to_writer(&mut self.out, &event(call)?)?;
        self.events += 1;
        Ok(())
    }

    /// Ends it: the writer, and how many events were written.
    ///
    /// # Errors
    /// Of the writer.
    pub fn end(mut self) -> io::Result<(W, u64)> {
        self.out.write_all(b"]}\n")?;
        self.out.flush()?;
        Ok((self.out, self.events))
    }
}
