//! Job messages, alone and in the envelopes of SNS and EventBridge.

use rekeyd::job::{JobMessage, MessageError};
use serde_json::{Value, json};

use super::is_short;

/// Takes the input as it might come from a queue. Answers whether it is a
/// message, alone or in an envelope.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    match JobMessage::parse(text) {
        Ok(message) => {
            is_itself_again(&message);
            is_written_as_it_should_be(&message, text);
            comes_out_of_envelopes(&message, text);
        }
        Err(error) => is_short(&error),
    }
    match JobMessage::receive(text) {
        Ok(message) => {
            is_itself_again(&message);
            true
        }
        Err(error) => {
            is_short(&error);
            false
        }
    }
}

fn is_itself_again(message: &JobMessage) {
    let sent = message.to_json();
    let again = JobMessage::parse(&sent).expect("what is sent is read");
    assert_eq!(again, *message);
    assert_eq!(again.body_sha256(), message.body_sha256());
    // In a row of the store it stands the same.
    let row = serde_json::to_string(message).unwrap();
    assert_eq!(serde_json::from_str::<JobMessage>(&row).unwrap(), *message);
    // Nothing may follow, and no field that is not known.
    let longer = format!("{sent}{{}}");
    assert!(matches!(
        JobMessage::parse(&longer),
        Err(MessageError::NotJson(_))
    ));
    let mut fields: Value = serde_json::from_str(&sent).unwrap();
    fields["not_a_field"] = Value::Null;
    assert!(matches!(
        JobMessage::parse(&fields.to_string()),
        Err(MessageError::Field(_))
    ));
    assert!(message.requested_by().chars().count() <= 200);
    assert!(message.reason().chars().count() <= 200);
    assert!(message.what().len() <= 1000);
    let _ = (message.mode(), message.reason_code(), message.org());
}

/// Each field that was given stands in the request, as the kind of value that it
/// has there. So nothing is read over, and no second way of writing is taken.
fn is_written_as_it_should_be(message: &JobMessage, text: &str) {
    fn compare(given: &Value, sent: &Value) {
        match (given, sent) {
            (Value::Object(given), Value::Object(sent)) => {
                for (name, value) in given {
                    let there = sent.get(name);
                    compare(
                        value,
                        there.unwrap_or_else(|| panic!("`{name}` was read over")),
                    );
                }
            }
            (Value::Array(given), Value::Array(sent)) => {
                assert_eq!(given.len(), sent.len(), "{given:?} was taken for {sent:?}");
                given.iter().zip(sent).for_each(|(g, s)| compare(g, s));
            }
            (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) => {}
            _ => panic!("{given} was taken for {sent}"),
        }
    }
    let given: Value = serde_json::from_str(text).expect("a message is JSON");
    let sent: Value = serde_json::from_str(&message.to_json()).unwrap();
    compare(&given, &sent);
    let id = given["job_id"].as_str().unwrap();
    assert!(
        id.eq_ignore_ascii_case(&message.job_id().to_string()),
        "{id} is written in another way"
    );
}

fn comes_out_of_envelopes(message: &JobMessage, text: &str) {
    assert_eq!(JobMessage::receive(text).as_ref(), Ok(message));
    let body: Value = serde_json::from_str(text).expect("a message is JSON");
    let sns = json!({"Type": "Notification", "MessageId": "1", "Message": text}).to_string();
    let event = json!({"detail-type": "rekey", "detail": body}).to_string();
    // Escaping may make it longer than what is read.
    for wrapped in [sns, event].iter().filter(|w| w.len() <= 65_536) {
        assert_eq!(JobMessage::receive(wrapped).as_ref(), Ok(message));
        assert!(JobMessage::parse(wrapped).is_err());
        let twice = json!({"Type": "Notification", "Message": wrapped}).to_string();
        assert!(JobMessage::receive(&twice).is_err());
    }
}
