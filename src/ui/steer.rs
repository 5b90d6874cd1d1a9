//! Steering by a form: pause, resume, slow down. Only where a token is set, and
//! each time with it: the page keeps no session, so that there is nothing that
//! another site could have a viewer's browser use.

use std::os::unix::fs::MetadataExt;
use std::path::Path as FilePath;
use std::time::Duration;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::html;
use super::page::{Shared, refuse};
use crate::audit::AuditLog;
use crate::ids::JobId;
use crate::job::{BookError, ThrottleLimits, ThrottleTarget};
use crate::steer::{self, Act, SteerError};

/// So that nobody finds it by trying.
const SHORTEST: usize = 24;
/// What a wrong token costs.
const AFTER_A_WRONG_ONE: Duration = Duration::from_secs(1);
/// The longest name, in characters.
const WHO_CHARS: usize = 64;
/// The most that a form of ours sends.
pub(super) const FORM_BYTES: usize = 8 << 10;

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file: {0}")]
    Io(#[from] std::io::Error),
    /// Everybody on this machine has it.
    #[error("the token file can be read by every user of this machine")]
    Open,
    /// It could be found by trying.
    #[error("the token is shorter than {SHORTEST} characters")]
    Short,
}

/// What who steers has to know. Kept as its hash.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// From a file, whose first line it is.
    ///
    /// # Errors
    /// If it cannot be read, others can read it too, or it is too short.
    pub fn read(path: &FilePath) -> Result<Self, TokenError> {
        if std::fs::metadata(path)?.mode() & 0o007 != 0 {
            return Err(TokenError::Open);
        }
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        let token = text.lines().next().unwrap_or_default().trim();
        match token.chars().count() < SHORTEST {
            true => Err(TokenError::Short),
            false => Ok(Self(Sha256::digest(token).into())),
        }
    }

    fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given.trim()).into();
        given.ct_eq(&self.0).into()
    }
}

/// What steering needs besides what is read.
#[derive(Clone)]
pub struct Steering {
    /// What who steers has to know.
    pub token: Token,
    /// Where it is recorded.
    pub audit: AuditLog,
}

/// What the form sends. Fields of other buttons come along.
#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(rename = "do")]
    what: What,
    token: Secret,
    who: String,
    why: String,
    #[serde(default)]
    rows_per_s: String,
    #[serde(default)]
    minutes: String,
}

/// Wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Pause,
    Resume,
    Throttle,
    Clear,
}

/// The form.
pub(super) async fn form(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<JobId>() else {
        return refuse(StatusCode::NOT_FOUND, "that is no job id");
    };
    match shared.looks.source.book.find(id).await {
        Ok(Some(job)) => Html(html::steer(&job.row).into_string()).into_response(),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "there is no such job"),
        Err(error) => refused(error.into()),
    }
}

/// Does what the form asks for, and goes back to the job.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    asked: Result<Form<Asked>, FormRejection>,
) -> Response {
    let Some(steering) = &shared.steering else {
        return refuse(StatusCode::NOT_FOUND, "there is no such page");
    };
    // Browsers say so; whoever does not has the token to know all the same.
    let site = headers.get("sec-fetch-site").and_then(|v| v.to_str().ok());
    if site.is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return refuse(StatusCode::FORBIDDEN, "this form was sent by another site");
    }
    let asked = match asked {
        Ok(Form(asked)) => asked,
        Err(error) => return refuse(error.status(), &error.body_text()),
    };
    let Ok(id) = id.parse::<JobId>() else {
        return refuse(StatusCode::NOT_FOUND, "that is no job id");
    };
    if !steering.token.is(&asked.token.0) {
        tracing::warn!(job = %id, "a wrong token was given to the status page");
        tokio::time::sleep(AFTER_A_WRONG_ONE).await;
        let why = "that is not the token; nothing was changed";
        return refuse(StatusCode::FORBIDDEN, why);
    }
    match done(&shared, steering, id, &asked).await {
        Ok(()) => Redirect::to(&format!("/jobs/{id}")).into_response(),
        Err(error) => refused(error),
    }
}

async fn done(
    shared: &Shared,
    steering: &Steering,
    job: JobId,
    asked: &Asked,
) -> Result<(), SteerError> {
    let name = steer::reason(&asked.who)?;
    let name: String = name.chars().take(WHO_CHARS).collect();
    let who = format!("{name} (status page)");
    let why = format!("by {who}: {}", steer::reason(&asked.why)?);
    let source = &shared.looks.source;
    let (book, audit) = (&source.book, &steering.audit);
    let act = Act {
        book,
        audit,
        job,
        who: &who,
        why: &why,
    };
    let target = ThrottleTarget::Job(job);
    match asked.what {
        What::Pause => steer::pause(&act).await.map(drop)?,
        What::Resume => steer::resume(&act).await.map(drop)?,
        What::Clear => steer::clear((book, audit), &target, (&who, &why)).await?,
        What::Throttle => {
            book.find(job).await?.ok_or(SteerError::NoJob(job))?;
            let (limits, span) = limits(asked)?;
            let parts = (book, audit, &source.clock);
            steer::throttle(parts, &target, limits, span, (&who, &why)).await?;
        }
    }
    // It stands by the time the answer is given, and is in the log for good.
    audit.durable().await?;
    Ok(())
}

fn limits(asked: &Asked) -> Result<(ThrottleLimits, Duration), SteerError> {
    let no = |what: &str| SteerError::Limits(what.to_owned());
    let rows = asked.rows_per_s.trim().parse::<f64>();
    let minutes = asked.minutes.trim().parse::<u64>();
    let limits = ThrottleLimits {
        rows_per_s: Some(rows.map_err(|_| no("rows a second are a number"))?),
        ..ThrottleLimits::default()
    };
    let minutes = minutes.map_err(|_| no("the time that it holds for is in whole minutes"))?;
    Ok((limits, Duration::from_secs(minutes.saturating_mul(60))))
}

fn refused(error: SteerError) -> Response {
    let status = match &error {
        SteerError::NoJob(_) | SteerError::NoThrottle(_) => StatusCode::NOT_FOUND,
        SteerError::Reason | SteerError::Limits(_) => StatusCode::BAD_REQUEST,
        SteerError::Refused { .. } | SteerError::Book(BookError::NoSuchWay { .. }) => {
            StatusCode::CONFLICT
        }
        SteerError::Book(_) | SteerError::Audit(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let why = match &error {
        SteerError::Reason => {
            "say who you are and why, without control characters; nothing was changed".to_owned()
        }
        error => error.to_string(),
    };
    refuse(status, &why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_that_others_know_or_could_find_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path)
        };
        let long = "correct horse battery staple";
        assert!(matches!(write(long, 0o604), Err(TokenError::Open)));
        assert!(matches!(write("short\n", 0o600), Err(TokenError::Short)));
        assert!(matches!(write("", 0o600), Err(TokenError::Short)));
        let token = write(&format!("{long}\nmore\n"), 0o640).ok().unwrap();
        assert!(token.is(long) && token.is(&format!(" {long} ")));
        assert!(!token.is("") && !token.is("correct horse battery stapl"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Io(_))));
    }
}
