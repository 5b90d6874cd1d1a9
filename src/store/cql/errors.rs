//! The driver's errors, turned into the store's: decided here and nowhere else.

use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, ExecutionError, FrameHeaderParseError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError,
};

use crate::store::{StoreError, StoreErrorClass};

/// What a failed request says about the load of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing.
    Unsaid,
    /// It did not answer in time.
    TimedOut,
    /// It said that it has too much to do.
    Overloaded,
}

/// A failed request, sorted.
#[derive(Debug)]
pub(super) struct Failure {
    /// How the caller is to treat it.
    pub class: StoreErrorClass,
    /// What it says about load.
    pub load: Load,
    /// Whether the request surely never got to a replica, or was refused before
    /// anything was done. A conditional write of which this cannot be said is
    /// ambiguous.
    pub not_done: bool,
    /// Whether keyspace or tables are not there at all.
    is_not_set_up: bool,
    /// What happened, for people.
    message: String,
    source: Option<ExecutionError>,
}

impl Failure {
    fn new(class: StoreErrorClass, load: Load, not_done: bool, message: String) -> Self {
        Self {
            class,
            load,
            not_done,
            is_not_set_up: false,
            message,
            source: None,
        }
    }

    /// The error for the caller; `what` was being done.
    pub fn into_error(self, what: &str) -> StoreError {
        StoreError {
            class: self.class,
            message: format!("{what}: {}", self.message),
            is_not_set_up: self.is_not_set_up,
            source: self.source.map(Into::into),
        }
    }
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Self {
        let mut failure = sort(&error);
        failure.source = Some(error);
        failure
    }
}

const SCHEMA: &str = "run `rekeyd schema check`, and `rekeyd schema apply` if tables are missing";

fn transient(load: Load, not_done: bool, message: impl Into<String>) -> Failure {
    Failure::new(StoreErrorClass::Transient, load, not_done, message.into())
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(StoreErrorClass::Invalid, Load::Unsaid, true, message.into())
}

fn fatal(message: impl Into<String>) -> Failure {
    Failure::new(StoreErrorClass::Fatal, Load::Unsaid, true, message.into())
}

fn sort(error: &ExecutionError) -> Failure {
    match error {
        ExecutionError::BadQuery(e) => invalid(e.to_string()),
        ExecutionError::EmptyPlan => transient(
            Load::Unsaid,
            true,
            "no node can be asked: none of the home datacenter is connected",
        ),
        ExecutionError::ConnectionPoolError(e) => no_connection(e),
        ExecutionError::PrepareError(e) => prepare(e),
        ExecutionError::LastAttemptError(e) => attempt(e),
        ExecutionError::RequestTimeout(after) => transient(
            Load::TimedOut,
            false,
            format!("no answer within {} ms", after.as_millis()),
        ),
        ExecutionError::UseKeyspaceError(e) => fatal(format!("{e}; {SCHEMA}")),
        // Schema agreement, metadata, and what later versions add.
        other => transient(Load::Unsaid, false, other.to_string()),
    }
}

fn no_connection(error: &ConnectionPoolError) -> Failure {
    transient(
        Load::Unsaid,
        true,
        format!("no connection to a node: {error}"),
    )
}

fn prepare(error: &PrepareError) -> Failure {
    match error {
        PrepareError::ConnectionPoolError(e) => no_connection(e),
        PrepareError::AllAttemptsFailed { first_attempt } => {
            let failure = attempt(first_attempt);
            match failure.class {
                // What cannot be prepared at all is not the fault of a row.
                StoreErrorClass::Invalid => fatal(format!("{}; {SCHEMA}", failure.message)),
                _ => failure,
            }
        }
        other => fatal(other.to_string()),
    }
}

fn attempt(error: &RequestAttemptError) -> Failure {
    match error {
        RequestAttemptError::DbError(error, message) => answer(error, message),
        RequestAttemptError::SerializationError(e) => invalid(e.to_string()),
        RequestAttemptError::CqlRequestSerialization(e) => invalid(e.to_string()),
        RequestAttemptError::UnableToAllocStreamId => transient(
            Load::Overloaded,
            true,
            "too many requests on one connection",
        ),
        RequestAttemptError::BrokenConnectionError(e) => transient(
            Load::Unsaid,
            false,
            format!("the connection to the node broke: {e}"),
        ),
        RequestAttemptError::RepreparedIdChanged { .. }
        | RequestAttemptError::RepreparedIdMissingInBatch => fatal(
            "the tables changed under this process; see `rekeyd schema check`, then start it again",
        ),
        // Answers that cannot be read: cut or garbled on the way.
        other => transient(Load::Unsaid, false, other.to_string()),
    }
}

/// Every error code of the protocol.
fn answer(error: &DbError, said: &str) -> Failure {
    match error {
        DbError::SyntaxError => fatal(format!("the server does not understand: {said}")),
        DbError::Invalid if is_about_schema(said) => Failure {
            is_not_set_up: is_missing(said),
            ..fatal(format!("{said}; {SCHEMA}"))
        },
        DbError::Invalid => invalid(format!("refused: {said}")),
        DbError::Unauthorized => fatal(format!(
            "the database user may not do this ({said}); grant it, see docs/store-scylla.md"
        )),
        DbError::AuthenticationError => fatal(format!(
            "the server refuses the user or password ({said}); see store.user and REKEYD_STORE_PASSWORD"
        )),
        DbError::AlreadyExists { .. } | DbError::FunctionFailure { .. } => fatal(said),
        DbError::ConfigError => fatal(format!("{said}; {SCHEMA}")),
        DbError::ProtocolError => fatal(format!("protocol error: {said}")),
        DbError::Unavailable {
            required, alive, ..
        } => transient(
            Load::Unsaid,
            // Said before a data write is sent. A conditional write may have
            // been through its first phases.
            false,
            format!("{required} replicas are needed and {alive} are up"),
        ),
        DbError::Overloaded => transient(Load::Overloaded, false, format!("overloaded: {said}")),
        DbError::RateLimitReached { .. } => {
            transient(Load::Overloaded, false, format!("rate limit: {said}"))
        }
        DbError::ReadTimeout {
            received, required, ..
        } => transient(
            Load::TimedOut,
            false,
            format!("{received} of {required} replicas answered a read in time"),
        ),
        DbError::WriteTimeout {
            received, required, ..
        } => transient(
            Load::TimedOut,
            false,
            format!("{received} of {required} replicas answered a write in time"),
        ),
        DbError::ReadFailure { numfailures, .. } => transient(
            Load::Unsaid,
            false,
            format!("{numfailures} replicas failed to read: {said}"),
        ),
        DbError::WriteFailure { numfailures, .. } => transient(
            Load::Unsaid,
            false,
            format!("{numfailures} replicas failed to write: {said}"),
        ),
        DbError::IsBootstrapping
        | DbError::TruncateError
        | DbError::Unprepared { .. }
        | DbError::ServerError
        | DbError::Other(_) => transient(Load::Unsaid, false, format!("{error}: {said}")),
        other => transient(Load::Unsaid, false, format!("{other}: {said}")),
    }
}

/// Whether an invalid request is invalid because the tables are not ours. The
/// protocol has one code for this and for a value that is refused.
fn is_about_schema(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    [
        "unconfigured table",
        "does not exist",
        "undefined column",
        "unrecognized name",
        "unknown identifier",
        "no keyspace has been specified",
    ]
    .iter()
    .any(|words| said.contains(words))
}

/// Whether keyspace or tables are not there, and not only other than ours. A
/// column or a type that does not exist is of a table that somebody else made.
fn is_missing(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("unconfigured table")
        || said.contains("no keyspace has been specified")
        || (said.contains("keyspace") && said.contains("does not exist"))
}

/// The error of a statement that could not be prepared.
pub(super) fn of_prepare(error: PrepareError) -> StoreError {
    Failure::from(ExecutionError::PrepareError(error)).into_error("preparing statements")
}

/// The error of a session that could not be opened.
pub(super) fn of_connect(error: NewSessionError, nodes: &str) -> StoreError {
    let text = error.to_string();
    let class = match &error {
        NewSessionError::IllegalConfig(_)
        | NewSessionError::EmptyKnownNodesList
        | NewSessionError::UseKeyspaceError(_) => StoreErrorClass::Fatal,
        _ if is_about_login(&error) => StoreErrorClass::Fatal,
        _ => StoreErrorClass::Transient,
    };
    let (class, message) = match (tls_advice(&error), class) {
        (Some(advice), _) => (
            StoreErrorClass::Fatal,
            format!("no TLS connection to the cluster at {nodes}: {text}; {advice}"),
        ),
        (None, StoreErrorClass::Fatal) => (
            class,
            format!(
                "cannot log in to the cluster at {nodes}: {text}; see store.user, REKEYD_STORE_PASSWORD and store.tls"
            ),
        ),
        _ => (
            class,
            format!("cannot reach the cluster at {nodes}: {text}"),
        ),
    };
    StoreError {
        class,
        message,
        is_not_set_up: false,
        source: Some(error.into()),
    }
}

/// What to do if TLS is why there is no connection, and waiting does not help.
fn tls_advice(error: &NewSessionError) -> Option<&'static str> {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken {
            last_connection_error,
        },
    )) = error
    else {
        return None;
    };
    let rustls = |error: &std::io::Error| error.get_ref()?.downcast_ref::<rustls::Error>().cloned();
    // The driver hands on what it got without its causes: look into each.
    let error = match last_connection_error {
        ConnectionError::IoError(error) => rustls(error)?,
        // The node looks at our certificate when we believe to be connected.
        ConnectionError::ConnectionSetupRequestError(setup) => {
            let ConnectionSetupRequestErrorKind::BrokenConnection(broken) = setup.get_error()
            else {
                return None;
            };
            match broken.downcast_ref::<BrokenConnectionErrorKind>()? {
                BrokenConnectionErrorKind::FrameHeaderParseError(
                    FrameHeaderParseError::HeaderIoError(error),
                )
                | BrokenConnectionErrorKind::WriteError(error) => rustls(error)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    match error {
        rustls::Error::InvalidCertificate(_) => Some(
            "store.tls_ca must name the authority of the nodes' certificates, and those must be valid for the nodes' IP addresses",
        ),
        rustls::Error::AlertReceived(_) => Some(
            "the node asks for a certificate that it trusts: see store.tls_cert and store.tls_key",
        ),
        rustls::Error::InvalidMessage(_) => {
            Some("the node does not speak TLS there: see store.tls and the port in store.nodes")
        }
        _ => None,
    }
}

/// Whether the server asked for a login or refused ours, wherever in the chain
/// of causes it says so.
fn is_about_login(error: &NewSessionError) -> bool {
    use scylla::errors::ConnectionSetupRequestError;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(setup) = error.downcast_ref::<ConnectionSetupRequestError>() {
            return matches!(
                setup.get_error(),
                ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, _)
                    | ConnectionSetupRequestErrorKind::MissingAuthentication
            );
        }
        cause = error.source();
    }
    let text = format!("{error:?}");
    text.contains("MissingAuthentication") || text.contains("AuthenticationError")
}

/// An answer of another shape than the statement's.
pub(super) fn unexpected(what: &str, error: impl std::error::Error) -> StoreError {
    StoreError::new(
        StoreErrorClass::Fatal,
        format!("{what}: an answer of an unexpected shape ({error}); {SCHEMA}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(error: DbError, said: &str) -> (StoreErrorClass, Load) {
        let error =
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, said.to_owned()));
        let failure = Failure::from(error);
        (failure.class, failure.load)
    }

    #[test]
    fn answers_are_sorted_by_what_can_be_done_about_them() {
        use StoreErrorClass::{Fatal, Invalid, Transient};
        let consistency = scylla::statement::Consistency::LocalQuorum;
        let cases = [
            (DbError::Overloaded, "busy", (Transient, Load::Overloaded)),
            (
                DbError::ReadTimeout {
                    consistency,
                    received: 1,
                    required: 2,
                    data_present: true,
                },
                "",
                (Transient, Load::TimedOut),
            ),
            (
                DbError::Unavailable {
                    consistency,
                    required: 2,
                    alive: 1,
                },
                "",
                (Transient, Load::Unsaid),
            ),
            (DbError::ServerError, "boom", (Transient, Load::Unsaid)),
            (DbError::Other(7), "new", (Transient, Load::Unsaid)),
            (DbError::Invalid, "Batch too large", (Invalid, Load::Unsaid)),
            (
                DbError::Invalid,
                "unconfigured table cells",
                (Fatal, Load::Unsaid),
            ),
            (DbError::SyntaxError, "line 1", (Fatal, Load::Unsaid)),
            (DbError::Unauthorized, "no", (Fatal, Load::Unsaid)),
        ];
        for (error, said, expected) in cases {
            assert_eq!(class_of(error.clone(), said), expected, "{error:?} {said}");
        }
    }

    #[test]
    fn a_keyspace_that_is_missing_is_told_from_one_that_is_not_ours() {
        for (said, expected) in [
            ("Keyspace 'rekeyd' does not exist", true),
            ("keyspace rekeyd does not exist", true),
            ("unconfigured table cells", true),
            ("Undefined column name cell in table rekeyd.cells", false),
            ("Batch too large", false),
        ] {
            let answer = RequestAttemptError::DbError(DbError::Invalid, said.to_owned());
            let prepare = PrepareError::AllAttemptsFailed {
                first_attempt: answer,
            };
            assert_eq!(of_prepare(prepare).is_not_set_up, expected, "{said}");
        }
    }

    #[test]
    fn only_what_surely_did_nothing_counts_as_not_done() {
        assert!(Failure::from(ExecutionError::EmptyPlan).not_done);
        let timeout = ExecutionError::RequestTimeout(std::time::Duration::from_secs(1));
        assert!(!Failure::from(timeout).not_done);
    }
}
