//! The reason that an operator gives.

use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::steer;

/// An operator's reason as histories and the audit log keep it, or `otherwise`
/// where none was given.
///
/// # Errors
/// If it is given and empty, or has control characters, which could steer the
/// terminal of who reads it.
pub(super) fn reason(given: Option<&str>, otherwise: &str) -> Result<String, Failure> {
    let Some(given) = given else {
        return Ok(otherwise.to_owned());
    };
    steer::reason(given).map_err(|_| {
        let what = "--reason is to say why, without control characters";
        Failure::new(Exit::Usage, what)
    })
}
