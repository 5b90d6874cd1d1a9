//! `rekeyd kms deny`

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::figures::printable;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::CmkArn;
use crate::kms::local::{DenyRule, Permission};

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Deny every use that all given parts match. It holds at once, everywhere.
    #[command(
        after_help = "Example, one channel on one day:\n  rekeyd kms deny add revoked --context channel=c1 --context 'hour=2019-02-13T*'"
    )]
    Add(Add),
    /// List the rules.
    #[command(after_help = "Example:\n  rekeyd kms deny list")]
    List,
    /// Remove a rule.
    #[command(after_help = "Example:\n  rekeyd kms deny remove revoked")]
    Remove {
        /// The rule's name.
        id: String,
    },
}

#[derive(clap::Args)]
pub(in crate::cli) struct Add {
    /// The rule's name, for `deny remove`.
    id: String,
    /// CMKs it is about; all if not given.
    #[arg(long, value_name = "ARN")]
    cmk: Vec<CmkArn>,
    /// What it forbids: GenerateDataKey, Decrypt, ReEncrypt, ReEncryptFrom,
    /// ReEncryptTo, DescribeKey, GetKeyPolicy; all if not given.
    #[arg(long, value_name = "NAME")]
    operation: Vec<String>,
    /// A pair of the encryption context; `*` in the value stands for any text.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// Whom it forbids; `*` stands for any text. Everyone if not given.
    #[arg(long, value_name = "PATTERN")]
    caller: Vec<String>,
    /// Why, for people.
    #[arg(long, default_value = "")]
    reason: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a pair is written KEY=VALUE, for example channel=c1".to_owned()),
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Add(a) => add(context, a),
        Command::List => list(context),
        Command::Remove { id } => {
            context.ring()?.remove_deny(id)?;
            context.out.show(&json!({"removed": id}), || {
                format!(
                    "rule {id} is removed; parked slices are tried again by themselves, \
                     or at once with `rekeyd retry <JOB>`"
                )
            })
        }
    }
}

fn add(context: &Context, add: &Add) -> Result<(), Failure> {
    let mut permissions = Vec::new();
    for name in &add.operation {
        permissions.extend(Permission::named(name)?);
    }
    let rule = DenyRule {
        id: add.id.clone(),
        cmks: add.cmk.clone(),
        permissions,
        context: add.context.iter().cloned().collect::<BTreeMap<_, _>>(),
        callers: add.caller.clone(),
        reason: add.reason.clone(),
    };
    context.ring()?.add_deny(rule.clone())?;
    context.out.show(&json!({"added": rule}), || {
        format!(
            "rule {0} holds from the next call on; `rekeyd kms deny remove {0}` lifts it",
            rule.id
        )
    })
}

fn list(context: &Context) -> Result<(), Failure> {
    let rules = context.ring()?.denies()?;
    context.out.show(&json!({"rules": rules}), || {
        if rules.is_empty() {
            return "nothing is denied".to_owned();
        }
        let or_all = |items: Vec<String>| match items.is_empty() {
            true => "all".to_owned(),
            false => printable(&items.join(", ")),
        };
        out::table(
            ["rule", "cmk", "operations", "context", "callers", "reason"],
            rules.iter().map(|rule| {
                let context = rule.context.iter().map(|(k, v)| format!("{k}={v}"));
                let operations = rule.permissions.iter().map(|p| p.as_str().to_owned());
                [
                    rule.id.clone(),
                    or_all(rule.cmks.iter().map(CmkArn::to_string).collect()),
                    or_all(operations.collect()),
                    or_all(context.collect()),
                    or_all(rule.callers.clone()),
                    printable(&rule.reason),
                ]
            }),
        )
    })
}
