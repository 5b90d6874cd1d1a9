//! What a worker answers over HTTP, on two ports.
//!
//! The machines' port (`metrics.listen`) has `/metrics`, `/healthz` and `/readyz`.
//! Prometheus and whoever starts containers must reach it, by whatever name, and
//! it names no organization. The page's port (`ui.listen`) has the status page for
//! people: it names organizations and keys, so it stays on the loopback address
//! and answers only to names that are its own. One port for both could not be open
//! and closed at once.
//!
//! Nothing here changes anything, but for `steer`, which asks for a token.
//!
//! | file | what |
//! |---|---|
//! | `machines` | metrics and probes |
//! | `guard` | by which names the page may be asked for, and what its answers forbid |
//! | `page` | the page's routes |
//! | `steer` | pausing and slowing down by a form, where a token is set |
//! | `live` | the same pages again and again, as they change |
//! | `looks` | what was looked up a moment ago, for all viewers |
//! | `look` | what a page is made of, read from the worker and the store |
//! | `heat` | the slices of a job as a map of few cells |
//! | `html` | the pages |

mod guard;
mod heat;
mod html;
mod live;
mod look;
mod looks;
mod machines;
mod page;
mod steer;

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;

pub use guard::Hosts;
pub use look::Source;
pub use machines::{Machines, Running, router as machines};
pub use page::router as page;
pub use steer::{Steering, Token, TokenError};

/// Why something cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The address cannot be listened on.
    #[error("{setting} {address}: {error}")]
    Listen {
        /// The setting that says so.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The page would be open to whoever reaches the machine, by any name.
    #[error(
        "ui.listen {0} is not a loopback address, and ui.hosts does not say by which names the \
         status page is asked for there"
    )]
    Open(SocketAddr),
}

/// Listens on the address that a setting names.
///
/// # Errors
/// If that is not possible.
pub async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, UiError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| UiError::Listen {
        setting,
        address,
        error,
    })
}

/// Answers until the process ends: whoever is answered has nothing that would have
/// to be finished.
pub async fn serve(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "HTTP is answered no more");
    }
}
