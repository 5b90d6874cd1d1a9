//! `rekeyd org`
//!
//! | file | what |
//! |---|---|
//! | `consent` | that a channel may go to another organization |
//! | `show` | what should be for one organization, and which there are |

mod consent;
mod show;

use clap::Subcommand;
use serde_json::json;

use crate::audit::Record;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::ids::{CmkArn, ExternalId, OrgId, RoleArn};
use crate::kms::{ReasonCode, Use};
use crate::registry::CmkAccess;
use crate::scope::Scope;

/// How a CMK in the customer's account is reached.
#[derive(clap::Args)]
pub(super) struct Role {
    /// The role in the customer's account to assume for this CMK (AWS KMS).
    #[arg(long, value_name = "ARN")]
    role_arn: Option<RoleArn>,
    /// What that role asks for besides our identity. Never shown again.
    #[arg(long, value_name = "ID", requires = "role_arn")]
    external_id: Option<ExternalId>,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Enter an organization with the CMK it begins under.
    #[command(
        after_help = "Example:\n  rekeyd org add acme --cmk arn:aws:kms:local:000000000000:key/1f6c…"
    )]
    Add {
        /// The organization's id.
        org: OrgId,
        /// The CMK that its data keys are wrapped with.
        #[arg(long, value_name = "ARN")]
        cmk: CmkArn,
        #[command(flatten)]
        role: Role,
    },
    /// Put a CMK on an organization's allow-list: a rekey may then go to it.
    #[command(
        after_help = "Example:\n  rekeyd org allow-cmk acme arn:aws:kms:local:000000000000:key/9b3e…"
    )]
    AllowCmk {
        /// The organization.
        org: OrgId,
        /// The CMK.
        #[arg(value_name = "ARN")]
        cmk: CmkArn,
        #[command(flatten)]
        role: Role,
        /// Use the CMK as ourselves from now on, without the role it had.
        #[arg(long, conflicts_with = "role_arn")]
        no_role: bool,
    },
    /// Consent that a channel goes from one organization to another.
    ConsentMove(consent::ConsentMove),
    /// Show what should be for an organization: its CMK, epochs, channels.
    #[command(after_help = "Example:\n  rekeyd org show acme")]
    Show {
        /// The organization.
        org: OrgId,
    },
    /// List the organizations.
    #[command(after_help = "Example:\n  rekeyd org list")]
    List,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    context.run(async {
        match command {
            Command::Add { org, cmk, role } => {
                let access = role.access().unwrap_or_default();
                enter(context, org, cmk, Some(access), Entry::Org).await
            }
            Command::AllowCmk {
                org,
                cmk,
                role,
                no_role,
            } => {
                let access = role.access().or(no_role.then(CmkAccess::default));
                enter(context, org, cmk, access, Entry::Cmk).await
            }
            Command::ConsentMove(asked) => consent::run(context, asked).await,
            Command::Show { org } => show::one(context, org).await,
            Command::List => show::list(context).await,
        }
    })
}

impl Role {
    fn access(&self) -> Option<CmkAccess> {
        self.role_arn.as_ref().map(|role| CmkAccess {
            role_arn: Some(role.clone()),
            external_id: self.external_id.clone(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Org,
    Cmk,
}

/// Enters a CMK, and with the first one its organization. A data key is wrapped
/// under the canary context and kept beside the CMK, so that a job can try the
/// CMK before it changes anything. A CMK that is entered again keeps its role if
/// no `access` is given.
async fn enter(
    context: &Context,
    org: &OrgId,
    cmk: &CmkArn,
    access: Option<CmkAccess>,
    entry: Entry,
) -> Result<Exit, Failure> {
    let registry = context.registry().await?;
    // Asked before the KMS is: a command that cannot succeed makes no call.
    let active = match (registry.org(org).await, entry) {
        (Ok(_), Entry::Org) => {
            return Err(crate::registry::RegistryError::OrgExists(org.clone()).into());
        }
        (Err(crate::registry::RegistryError::UnknownOrg(_)), Entry::Org) => false,
        (Ok(row), Entry::Cmk) => row.cmk == *cmk,
        (Err(error), _) => return Err(error.into()),
    };
    let access = match access {
        Some(access) => access,
        None => registry
            .cmk(org, cmk)
            .await?
            .map(|row| CmkAccess {
                role_arn: row.role_arn,
                external_id: row.external_id,
            })
            .unwrap_or_default(),
    };
    let audit = context.audit(OPERATOR)?;
    let entering = (org, cmk, &access);
    let kms = context.kms_entering(OPERATOR, &audit, entering).await?;
    let who = who();
    let (action, reason) = match entry {
        Entry::Org => ("org_add", "an organization is entered"),
        Entry::Cmk => ("allow_cmk", "a CMK is allowed"),
    };
    let mut why = Use::new(ReasonCode::Enrol, reason);
    why.requested_by = Some(who.clone());
    let canary = Scope::Canary { org: org.clone() };
    let made = kms.generate_data_key(cmk, &canary, &why).await;
    // Whatever came of the call is on disk before anything relies on it (I16).
    audit.durable().await?;
    let wrap = made.map_err(|e| report::about_cmk(e, cmk))?.wrapped.bytes;
    match entry {
        Entry::Org => {
            registry
                .add_org_with(org, cmk, &access, &wrap, &who)
                .await?
        }
        Entry::Cmk => {
            registry
                .allow_cmk_with(org, cmk, &access, &wrap, &who)
                .await?
        }
    }
    let mut record = Record::registry(org, action, None, &why);
    record.cmk = Some(cmk.clone());
    audit.record(record);
    audit.close().await?;

    let programs = json!({
        "org": org, "cmk": cmk, "did": action, "by": who, "role_arn": access.role_arn,
    });
    context.out.show(&programs, || match entry {
        Entry::Org => format!(
            "{org} is entered under {cmk}\n\nnext: rekeyd import slack-export DIR --org {org} --workspace <ID>, \
             or let the application write; rekeyd org allow-cmk {org} <ARN> lets a second CMK in"
        ),
        Entry::Cmk if active => {
            format!("{cmk} is active for {org} already; its canary is made anew")
        }
        Entry::Cmk => format!(
            "{cmk} is a target for {org}\n\nnext: rekeyd enqueue rekey --org {org} --to {cmk}"
        ),
    })?;
    Ok(Exit::Done)
}
