//! Judges a call by policies, the way IAM documents it, for the grammar of
//! [`Policy`]. Test support: it shows that the printed documents allow what a
//! role calls and nothing else. It decides nothing at run time; of it, only the
//! wildcards are used elsewhere (`drift`).
//!
//! The rules, by the pages of the IAM User Guide that state them:
//!
//! - *Policy evaluation logic*: denied by default; a statement that applies and
//!   allows, allows; one that applies and denies wins over everything.
//! - *Cross-account policy evaluation logic*: a call across accounts must be
//!   allowed by the identity's policies and by the resource's. In one account
//!   either is enough, except that for KMS the key policy must let the account's
//!   policies count. [`allowed_across_accounts`] is the stricter of the two.
//! - *Condition operators*: all operators and keys of a statement must hold; of
//!   the values of one key, one must match. With a key that the call does not
//!   have, an operator is false, except a negated one, which is true. `Null` asks
//!   whether a key is missing. `StringEquals` and `StringLike` mind the case;
//!   `StringLike` knows `*` and `?`. Of several values a negated operator must
//!   match none.
//! - *Multivalued context keys*: `ForAllValues` holds if every value of the call
//!   matches, so also if there is none; `ForAnyValue` if one does.
//! - *Condition*: names of condition keys do not mind the case. KMS says the same
//!   of `kms:EncryptionContext:<pair>`; its values, and the values of
//!   `kms:EncryptionContextKeys`, do mind it.
//! - *Action*: `*` and `?` are wildcards, and the case does not matter.
//!   *Resource*: the same wildcards, and the case does. In a key policy `*` is the
//!   key that it belongs to.

use std::collections::BTreeMap;

use super::document::{Condition, Effect, OneOrMany, Policy, Statement};
use crate::scope::EncryptionContext;

/// A call as IAM sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// For example `kms:Decrypt`.
    pub action: String,
    /// The ARN of what is acted on.
    pub resource: String,
    /// The ARN of the role that calls.
    pub principal: String,
    /// The condition keys of the call with their values, keys in lower case.
    keys: BTreeMap<String, Vec<String>>,
}

/// What policies say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it, and none denies it.
    Allowed,
    /// No statement is about it.
    NotAllowed,
    /// The statement of this name denies it.
    Denied(String),
}

/// An operator that is not part of the grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an operator that this evaluator knows")]
pub struct UnknownOperator(pub String);

impl Request {
    /// A call without any condition key.
    pub fn new(principal: &str, action: &str, resource: &str) -> Self {
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            principal: principal.to_owned(),
            keys: BTreeMap::new(),
        }
    }

    /// With a condition key.
    #[must_use]
    pub fn with(mut self, key: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        self.keys.insert(key.to_ascii_lowercase(), values);
        self
    }

    /// With an encryption context, as KMS turns it into condition keys.
    #[must_use]
    pub fn under(mut self, context: &EncryptionContext) -> Self {
        if context.is_empty() {
            return self;
        }
        let names: Vec<&str> = context.keys().map(String::as_str).collect();
        for (name, value) in context {
            self = self.with(&format!("kms:EncryptionContext:{name}"), &[value]);
        }
        self.with("kms:EncryptionContextKeys", &names)
    }
}

/// What a set of policies says of a call.
///
/// # Errors
/// If a statement uses an operator that is not part of the grammar, whether or
/// not it would apply.
pub fn decide<'a>(
    policies: impl IntoIterator<Item = &'a Policy>,
    request: &Request,
) -> Result<Decision, UnknownOperator> {
    let mut decision = Decision::NotAllowed;
    for statement in policies.into_iter().flat_map(|policy| &policy.statement) {
        // Conditions first: an operator that is not known must not hide behind
        // an action that does not match.
        let applies = holds(&statement.condition, request)? && is_about(statement, request);
        match (applies, statement.effect) {
            (false, _) => {}
            (true, Effect::Deny) => return Ok(Decision::Denied(statement.sid.clone())),
            (true, Effect::Allow) => decision = Decision::Allowed,
        }
    }
    Ok(decision)
}

/// Whether a call across accounts is allowed: by the identity's policies and by
/// the resource's.
///
/// # Errors
/// As [`decide`].
pub fn allowed_across_accounts(
    identity: &Policy,
    resource: &Policy,
    request: &Request,
) -> Result<bool, UnknownOperator> {
    Ok(decide([identity], request)? == Decision::Allowed
        && decide([resource], request)? == Decision::Allowed)
}

fn is_about(statement: &Statement, request: &Request) -> bool {
    let action = request.action.to_ascii_lowercase();
    let names = |list: &OneOrMany| {
        list.iter()
            .any(|pattern| is_like(&pattern.to_ascii_lowercase(), &action))
    };
    let about_action = match (&statement.action, &statement.not_action) {
        (Some(list), None) => names(list),
        (None, Some(list)) => !names(list),
        // IAM refuses such a statement; here it is about nothing.
        _ => false,
    };
    let about_resource = statement
        .resource
        .as_ref()
        .is_none_or(|list| list.iter().any(|p| is_like(p, &request.resource)));
    let about_principal = statement
        .principal
        .as_ref()
        .is_none_or(|p| p.aws.iter().any(|arn| arn == request.principal));
    about_action && about_resource && about_principal
}

fn holds(condition: &Condition, request: &Request) -> Result<bool, UnknownOperator> {
    let mut all = true;
    for (operator, keys) in condition {
        for (key, expected) in keys {
            let values = request
                .keys
                .get(&key.to_ascii_lowercase())
                .map(Vec::as_slice)
                .unwrap_or_default();
            all &= one_holds(operator, expected, values)?;
        }
    }
    Ok(all)
}

fn one_holds(
    operator: &str,
    expected: &OneOrMany,
    values: &[String],
) -> Result<bool, UnknownOperator> {
    if operator == "Null" {
        let missing = values.is_empty().to_string();
        return Ok(expected.iter().any(|e| e == missing));
    }
    let (set, comparison) = operator
        .split_once(':')
        .map_or((None, operator), |(set, c)| (Some(set), c));
    let (negated, like) = match comparison {
        "StringEquals" => (false, false),
        "StringNotEquals" => (true, false),
        "StringLike" => (false, true),
        "StringNotLike" => (true, true),
        _ => return Err(UnknownOperator(operator.to_owned())),
    };
    let one = |value: &str| {
        let matches = |e: &str| if like { is_like(e, value) } else { e == value };
        expected.iter().any(matches) != negated
    };
    match set {
        Some("ForAllValues") => Ok(values.iter().all(|v| one(v))),
        Some("ForAnyValue") => Ok(values.iter().any(|v| one(v))),
        Some(_) => Err(UnknownOperator(operator.to_owned())),
        None => Ok(match values {
            [] => negated,
            [value] => one(value),
            // IAM warns against this; of several values the answer that allows
            // less differs by effect, so it is not in the grammar.
            _ => return Err(UnknownOperator(format!("{operator} on several values"))),
        }),
    }
}

/// `*` is any text, `?` one character.
pub(super) fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Where the last star was, and how much of the text it has taken.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(statements: serde_json::Value) -> Policy {
        let text = serde_json::json!({"Version": "2012-10-17", "Statement": statements});
        serde_json::from_value(text).unwrap()
    }

    fn call() -> Request {
        Request::new("role", "kms:Decrypt", "arn:key/a").with("k", &["v"])
    }

    #[test]
    fn denied_by_default_and_an_explicit_deny_wins_in_either_order() {
        let allow = policy(serde_json::json!([
            {"Sid": "A", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}
        ]));
        let deny = policy(serde_json::json!([
            {"Sid": "D", "Effect": "Deny", "Action": ["KMS:decrypt"], "Resource": "arn:key/?"}
        ]));
        assert_eq!(decide([], &call()), Ok(Decision::NotAllowed));
        assert_eq!(decide([&allow], &call()), Ok(Decision::Allowed));
        let denied = Ok(Decision::Denied("D".to_owned()));
        assert_eq!(decide([&allow, &deny], &call()), denied);
        assert_eq!(decide([&deny, &allow], &call()), denied);
        let other = Request::new("role", "kms:Decrypt", "arn:KEY/a");
        assert_eq!(decide([&deny], &other), Ok(Decision::NotAllowed));
    }

    #[test]
    fn each_operator_does_what_iam_says_of_one_none_and_several_values() {
        // Operator, expected; then the answer for: the key missing, `v`, `w`,
        // and where it is asked, `v` and `w` together.
        type Row<'a> = (&'a str, &'a [&'a str], bool, bool, bool, Option<bool>);
        let rows: [Row<'_>; 13] = [
            ("StringEquals", &["v"], false, true, false, None),
            ("StringEquals", &["V"], false, false, false, None),
            ("StringEquals", &["x", "v"], false, true, false, None),
            ("StringEquals", &["*"], false, false, false, None),
            ("StringNotEquals", &["v"], true, false, true, None),
            ("StringNotEquals", &["v", "w"], true, false, false, None),
            ("StringLike", &["?"], false, true, true, None),
            ("StringNotLike", &["v*"], true, false, true, None),
            ("Null", &["true"], true, false, false, Some(false)),
            ("Null", &["false"], false, true, true, Some(true)),
            (
                "ForAllValues:StringEquals",
                &["v"],
                true,
                true,
                false,
                Some(false),
            ),
            (
                "ForAnyValue:StringEquals",
                &["v"],
                false,
                true,
                false,
                Some(true),
            ),
            (
                "ForAnyValue:StringNotEquals",
                &["v"],
                false,
                false,
                true,
                Some(true),
            ),
        ];
        for (operator, expected, missing, v, w, both) in rows {
            let ask = |values: &[&str]| {
                let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
                one_holds(operator, &OneOrMany::of(expected), &values)
            };
            assert_eq!(ask(&[]), Ok(missing), "{operator} {expected:?}: missing");
            assert_eq!(ask(&["v"]), Ok(v), "{operator} {expected:?}: v");
            assert_eq!(ask(&["w"]), Ok(w), "{operator} {expected:?}: w");
            match both {
                Some(both) => assert_eq!(ask(&["v", "w"]), Ok(both), "{operator}: both"),
                None => assert!(ask(&["v", "w"]).is_err(), "{operator}: both"),
            }
        }
    }

    #[test]
    fn all_operators_and_all_keys_of_a_statement_must_hold() {
        let only = policy(serde_json::json!([{
            "Sid": "A", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*",
            "Condition": {"StringEquals": {"K": "v", "l": "v"}, "Null": {"m": "true"}}
        }]));
        let all = call().with("l", &["v"]);
        assert_eq!(decide([&only], &all), Ok(Decision::Allowed));
        assert_eq!(decide([&only], &call()), Ok(Decision::NotAllowed));
        let m = all.with("M", &["x"]);
        assert_eq!(decide([&only], &m), Ok(Decision::NotAllowed));
    }

    #[test]
    fn what_is_not_in_the_grammar_is_an_error_and_not_an_answer() {
        let odd = policy(serde_json::json!([{
            "Sid": "A", "Effect": "Allow", "Action": "sqs:Other", "Resource": "*",
            "Condition": {"StringEqualsIfExists": {"k": "v"}}
        }]));
        assert!(decide([&odd], &call()).is_err());
        let text = r#"{"Version": "2012-10-17", "Statement": [
            {"Sid": "A", "Effect": "Allow", "Action": "x", "NotResource": "y"}]}"#;
        assert!(serde_json::from_str::<Policy>(text).is_err());
    }

    #[test]
    fn wildcards_are_tried_at_every_place() {
        for (pattern, text, yes) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*ab", "aab", true),
            ("a*", "a", true),
        ] {
            assert_eq!(is_like(pattern, text), yes, "{pattern} {text}");
        }
    }
}
