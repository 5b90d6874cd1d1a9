//! One question over plain HTTP: does it answer, and with which status.

use std::io;

use http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there, or the connection broke.
    #[error("cannot be asked ({})", .0.kind())]
    Connection(#[from] io::Error),
    /// What answers is no HTTP server.
    #[error("does not speak HTTP")]
    NotHttp(#[source] hyper::Error),
    /// Address or path cannot be asked for.
    #[error("cannot be asked for: {0}")]
    Request(#[from] http::Error),
}

/// Asks `path` at an address; `host` is what it is called there. Whoever calls
/// bounds the time. The body of the answer is not read: it is somebody else's.
///
/// # Errors
/// If no HTTP answer comes.
pub async fn status(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
) -> Result<StatusCode, AskError> {
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(String::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(AskError::NotHttp)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    // The answer may have come before the connection ends, and is there still.
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    };
    Ok(answer.map_err(AskError::NotHttp)?.status())
}
