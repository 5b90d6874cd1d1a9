use std::collections::BTreeSet;

use super::evaluate::{Decision, Request, allowed_across_accounts, decide};
use super::*;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, FileId, OrgId, WorkspaceId};
use crate::registry::CmkRow;
use crate::scope::{EncryptionContext, Scope};

const PROCESS: &str = "arn:aws:iam::111122223333:role/rekeyd-worker";
const CUSTOMER: &str = "arn:aws:iam::444455556666:role/rekeyd-access";
const ROLES: [Role; 3] = [Role::Reencrypt, Role::Rewrap, Role::Verifier];

fn cmk(id: &str) -> CmkArn {
    CmkArn::new(format!("arn:aws:kms:eu-west-1:444455556666:key/{id}")).unwrap()
}

fn org(id: &str) -> OrgId {
    OrgId::new(id).unwrap()
}

fn sides() -> Sides {
    Sides {
        old: vec![cmk("older"), cmk("old")],
        new: vec![cmk("new")],
    }
}

fn cast() -> Cast {
    Cast {
        process_role: PROCESS.to_owned(),
        customer_role: Some(CUSTOMER.to_owned()),
        external_id: Some("tenant-7".to_owned()),
    }
}

fn slices(of: &OrgId) -> Vec<Scope> {
    vec![
        Scope::Message {
            org: of.clone(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: ChannelId::new("c1").unwrap(),
            hour: "2019-02-13T17".parse().unwrap(),
        },
        Scope::File {
            org: of.clone(),
            file: FileId::new("f1").unwrap(),
        },
        Scope::Search { org: of.clone() },
    ]
}

fn request(call: &Call) -> Request {
    Request::new(CUSTOMER, call.action, call.cmk.as_str()).under(&call.context)
}

/// The documents of one role, as they are after printing and parsing.
struct Documents {
    role: Policy,
    keys: Vec<KeyPolicy>,
}

impl Documents {
    fn of(role: Role) -> Self {
        let printed = |policy: &Policy| -> Policy {
            serde_json::from_str(&serde_json::to_string_pretty(policy).unwrap()).unwrap()
        };
        let mut keys = key_policies(role, &org("acme"), &sides(), &cast());
        for key in &mut keys {
            key.policy = printed(&key.policy);
        }
        Self {
            role: printed(&role_policy(role, &org("acme"), &sides())),
            keys,
        }
    }

    fn key(&self, cmk: &str) -> Option<&Policy> {
        let of = self.keys.iter().find(|key| key.cmk.as_str() == cmk);
        of.map(|key| &key.policy)
    }

    /// The decisions of the role's policy and of the key's. A CMK that nobody
    /// was told to open to the role has a policy that says nothing of it.
    fn decide(&self, request: &Request) -> (Decision, Decision) {
        (
            decide([&self.role], request).unwrap(),
            decide(self.key(&request.resource), request).unwrap(),
        )
    }
}

#[test]
fn every_call_of_each_role_is_allowed_by_both_documents() {
    for role in ROLES {
        let documents = Documents::of(role);
        let all = calls(role, &org("acme"), &sides(), &slices(&org("acme")));
        assert!(all.len() >= 3, "{role:?}: {all:?}");
        for call in all {
            let request = request(&call);
            let key = documents.key(call.cmk.as_str()).unwrap();
            assert!(
                allowed_across_accounts(&documents.role, key, &request).unwrap(),
                "{role:?}: {call:?}: {:?}",
                documents.decide(&request)
            );
        }
    }
}

/// Every action of KMS that is about a key, allowed or not, so that what is not
/// meant to be allowed is asked for by name.
const ACTIONS: [&str; 40] = [
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DeleteAlias",
    "kms:DeleteImportedKeyMaterial",
    "kms:DeriveSharedSecret",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateMac",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:GetParametersForImport",
    "kms:GetPublicKey",
    "kms:ImportKeyMaterial",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:ReplicateKey",
    "kms:RetireGrant",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:Sign",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
    "kms:Verify",
];

/// Contexts that are not the organization's own.
fn foreign_contexts() -> Vec<EncryptionContext> {
    let pairs = |pairs: &[(&str, &str)]| -> EncryptionContext {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let mut all = vec![
        pairs(&[]),
        pairs(&[("kind", "canary")]),
        pairs(&[("organization", "ACME"), ("kind", "canary")]),
        pairs(&[("organization", "acme2"), ("kind", "canary")]),
        pairs(&[("organization", "*"), ("kind", "canary")]),
        // KMS binds this name exactly, IAM does not: another context.
        pairs(&[("Organization", "acme"), ("kind", "canary")]),
        // A pair of somebody else's application.
        pairs(&[("organization", "acme"), ("purpose", "backup")]),
    ];
    all.extend(slices(&org("other")).iter().map(Scope::context));
    all
}

#[test]
fn whatever_no_role_calls_is_allowed_by_neither_document() {
    let acme = org("acme");
    for role in ROLES {
        let documents = Documents::of(role);
        let wanted: BTreeSet<Call> = calls(role, &acme, &sides(), &slices(&acme))
            .into_iter()
            .collect();
        let own = slices(&acme)
            .iter()
            .map(Scope::context)
            .chain([Scope::Canary { org: acme.clone() }.context()])
            .collect::<Vec<_>>();
        let stranger = cmk("stranger");
        let mut refused = 0;
        for action in ACTIONS {
            for on in sides().all().chain([&stranger]) {
                for context in own.iter().chain(&foreign_contexts()) {
                    let call = Call {
                        action,
                        cmk: on.clone(),
                        context: context.clone(),
                    };
                    // DescribeKey and GetKeyPolicy take no context, and the verifier's canary is
                    // an ordinary context of its organization.
                    let is_wanted = wanted.iter().any(|w| {
                        w.action == action
                            && w.cmk == *on
                            && (super::calls::LOOKS.contains(&action) || own.contains(context))
                    });
                    if is_wanted {
                        continue;
                    }
                    let (by_role, by_key) = documents.decide(&request(&call));
                    assert_ne!(by_role, Decision::Allowed, "{role:?}: role: {call:?}");
                    assert_ne!(by_key, Decision::Allowed, "{role:?}: key: {call:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 1_000, "{role:?}: only {refused} were asked");
    }
}

#[test]
fn what_the_brief_of_each_role_forbids_is_forbidden_by_name() {
    let canary = Scope::Canary { org: org("acme") }.context();
    let ask = |role, action, on: &str| {
        let request = Request::new(CUSTOMER, action, cmk(on).as_str()).under(&canary);
        Documents::of(role).decide(&request)
    };
    for (role, action, on) in [
        (Role::Rewrap, "kms:Decrypt", "old"),
        (Role::Rewrap, "kms:Decrypt", "new"),
        (Role::Rewrap, "kms:GenerateDataKey", "new"),
        (Role::Rewrap, "kms:ReEncryptTo", "old"),
        (Role::Reencrypt, "kms:GenerateDataKey", "old"),
        (Role::Reencrypt, "kms:ReEncryptFrom", "old"),
        (Role::Reencrypt, "kms:Encrypt", "new"),
        (Role::Reencrypt, "kms:CreateGrant", "new"),
        (Role::Verifier, "kms:GenerateDataKey", "new"),
        (Role::Verifier, "kms:DescribeKey", "new"),
        (Role::Verifier, "kms:GetKeyPolicy", "new"),
        (Role::Reencrypt, "kms:PutKeyPolicy", "new"),
    ] {
        let (by_role, by_key) = ask(role, action, on);
        assert_eq!(by_role, Decision::NotAllowed, "{role:?} {action} {on}");
        let denied = Decision::Denied("RekeydNothingElse".to_owned());
        assert_eq!(by_key, denied, "{role:?} {action} {on}");
    }
    // The owner of an old CMK has nothing to add for the verifier.
    assert!(
        Documents::of(Role::Verifier)
            .key(cmk("old").as_str())
            .is_none()
    );
}

/// The customer does not have to trust our account's policies.
#[test]
fn a_role_that_is_an_administrator_gets_no_more_from_the_key() {
    let wide: Policy = serde_json::from_str(
        r#"{"Version": "2012-10-17", "Statement": [
            {"Sid": "Everything", "Effect": "Allow", "Action": "*", "Resource": "*"}]}"#,
    )
    .unwrap();
    // As the customer's key policy commonly lets account policies count.
    let delegating: Policy = serde_json::from_str(
        r#"{"Version": "2012-10-17", "Statement": [
            {"Sid": "Root", "Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}"#,
    )
    .unwrap();
    for role in ROLES {
        for key in Documents::of(role).keys {
            for action in ACTIONS {
                for context in foreign_contexts() {
                    let request = Request::new(CUSTOMER, action, key.cmk.as_str()).under(&context);
                    let said = decide([&wide, &delegating, &key.policy], &request).unwrap();
                    let looks = super::calls::LOOKS.contains(&action);
                    let may_describe = looks && role != Role::Verifier;
                    assert!(
                        may_describe || matches!(said, Decision::Denied(_)),
                        "{role:?} {action} {context:?}: {said:?}"
                    );
                }
                let canary = Scope::Canary { org: org("acme") }.context();
                let own = Request::new(CUSTOMER, action, key.cmk.as_str()).under(&canary);
                let said = decide([&wide, &delegating, &key.policy], &own).unwrap();
                let alone = decide([&key.policy], &own).unwrap();
                assert_eq!(
                    said, alone,
                    "{role:?} {action}: more than the key policy gives"
                );
            }
        }
    }
}

#[test]
fn another_role_is_left_as_the_key_policy_had_it() {
    let application = "arn:aws:iam::444455556666:role/application";
    for role in ROLES {
        for key in Documents::of(role).keys {
            for action in ACTIONS {
                let request = Request::new(application, action, key.cmk.as_str());
                let said = decide([&key.policy], &request).unwrap();
                assert_eq!(said, Decision::NotAllowed, "{role:?} {action}");
            }
        }
    }
}

#[test]
fn the_customers_role_is_taken_on_with_its_external_id_only() {
    let trust = trust_policy(&cast()).unwrap();
    let ask = |principal: &str, id: Option<&str>| {
        let mut request = Request::new(principal, "sts:AssumeRole", CUSTOMER);
        if let Some(id) = id {
            request = request.with("sts:ExternalId", &[id]);
        }
        decide([&trust], &request).unwrap()
    };
    assert_eq!(ask(PROCESS, Some("tenant-7")), Decision::Allowed);
    assert_eq!(ask(PROCESS, Some("tenant-8")), Decision::NotAllowed);
    assert_eq!(ask(PROCESS, None), Decision::NotAllowed);
    assert_eq!(ask(CUSTOMER, Some("tenant-7")), Decision::NotAllowed);
    let assume = assume_role(&cast()).unwrap();
    let to = |role: &str| {
        let request = Request::new(PROCESS, "sts:AssumeRole", role);
        decide([&assume], &request).unwrap()
    };
    assert_eq!(to(CUSTOMER), Decision::Allowed);
    assert_eq!(to(PROCESS), Decision::NotAllowed);
    let alone = Cast {
        customer_role: None,
        ..cast()
    };
    assert_eq!((trust_policy(&alone), assume_role(&alone)), (None, None));
    assert_eq!(alone.caller(), PROCESS);
}

#[test]
fn the_queue_is_for_taking_and_the_dead_letters_for_refusing() {
    let queues = Queues {
        jobs: "arn:aws:sqs:eu-west-1:111122223333:jobs".to_owned(),
        dead_letters: Some("arn:aws:sqs:eu-west-1:111122223333:dead".to_owned()),
    };
    let policy = queue_policy(&queues);
    let dead = queues.dead_letters.as_deref().unwrap();
    for (action, on, yes) in [
        ("sqs:ReceiveMessage", queues.jobs.as_str(), true),
        ("sqs:DeleteMessage", &queues.jobs, true),
        ("sqs:ChangeMessageVisibility", &queues.jobs, true),
        ("sqs:GetQueueAttributes", &queues.jobs, true),
        ("sqs:SendMessage", &queues.jobs, false),
        ("sqs:PurgeQueue", &queues.jobs, false),
        ("sqs:SetQueueAttributes", &queues.jobs, false),
        ("sqs:SendMessage", dead, true),
        ("sqs:GetQueueUrl", dead, true),
        ("sqs:ReceiveMessage", dead, false),
        ("sqs:DeleteMessage", dead, false),
        ("sqs:PurgeQueue", dead, false),
    ] {
        let said = decide([&policy], &Request::new(PROCESS, action, on)).unwrap();
        assert_eq!(said == Decision::Allowed, yes, "{action} {on}");
    }
}

#[test]
fn the_documents_fit_where_they_go() {
    for role in ROLES {
        let documents = Documents::of(role);
        assert!(documents.role.chars() < MANAGED_POLICY_CHARS);
        for key in documents.keys {
            assert!(key.policy.chars() < KEY_POLICY_BYTES / 4);
        }
    }
    assert!(trust_policy(&cast()).unwrap().chars() < TRUST_POLICY_CHARS);
    let spaced = Policy::of(Some("a b\nc".to_owned()), Vec::new());
    assert_eq!(
        spaced.chars(),
        r#"{"Version":"2012-10-17","Id":"ab\nc","Statement":[]}"#.len()
    );
}

#[test]
fn old_and_new_are_told_apart_by_the_registry() {
    let row = |role| CmkRow {
        role,
        canary_hex: String::new(),
        entered_by: String::new(),
        entered_ms: 0,
        role_arn: None,
        external_id: None,
    };
    let list = |cmks: &[(&str, CmkRole)]| {
        let rows = cmks.iter().map(|(id, role)| (cmk(id), row(*role)));
        rows.collect::<AllowList>()
    };
    let org = OrgRow {
        cell_epoch: Epoch::FIRST,
        wrap_epoch: Epoch::FIRST,
        last_epoch: Epoch::FIRST,
        cmk: cmk("a"),
        cell_floor: Epoch::ZERO,
        wrap_floor: Epoch::ZERO,
        created_ms: 0,
        restore_window: None,
    };
    use CmkRole::{SourceOnly, Target};
    let tell = |cmks: &[(&str, CmkRole)], asked: &[&str], moving| {
        let asked: Vec<CmkArn> = asked.iter().map(|id| cmk(id)).collect();
        Sides::of(&org, &list(cmks), &asked, moving)
    };
    let split = |old: &[&str], new: &[&str]| {
        Ok(Sides {
            old: old.iter().map(|id| cmk(id)).collect(),
            new: new.iter().map(|id| cmk(id)).collect(),
        })
    };
    let three = [("a", Target), ("b", Target), ("z", SourceOnly)];
    // Before a rekey, while it runs, and after it.
    assert_eq!(tell(&three, &[], false), split(&["a", "z"], &["b"]));
    assert_eq!(tell(&three, &[], true), split(&["z"], &["a", "b"]));
    assert_eq!(
        tell(&[("a", Target), ("z", SourceOnly)], &[], false),
        split(&["z"], &["a"])
    );
    // By name; what may not be a target is not made one by asking.
    assert_eq!(tell(&three, &["a"], false), split(&["b", "z"], &["a"]));
    assert_eq!(tell(&three, &["z"], false), Err(cmk("z")));
    assert_eq!(tell(&three, &["q"], false), Err(cmk("q")));
}
