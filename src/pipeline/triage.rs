//! What is to be done with a cell, by its header alone. Pure.

use crate::clock::WallTime;
use crate::crypto::{Admission, CellError, Header, admit_cell, expiry};
use crate::epoch::Epoch;
use crate::job::{Mode, Pass};
use crate::registry::ChannelView;

/// What is to be done with a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Triage {
    /// It needs the work of this pass.
    Work(Header),
    /// It is as it should be, and this pass need not look further.
    Current,
    /// It is past the expiry in its header.
    Expired,
    /// A proving scan found it older than the job's epoch.
    Find,
    /// Its epoch is above all that are known: read the registry again. If that
    /// changes nothing, quarantine it with this error.
    AboveNewest(CellError),
    /// Leave it as it is.
    Bad(CellError),
}

/// What a pass looks for.
#[derive(Debug, Clone, Copy)]
pub struct Looking {
    /// The pass.
    pub pass: Pass,
    /// The job's mode.
    pub mode: Mode,
    /// The job's epoch.
    pub job_epoch: Epoch,
}

/// Decides what is to be done with one cell.
pub fn triage(
    looking: &Looking,
    view: &ChannelView,
    cell: &[u8],
    ttl_s: Option<u32>,
    now: WallTime,
) -> Triage {
    let newest = view.org_row.last_epoch;
    let header = match admit_cell(cell, now, view.floor(), newest) {
        Err(error) => return Triage::Bad(error),
        Ok(Admission::Expired) => return Triage::Expired,
        Ok(Admission::AboveNewest(header)) => {
            return Triage::AboveNewest(CellError::EpochAboveNewest {
                epoch: header.epoch,
                newest,
            });
        }
        Ok(Admission::Ok(header)) => header,
    };
    if let Err(error) = expiry::check_store_ttl(header.expiry, ttl_s) {
        return Triage::Bad(error);
    }
    match (looking.mode, looking.pass) {
        (Mode::Reencrypt, Pass::Rewrite) if header.epoch >= view.desired().cell_epoch => {
            Triage::Current
        }
        (Mode::Reencrypt, Pass::Verify | Pass::Drain) if header.epoch < looking.job_epoch => {
            Triage::Find
        }
        // A rewrap leaves cells alone; it must know the keys they name.
        _ => Triage::Work(header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;
    use crate::ids::{ChannelId, CmkArn, OrgId, Place, WorkspaceId};
    use crate::registry::{ChannelRow, OrgRow};

    fn epoch(n: u32) -> Epoch {
        Epoch::new(n).unwrap()
    }

    fn view(cells: u32, last: u32, floor: u32) -> ChannelView {
        let workspace = WorkspaceId::new("w1").unwrap();
        ChannelView {
            org: OrgId::new("acme").unwrap(),
            channel: ChannelId::new("c1").unwrap(),
            org_row: OrgRow {
                cell_epoch: epoch(cells),
                wrap_epoch: epoch(last),
                last_epoch: epoch(last),
                cmk: CmkArn::new("arn:aws:kms:local:000000000000:key/b").unwrap(),
                cell_floor: epoch(floor),
                wrap_floor: Epoch::ZERO,
                created_ms: 0,
                restore_window: None,
            },
            channel_row: ChannelRow {
                workspace: workspace.clone(),
                place: Place::random(),
                epoch: Epoch::ZERO,
                floor: Epoch::ZERO,
                workspaces_had: vec![workspace],
                created_ms: 0,
                outgoing: None,
                incoming: None,
                came_from: Vec::new(),
                places_had: Vec::new(),
            },
            read_at: BootTime(std::time::Duration::ZERO),
        }
    }

    fn cell(epoch: Epoch, expiry: u32) -> Vec<u8> {
        let mut cell = epoch.to_bytes().to_vec();
        cell.extend([1, 1]);
        cell.extend([7; 16]);
        cell.extend(expiry.to_be_bytes());
        cell.resize(60, 0);
        cell
    }

    #[test]
    fn each_pass_looks_for_its_own() {
        use Mode::*;
        use Pass::*;
        // A store at cell epoch 4 (job 3 is one of an older job), newest 5, floor 2.
        let now = WallTime(1_000_000_000);
        type Case = (Mode, Pass, u32, u32, Option<u32>, &'static str);
        let cases: [Case; 14] = [
            (Reencrypt, Rewrite, 3, 0, None, "work"),
            (Reencrypt, Rewrite, 4, 0, None, "current"),
            (Reencrypt, Rewrite, 5, 0, None, "current"),
            (Reencrypt, Rewrite, 6, 0, None, "above"),
            (Reencrypt, Rewrite, 1, 0, None, "bad"),
            (Reencrypt, Rewrite, 3, 0, Some(9), "bad"),
            (Reencrypt, Rewrite, 3, 5000, Some(9), "work"),
            (Reencrypt, Rewrite, 3, 900, Some(9), "expired"),
            (Reencrypt, Verify, 2, 0, None, "find"),
            (Reencrypt, Verify, 3, 0, None, "work"),
            (Reencrypt, Drain, 2, 0, None, "find"),
            (Reencrypt, Drain, 3, 0, None, "work"),
            (Rewrap, Rewrite, 2, 0, None, "work"),
            (Rewrap, Verify, 2, 0, None, "work"),
        ];
        for (mode, pass, e, expiry, ttl, expected) in cases {
            let looking = Looking {
                pass,
                mode,
                job_epoch: epoch(3),
            };
            let got = triage(&looking, &view(4, 5, 2), &cell(epoch(e), expiry), ttl, now);
            let word = match got {
                Triage::Work(_) => "work",
                Triage::Current => "current",
                Triage::Expired => "expired",
                Triage::Find => "find",
                Triage::AboveNewest(_) => "above",
                Triage::Bad(_) => "bad",
            };
            assert_eq!(
                word, expected,
                "{mode:?} {pass:?} epoch {e} expiry {expiry} ttl {ttl:?}"
            );
        }
    }
}
