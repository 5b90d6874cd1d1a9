//! A SHA-256 by which people and messages name a document.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hex([u8; 32]);

impl Sha256Hex {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of a document as canonical JSON: keys sorted, no white space.
    pub fn of_json(value: &serde_json::Value) -> Self {
        // serde_json's map is a BTreeMap: keys come out sorted.
        Self::of(value.to_string().as_bytes())
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Sha256Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || "a SHA-256 is written as 64 hexadecimal digits, a to f small".to_owned();
        // One hash has one spelling.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| refuse())?;
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_one_spelling() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hash = Sha256Hex::of(b"");
        assert_eq!(hash.to_string(), empty);
        assert_eq!(empty.parse(), Ok(hash));
        for wrong in ["", "e3", &empty.to_uppercase(), &empty.replace('e', "g")] {
            assert!(wrong.parse::<Sha256Hex>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_document_the_order_of_its_keys_does_not_count() {
        let one: serde_json::Value = serde_json::from_str(r#"{"a": 1, "b": [2]}"#).unwrap();
        let other: serde_json::Value = serde_json::from_str(r#"{"b":[2],"a":1}"#).unwrap();
        assert_eq!(Sha256Hex::of_json(&one), Sha256Hex::of_json(&other));
        assert_eq!(
            Sha256Hex::of_json(&one),
            Sha256Hex::of(br#"{"a":1,"b":[2]}"#)
        );
    }
}
