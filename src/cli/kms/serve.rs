//! `rekeyd kms serve`

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::kms::local::{LocalKeyRing, serve};
use crate::{telemetry, wiring};

#[derive(clap::Args)]
#[command(
    after_help = "Signatures are not checked: whoever reaches the address has the keys. For \
                  trial and tests.\n\nExample:\n  rekeyd kms serve --listen 127.0.0.1:8081"
)]
pub(in crate::cli) struct Arguments {
    /// Address and port; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Listen on an address that other machines reach. They get every key.
    #[arg(long)]
    allow_remote: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.listen.ip().is_loopback() && !arguments.allow_remote {
        let what = format!(
            "{} can be reached by other machines, and signatures are not checked: whoever \
             reaches it has the keys",
            arguments.listen
        );
        return Err(Failure::new(Exit::Usage, what)
            .help("listen on 127.0.0.1, or say `--allow-remote` if that is what you want"));
    }
    telemetry::harden();
    let log = &context.config().log;
    telemetry::init_logs(log.format, &log.filter)?;
    context.run_on_all_cores(work(context, arguments))
}

async fn work(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let config = context.config();
    let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
    let (mut terminate, mut interrupt) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let unlock = wiring::unlock(config);
    // Each call has the name of its own caller.
    let ring = LocalKeyRing::open(&config.kms.ring, "kms serve", &unlock)?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|e| report::system(&format!("cannot listen on {}", arguments.listen), e))?;
    let at = listener
        .local_addr()
        .map_err(|e| report::system("cannot tell the address", e))?;
    let programs = json!({
        "endpoint": format!("http://{at}"), "ring": config.kms.ring,
        "pid": std::process::id(),
    });
    context.out.show(&programs, || {
        format!(
            "the key ring in {} answers as AWS KMS and STS on http://{at}\n\
             for trial and tests: signatures are NOT checked, and the caller is whoever the \
             access key id says\nuse it with kms.kind = \"aws\", kms.endpoint and \
             kms.sts_endpoint; Ctrl-C or SIGTERM stops it",
            config.kms.ring.display()
        )
    })?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve::serve(ring, listener, stop)
        .await
        .map_err(|e| report::system("the server failed", e))
}
