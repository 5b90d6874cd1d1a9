//! Which Denies of one key policy another lacks. A rekey seals data under the new
//! CMK that was under the old: what only the old one denied, it would allow again.
//!
//! Key policies are their owners' and may hold anything, so they are read as JSON
//! and not as our own grammar (`document`). What is not understood is compared as
//! a whole: it counts as carried over only if it stands there in the same words.
//! So a Deny may be listed that is carried over in other words, and none is
//! missed that is not.

use serde_json::{Map, Value};

use super::calls::{DECRYPT, GENERATE};
use super::evaluate::is_like;
use super::policies::NOTHING_ELSE;
use crate::ids::{CmkArn, Sha256Hex};

/// What a revocation denies, so that data can be neither read nor written.
const USES: [&str; 2] = [DECRYPT, GENERATE];

/// A Deny that would be lifted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lifted {
    /// SHA-256 of the statement as canonical JSON: what it is accepted by.
    pub sha256: Sha256Hex,
    /// What the statement is called.
    pub sid: Option<String>,
    /// What it denies that the new policy does not: `kms:Decrypt`,
    /// `kms:GenerateDataKey` or both.
    pub denies: Vec<&'static str>,
    /// The statement as it stands.
    pub statement: Value,
}

/// In one line: what is denied, to what and by which hash.
impl std::fmt::Display for Lifted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sid = self.sid.as_deref().unwrap_or("without a Sid");
        write!(f, "{sid} denies {}", self.denies.join(" and "))?;
        if let Some(condition) = self.statement.get("Condition") {
            write!(f, " where {condition}")?;
        }
        write!(f, " (SHA-256 {})", self.sha256)
    }
}

/// A CMK with its key policy.
#[derive(Debug, Clone, Copy)]
pub struct Keyed<'a> {
    /// The CMK.
    pub cmk: &'a CmkArn,
    /// Its key policy, JSON.
    pub policy: &'a str,
}

/// Each Deny of `old` on Decrypt or GenerateDataKey that `new` lacks.
///
/// # Errors
/// If one of them is no policy; says which.
pub fn lifted(old: Keyed<'_>, new: Keyed<'_>) -> Result<Vec<Lifted>, String> {
    let (before, after) = (denies(old)?, denies(new)?);
    let mut all = Vec::new();
    for deny in &before {
        let lacks = |action: &&&str| {
            deny.denies(action)
                && !deny.is_our_own_limit(action)
                && !after.iter().any(|other| other.covers(deny, action))
        };
        let denies: Vec<&'static str> = USES.iter().filter(lacks).copied().collect();
        if !denies.is_empty() {
            all.push(Lifted {
                sha256: Sha256Hex::of_json(&deny.statement),
                sid: deny.sid().map(str::to_owned),
                denies,
                statement: deny.statement.clone(),
            });
        }
    }
    Ok(all)
}

/// One Deny.
struct Deny {
    statement: Value,
    /// The statement without its name, with the CMK's own ARN as `*`.
    body: Value,
    /// Everything in it is understood.
    plain: bool,
}

fn denies(keyed: Keyed<'_>) -> Result<Vec<Deny>, String> {
    let wrong = |why: String| format!("the key policy of `{}` is none: {why}", keyed.cmk);
    let policy: Value = serde_json::from_str(keyed.policy).map_err(|e| wrong(e.to_string()))?;
    let statements = match policy.get("Statement") {
        Some(Value::Array(all)) => all.clone(),
        Some(one @ Value::Object(_)) => vec![one.clone()],
        _ => return Err(wrong("it has no statements".to_owned())),
    };
    let mut all = Vec::new();
    for statement in statements {
        let Value::Object(fields) = &statement else {
            return Err(wrong("a statement is no object".to_owned()));
        };
        if fields.get("Effect").and_then(Value::as_str) != Some("Deny") {
            continue;
        }
        let mut body = fields.clone();
        body.remove("Sid");
        let named = texts(fields.get("Resource"));
        let own = named
            .as_ref()
            .is_some_and(|list| list.iter().any(|p| is_like(p, keyed.cmk.as_str())));
        if named.is_some() && !own {
            // About something else than this CMK.
            continue;
        }
        if own {
            body.insert("Resource".to_owned(), "*".into());
        }
        let known = [
            "Effect",
            "Principal",
            "Action",
            "NotAction",
            "Resource",
            "Condition",
        ];
        let plain = own
            && body.keys().all(|name| known.contains(&name.as_str()))
            && who(&body).is_some()
            && body.contains_key("Action") != body.contains_key("NotAction")
            && conditions(&body).is_some();
        all.push(Deny {
            body: Value::Object(body),
            plain,
            statement,
        });
    }
    Ok(all)
}

impl Deny {
    fn sid(&self) -> Option<&str> {
        self.statement.get("Sid").and_then(Value::as_str)
    }

    /// Whether it is about an action. What is not understood is about all.
    fn denies(&self, action: &str) -> bool {
        let small = action.to_ascii_lowercase();
        let names = |list: Vec<String>| {
            list.iter()
                .any(|p| is_like(&p.to_ascii_lowercase(), &small))
        };
        match (
            texts(self.body.get("Action")),
            texts(self.body.get("NotAction")),
        ) {
            (Some(list), None) => names(list),
            (None, Some(list)) => !names(list),
            _ => true,
        }
    }

    /// `rekeyd iam-policy` denies a worker to make new keys under an old CMK,
    /// which it has no use for. Whoever may open what is there loses nothing by
    /// that, so it is no revocation.
    fn is_our_own_limit(&self, action: &str) -> bool {
        action == GENERATE
            && self.sid() == Some(NOTHING_ELSE)
            && self.body.get("NotAction").is_some()
            && self.body.get("Condition").is_none()
            && !self.denies(DECRYPT)
    }

    /// Whether it denies an action wherever `other` does.
    fn covers(&self, other: &Deny, action: &str) -> bool {
        if !self.denies(action) {
            return false;
        }
        if self.body == other.body {
            return true;
        }
        self.plain && other.plain && self.whom_covers(other) && self.where_covers(other)
    }

    fn whom_covers(&self, other: &Deny) -> bool {
        match (
            self.body.as_object().and_then(who),
            other.body.as_object().and_then(who),
        ) {
            (Some(mine), Some(theirs)) => theirs
                .iter()
                .all(|one| mine.iter().any(|pattern| is_within(pattern, one))),
            _ => false,
        }
    }

    /// Each condition of ours holds wherever those of the other hold.
    fn where_covers(&self, other: &Deny) -> bool {
        let of = |deny: &Deny| deny.body.as_object().and_then(conditions);
        let (Some(mine), Some(theirs)) = (of(self), of(other)) else {
            return false;
        };
        mine.iter().all(|(operator, key, values)| {
            theirs
                .iter()
                .filter(|(_, other, _)| other == key)
                .any(|(theirs, _, narrower)| implies(theirs, narrower, operator, values))
        })
    }
}

/// Whether a condition on a key holds only where another on that key holds.
fn implies(narrower: &str, values: &[String], wider: &str, among: &[String]) -> bool {
    let all = |matches: fn(&str, &str) -> bool| {
        values
            .iter()
            .all(|value| among.iter().any(|wide| matches(wide, value)))
    };
    match (narrower, wider) {
        ("StringEquals" | "StringLike", "StringLike") => all(is_within),
        ("StringEquals", "StringEquals") => all(|wide, value| wide == value),
        _ => {
            let sorted = |list: &[String]| {
                let mut list = list.to_vec();
                list.sort();
                list
            };
            narrower == wider && sorted(values) == sorted(among)
        }
    }
}

/// Whether all that one pattern matches is matched by a wider one. `?` would take
/// the `*` of the narrower for one character, so there only the same will do.
fn is_within(wider: &str, narrower: &str) -> bool {
    let stars = wider.contains('?') && narrower.contains('*');
    wider == narrower || (!stars && is_like(wider, narrower))
}

/// Whom it is about, by ARNs and `*`; `None` where it is said in another way.
fn who(body: &Map<String, Value>) -> Option<Vec<String>> {
    match body.get("Principal")? {
        Value::String(all) if all == "*" => Some(vec!["*".to_owned()]),
        Value::Object(kinds) if kinds.len() == 1 => texts(kinds.get("AWS")),
        _ => None,
    }
}

/// The conditions: operator, key in small letters, values.
fn conditions(body: &Map<String, Value>) -> Option<Vec<(String, String, Vec<String>)>> {
    let mut all = Vec::new();
    let Some(condition) = body.get("Condition") else {
        return Some(all);
    };
    for (operator, keys) in condition.as_object()? {
        for (key, values) in keys.as_object()? {
            all.push((
                operator.clone(),
                key.to_ascii_lowercase(),
                texts(Some(values))?,
            ));
        }
    }
    Some(all)
}

/// A text or a list of texts.
fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value? {
        Value::Array(all) => all.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::iam::Policy;
    use crate::iam::evaluate::{Decision, Request, decide};

    fn cmk(name: &str) -> CmkArn {
        CmkArn::new(format!("arn:aws:kms:eu-west-1:111122223333:key/{name}")).unwrap()
    }

    /// Names of what would be lifted, and what each denies.
    fn found(old: Value, new: Value) -> Vec<(String, Vec<&'static str>)> {
        let policy = |statements: Value| {
            json!({"Version": "2012-10-17", "Statement": statements}).to_string()
        };
        let (old, new) = (policy(old), policy(new));
        let (a, b) = (cmk("old"), cmk("new"));
        let keyed = |cmk, policy| Keyed { cmk, policy };
        let all = lifted(keyed(&a, &old), keyed(&b, &new)).unwrap();
        all.into_iter()
            .map(|one| (one.sid.unwrap_or_default(), one.denies))
            .collect()
    }

    fn deny(sid: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut statement = json!({
            "Sid": sid, "Effect": "Deny", "Principal": "*", "Resource": "*",
            "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
            "Condition": {"StringLike": {
                "kms:EncryptionContext:channel": "c1",
                "kms:EncryptionContext:hour": ["2019-02-13T*", "2019-02-14T0*"],
            }},
        });
        change(&mut statement);
        statement
    }

    const BOTH: [&str; 2] = ["kms:Decrypt", "kms:GenerateDataKey"];

    #[test]
    fn what_the_new_one_lacks_is_listed_and_what_it_has_is_not() {
        let old = json!([
            {"Sid": "Root", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},
            deny("Revoked", |_| {}),
        ]);
        assert_eq!(
            found(old.clone(), json!([])),
            [("Revoked".to_owned(), BOTH.to_vec())]
        );
        // By another name, in another order, on its own ARN: it is there.
        let carried = deny("Other", |s| {
            s["Resource"] = cmk("new").as_str().into();
            s["Action"] = json!(["kms:generatedatakey", "KMS:Decrypt"]);
            s["Principal"] = json!({"AWS": ["*"]});
        });
        assert_eq!(found(old.clone(), json!(carried)), []);
        // Only one of the two.
        let half = deny("Half", |s| s["Action"] = "kms:Decrypt".into());
        assert_eq!(
            found(old.clone(), json!([half])),
            [("Revoked".to_owned(), vec!["kms:GenerateDataKey"])]
        );
        // An Allow of the same words is none.
        let allow = deny("Allow", |s| s["Effect"] = "Allow".into());
        assert_eq!(found(old, json!([allow])).len(), 1);
    }

    #[test]
    fn a_wider_deny_covers_and_a_narrower_one_does_not() {
        let wider: [fn(&mut Value); 6] = [
            |s| s["Action"] = "kms:*".into(),
            |s| s["Action"] = "*".into(),
            |s| s["Condition"] = json!({"StringLike": {"KMS:encryptioncontext:channel": "c*"}}),
            |s| s["Condition"]["StringLike"]["kms:EncryptionContext:hour"] = json!("2019-02-*"),
            |s| {
                s.as_object_mut().unwrap().remove("Condition");
            },
            |s| {
                let fields = s.as_object_mut().unwrap();
                fields.remove("Action");
                fields.insert("NotAction".to_owned(), json!(["kms:DescribeKey"]));
            },
        ];
        for (n, change) in wider.into_iter().enumerate() {
            let new = json!([deny("New", change)]);
            assert_eq!(found(json!([deny("Old", |_| {})]), new), [], "{n}");
        }
        let narrower: [fn(&mut Value); 8] = [
            |s| s["Condition"]["StringLike"]["kms:EncryptionContext:channel"] = json!("c2"),
            |s| s["Condition"]["StringLike"]["kms:EncryptionContext:hour"] = json!("2019-02-13T*"),
            |s| s["Condition"]["StringLike"]["aws:PrincipalArn"] = json!("*"),
            |s| s["Condition"]["StringNotLike"] = json!({"aws:PrincipalTag/team": "x"}),
            |s| s["Principal"] = json!({"AWS": "arn:aws:iam::111122223333:role/app"}),
            |s| s["Principal"] = json!({"Service": "s3.amazonaws.com"}),
            |s| s["Resource"] = "arn:aws:kms:eu-west-1:111122223333:key/old".into(),
            |s| {
                let fields = s.as_object_mut().unwrap();
                fields.remove("Action");
                fields.insert("NotAction".to_owned(), json!(["kms:D*", "kms:G*"]));
            },
        ];
        for (n, change) in narrower.into_iter().enumerate() {
            let new = json!([deny("New", change)]);
            let listed = found(json!([deny("Old", |_| {})]), new);
            assert_eq!(listed, [("Old".to_owned(), BOTH.to_vec())], "{n}");
        }
    }

    #[test]
    fn a_condition_implies_another_only_where_no_call_tells_them_apart() {
        type Row<'a> = (&'a str, &'a [&'a str], &'a str, &'a [&'a str], bool);
        let rows: [Row<'_>; 12] = [
            ("StringEquals", &["c1"], "StringEquals", &["c2", "c1"], true),
            (
                "StringEquals",
                &["c1", "c3"],
                "StringEquals",
                &["c1"],
                false,
            ),
            ("StringEquals", &["c1"], "StringLike", &["c*"], true),
            ("StringLike", &["c1"], "StringEquals", &["c1"], false),
            ("StringLike", &["c1*"], "StringLike", &["c*"], true),
            ("StringLike", &["c*"], "StringLike", &["c1*"], false),
            ("StringLike", &["c?"], "StringLike", &["c*"], true),
            // `c12` is matched by the one and not by the other.
            ("StringLike", &["c*"], "StringLike", &["c?"], false),
            (
                "StringNotEquals",
                &["c1"],
                "StringNotEquals",
                &["c1", "c2"],
                false,
            ),
            (
                "StringNotEquals",
                &["c2", "c1"],
                "StringNotEquals",
                &["c1", "c2"],
                true,
            ),
            ("StringNotLike", &["c1"], "StringNotLike", &["c*"], false),
            (
                "DateLessThan",
                &["2026-01-01T00:00:00Z"],
                "DateLessThan",
                &["2027-01-01T00:00:00Z"],
                false,
            ),
        ];
        for (narrower, values, wider, among, expected) in rows {
            let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            let said = implies(narrower, &list(values), wider, &list(among));
            assert_eq!(said, expected, "{narrower} {values:?} {wider} {among:?}");
        }
    }

    #[test]
    fn what_is_not_understood_has_to_stand_there_in_the_same_words() {
        let odd = |sid: &str| {
            json!([{
                "Sid": sid, "Effect": "Deny", "Resource": "*", "Action": "kms:*",
                "NotPrincipal": {"AWS": "arn:aws:iam::111122223333:root"},
            }])
        };
        assert_eq!(found(odd("Old"), json!([])).len(), 1);
        assert_eq!(found(odd("Old"), odd("New")), []);
        let wide =
            json!([{"Effect": "Deny", "Resource": "*", "Action": "kms:*", "Principal": "*"}]);
        assert_eq!(
            found(odd("Old"), wide).len(),
            1,
            "listed rather than missed"
        );
    }

    #[test]
    fn a_deny_of_anything_else_or_on_another_cmk_is_none_of_ours() {
        let others = json!([
            deny("Admin", |s| s["Action"] = "kms:ScheduleKeyDeletion".into()),
            deny("Elsewhere", |s| s["Resource"] =
                cmk("other").as_str().into()),
            deny("ReEncrypt", |s| s["Action"] = "kms:ReEncrypt*".into()),
        ]);
        assert_eq!(found(others, json!([])), []);
    }

    #[test]
    fn what_we_print_for_old_and_new_is_no_drift() {
        use crate::iam::{Cast, Role, Sides, key_policies};
        let sides = Sides {
            old: vec![cmk("old")],
            new: vec![cmk("new")],
        };
        let cast = Cast {
            process_role: "arn:aws:iam::111122223333:role/rekeyd-worker".to_owned(),
            customer_role: None,
            external_id: None,
        };
        let org = crate::ids::OrgId::new("acme").unwrap();
        for role in [Role::Reencrypt, Role::Rewrap] {
            let policies = key_policies(role, &org, &sides, &cast);
            let text: Vec<String> = policies
                .iter()
                .map(|key| serde_json::to_string(&key.policy).unwrap())
                .collect();
            let (a, b) = (cmk("old"), cmk("new"));
            let keyed = |cmk, policy| Keyed { cmk, policy };
            let all = lifted(keyed(&a, &text[0]), keyed(&b, &text[1])).unwrap();
            assert_eq!(all, [], "{role:?}");
        }
    }

    const OPERATORS: [&str; 4] = [
        "StringEquals",
        "StringLike",
        "StringNotEquals",
        "StringNotLike",
    ];
    const VALUES: [&str; 7] = ["c1", "c2", "c*", "c?", "*", "?*", "h1"];

    /// A Deny of a small world: two roles, two actions, few pairs.
    fn any_deny() -> impl Strategy<Value = Value> {
        let some =
            |all: &'static [&'static str]| proptest::sample::subsequence(all, 1..=all.len().min(2));
        let actions = prop_oneof![
            some(&[
                "kms:Decrypt",
                "kms:GenerateDataKey*",
                "kms:*",
                "kms:DescribeKey"
            ])
            .prop_map(|list| ("Action", list)),
            some(&["kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey"])
                .prop_map(|list| ("NotAction", list)),
        ];
        let condition = (
            prop_oneof![
                "StringEquals",
                "StringLike",
                "StringNotEquals",
                "StringNotLike"
            ],
            prop_oneof![
                Just("kms:EncryptionContext:channel"),
                Just("kms:EncryptionContext:hour")
            ],
            some(&VALUES),
        );
        let roles = some(&["role-a", "role-b"]);
        (actions, roles, prop::collection::vec(condition, 0..3)).prop_map(
            |((named, actions), roles, conditions)| {
                let mut deny = json!({
                    "Sid": "D", "Effect": "Deny", "Principal": {"AWS": roles}, "Resource": "*",
                    "Condition": {},
                });
                deny[named] = json!(actions);
                for (operator, key, values) in conditions {
                    deny["Condition"][operator][key] = json!(values);
                }
                deny
            },
        )
    }

    /// What is made of the conditions of a Deny, so that it is nearly the same.
    #[derive(Debug, Clone)]
    struct Turn {
        operator: Option<&'static str>,
        values: Option<Vec<&'static str>>,
    }

    fn any_turn() -> impl Strategy<Value = Turn> {
        let values = proptest::sample::subsequence(&VALUES[..], 1..=3);
        (
            proptest::option::of(proptest::sample::select(&OPERATORS[..])),
            proptest::option::of(values),
        )
            .prop_map(|(operator, values)| Turn { operator, values })
    }

    impl Turn {
        fn of(&self, deny: &Value) -> Value {
            let mut deny = deny.clone();
            let conditions = deny["Condition"].as_object().unwrap().clone();
            deny["Condition"] = json!({});
            for (operator, keys) in conditions {
                let operator = self.operator.unwrap_or(&operator);
                for (key, values) in keys.as_object().unwrap() {
                    let values = match &self.values {
                        Some(values) => json!(values),
                        None => values.clone(),
                    };
                    deny["Condition"][operator][key] = values;
                }
            }
            deny
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// By IAM's own rules: where nothing is listed, the new policy denies
        /// whatever the old one does.
        #[test]
        fn what_is_not_listed_is_denied_by_the_new_one(
            old in prop::collection::vec(any_deny(), 1..3),
            mut new in prop::collection::vec(any_deny(), 0..4),
            turned in any_turn(),
        ) {
            // One that is nearly the same is where mistakes hide.
            new.push(turned.of(&old[0]));
            let text = |all: &[Value]| json!({"Version": "2012-10-17", "Statement": all});
            let policies = [text(&old), text(&new)];
            let [before, after] = policies.clone().map(|text| {
                serde_json::from_value::<Policy>(text).unwrap()
            });
            let (a, b) = (cmk("old"), cmk("new"));
            let [old, new] = policies.map(|text| text.to_string());
            let listed = lifted(
                Keyed { cmk: &a, policy: &old },
                Keyed { cmk: &b, policy: &new },
            )
            .unwrap();
            let unlisted = |action: &&&str| {
                !listed.iter().any(|one| one.denies.contains(*action))
            };
            for action in USES.iter().filter(unlisted) {
                for role in ["role-a", "role-b"] {
                    for pairs in ["", "channel=c1", "channel=c2,hour=h1", "hour=h1,channel=c12", "hour=c12"] {
                        let pairs = pairs.split_terminator(',').filter_map(|p| p.split_once('='));
                        let context = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                        let ask = |policy: &Policy, cmk: &CmkArn| {
                            let request = Request::new(role, action, cmk.as_str());
                            let said = decide([policy], &request.under(&context)).unwrap();
                            matches!(said, Decision::Denied(_))
                        };
                        prop_assert!(!ask(&before, &a) || ask(&after, &b), "{} {:?}", action, context);
                    }
                }
            }
        }
    }

    #[test]
    fn the_hash_is_of_the_statement_as_it_stands() {
        let one = json!([deny("A", |_| {}), deny("B", |_| {})]).to_string();
        let policy = format!(r#"{{"Statement": {one}}}"#);
        let (a, b) = (cmk("old"), cmk("new"));
        let old = Keyed {
            cmk: &a,
            policy: &policy,
        };
        let new = Keyed {
            cmk: &b,
            policy: r#"{"Statement": []}"#,
        };
        let all = lifted(old, new).unwrap();
        assert_eq!(all.len(), 2);
        assert_ne!(all[0].sha256, all[1].sha256);
        assert_eq!(all[0].sha256, Sha256Hex::of_json(&deny("A", |_| {})));
        assert!(all[0].to_string().contains("A denies kms:Decrypt and"));
        for policy in ["", "[]", "{}", r#"{"Statement": [1]}"#] {
            let wrong = Keyed { cmk: &b, policy };
            assert!(lifted(old, wrong).unwrap_err().contains("key/new"));
        }
    }
}
