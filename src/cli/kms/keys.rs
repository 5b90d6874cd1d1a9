//! The CMKs of the local key ring.

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::CmkArn;
use crate::kms::CmkState;
use crate::kms::local::NewKey;
use crate::wiring;

#[derive(clap::Args)]
pub(in crate::cli) struct Create {
    /// The region part of its ARN.
    #[arg(long, default_value = "local")]
    region: String,
    /// The account part of its ARN.
    #[arg(long, default_value = "000000000000")]
    account: String,
}

/// Prints the ARN alone, so that a script can take it as it is.
pub(super) fn create(context: &Context, arguments: &Create) -> Result<(), Failure> {
    let new = NewKey {
        region: arguments.region.clone(),
        account: arguments.account.clone(),
    };
    let unlock = wiring::unlock(context.config());
    let cmk = context.ring()?.create_key(&unlock, &new)?;
    context.out.show(&json!({"cmk": cmk}), || cmk.to_string())
}

/// The state as commands and JSON write it.
fn state(state: CmkState) -> &'static str {
    match state {
        CmkState::Enabled => "enabled",
        CmkState::Disabled => "disabled",
        CmkState::PendingDeletion => "pending_deletion",
        CmkState::PendingImport => "pending_import",
        CmkState::Unavailable => "unavailable",
        CmkState::Creating => "creating",
    }
}

pub(super) fn list(context: &Context) -> Result<(), Failure> {
    let mut keys = context.ring()?.list()?;
    keys.sort_by_key(|key| (key.created_ms, key.cmk.clone()));
    context.out.show(&json!({"cmks": keys}), || {
        if keys.is_empty() {
            return "no CMKs yet; make one with `rekeyd kms create-key`".to_owned();
        }
        out::table(
            ["cmk", "state", "made", "deletion"],
            keys.iter().map(|key| {
                [
                    key.cmk.to_string(),
                    state(key.state).to_owned(),
                    figures::time(key.created_ms),
                    key.deletion_ms.map(figures::time).unwrap_or_default(),
                ]
            }),
        )
    })
}

pub(super) fn enable(context: &Context, cmk: &CmkArn) -> Result<(), Failure> {
    context.ring()?.enable(cmk)?;
    tell(context, cmk, CmkState::Enabled, "enabled")
}

pub(super) fn disable(context: &Context, cmk: &CmkArn) -> Result<(), Failure> {
    context.ring()?.disable(cmk)?;
    tell(
        context,
        cmk,
        CmkState::Disabled,
        "disabled; `rekeyd kms enable` takes it back",
    )
}

pub(super) fn schedule_deletion(context: &Context, cmk: &CmkArn, days: u32) -> Result<(), Failure> {
    let at_ms = context.ring()?.schedule_deletion(cmk, days)?;
    let programs = json!({"cmk": cmk, "state": CmkState::PendingDeletion, "deletion_ms": at_ms});
    context.out.show(&programs, || {
        format!(
            "{cmk} will be deleted at {}; `rekeyd kms cancel-deletion` takes it back",
            figures::time(at_ms)
        )
    })
}

pub(super) fn cancel_deletion(context: &Context, cmk: &CmkArn) -> Result<(), Failure> {
    context.ring()?.cancel_deletion(cmk)?;
    tell(
        context,
        cmk,
        CmkState::Disabled,
        "not to be deleted any more, and disabled; `rekeyd kms enable` lets it be used",
    )
}

fn tell(context: &Context, cmk: &CmkArn, state: CmkState, words: &str) -> Result<(), Failure> {
    context.out.show(&json!({"cmk": cmk, "state": state}), || {
        format!("{cmk} is {words}")
    })
}
