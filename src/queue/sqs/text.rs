//! What SQS takes as text. It refuses characters that XML 1.0 refuses, and a
//! message that cannot be refused would end worker after worker.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest reason kept with a dead letter, in bytes.
const LONGEST_REASON: usize = 1024;

fn is_taken(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// A JSON text with the same meaning that SQS takes: what it refuses can only be
/// in strings there, and is written as an escape.
pub(super) fn json(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_taken) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_taken(c) {
            escaped.push(c);
        } else {
            // Below U+10000 all of them: one escape each.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        }
    }
    Cow::Owned(escaped)
}

/// A reason as an attribute: never empty, not too long, one line.
pub(super) fn reason(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let c = if is_taken(c) && !c.is_control() {
            c
        } else {
            '\u{FFFD}'
        };
        if kept.len() + c.len_utf8() > LONGEST_REASON {
            break;
        }
        kept.push(c);
    }
    if kept.is_empty() {
        kept.push_str("no reason given");
    }
    kept
}

/// The first `bytes` of a text, whole characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"reason": "a\u{FFFF}b\u{FFFE}\u{1F512}\u{7f}é\n"});
        let text = value.to_string();
        let sent = json(&text);
        assert!(sent.chars().all(is_taken), "{sent}");
        assert_ne!(sent, text);
        let read: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(read, value);
        assert!(matches!(json("{}"), Cow::Borrowed("{}")));
    }

    #[test]
    fn a_reason_is_always_one_that_is_taken() {
        for bad in ["", "a\u{0}b\nc", "\u{FFFF}", &"é".repeat(5000)] {
            let kept = reason(bad);
            assert!((1..=LONGEST_REASON).contains(&kept.len()));
            assert!(kept.chars().all(|c| is_taken(c) && !c.is_control()));
        }
        assert_eq!(reason("unknown_version: 9"), "unknown_version: 9");
        assert_eq!(cut("aé", 2), "a");
    }
}
