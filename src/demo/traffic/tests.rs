use super::*;
use crate::audit::{AuditLog, Origin};
use crate::client::InProcessKeys;
use crate::clock::SystemClock;
use crate::crypto::Provider;
use crate::ids::JobId;
use crate::job::Mode;
use crate::kms::local::{LocalKeyRing, NewKey, RingAdmin, Unlock};
use crate::registry::{Registry, Timing};
use crate::store::sqlite::SqliteStore;
use crate::store::{CellWrite, SharedStore, StoredCell};

struct Site {
    clock: SharedClock,
    store: SharedStore,
    registry: Registry,
    client: Client,
    target: Target,
    next_cmk: crate::ids::CmkArn,
    _dir: tempfile::TempDir,
}

async fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let kms = LocalKeyRing::create_with_key_file(&dir.path().join("ring"), "app").unwrap();
    let admin = RingAdmin::open(&dir.path().join("ring")).unwrap();
    let unlock = Unlock::KeyFile(admin.default_key_file());
    let cmks = [(); 2].map(|()| admin.create_key(&unlock, &NewKey::default()).unwrap());
    let store = SqliteStore::create(dir.path().join("store.db"), clock.clone()).unwrap();
    let store: SharedStore = Arc::new(store);
    let registry = Registry::new(store.clone(), clock.clone());
    registry.init_timing(&Timing::demo()).await.unwrap();
    let target = Target {
        org: OrgId::new("acme").unwrap(),
        workspace: WorkspaceId::new("w1").unwrap(),
        channel: ChannelId::new("c1").unwrap(),
        hours: vec!["2019-02-13T17".parse().unwrap()],
    };
    let org = &target.org;
    registry.add_org(org, &cmks[0], b"c", "test").await.unwrap();
    registry
        .allow_cmk(org, &cmks[1], b"c", "test")
        .await
        .unwrap();
    registry
        .ensure_channel(org, &target.workspace, &target.channel)
        .await
        .unwrap();
    let origin = Origin::here("traffic test", "app", None);
    let audit = AuditLog::open(&dir.path().join("audit"), origin, clock.clone()).unwrap();
    let keys = InProcessKeys::builder(
        store.clone(),
        Arc::new(kms),
        Provider::LocalRing,
        audit,
        clock.clone(),
    );
    let keys = Arc::new(keys.build().await.unwrap());
    let client = Client::builder(store.clone(), keys).build().await.unwrap();
    let [_, next_cmk] = cmks;
    Site {
        clock,
        store,
        registry,
        client,
        target,
        next_cmk,
        _dir: dir,
    }
}

impl Site {
    fn start(&self, ledger: &Arc<Ledger>) -> Traffic {
        let mut plan = Plan::busy(7, 2000.0, vec![self.target.clone()]);
        plan.vanish_after_s = 1..=3;
        Traffic::start(
            self.client.clone(),
            ledger.clone(),
            self.clock.clone(),
            plan,
            CancellationToken::new(),
        )
    }

    async fn read_back(&self, ledger: &Ledger) -> ReadBack {
        let why = Use::new(ReasonCode::Verify, "read back");
        read_back(&self.client, ledger, &self.clock, &why, 8).await
    }

    async fn stored(&self, name: &MessageName) -> Option<StoredCell> {
        let place = self.place(name).await;
        self.store.read_cell(&place, &name.record).await.unwrap()
    }

    async fn place(&self, name: &MessageName) -> crate::store::Partition {
        let view = self.registry.view(&name.org, &name.channel).await.unwrap();
        view.partition(name.hour)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_keeps_its_promises_and_a_saboteur_is_caught() {
    let site = site().await;
    let ledger = Arc::new(Ledger::new());
    let traffic = site.start(&ledger);
    traffic.reached(150).await;
    site.registry
        .activate_rekey(
            &site.target.org,
            JobId::random(),
            None,
            &site.next_cmk,
            Mode::Reencrypt,
            || true,
        )
        .await
        .unwrap();
    traffic.reached(400).await;
    let report = traffic.stop().await.unwrap();
    assert_eq!(report.violations, [], "seed 7");
    assert_eq!(report.counts.errors, BTreeMap::new());
    for deed in Deed::ALL {
        assert!(report.counts.done.contains_key(&deed), "{deed:?}");
    }
    let found = site.read_back(&ledger).await;
    assert!(found.violations.is_empty(), "{:?}", found.violations);
    assert!(found.refused.is_empty());

    // What the ledger is for: each kind of damage shows as itself.
    let mut there = Vec::new();
    let mut gone = None;
    for name in ledger.names() {
        match site.stored(&name).await {
            Some(cell) if cell.ttl_s.is_none() => there.push((name, cell)),
            Some(_) => {}
            None => gone = Some(name),
        }
    }
    let [(lost, _), (torn, _), (moved, cell), ..] = &there[..] else {
        panic!("three lasting messages, seed 7")
    };
    let place = site.place(lost).await;
    let later = crate::clock::WriteTime(cell.write_time.0 + 1);
    let far = crate::clock::WriteTime(site.clock.wall().0 + 10_000_000);
    site.store
        .delete_row(&place, &lost.record, far)
        .await
        .unwrap();
    let writes = [
        CellWrite {
            record: torn.record.clone(),
            cell: cell.cell.clone().into(),
            write_time: far,
            ttl_s: 0,
        },
        CellWrite {
            record: moved.record.clone(),
            cell: cell.cell.clone().into(),
            write_time: later,
            ttl_s: 0,
        },
    ];
    site.store.write_cells(&place, &writes).await.unwrap();
    let found = site.read_back(&ledger).await.violations;
    fn names(list: &[Violation]) -> Vec<&MessageName> {
        list.iter().map(|v| &v.name).collect()
    }
    assert_eq!(names(&found.lost), [lost]);
    assert_eq!(names(&found.undecryptable), [torn]);
    assert_eq!(names(&found.overwritten), [moved]);
    assert!(gone.is_some(), "a deleted or vanished message, seed 7");
}
