//! What is wrong with a configuration, where, and what is allowed there.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A line of the file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line } => write!(f, "{} line {line}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: String,
    },
    /// The file is not TOML.
    #[error("{at}: not valid TOML: {error}")]
    Syntax {
        /// Where.
        at: Source,
        /// The parser's words.
        error: String,
    },
    /// No such setting.
    #[error("{at}: `{name}` is not a setting{}", suggest(.suggestion))]
    Unknown {
        /// Where.
        at: Source,
        /// The name as written.
        name: String,
        /// The nearest name there is.
        suggestion: Option<String>,
    },
    /// A value that the setting does not take.
    #[error("{at}: `{name}` must be {allowed}, not {given}")]
    Value {
        /// Where.
        at: Source,
        /// The setting.
        name: &'static str,
        /// What it takes.
        allowed: String,
        /// What was given, shortened.
        given: String,
    },
}

fn suggest(name: &Option<String>) -> String {
    match name {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; `rekeyd config check` lists all of them".to_owned(),
    }
}

/// Everything that is wrong, so that it can be mended in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
