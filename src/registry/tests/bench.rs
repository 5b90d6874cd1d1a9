//! Two organizations, a channel, and requests to move it.

use std::sync::Arc;

use crate::clock::{Clock, FakeClock, WallTime};
use crate::ids::{ChannelId, CmkArn, JobId, OrgId, WorkspaceId};
use crate::job::{MoveFrom, MoveRequest, MoveTo};
use crate::registry::{
    ChannelRow, ConsentRow, CopyPhase, MoveRow, ORG_ROW, OrgRow, Refusal, Registry, RegistryError,
    Stepped, Timing, body,
};
use crate::store::sqlite::SqliteStore;
use crate::store::{Applied, ControlTable, ControlWrite, Expect, SharedStore};

pub struct Bench {
    pub registry: Registry,
    pub clock: Arc<FakeClock>,
    store: SharedStore,
    _dir: tempfile::TempDir,
}

pub fn acme() -> OrgId {
    OrgId::new("acme").unwrap()
}

pub fn other() -> OrgId {
    OrgId::new("other").unwrap()
}

pub fn channel(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}

pub fn workspace(name: &str) -> WorkspaceId {
    WorkspaceId::new(name).unwrap()
}

/// A request, its ends as `org/workspace/channel`.
pub fn request(from: &str, to: &str) -> MoveRequest {
    let parts = |name: &str| {
        let parts: Vec<String> = name.split('/').map(str::to_owned).collect();
        <[String; 3]>::try_from(parts).unwrap()
    };
    let [org, from_workspace, from_channel] = parts(from);
    let [to_org, to_workspace, to_channel] = parts(to);
    MoveRequest {
        job_id: JobId::random(),
        org: OrgId::new(org).unwrap(),
        from: MoveFrom {
            workspace: workspace(&from_workspace),
            channel: channel(&from_channel),
        },
        to: MoveTo {
            org: Some(OrgId::new(to_org).unwrap()),
            workspace: workspace(&to_workspace),
            channel: channel(&to_channel),
        },
        requested_by: "test".to_owned(),
        reason: String::new(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
    }
}

impl Bench {
    /// With channel `c1` in workspace `w1` of `acme`.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::at(WallTime(1_790_000_000_000_000));
        let store = SqliteStore::create(dir.path().join("store.db"), clock.clone()).unwrap();
        let store: SharedStore = Arc::new(store);
        let registry = Registry::new(store.clone(), clock.clone());
        registry.init_timing(&Timing::embedded()).await.unwrap();
        for (org, key) in [(acme(), "a"), (other(), "b")] {
            let arn = format!(
                "arn:aws:kms:eu-central-1:111122223333:key/{}",
                key.repeat(8)
            );
            let cmk = CmkArn::new(arn).unwrap();
            registry
                .add_org(&org, &cmk, b"canary", "test")
                .await
                .unwrap();
        }
        let entered = registry
            .ensure_channel(&acme(), &workspace("w1"), &channel("c1"))
            .await;
        entered.unwrap();
        Self {
            registry,
            clock,
            store,
            _dir: dir,
        }
    }

    pub async fn row(&self, org: &OrgId, name: &str) -> ChannelRow {
        let view = self.registry.view(org, &channel(name)).await;
        view.unwrap().channel_row
    }

    /// Writes an organization's row by hand.
    pub async fn put_org(&self, org: &OrgId, row: &OrgRow) {
        let table = ControlTable::Registry;
        let rows = self
            .store
            .control_get(table, org.as_str(), &[ORG_ROW])
            .await;
        let write = ControlWrite {
            id: ORG_ROW.to_owned(),
            expect: Expect::Rev(rows.unwrap()[0].rev),
            body: Some(body(row)),
        };
        let applied = self
            .store
            .control_apply(table, org.as_str(), &[write])
            .await;
        assert_eq!(applied.unwrap(), Applied::Yes);
    }

    pub async fn activate(&self, request: &MoveRequest) -> MoveRow {
        let activated = self.registry.activate_move(request, || true).await;
        activated.unwrap()
    }

    /// The code of the refusal; the check beforehand and the batch must agree.
    pub async fn refused(&self, request: &MoveRequest) -> Refusal {
        let before = self.registry.authorize_move(request).await.unwrap_err();
        let batch = self.registry.activate_move(request, || true).await;
        match (before, batch.unwrap_err()) {
            (RegistryError::Refused(a), RegistryError::Refused(b)) => {
                assert_eq!(a, b);
                *a
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn consent(&self, org: &OrgId, request: &MoveRequest, for_ms: u64) {
        let now = self.clock.wall().unix_ms();
        let consent = ConsentRow {
            from: request.source(),
            to: request.destination(),
            expires_ms: now + for_ms,
            entered_by: "test".to_owned(),
            entered_ms: now,
        };
        let entered = self.registry.consent_to_move(org, &consent).await;
        entered.unwrap();
    }

    pub async fn advance(&self, request: &MoveRequest, phase: CopyPhase) {
        let stepped = self.registry.advance_copy(request, phase, || true).await;
        assert_eq!(stepped.unwrap(), Stepped::Yes);
    }

    /// Activates a copy and takes it as far as this phase.
    pub async fn copied_to(&self, request: &MoveRequest, phase: CopyPhase) -> MoveRow {
        let row = self.activate(request).await;
        for next in CopyPhase::ALL {
            if next <= phase {
                self.advance(request, next).await;
            }
        }
        row
    }

    /// A copy to its end.
    pub async fn copied(&self, request: &MoveRequest) -> MoveRow {
        let row = self.copied_to(request, CopyPhase::Moved).await;
        self.registry.release_destination(request).await.unwrap();
        self.advance(request, CopyPhase::Closed).await;
        row
    }
}
