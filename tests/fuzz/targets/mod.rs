//! What a parser must hold to, whatever bytes it is given. One plain function a
//! parser, called by the fuzzer (fuzz/) and by the stable tests (tests/fuzz).
//! It panics where a property does not hold, and answers whether the parser took
//! the input.
//!
//! | file | parser |
//! |---|---|
//! | `cell` | header of a cell, the checks around opening, opening |
//! | `key_row` | rows of data keys |
//! | `scope` | scopes, as key rows hold them |
//! | `message` | job messages, alone and in envelopes |
//! | `registry_rows` | the rows of an organization, and the waits of a store |
//! | `job_rows` | jobs, tasks, history, quarantine |
//! | `slack` | Slack exports, as files and as a ZIP file |

pub mod cell;
pub mod job_rows;
pub mod key_row;
pub mod message;
pub mod registry_rows;
pub mod scope;
pub mod slack;

use std::fmt::{Debug, Display};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Takes an input apart; answers whether it was taken.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by the names of their seeds and fuzz targets.
pub const ALL: [(&str, Target); 7] = [
    ("cell", cell::run),
    ("job_rows", job_rows::run),
    ("key_row", key_row::run),
    ("message", message::run),
    ("registry_rows", registry_rows::run),
    ("scope", scope::run),
    ("slack", slack::run),
];

/// Longest text of an error. Errors are logged and stand in dead letters, so a
/// hostile input must not choose how long they are.
const LONGEST_ERROR: usize = 600;

/// An error says what is wrong in few words.
pub fn is_short(error: &impl Display) {
    let bytes = error.to_string().len();
    assert!(bytes <= LONGEST_ERROR, "an error of {bytes} bytes");
}

/// A row that is kept as JSON: what is read is written, and read again as the
/// same; nothing may follow it, and no field may be in it that is not known.
/// Answers what was read.
pub fn json_row<T>(text: &str, secrets: &[&str]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let row: T = match serde_json::from_str(text) {
        Ok(row) => row,
        Err(error) => {
            let text = error.to_string();
            let told = secrets.iter().any(|secret| text.contains(secret));
            assert!(!told, "the error repeats what is secret");
            return None;
        }
    };
    let written = serde_json::to_string(&row).expect("a row is plain data");
    let again: T = serde_json::from_str(&written).expect("what was written is read");
    assert_eq!(again, row, "read, written and read again: {written}");
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    for more in ["x", "{}", ",", "\0"] {
        let longer = format!("{text}{more}");
        assert!(serde_json::from_str::<T>(&longer).is_err(), "{longer}");
    }
    if let Ok(Value::Object(mut fields)) = serde_json::from_str(&written) {
        fields.insert("not_a_field".to_owned(), Value::Null);
        let unknown = Value::Object(fields).to_string();
        assert!(serde_json::from_str::<T>(&unknown).is_err(), "{unknown}");
    }
    Some(row)
}
