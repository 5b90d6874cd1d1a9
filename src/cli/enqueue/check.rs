//! Whether a worker would take a request, asked before it is sent: who mistypes a
//! name hears of it at once, not from the dead letters.
//!
//! The worker asks the same again and decides (I15). Whoever may send need not be
//! able to read the store, so no answer holds nothing up.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{Failure, Missing};
use crate::job::JobMessage;
use crate::registry::{Refusal, Registry, RegistryError};

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of it.
pub(super) enum Checked {
    /// A worker would take it, as things are.
    Good,
    /// Nobody could say, and why.
    NotAnswered(String),
}

/// Asks the registry what a worker will ask it.
///
/// # Errors
/// If a worker would refuse the request.
pub(super) async fn check(context: &Context, message: &JobMessage) -> Result<Checked, Failure> {
    let asked = tokio::time::timeout(PATIENCE, async {
        let registry = Registry::new(context.store().await?, context.clock.clone());
        Ok::<_, Failure>(match message {
            JobMessage::Rekey(rekey) => registry.authorize_target(&rekey.org, &rekey.to_cmk).await,
            JobMessage::Move(request) => registry.authorize_move(request).await,
        })
    });
    let why = match asked.await {
        Ok(Ok(Ok(()))) => return Ok(Checked::Good),
        Ok(Ok(Err(RegistryError::Refused(refusal)))) => return Err(refused(&refusal)),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(failure)) => failure.what().to_owned(),
        Err(_) => format!("the store did not answer within {} s", PATIENCE.as_secs()),
    };
    Ok(Checked::NotAnswered(why))
}

fn refused(refusal: &Refusal) -> Failure {
    let words = refusal.to_string();
    let code = words.split(':').next().unwrap_or_default();
    let what = format!("nothing was sent: a worker would refuse it: {words}");
    let help = format!("see `rekeyd explain {code}`; `--unchecked` sends it all the same");
    match refusal {
        Refusal::UnknownOrg(org) => {
            Failure::new(Exit::NotFound, what).missing(Missing::Org(org.clone()))
        }
        Refusal::UnknownChannel { .. } => Failure::new(Exit::NotFound, what),
        _ => Failure::new(Exit::Conflict, what),
    }
    .help(help)
}
