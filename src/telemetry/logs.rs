//! Log lines on standard error.

use std::ffi::OsStr;
use std::io::IsTerminal;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::LogFormat;

/// The variable that makes the AWS SDK write request and response bodies, and
/// with them data keys in clear, to its trace log.
const BODY_TRACING: &str = "LOG_SENSITIVE_BODIES";

/// Libraries that are held to a level whatever the operator's filter says: some
/// write bodies or headers at `debug` and `trace`, the rest only drown the lines
/// that matter. Each entry is a prefix of the target.
const CAPS: [(&str, LevelFilter); 9] = [
    ("aws_", LevelFilter::INFO),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("mio", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("scylla", LevelFilter::INFO),
    ("tokio", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
    ("want", LevelFilter::INFO),
];

/// Logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The environment asks for keys in the log.
    #[error(
        "the environment has {BODY_TRACING} set, which would write data keys to the log; \
         remove it and start again"
    )]
    BodyTracing,
    /// The filter does not parse.
    #[error("log.filter `{filter}` is not a log filter: {error}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        error: String,
    },
    /// Logging was started before.
    #[error("logging was already started in this process")]
    Twice,
}

/// Sends log lines to standard error from here on.
///
/// # Errors
/// If the environment asks for bodies to be traced: the process must not start.
/// If the filter does not parse, or logging was started before.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    check_body_tracing()?;
    let colors = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, filter, colors, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

/// Whether the environment leaves bodies out of the log. To be asked before any
/// client of AWS is made.
///
/// # Errors
/// [`LogError::BodyTracing`] if it asks for them.
pub fn check_body_tracing() -> Result<(), LogError> {
    refuse_body_tracing(std::env::var_os(BODY_TRACING).as_deref())
}

/// Anything but a clear no counts as a yes: the SDK may read it otherwise than we do.
fn refuse_body_tracing(value: Option<&OsStr>) -> Result<(), LogError> {
    match value.map(OsStr::to_str) {
        None | Some(Some("" | "0" | "false")) => Ok(()),
        Some(_) => Err(LogError::BodyTracing),
    }
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colors: bool,
    out: W,
) -> Result<impl Subscriber + Send + Sync, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = EnvFilter::try_new(filter).map_err(|e| LogError::Filter {
        filter: filter.to_owned(),
        error: e.to_string(),
    })?;
    let cap = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(CAPS);
    let lines = tracing_subscriber::fmt::layer().with_writer(out);
    let lines = match format {
        LogFormat::Human => lines.with_ansi(colors).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .boxed(),
    };
    Ok(Registry::default().with(lines.with_filter(wanted.and(cap))))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ids::{JobId, OrgId};
    use crate::telemetry::span;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, body: impl FnOnce()) -> String {
        let lines = Lines::default();
        let out = lines.clone();
        let subscriber = subscriber(format, filter, false, move || out.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, body);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_says_what_it_is_about_at_any_level() {
        let org = OrgId::new("acme").unwrap();
        let job = JobId::random();
        for filter in ["info", "warn", "error"] {
            let text = logged(LogFormat::Json, filter, || {
                let _task = span::task("w-1", &org, job, &"000001/000002", "rewrite", 7).entered();
                tracing::error!(rows = 3, "parked");
            });
            let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
            assert_eq!(line["message"], "parked");
            assert_eq!(line["rows"], 3);
            let spans = line["spans"].as_array().unwrap();
            assert_eq!(spans.len(), 1);
            let expected = serde_json::json!({
                "name": "task", "worker": "w-1", "org": "acme", "job": job.to_string(),
                "task": "000001/000002", "pass": "rewrite", "token": 7,
            });
            assert_eq!(spans[0], expected);
        }
        let text = logged(LogFormat::Human, "info", || {
            let _job = span::job("w-1", &org, job).entered();
            tracing::info!("done");
        });
        assert!(
            text.contains("job{worker=w-1 org=acme job=") && text.contains("done"),
            "{text}"
        );
    }

    #[test]
    fn no_filter_lifts_the_cap_on_a_library() {
        for filter in ["trace", "aws_smithy_runtime=trace,hyper=trace,rekeyd=trace"] {
            let text = logged(LogFormat::Human, filter, || {
                tracing::trace!(target: "aws_smithy_runtime::client", "a body");
                tracing::debug!(target: "hyper::proto", "a header");
                tracing::info!(target: "hyper::proto", "at info");
                tracing::trace!(target: "rekeyd::pipeline", "ours");
            });
            assert!(
                !text.contains("a body") && !text.contains("a header"),
                "{text}"
            );
            assert!(text.contains("at info") && text.contains("ours"), "{text}");
        }
    }

    #[test]
    fn body_tracing_is_refused() {
        for yes in ["true", "TRUE", "1", "yes", "on", "anything"] {
            assert!(refuse_body_tracing(Some(OsStr::new(yes))).is_err(), "{yes}");
        }
        for no in [None, Some(""), Some("0"), Some("false")] {
            assert!(refuse_body_tracing(no.map(OsStr::new)).is_ok(), "{no:?}");
        }
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let error = subscriber(LogFormat::Human, "rekeyd=loud", false, std::io::sink).err();
        assert!(error.unwrap().to_string().contains("`rekeyd=loud`"));
    }
}
