//! Deny rules: a customer's key policy in small.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::RingError;
use crate::ids::CmkArn;
use crate::scope::EncryptionContext;

/// What a rule can forbid. `ReEncrypt` is two permissions, as in a key policy:
/// one on the CMK it unwraps with, one on the CMK it wraps with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Permission {
    /// Make a data key.
    GenerateDataKey,
    /// Unwrap a data key.
    Decrypt,
    /// Unwrap inside the KMS, to wrap under another CMK.
    ReEncryptFrom,
    /// Wrap inside the KMS what another CMK had wrapped.
    ReEncryptTo,
    /// Describe the CMK.
    DescribeKey,
    /// Read what is denied.
    GetKeyPolicy,
}

impl Permission {
    /// Every permission, in the order of the documentation.
    pub const ALL: [Permission; 6] = [
        Permission::GenerateDataKey,
        Permission::Decrypt,
        Permission::ReEncryptFrom,
        Permission::ReEncryptTo,
        Permission::DescribeKey,
        Permission::GetKeyPolicy,
    ];

    /// The name, as key policies write it after `kms:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Permission::GenerateDataKey => "GenerateDataKey",
            Permission::Decrypt => "Decrypt",
            Permission::ReEncryptFrom => "ReEncryptFrom",
            Permission::ReEncryptTo => "ReEncryptTo",
            Permission::DescribeKey => "DescribeKey",
            Permission::GetKeyPolicy => "GetKeyPolicy",
        }
    }

    /// The permissions a name stands for: one, or both of `ReEncrypt`.
    ///
    /// # Errors
    /// If nothing is called so.
    pub fn named(name: &str) -> Result<Vec<Permission>, RingError> {
        if name == crate::kms::codes::RE_ENCRYPT {
            return Ok(vec![Permission::ReEncryptFrom, Permission::ReEncryptTo]);
        }
        match Self::ALL
            .into_iter()
            .find(|permission| permission.as_str() == name)
        {
            Some(permission) => Ok(vec![permission]),
            None => Err(RingError::UnknownOperation {
                given: name.to_owned(),
            }),
        }
    }
}

/// One rule. A use is denied if every part of the rule that is given matches it;
/// a part that is empty matches everything.
///
/// A rule with context pairs matches only a use whose context has all of them.
/// `DescribeKey` has no context, so such a rule never denies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRule {
    /// What the rule is called, for `deny remove`.
    pub id: String,
    /// The CMKs it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmks: Vec<CmkArn>,
    /// What it forbids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    /// Pairs of the encryption context. In a value, `*` stands for any text:
    /// `hour` = `2019-02-13T*` is one day.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// Whom it forbids: patterns of caller names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<String>,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
}

/// One use of one CMK, as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub cmk: &'a CmkArn,
    pub permission: Permission,
    pub context: &'a EncryptionContext,
    pub caller: &'a str,
}

impl DenyRule {
    /// The rule forbids this use.
    pub(super) fn denies(&self, attempt: &Attempt<'_>) -> bool {
        (self.cmks.is_empty() || self.cmks.contains(attempt.cmk))
            && (self.permissions.is_empty() || self.permissions.contains(&attempt.permission))
            && any_matches(&self.callers, attempt.caller)
            && self.context.iter().all(|(key, pattern)| {
                attempt
                    .context
                    .get(key)
                    .is_some_and(|value| matches(pattern, value))
            })
    }

    /// The rule as a statement of the key policy of a CMK it is about. What is
    /// empty here is `*` there; a rule's reason has no place in it.
    fn statement(&self) -> Value {
        let actions: Vec<String> = match self.permissions.as_slice() {
            [] => vec!["kms:*".to_owned()],
            some => some.iter().map(|p| format!("kms:{}", p.as_str())).collect(),
        };
        let mut statement = json!({
            "Sid": self.id, "Effect": "Deny", "Action": actions, "Resource": "*",
            "Principal": match self.callers.as_slice() {
                [] => json!("*"),
                callers => json!({ "AWS": callers }),
            },
        });
        if !self.context.is_empty() {
            let pairs = self.context.iter();
            let pairs = pairs.map(|(k, v)| (format!("kms:EncryptionContext:{k}"), json!(v)));
            statement["Condition"] = json!({"StringLike": pairs.collect::<Map<_, _>>()});
        }
        statement
    }

    /// A rule that is empty but for its id would deny everything to everyone:
    /// more likely a slip than a wish.
    pub(super) fn check(&self) -> Result<(), RingError> {
        super::check_id(&self.id)?;
        let says_nothing = self.cmks.is_empty()
            && self.permissions.is_empty()
            && self.context.is_empty()
            && self.callers.is_empty();
        if says_nothing {
            return Err(RingError::EmptyRule {
                id: self.id.clone(),
            });
        }
        Ok(())
    }
}

/// The rules about one CMK as a key policy. Everything else is allowed by a ring.
pub(super) fn document(cmk: &CmkArn, rules: &[DenyRule]) -> String {
    let about = |rule: &&DenyRule| rule.cmks.is_empty() || rule.cmks.contains(cmk);
    let denies = rules.iter().filter(about).map(DenyRule::statement);
    let statements: Vec<Value> = denies.collect();
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

/// No pattern at all, or one that matches.
pub(super) fn any_matches(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
}

/// `*` stands for any text, also none; every other character for itself.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // `split` gives at least one part.
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        // Leftmost is enough: whatever a later match leaves, an earlier one does.
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, slow and plain.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| by_definition(rest, &text[n..])),
            Some((c, rest)) => text.first() == Some(c) && by_definition(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_defined(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                by_definition(pattern.as_bytes(), text.as_bytes())
            );
        }
    }

    #[test]
    fn a_rule_denies_what_all_its_parts_match() {
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap();
        let other = CmkArn::new("arn:aws:kms:local:000000000000:key/b").unwrap();
        let context = EncryptionContext::from([
            ("channel".to_owned(), "c1".to_owned()),
            ("hour".to_owned(), "2019-02-13T17".to_owned()),
        ]);
        let none = EncryptionContext::new();
        let rule = DenyRule {
            id: "r".into(),
            cmks: vec![cmk.clone()],
            permissions: vec![Permission::Decrypt, Permission::DescribeKey],
            context: BTreeMap::from([("hour".into(), "2019-02-13T*".into())]),
            callers: vec!["worker-*".into()],
            reason: String::new(),
        };
        let base = Attempt {
            cmk: &cmk,
            permission: Permission::Decrypt,
            context: &context,
            caller: "worker-1",
        };
        assert!(rule.denies(&base));
        for other in [
            Attempt {
                cmk: &other,
                ..base
            },
            Attempt {
                permission: Permission::GenerateDataKey,
                ..base
            },
            Attempt {
                permission: Permission::DescribeKey,
                context: &none,
                ..base
            },
            Attempt {
                caller: "application",
                ..base
            },
        ] {
            assert!(!rule.denies(&other), "{other:?}");
        }
    }

    #[test]
    fn a_rule_is_a_statement_of_each_cmk_it_is_about() {
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap();
        let other = CmkArn::new("arn:aws:kms:local:000000000000:key/b").unwrap();
        let everywhere: DenyRule =
            serde_json::from_str(r#"{"id":"all","callers":["app*"]}"#).unwrap();
        let here = DenyRule {
            cmks: vec![cmk.clone()],
            permissions: vec![Permission::Decrypt],
            context: BTreeMap::from([("hour".into(), "2019-02-13T*".into())]),
            ..serde_json::from_str(r#"{"id":"day"}"#).unwrap()
        };
        let rules = [everywhere, here];
        let read = |cmk: &CmkArn| -> Value {
            let policy: Value = serde_json::from_str(&document(cmk, &rules)).unwrap();
            policy["Statement"].clone()
        };
        let all = json!({
            "Sid": "all", "Effect": "Deny", "Principal": {"AWS": ["app*"]},
            "Action": ["kms:*"], "Resource": "*",
        });
        let day = json!({
            "Sid": "day", "Effect": "Deny", "Principal": "*", "Action": ["kms:Decrypt"],
            "Resource": "*",
            "Condition": {"StringLike": {"kms:EncryptionContext:hour": "2019-02-13T*"}},
        });
        assert_eq!(read(&cmk), json!([all, day]));
        assert_eq!(read(&other), json!([all]));
    }

    #[test]
    fn an_empty_rule_is_refused() {
        let rule: DenyRule = serde_json::from_str(r#"{"id":"all"}"#).unwrap();
        assert!(matches!(rule.check(), Err(RingError::EmptyRule { .. })));
    }
}
