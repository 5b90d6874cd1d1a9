//! Writes, reads, edits and deletes messages with the client library, on an
//! embedded store and a local key ring in a temporary folder.
//!
//! `cargo run --example messages`

use std::error::Error;
use std::sync::Arc;

use rekeyd::audit::{AuditLog, Origin};
use rekeyd::client::{
    Client, EditLifetime, ErrorClass, InProcessKeys, Lifetime, PageLimit, ReasonCode, Use,
};
use rekeyd::clock::SystemClock;
use rekeyd::crypto::Provider;
use rekeyd::ids::{ChannelId, Hour, OrgId, RecordId, WorkspaceId};
use rekeyd::kms::audited::Audited;
use rekeyd::kms::local::{LocalKeyRing, NewKey, RingAdmin, Unlock};
use rekeyd::registry::{Registry, Timing};
use rekeyd::store::SharedStore;
use rekeyd::store::sqlite::SqliteStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let clock = SystemClock::shared();

    // An operator does this once: a key ring with a master key, a store, an
    // organization.
    let ring_dir = dir.path().join("ring");
    let ring = LocalKeyRing::create_with_key_file(&ring_dir, "app")?;
    let admin = RingAdmin::open(&ring_dir)?;
    let unlock = Unlock::KeyFile(admin.default_key_file());
    let cmk = admin.create_key(&unlock, &NewKey::default())?;
    let store = SqliteStore::create(dir.path().join("store.db"), clock.clone())?;
    let store: SharedStore = Arc::new(store);
    let registry = Registry::new(store.clone(), clock.clone());
    registry.init_timing(&Timing::embedded()).await?;
    let org = OrgId::new("acme")?;
    registry.add_org(&org, &cmk, b"canary", "example").await?;

    // The application does this once for a process.
    let origin = Origin::here("example", "app", None);
    let audit = AuditLog::open(&dir.path().join("audit"), origin, clock.clone())?;
    let kms = Arc::new(Audited::new(ring, audit.clone(), None));
    let keys = InProcessKeys::builder(
        store.clone(),
        kms,
        Provider::LocalRing,
        audit.clone(),
        clock.clone(),
    )
    .build()
    .await?;
    let client = Client::builder(store, Arc::new(keys)).build().await?;

    // And this for its messages.
    let general = client
        .organization(&org)
        .ensure_channel(&WorkspaceId::new("w1")?, &ChannelId::new("general")?)
        .await?;
    let now_s = u64::try_from(clock.wall().unix_seconds())?;
    let hour = Hour::of_unix_seconds(now_s)?;
    let record = RecordId::new(*b"message-1")?;

    let mut writing = Use::new(ReasonCode::MessageWrite, "posted from the web");
    writing.end_user = Some("u-4711".to_owned());
    general
        .write(
            hour,
            &record,
            "hello".as_bytes(),
            Lifetime::Lasting,
            &writing,
        )
        .await?;

    let editing = Use::new(ReasonCode::MessageEdit, "edited by its author");
    general
        .edit(
            hour,
            &record,
            "hello, world".as_bytes(),
            EditLifetime::Keep,
            &editing,
        )
        .await?;

    let vanishing = RecordId::new(*b"message-2")?;
    let in_an_hour = Lifetime::Until(u32::try_from(now_s + 3600)?);
    general
        .write(hour, &vanishing, b"for an hour", in_an_hour, &writing)
        .await?;

    let reading = Use::new(ReasonCode::MessageRead, "channel opened");
    match general.read(hour, &record, &reading).await {
        Ok(Some(message)) => println!("{}", String::from_utf8_lossy(message.text())),
        Ok(None) => println!("there is no such message"),
        // The customer has taken the key away: show a place holder.
        Err(e) if e.class() == ErrorClass::Blocked => println!("not available: {e}"),
        // Store or KMS is down: try again, with growing waits.
        Err(e) if e.class() == ErrorClass::Transient => println!("try again: {e}"),
        Err(e) => return Err(e.into()),
    }

    let limit = PageLimit {
        rows: 100,
        bytes: 1 << 20,
    };
    let mut after = None;
    loop {
        let page = general.list(hour, after.as_ref(), limit, &reading).await?;
        for (record, message) in &page.messages {
            match message {
                Ok(message) => println!("{record}: {} bytes", message.text().len()),
                Err(error) => println!("{record}: {error}"),
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }

    general.delete(hour, &record).await?;
    assert!(general.read(hour, &record, &reading).await?.is_none());

    // The counted uses of cached keys are written when the log is closed.
    audit.close().await?;
    Ok(())
}
