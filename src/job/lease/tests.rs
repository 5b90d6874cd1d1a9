//! What a holder may and may not do when its row was changed under it.

use std::sync::Arc;

use super::*;
use crate::audit::Origin;
use crate::clock::SystemClock;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{JobMessage, Mode, RekeyRequest};
use crate::store::sqlite::SqliteStore;

struct Desk {
    _dir: tempfile::TempDir,
    book: JobBook,
    clock: SharedClock,
    request: RekeyRequest,
    audit: AuditLog,
}

impl Desk {
    /// A store with one job, recorded and not yet driven.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = SystemClock::shared();
        let store = SqliteStore::open_or_create(dir.path().join("store"), clock.clone()).unwrap();
        let book = JobBook::new(Arc::new(store), clock.clone());
        let origin = Origin::here("test", "test", None);
        let audit = AuditLog::open(&dir.path().join("audit"), origin, clock.clone()).unwrap();
        let request = RekeyRequest {
            job_id: JobId::random(),
            org: OrgId::new("acme").unwrap(),
            from_cmk: None,
            to_cmk: CmkArn::new("arn:aws:kms:local:000000000000:key/b").unwrap(),
            mode: Mode::Reencrypt,
            requested_by: "test".to_owned(),
            reason: String::new(),
            cause: None,
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
            accept_lifted_denies: Vec::new(),
        };
        book.record(&JobMessage::Rekey(request.clone()), "hash", "a test")
            .await
            .unwrap();
        Self {
            _dir: dir,
            book,
            clock,
            request,
            audit,
        }
    }

    async fn read(&self) -> Versioned<JobRow> {
        let found = self.book.get(&self.request.org, self.request.job_id).await;
        found.unwrap().unwrap()
    }

    async fn claim(&self) -> JobHold {
        let me = WorkerName {
            worker: "w".to_owned(),
            audit: self.audit.clone(),
            waiting: Default::default(),
        };
        let (timing, org) = (Timing::production(), self.request.org.as_str());
        JobHold::claim(
            &self.book,
            &self.clock,
            &timing,
            &me,
            org,
            self.read().await,
        )
        .await
        .unwrap()
        .unwrap()
    }
}

#[tokio::test]
async fn a_renewal_that_was_sent_and_dropped_does_not_spoil_the_release() {
    let desk = Desk::new().await;
    let hold = desk.claim().await;
    // The same write as a renewal whose answer nobody waited for.
    let mut renewed = desk.read().await;
    desk.book
        .write_back(ControlTable::Jobs, desk.request.org.as_str(), &mut renewed)
        .await
        .unwrap();
    hold.release(|row| row.preflights = 7).await.unwrap();
    let row = desk.read().await.row;
    assert_eq!((row.lease, row.preflights), (None, 7));
    assert!(!hold.is_trusted());
}

#[tokio::test]
async fn a_row_that_was_taken_over_is_not_released() {
    let desk = Desk::new().await;
    let frozen = desk.claim().await;
    let taken = desk.claim().await;
    let refused = frozen.release(|row| row.preflights = 7).await;
    assert!(matches!(refused, Err(HoldError::Lost(_))));
    assert_eq!(desk.read().await.row, taken.row().await);
}

#[tokio::test]
async fn what_was_decided_on_one_state_does_not_move_another() {
    let desk = Desk::new().await;
    let hold = desk.claim().await;
    let seen = hold.row().await;
    // An operator moves the job, and the keeper of the lease reads it again
    // before the driver comes to act on what it saw.
    let mut job = desk.read().await;
    desk.book
        .transition(&mut job, JobState::Preflight, "operator", "a test")
        .await
        .unwrap();
    hold.reload().await.unwrap();
    let moved = hold
        .transition(&seen, JobState::Preflight, "its time has come", |_| {})
        .await;
    assert!(matches!(moved, Err(HoldError::Changed(_))));
    let now = hold.row().await;
    hold.transition(&now, JobState::Activating, "passed", |_| {})
        .await
        .unwrap();
    assert_eq!(desk.read().await.row.transitions, 2);
}
