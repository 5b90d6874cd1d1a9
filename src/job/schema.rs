//! The message as a JSON Schema, for programs that send it. The parser decides;
//! tests hold the schema to it.

/// The message of version 1 (JSON Schema, draft 2020-12).
pub const MESSAGE_SCHEMA: &str = include_str!("message.schema.json");

// What commands print is held to schemas by the same.
#[cfg(test)]
#[path = "../../tests/schema/mod.rs"]
mod json_schema;

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::json_schema::Schema;
    use super::*;
    use crate::job::{Cause, JobMessage, Mode};

    fn schema() -> Value {
        serde_json::from_str(MESSAGE_SCHEMA).unwrap()
    }

    fn agree(value: &Value) -> bool {
        let by_schema = Schema::new(schema()).misfit(value).is_none();
        let parsed = JobMessage::parse(&value.to_string());
        assert_eq!(by_schema, parsed.is_ok(), "{value}: {parsed:?}");
        by_schema
    }

    /// The example of each kind that has every field.
    const FULL: [(&str, usize); 2] = [("rekey", 1), ("channel_move", 3)];

    fn example(n: usize) -> Map<String, Value> {
        schema()["examples"][n].as_object().unwrap().clone()
    }

    #[test]
    fn examples_are_taken_by_schema_and_parser() {
        let examples = schema()["examples"].as_array().unwrap().clone();
        assert!(!examples.is_empty());
        for example in &examples {
            assert!(agree(example), "{example}");
        }
        // One of each kind has every field there is.
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        for (kind, full) in FULL {
            let of_kind = &schema()["$defs"][kind]["properties"];
            let full = JobMessage::parse(&Value::Object(example(full)).to_string()).unwrap();
            let sent: Value = serde_json::from_str(&full.to_json()).unwrap();
            assert_eq!(names(of_kind), names(&sent));
            for end in ["from", "to"].iter().filter(|end| sent[end].is_object()) {
                assert_eq!(names(&of_kind[end]["properties"]), names(&sent[end]));
            }
        }
    }

    #[test]
    fn examples_of_the_documentation_are_taken() {
        let page = include_str!("../../docs/queue-sqs.md");
        let mut found = 0;
        for line in page.lines() {
            let Some(at) = line.find(r#"{"v":1"#) else {
                continue;
            };
            let end = line.rfind('}').unwrap();
            assert!(
                agree(&serde_json::from_str(&line[at..=end]).unwrap()),
                "{line}"
            );
            found += 1;
        }
        assert!(found > 0, "docs/queue-sqs.md shows a message");
    }

    #[test]
    fn what_the_parser_refuses_the_schema_refuses() {
        let long = "x".repeat(201);
        let changes: &[(&str, Value)] = &[
            ("v", json!(2)),
            ("v", json!("1")),
            ("kind", json!("wipe")),
            ("job_id", json!("7b1f3e38")),
            ("job_id", json!(7)),
            ("org", json!("")),
            ("org", json!("a*")),
            ("org", json!("x".repeat(65))),
            ("to_cmk", json!("alias/x")),
            ("to_cmk", json!("arn:aws:kms:eu-west-1:1:alias/x")),
            (
                "to_cmk",
                json!(format!("arn:aws:kms:eu-west-1:1:key/{}", "x".repeat(256))),
            ),
            ("from_cmk", json!("arn:aws:s3:eu-west-1:1:key/x")),
            ("mode", json!("fast")),
            ("requested_by", json!("")),
            ("requested_by", json!(long)),
            ("requested_by", json!("a\u{85}b")),
            ("reason", json!(long)),
            ("reason", json!("a\nb")),
            ("cause", json!("whim")),
            ("cause", json!("suspected_compromise")),
            ("not_before", json!("tomorrow")),
            ("not_before", json!("2026-03-01T00:00:00")),
            ("not_after", json!(5)),
            ("urgent", json!(true)),
            ("priority", json!(101)),
            ("priority", json!("1")),
            ("priority", json!(1.5)),
            ("window", json!("0 22 * * *")),
            (
                "window",
                json!({"cron": "0 22 * *", "tz": "UTC", "length_minutes": 1}),
            ),
            (
                "window",
                json!({"cron": "0 22 * * *", "tz": "UTC", "length_minutes": 0}),
            ),
            (
                "window",
                json!({"cron": "0 22 * * *", "tz": "UTC", "length_minutes": 1, "open": true}),
            ),
            ("window", json!({"cron": "0 22 * * *", "tz": "UTC"})),
            ("plan", json!({})),
            ("plan", json!({"sha256": "9f86"})),
            ("plan", json!({"sha256": "0".repeat(64), "estimate": {}})),
            ("accept_lifted_denies", json!([])),
            ("accept_lifted_denies", json!(["x"])),
            ("accept_lifted_denies", json!("0".repeat(64))),
            (
                "accept_lifted_denies",
                json!(["0".repeat(64), "0".repeat(64)]),
            ),
        ];
        for (field, value) in changes {
            let mut message = example(1);
            message.insert((*field).to_owned(), value.clone());
            assert!(!agree(&Value::Object(message)), "{field}: {value}");
        }
        for field in [
            "v",
            "kind",
            "job_id",
            "org",
            "to_cmk",
            "requested_by",
            "cause",
        ] {
            let mut message = example(1);
            message.remove(field);
            assert!(!agree(&Value::Object(message)), "without {field}");
        }
        assert!(!agree(&json!([])));
    }

    #[test]
    fn of_a_move_too() {
        let taken: &[(&str, Value)] = &[
            ("/to/org", json!("acme")),
            ("/to/channel", json!("c1")),
            ("/to/workspace", json!("w1")),
            ("/cause", json!("suspected_compromise")),
        ];
        let refused: &[(&str, Value)] = &[
            ("/kind", json!("rekey")),
            ("/kind", json!("move")),
            ("/v", json!(2)),
            ("/from", json!("w1/c1")),
            ("/from/workspace", json!("w*")),
            ("/from/channel", json!("")),
            ("/from/org", json!("acme")),
            ("/from/hour", json!("2019-02-13T17")),
            ("/to/channel", json!("x".repeat(65))),
            ("/to/place", json!("0")),
            ("/to_cmk", example(1)["to_cmk"].clone()),
            ("/mode", json!("reencrypt")),
            ("/cause", json!("whim")),
            ("/reason", json!("a\nb")),
            ("/requested_by", json!("")),
            ("/not_before", json!("tomorrow")),
            // A move changes the scope; what denies by it is not compared.
            ("/accept_lifted_denies", json!(["0".repeat(64)])),
            ("/window/tz", json!("")),
            ("/priority", json!(-101)),
        ];
        for (list, expected) in [(taken, true), (refused, false)] {
            for (at, value) in list {
                let mut message = Value::Object(example(3));
                let (parent, name) = at.rsplit_once('/').unwrap();
                message.pointer_mut(parent).unwrap()[name] = value.clone();
                assert_eq!(agree(&message), expected, "{at}: {value}");
            }
        }
        for at in [
            "/from",
            "/to",
            "/from/channel",
            "/to/workspace",
            "/org",
            "/requested_by",
        ] {
            let mut message = Value::Object(example(3));
            let (parent, name) = at.rsplit_once('/').unwrap();
            let fields = message
                .pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap();
            fields.remove(name);
            assert!(!agree(&message), "without {at}");
        }
    }

    #[test]
    fn what_the_parser_takes_the_schema_takes() {
        let changes: &[(&str, Value)] = &[
            ("org", json!("a.b_c:d-e")),
            ("requested_by", json!("é".repeat(200))),
            ("reason", json!("")),
            ("mode", json!("reencrypt")),
            ("priority", json!(0)),
            ("priority", json!(-100)),
            ("plan", json!({"sha256": "0".repeat(64)})),
            (
                "window",
                json!({"cron": "*/5 0-4 1,15 * mon", "tz": "UTC", "length_minutes": 10080}),
            ),
            ("not_before", json!("2026-03-01T00:00:00.123456+05:30")),
        ];
        for (field, value) in changes {
            let mut message = example(1);
            message.insert((*field).to_owned(), value.clone());
            assert!(agree(&Value::Object(message)), "{field}: {value}");
        }
        let schema = schema();
        let mode = &schema["$defs"]["rekey"]["properties"]["mode"]["enum"];
        assert_eq!(mode, &json!([Mode::Reencrypt, Mode::Rewrap]));
        assert_eq!(
            &schema["$defs"]["cause"]["enum"],
            &json!([
                Cause::Scheduled,
                Cause::CustomerRequest,
                Cause::SuspectedCompromise,
                Cause::Migration
            ])
        );
    }
}
