//! `rekeyd iam-policy`

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::config::{Config, QueueKind};
use crate::doctor::keys::{all_orgs, is_moving};
use crate::iam::{
    self, Cast, KEY_POLICY_BYTES, MANAGED_POLICY_CHARS, Policy, Queues, Role, Sides,
    TRUST_POLICY_CHARS,
};
use crate::ids::{CmkArn, ExternalId, OrgId, RoleArn};
use crate::registry::{AllowList, Registry};

#[derive(clap::Args)]
#[command(
    after_help = "Nothing is called or changed: it reads the registry and prints. docs/iam.md explains \
                  each statement.\n\n\
                  Example:\n  rekeyd iam-policy --org acme --mode reencrypt \\\n    \
                  --worker-role-arn arn:aws:iam::111122223333:role/rekeyd-worker"
)]
pub(super) struct Arguments {
    /// The organization.
    #[arg(long)]
    org: OrgId,
    /// Whose policies: the worker's in one of its modes, or the verifier's.
    #[arg(long, value_enum)]
    mode: Mode,
    /// A CMK that is rekeyed to, where the registry leaves it open. May be given
    /// more than once.
    #[arg(long = "to", value_name = "ARN")]
    to: Vec<CmkArn>,
    /// The role that the process runs as.
    #[arg(long, value_name = "ARN")]
    worker_role_arn: Option<RoleArn>,
    /// The role in the customer's account that it assumes, in place of the
    /// registry's.
    #[arg(long, value_name = "ARN")]
    role_arn: Option<RoleArn>,
    /// What the customer's role wants to be told, in place of the registry's.
    #[arg(long, value_name = "ID", requires = "role_arn")]
    external_id: Option<ExternalId>,
    /// The SQS queue of the jobs, where `queue.url` does not say it.
    #[arg(long, value_name = "ARN", value_parser = queue_arn)]
    queue_arn: Option<String>,
    /// The SQS queue for refused messages, where `queue.dead_letter_url` does
    /// not say it.
    #[arg(long, value_name = "ARN", value_parser = queue_arn)]
    dead_letter_arn: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// The worker opens keys and makes new ones.
    Reencrypt,
    /// The worker has keys wrapped anew inside the KMS and never gets one.
    Rewrap,
    /// Opens what a rewrap has left, apart from the worker.
    Verifier,
}

/// A document, where it goes, and how long it may be there.
struct Document {
    name: &'static str,
    goes: String,
    policy: Policy,
    limit: usize,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(async {
        let role = match arguments.mode {
            Mode::Reencrypt => Role::Reencrypt,
            Mode::Rewrap => Role::Rewrap,
            Mode::Verifier => Role::Verifier,
        };
        let org = &arguments.org;
        let registry = context.registry().await?;
        let row = registry.org(org).await?;
        let list = registry.allow_list(org).await?;
        let moving = is_moving(&context.book().await?, org, &row.cmk).await?;
        let sides = Sides::of(&row, &list, &arguments.to, moving).map_err(|cmk| {
            let what = format!("{cmk} is not a target of {org}");
            Failure::new(Exit::NotFound, what).help(format!(
                "`rekeyd org show {org}` lists its CMKs; `rekeyd org allow-cmk {org} {cmk}` lets one in"
            ))
        })?;
        let mut notes = shared_cmks(&registry, org, &sides).await?;
        let cast = cast(context.config(), arguments, &list, &sides, &mut notes);
        let documents = documents(context.config(), arguments, role, &sides, &cast, &mut notes);
        let keys = iam::key_policies(role, org, &sides, &cast);
        for document in &documents {
            let chars = document.policy.chars();
            if chars > document.limit {
                notes.push(format!(
                    "{} has {chars} characters, and {} are allowed: split its resources over \
                     several policies",
                    document.name, document.limit
                ));
            }
        }
        show(context, role, org, &sides, &cast, &documents, &keys, &notes)
    })
}

fn cast(
    config: &Config,
    arguments: &Arguments,
    list: &AllowList,
    sides: &Sides,
    notes: &mut Vec<String>,
) -> Cast {
    let process_role = match &arguments.worker_role_arn {
        Some(role) => role.to_string(),
        None => placeholder(config, arguments.mode, sides, notes),
    };
    let (role, external_id) = match &arguments.role_arn {
        Some(role) => (Some(role.clone()), arguments.external_id.clone()),
        None => access(list, sides, notes),
    };
    if role.is_some() && external_id.is_none() {
        notes.push(
            "the trust policy asks for no external id: without one, whoever can make our process \
             use this role's name can use the role"
                .to_owned(),
        );
    }
    Cast {
        process_role,
        customer_role: role.map(String::from),
        external_id: external_id.map(String::from),
    }
}

fn placeholder(config: &Config, mode: Mode, sides: &Sides, notes: &mut Vec<String>) -> String {
    let cmk = sides.new.first().map_or("", CmkArn::as_str);
    let partition = cmk.split(':').nth(1).unwrap_or("aws");
    let name = match mode {
        Mode::Verifier => "rekeyd-verifier",
        Mode::Reencrypt | Mode::Rewrap => "rekeyd-worker",
    };
    let account = match config.kms.account.as_str() {
        account if is_account(account) => account,
        _ => "111122223333",
    };
    let role = format!("arn:{partition}:iam::{account}:role/{name}");
    notes.push(format!(
        "{role} is a placeholder: put in the role that the process runs as, or give \
         --worker-role-arn"
    ));
    role
}

/// The role that the registry has for these CMKs. A ReEncrypt is made as the
/// role of the CMK that it goes to, so where they differ that one counts.
fn access(
    list: &AllowList,
    sides: &Sides,
    notes: &mut Vec<String>,
) -> (Option<RoleArn>, Option<ExternalId>) {
    let of = |cmk: &CmkArn| {
        let row = list.get(cmk);
        row.map(|row| (row.role_arn.clone(), row.external_id.clone()))
            .unwrap_or_default()
    };
    let chosen = sides.new.first().map(of).unwrap_or_default();
    if sides.all().any(|cmk| of(cmk) != chosen) {
        notes.push(
            "the registry has different roles for these CMKs: this is for the role of the first \
             new one. Print it again with each --role-arn"
                .to_owned(),
        );
    }
    chosen
}

fn documents(
    config: &Config,
    arguments: &Arguments,
    role: Role,
    sides: &Sides,
    cast: &Cast,
    notes: &mut Vec<String>,
) -> Vec<Document> {
    let whose = match cast.customer_role {
        Some(_) => "the customer's role, in the customer's account",
        None => "the role that the process runs as",
    };
    let mut all = vec![Document {
        name: "role_policy",
        goes: format!("permissions of {} ({whose})", cast.caller()),
        policy: iam::role_policy(role, &arguments.org, sides),
        limit: MANAGED_POLICY_CHARS,
    }];
    if let (Some(assume), Some(trust)) = (iam::assume_role(cast), iam::trust_policy(cast)) {
        all.push(Document {
            name: "assume_role_policy",
            goes: format!("permissions of {}", cast.process_role),
            policy: assume,
            limit: MANAGED_POLICY_CHARS,
        });
        all.push(Document {
            name: "trust_policy",
            goes: format!("trust policy of {} ({whose})", cast.caller()),
            policy: trust,
            limit: TRUST_POLICY_CHARS,
        });
    }
    // The verifier reads no queue.
    if role != Role::Verifier {
        match queues(config, arguments) {
            Some(queues) => all.push(Document {
                name: "queue_policy",
                goes: format!("permissions of {}", cast.process_role),
                policy: iam::queue_policy(&queues),
                limit: MANAGED_POLICY_CHARS,
            }),
            None => notes.push(
                "no policy for the queue: queue.kind is not sqs, or queue.url is none of AWS; \
                 --queue-arn and --dead-letter-arn name the queues"
                    .to_owned(),
            ),
        }
    }
    all
}

fn queues(config: &Config, arguments: &Arguments) -> Option<Queues> {
    let q = &config.queue;
    let of = |url: &Option<String>| {
        let url = url.as_deref().filter(|_| q.kind == QueueKind::Sqs)?;
        arn_of_queue(url)
    };
    Some(Queues {
        jobs: arguments.queue_arn.clone().or_else(|| of(&q.url))?,
        dead_letters: arguments
            .dead_letter_arn
            .clone()
            .or_else(|| of(&q.dead_letter_url)),
    })
}

/// `https://sqs.<region>.amazonaws.com[.cn]/<account>/<name>` as an ARN.
fn arn_of_queue(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://sqs.")?;
    let (host, path) = rest.split_once('/')?;
    let (region, domain) = host.split_once('.')?;
    let partition = match domain {
        "amazonaws.com" if region.starts_with("us-gov-") => "aws-us-gov",
        "amazonaws.com" => "aws",
        "amazonaws.com.cn" => "aws-cn",
        _ => return None,
    };
    let (account, name) = path.split_once('/')?;
    queue_arn(&format!("arn:{partition}:sqs:{region}:{account}:{name}")).ok()
}

/// A CMK that two organizations share cannot be held to one of them.
async fn shared_cmks(
    registry: &Registry,
    org: &OrgId,
    sides: &Sides,
) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    for other in all_orgs(registry).await? {
        if other == *org {
            continue;
        }
        let list = registry.allow_list(&other).await?;
        for cmk in sides.all().filter(|cmk| list.get(cmk).is_some()) {
            notes.push(format!(
                "{cmk} is on the list of {other} too: with these statements {other} could no \
                 longer use it; give each organization a CMK of its own"
            ));
        }
    }
    Ok(notes)
}

#[allow(clippy::too_many_arguments)]
fn show(
    context: &Context,
    role: Role,
    org: &OrgId,
    sides: &Sides,
    cast: &Cast,
    documents: &[Document],
    keys: &[iam::KeyPolicy],
    notes: &[String],
) -> Result<Exit, Failure> {
    let mut programs = json!({
        "org": org, "mode": role.as_str(), "old": sides.old, "new": sides.new,
        "process_role": cast.process_role, "caller": cast.caller(),
        "key_policies": keys, "notes": notes,
        "limits": {
            "managed_policy_chars": MANAGED_POLICY_CHARS,
            "key_policy_bytes": KEY_POLICY_BYTES,
            "trust_policy_chars": TRUST_POLICY_CHARS,
        },
    });
    let mut chars = serde_json::Map::new();
    for name in [
        "role_policy",
        "assume_role_policy",
        "trust_policy",
        "queue_policy",
    ] {
        let document = documents.iter().find(|d| d.name == name);
        programs[name] = document.map_or(Value::Null, |d| json!(d.policy));
        if let Some(document) = document {
            chars.insert(name.to_owned(), document.policy.chars().into());
        }
    }
    programs["chars"] = chars.into();
    context.out.show(&programs, || {
        let mut text = String::new();
        for document in documents {
            text += &heading(&document.goes, &document.policy, document.limit);
        }
        for key in keys {
            let goes = format!(
                "key policy of {} ({}): add these statements to those that are there",
                key.cmk,
                if key.is_new { "new" } else { "old" }
            );
            text += &heading(&goes, &key.policy, KEY_POLICY_BYTES);
        }
        for note in notes {
            text += &format!("note: {note}\n");
        }
        text
    })?;
    Ok(Exit::Done)
}

fn heading(goes: &str, policy: &Policy, limit: usize) -> String {
    format!(
        "# {goes}\n# {} of at most {limit} characters\n{}\n\n",
        policy.chars(),
        serde_json::to_string_pretty(policy).unwrap_or_default()
    )
}

fn queue_arn(text: &str) -> Result<String, String> {
    let is_one = matches!(
        text.splitn(6, ':').collect::<Vec<_>>().as_slice(),
        ["arn", partition, "sqs", region, account, name]
            if partition.starts_with("aws") && is_name(region) && is_account(account) && is_name(name)
    );
    match is_one {
        true => Ok(text.to_owned()),
        false => Err("a queue is `arn:aws:sqs:<region>:<12 digits>:<name>`".to_owned()),
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// What cannot be read as a wildcard or a policy variable.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_+=,.@/-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_found_by_its_url_at_aws_only() {
        for (url, arn) in [
            (
                "https://sqs.eu-west-1.amazonaws.com/111122223333/jobs.fifo",
                Some("arn:aws:sqs:eu-west-1:111122223333:jobs.fifo"),
            ),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/111122223333/jobs",
                Some("arn:aws-cn:sqs:cn-north-1:111122223333:jobs"),
            ),
            ("http://localhost:9324/000000000000/jobs", None),
            ("https://sqs.eu-west-1.amazonaws.com/jobs", None),
        ] {
            assert_eq!(arn_of_queue(url).as_deref(), arn, "{url}");
        }
    }

    #[test]
    fn no_wildcard_comes_in_by_a_name() {
        for bad in [
            "arn:aws:iam::111122223333:role/*",
            "arn:aws:iam::*:role/x",
            "arn:aws:iam::111122223333:role/${aws:username}",
            "*",
        ] {
            assert!(RoleArn::new(bad).is_err(), "{bad}");
        }
        assert!(queue_arn("arn:aws:sqs:eu-west-1:111122223333:*").is_err());
        assert!(ExternalId::new("${aws:username}").is_err());
    }
}
