//! What the demo's parts run on: everything embedded, or a Cassandra or ScyllaDB
//! cluster with SQS. The KMS is a key ring either way, for nobody may disable a
//! customer's key for a demo; beside a cluster it is served by AWS KMS's own
//! protocol, and the workers call it with the AWS client.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::DemoError;
use super::scene::{APP, IMPORTER, OPERATOR, WORKER};
use crate::aws::Credentials;
use crate::clock::SharedClock;
use crate::config::{self, Config, QueueKind};
use crate::kms::local::{LocalKeyRing, RingAdmin, Unlock, serve};
use crate::queue::sqs::{self, SqsSettings};
use crate::registry::{Registry, Timing};
use crate::store::cql::{Replication, Schema};
use crate::wiring;

/// What the demo runs on.
#[derive(Debug, Clone, Default)]
pub enum Parts {
    /// Store, queue and key ring in the demo's directory.
    #[default]
    Embedded,
    /// A cluster, with a keyspace of the demo's own, and SQS.
    Cluster {
        /// Nodes to begin with, with commas between.
        nodes: String,
        /// Further settings of `[store]`, as lines of the configuration file.
        settings: String,
        /// The keyspace; one of a new name if `None`.
        keyspace: Option<String>,
        /// Where SQS is; the embedded queue if `None`.
        sqs_endpoint: Option<String>,
    },
}

/// For whom the parts are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    /// The command: `demo`, `chaos`. Keyspaces and queues are named by it, and
    /// signed.
    pub name: &'static str,
    /// The waits of the embedded store.
    pub embedded: Timing,
}

/// The parts as they were made; what was started for them ends with this.
pub(crate) struct Made {
    /// The configuration file that the workers read.
    pub file: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// The waits.
    pub timing: Timing,
    /// What to undo at the end, where it is not a file in the directory.
    pub keyspace: Option<String>,
    kms: Option<JoinHandle<()>>,
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(kms) = &self.kms {
            kms.abort();
        }
    }
}

/// Makes everything in `dir`, and on the servers.
pub(super) async fn make(
    owner: &Owner,
    parts: &Parts,
    dir: &Path,
    clock: &SharedClock,
) -> Result<Made, DemoError> {
    let file = dir.join("rekeyd.toml");
    let mut text = head(owner, dir);
    let mut keyspace = None;
    let mut kms = None;
    match parts {
        Parts::Embedded => {
            text += &format!("[kms]\ncaller = \"{WORKER}\"\nrate_per_s = 100000\n");
        }
        Parts::Cluster {
            nodes,
            settings,
            keyspace: wanted,
            sqs_endpoint,
        } => {
            let fresh = || format!("rekeyd_{}_{:08x}", owner.name, rand::random::<u32>());
            let name = wanted.clone().unwrap_or_else(fresh);
            let credentials = write_credentials(dir)?;
            text += &format!(
                "[store]\nkind = \"cassandra\"\nnodes = {}\nkeyspace = {}\nrequest_timeout_ms = 3000\n{settings}\n",
                quoted(nodes),
                quoted(&name)
            );
            if let Some(endpoint) = sqs_endpoint {
                let url = make_queue(endpoint, &name, &credentials, clock).await?;
                text += &format!(
                    "[queue]\nkind = \"sqs\"\nurl = {}\nendpoint = {}\nregion = \"{REGION}\"\nwait_s = 1\n\n",
                    quoted(&url),
                    quoted(endpoint)
                );
            }
            let (endpoint, server) = serve_ring(dir, clock).await?;
            kms = Some(server);
            text += &format!(
                "[kms]\nkind = \"aws\"\nendpoint = {0}\nsts_endpoint = {0}\naccount = \"111122223333\"\nrate_per_s = 100000\n\n",
                quoted(&endpoint)
            );
            text += &format!(
                "[aws]\nprofile = \"{WORKER}\"\ncredentials_file = {}\n",
                quoted(&credentials.to_string_lossy())
            );
            keyspace = Some(name);
        }
    }
    fs::write(&file, text).map_err(|e| DemoError::io("write", &file, e))?;
    let config = config::load(Some(&file), [], [])?.config;
    let timing = if keyspace.is_some() {
        make_tables(owner, &config, clock).await?
    } else {
        wiring::init(&config, &owner.embedded, clock).await?
    };
    Ok(Made {
        file,
        config,
        timing,
        keyspace,
        kms,
    })
}

/// Removes what is on the servers and was made for the demo alone.
pub(crate) async fn remove(
    owner: &Owner,
    config: &Config,
    clock: &SharedClock,
) -> Result<(), DemoError> {
    if config.store.kind.is_cluster() {
        let cluster = wiring::cluster(config, clock).await?;
        Schema::drop_signed(&cluster, owner.name).await?;
    }
    if let (QueueKind::Sqs, Some(url)) = (config.queue.kind, &config.queue.url) {
        let settings = SqsSettings {
            credentials: Credentials {
                profile: Some(OPERATOR.to_owned()),
                file: config.aws.credentials_file.clone(),
            },
            url: url.clone(),
            dead_letter_url: None,
            endpoint: config.queue.endpoint.clone(),
            region: config.queue.region.clone(),
        };
        sqs::remove_for_trial(&settings, clock.clone()).await?;
    }
    Ok(())
}

const REGION: &str = "eu-west-1";

/// A budget that does not bind, for the key ring is no service that others wait
/// for; short waits between looks, so that there is much to see.
fn head(owner: &Owner, dir: &Path) -> String {
    format!(
        "# Made by `rekeyd {}`.\ndata_dir = {}\n\n\
         [worker]\npoll_ms = 50\ncheckpoint_ms = 100\n\n",
        owner.name,
        quoted(&dir.to_string_lossy())
    )
}

pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Serves a new key ring by AWS KMS's protocol, on this machine only.
async fn serve_ring(
    dir: &Path,
    clock: &SharedClock,
) -> Result<(String, JoinHandle<()>), DemoError> {
    let path = dir.join("keyring");
    RingAdmin::create_with_key_file(&path)?;
    let unlock = Unlock::KeyFile(path.join("ring.key"));
    let ring = LocalKeyRing::open_with_clock(&path, WORKER, &unlock, clock.clone())?;
    let listen = async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = listen
        .await
        .map_err(|e| DemoError::io("listen for", &path, e))?;
    let server = tokio::spawn(async move {
        if let Err(error) = serve::serve(ring, listener, std::future::pending::<()>()).await {
            tracing::error!(%error, "the key ring is served no more");
        }
    });
    Ok((format!("http://{address}"), server))
}

/// Credentials for each part that the demo plays. The ring checks no signature:
/// the access key id says who calls.
fn write_credentials(dir: &Path) -> Result<PathBuf, DemoError> {
    let path = dir.join("aws-credentials");
    let text: String = [OPERATOR, IMPORTER, APP, WORKER]
        .iter()
        .map(|who| format!("[{who}]\naws_access_key_id = {who}\naws_secret_access_key = none\n\n"))
        .collect();
    fs::write(&path, text).map_err(|e| DemoError::io("write", &path, e))?;
    Ok(path)
}

async fn make_queue(
    endpoint: &str,
    name: &str,
    credentials: &Path,
    clock: &SharedClock,
) -> Result<String, DemoError> {
    let base = endpoint.trim_end_matches('/');
    let settings = SqsSettings {
        credentials: Credentials {
            profile: Some(OPERATOR.to_owned()),
            file: Some(credentials.to_owned()),
        },
        // Not there yet; the name is what counts.
        url: format!("{base}/000000000000/{name}"),
        dead_letter_url: None,
        endpoint: Some(endpoint.to_owned()),
        region: Some(REGION.to_owned()),
    };
    Ok(sqs::create_for_trial(&settings, name, clock.clone()).await?)
}

/// The demo's waits where requests go over a network: still short, but not so
/// short that three nodes on one small machine cannot keep them.
fn cluster_waits() -> Timing {
    let mut waits = Timing {
        status_time_ms: 3_000,
        request_timeout_ms: 3_000,
        row_age_ms: 3_000,
        lease_ms: 6_000,
        ..Timing::demo()
    };
    waits.drain_ms = waits.settle_ms();
    waits
}

/// As many copies as there are nodes, three at most.
async fn make_tables(
    owner: &Owner,
    config: &Config,
    clock: &SharedClock,
) -> Result<Timing, DemoError> {
    let cluster = wiring::cluster(config, clock).await?;
    match Schema::is_signed(&cluster, owner.name).await? {
        Some(false) => {
            return Err(DemoError::Foreign {
                keyspace: config.store.keyspace.clone(),
                owner: owner.name,
            });
        }
        // What an earlier run left there.
        Some(true) => Schema::drop_signed(&cluster, owner.name).await?,
        None => {}
    }
    let (datacenter, nodes) = cluster.size();
    let copies = u32::try_from(nodes.clamp(1, 3)).unwrap_or(1);
    let done = Schema::apply(&cluster, Some(&Replication::of(&datacenter, copies))).await?;
    if let Some(problem) = done.problems.first() {
        return Err(DemoError::Unfit(problem.what.clone()));
    }
    Schema::sign(&cluster, owner.name).await?;
    drop(cluster);
    let store = wiring::store(config, clock).await?;
    Ok(Registry::new(store, clock.clone())
        .init_timing(&cluster_waits())
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_on_a_cluster_keep_the_rules() {
        cluster_waits().check().unwrap();
    }
}
