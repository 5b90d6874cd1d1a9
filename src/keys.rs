//! Which key of a slice to use. Client and worker decide it here, by the same
//! rules; nothing in this file reads a store, calls a KMS or knows the time.
//!
//! A slice may have several keys (two writers that met, a key of an older
//! generation) and each key several wraps (one for each rewrap).

use std::collections::BTreeMap;

use crate::crypto::{CellError, KeyId, KeyRowBody};
use crate::epoch::Epoch;
use crate::registry::{AllowList, Desired};
use crate::scope::Scope;
use crate::store::KeyRow;

/// The key rows of one slice, parsed. A row that does not parse spoils only its
/// own key: the others stay usable.
#[derive(Debug, Clone, Default)]
pub struct SliceKeys {
    rows: Vec<KeyRowBody>,
    bad: Vec<BadRow>,
}

#[derive(Debug, Clone)]
struct BadRow {
    key_id: KeyId,
    wrap_epoch: Epoch,
    why: CellError,
}

impl SliceKeys {
    /// Parses the rows that a store gave for one slice.
    pub fn parse(rows: &[KeyRow]) -> Self {
        let mut keys = Self::default();
        for row in rows {
            let body = KeyRowBody::decode(&row.row)
                .map_err(CellError::from)
                .and_then(|body| {
                    body.check_address(&row.key_id, row.wrap_epoch)
                        .map(|()| body)
                });
            match body {
                Ok(body) => keys.rows.push(body),
                Err(why) => keys.bad.push(BadRow {
                    key_id: row.key_id,
                    wrap_epoch: row.wrap_epoch,
                    why,
                }),
            }
        }
        keys
    }

    /// The rows that parse, in the order of the store.
    pub fn rows(&self) -> &[KeyRowBody] {
        &self.rows
    }

    /// The rows that do not parse, or stand at another address than they say:
    /// key id, wrap epoch and reason, for whoever lists what is wrong.
    pub fn bad(&self) -> impl Iterator<Item = (KeyId, Epoch, &CellError)> {
        self.bad.iter().map(|b| (b.key_id, b.wrap_epoch, &b.why))
    }

    /// The rows of keys that have no bad row. Only these may seal: what a bad
    /// row says of its key's age is not known.
    pub fn sound_rows(&self) -> impl Iterator<Item = &KeyRowBody> {
        let spoiled = |id: KeyId| self.bad.iter().any(|b| b.key_id == id);
        self.rows.iter().filter(move |row| !spoiled(row.key_id()))
    }

    /// [`choose_sealing_key`] of the [sound rows](Self::sound_rows).
    pub fn sealing_key(&self, desired: &Desired, scope: &Scope) -> Option<&KeyRowBody> {
        choose(self.sound_rows(), desired, scope)
    }

    /// The lowest wrap epoch of a key: the generation it was made for. `None` if
    /// the slice has no such key or one of its rows is bad.
    pub fn generation(&self, key_id: KeyId) -> Option<Epoch> {
        self.sound_rows()
            .filter(|row| row.key_id() == key_id)
            .map(|row| row.wrap_epoch)
            .min()
    }

    /// Whether a row is the highest wrap of its key, allowed or not.
    pub fn is_highest_wrap(&self, row: &KeyRowBody) -> bool {
        self.rows
            .iter()
            .all(|other| other.key_id() != row.key_id() || other.wrap_epoch <= row.wrap_epoch)
    }

    /// [`choose_wrap_to_open`]. If the key's highest wrap is a bad row, that is
    /// the answer: a lower wrap is not tried in its place.
    ///
    /// # Errors
    /// As [`choose_wrap_to_open`]; `KeyRowMalformed`, `KeyRowMisplaced`.
    pub fn wrap_to_open(
        &self,
        key_id: KeyId,
        allow_list: &AllowList,
        wrap_floor: Epoch,
    ) -> Result<&KeyRowBody, CellError> {
        let bad = self
            .bad
            .iter()
            .filter(|b| b.key_id == key_id)
            .max_by_key(|b| b.wrap_epoch);
        let good = choose_wrap_to_open(&self.rows, key_id, allow_list, wrap_floor);
        match (bad, good) {
            (None, answer) => answer,
            (Some(bad), Ok(row)) if row.wrap_epoch > bad.wrap_epoch => Ok(row),
            (Some(bad), _) => Err(bad.why.clone()),
        }
    }
}

/// The key that new cells of a slice are sealed with, or `None`: then a new one
/// is made under the desired CMK.
///
/// A key qualifies if
/// - every one of its wraps is at the organization's cell epoch or above. A key
///   from before was only rewrapped since; whoever opened it under the old CMK
///   still knows it, so it must not seal the new generation's data. (The epoch
///   of a channel's move does not count here: its keys have another scope.)
/// - its highest wrap is at the desired wrap epoch or above, under the desired
///   CMK;
/// - it was made for exactly this scope.
///
/// Of several the newest is taken, so that writers who see the same rows agree.
pub fn choose_sealing_key<'a>(
    rows: &'a [KeyRowBody],
    desired: &Desired,
    scope: &Scope,
) -> Option<&'a KeyRowBody> {
    choose(rows.iter(), desired, scope)
}

fn choose<'a>(
    rows: impl Iterator<Item = &'a KeyRowBody>,
    desired: &Desired,
    scope: &Scope,
) -> Option<&'a KeyRowBody> {
    struct Wraps<'a> {
        lowest: Epoch,
        highest: &'a KeyRowBody,
    }
    let mut keys: BTreeMap<KeyId, Wraps<'a>> = BTreeMap::new();
    for row in rows {
        keys.entry(row.key_id())
            .and_modify(|wraps| {
                wraps.lowest = wraps.lowest.min(row.wrap_epoch);
                if row.wrap_epoch > wraps.highest.wrap_epoch {
                    wraps.highest = row;
                }
            })
            .or_insert(Wraps {
                lowest: row.wrap_epoch,
                highest: row,
            });
    }
    keys.into_values()
        .filter(|wraps| {
            wraps.lowest >= desired.key_epoch
                && wraps.highest.wrap_epoch >= desired.wrap_epoch
                && wraps.highest.cmk == desired.cmk
                && wraps.highest.scope == *scope
        })
        .map(|wraps| wraps.highest)
        .max_by_key(|row| (row.created_ms, row.key_id()))
}

/// The one wrap of a key that is tried: the highest whose CMK is on the
/// organization's allow-list. A refusal of it is final; a lower wrap is never
/// tried instead, or taking a CMK's rights away would only send the reader to
/// an older one.
///
/// # Errors
/// `KeyRowMissing` if the slice has no such key: read the rows afresh before
/// believing it. `CmkNotAllowed` if no wrap's CMK is allowed.
/// `WrapBelowFloor` if the wrap is older than the organization's wrap floor.
pub fn choose_wrap_to_open<'a>(
    rows: &'a [KeyRowBody],
    key_id: KeyId,
    allow_list: &AllowList,
    wrap_floor: Epoch,
) -> Result<&'a KeyRowBody, CellError> {
    let mut wraps: Vec<&KeyRowBody> = rows.iter().filter(|row| row.key_id() == key_id).collect();
    wraps.sort_by_key(|row| row.wrap_epoch);
    let highest = *wraps.last().ok_or(CellError::KeyRowMissing(key_id))?;
    let row = wraps
        .into_iter()
        .rev()
        .find(|row| allow_list.may_open(&row.cmk))
        .ok_or_else(|| CellError::CmkNotAllowed(highest.cmk.clone()))?;
    if row.wrap_epoch < wrap_floor {
        return Err(CellError::WrapBelowFloor {
            epoch: row.wrap_epoch,
            floor: wrap_floor,
        });
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Commitment, KeyRowError, Provider};
    use crate::ids::{ChannelId, CmkArn, Hour, OrgId, WorkspaceId};
    use crate::registry::{CmkRole, CmkRow};

    fn epoch(n: u32) -> Epoch {
        Epoch::new(n).unwrap()
    }

    fn arn(name: &str) -> CmkArn {
        CmkArn::new(format!("arn:aws:kms:eu-west-1:111122223333:key/{name}")).unwrap()
    }

    fn scope(workspace: &str) -> Scope {
        Scope::Message {
            org: OrgId::new("acme").unwrap(),
            workspace: WorkspaceId::new(workspace).unwrap(),
            channel: ChannelId::new("c1").unwrap(),
            hour: Hour::of_unix_seconds(0).unwrap(),
        }
    }

    fn row(key: u8, wrap_epoch: u32, cmk: &str) -> KeyRowBody {
        KeyRowBody {
            wrap_epoch: epoch(wrap_epoch),
            provider: Provider::LocalRing,
            commitment: Commitment([key; 32]),
            created_ms: u64::from(key),
            cmk: arn(cmk),
            key_material_id: None,
            scope: scope("w1"),
            wrapped: vec![1],
        }
    }

    fn stored(body: &KeyRowBody) -> KeyRow {
        KeyRow {
            key_id: body.key_id(),
            wrap_epoch: body.wrap_epoch,
            row: body.encode().unwrap(),
        }
    }

    fn desired(cell: u32, wrap: u32, cmk: &str) -> Desired {
        Desired {
            cell_epoch: epoch(cell),
            wrap_epoch: epoch(wrap),
            key_epoch: epoch(cell),
            cmk: arn(cmk),
        }
    }

    fn allow(names: &[&str]) -> AllowList {
        let row = CmkRow {
            role: CmkRole::Target,
            canary_hex: String::new(),
            entered_by: "test".to_owned(),
            entered_ms: 0,
            role_arn: None,
            external_id: None,
        };
        names.iter().map(|n| (arn(n), row.clone())).collect()
    }

    #[test]
    fn a_sealing_key_is_of_this_generation_cmk_and_scope() {
        let first = desired(1, 1, "a");
        let after_rekey = desired(2, 2, "b");
        let after_rewrap = desired(1, 2, "b");
        type Case<'a> = (&'a str, Vec<KeyRowBody>, &'a Desired, Option<u8>);
        let cases: [Case<'_>; 12] = [
            ("no rows", vec![], &first, None),
            ("the plain case", vec![row(1, 1, "a")], &first, Some(1)),
            (
                "an older generation",
                vec![row(1, 1, "a")],
                &after_rekey,
                None,
            ),
            (
                "an older generation, rewrapped",
                vec![row(1, 1, "a"), row(1, 2, "b")],
                &after_rekey,
                None,
            ),
            (
                "the same, rows the other way round",
                vec![row(1, 2, "b"), row(1, 1, "a")],
                &after_rekey,
                None,
            ),
            (
                "rewrapped, where only wraps were to change",
                vec![row(1, 1, "a"), row(1, 2, "b")],
                &after_rewrap,
                Some(1),
            ),
            (
                "not yet rewrapped",
                vec![row(1, 1, "a")],
                &after_rewrap,
                None,
            ),
            (
                "a new key beside an old",
                vec![row(1, 1, "a"), row(2, 2, "b")],
                &after_rekey,
                Some(2),
            ),
            ("another CMK", vec![row(1, 2, "a")], &after_rekey, None),
            (
                "a newer wrap under another CMK",
                vec![row(1, 2, "b"), row(1, 3, "c")],
                &after_rekey,
                None,
            ),
            (
                "two writers met: the newest",
                vec![row(3, 2, "b"), row(2, 2, "b")],
                &after_rekey,
                Some(3),
            ),
            (
                "newer than desired, same CMK",
                vec![row(1, 3, "b")],
                &after_rekey,
                Some(1),
            ),
        ];
        for (name, rows, desired, expected) in cases {
            let chosen = choose_sealing_key(&rows, desired, &scope("w1"));
            assert_eq!(
                chosen.map(KeyRowBody::key_id),
                expected.map(|k| KeyId([k; 16])),
                "{name}"
            );
        }
        let rows = [row(1, 1, "a")];
        assert!(choose_sealing_key(&rows, &first, &scope("w2")).is_none());
    }

    #[test]
    fn only_the_highest_allowed_wrap_is_tried() {
        let rows = [row(1, 1, "a"), row(1, 3, "c"), row(1, 2, "b")];
        let id = KeyId([1; 16]);
        let open = |allowed: &[&str], floor: u32| {
            choose_wrap_to_open(&rows, id, &allow(allowed), epoch(floor)).map(|r| r.wrap_epoch)
        };
        assert_eq!(open(&["a", "b", "c"], 0), Ok(epoch(3)));
        assert_eq!(open(&["a", "b"], 0), Ok(epoch(2)));
        assert_eq!(open(&["a"], 0), Ok(epoch(1)));
        assert_eq!(open(&["d"], 0), Err(CellError::CmkNotAllowed(arn("c"))));
        assert_eq!(
            open(&["a"], 2),
            Err(CellError::WrapBelowFloor {
                epoch: epoch(1),
                floor: epoch(2)
            })
        );
        let other = KeyId([9; 16]);
        assert_eq!(
            choose_wrap_to_open(&rows, other, &allow(&["a"]), epoch(0)).map(|_| ()),
            Err(CellError::KeyRowMissing(other))
        );
    }

    #[test]
    fn a_bad_row_spoils_its_own_key_only() {
        let mut cut = stored(&row(1, 2, "a"));
        cut.row.pop();
        let mut moved = stored(&row(2, 1, "a"));
        moved.wrap_epoch = epoch(2);
        let keys =
            SliceKeys::parse(&[stored(&row(1, 1, "a")), cut, moved, stored(&row(3, 1, "a"))]);
        assert_eq!(keys.rows().len(), 2);
        assert_eq!(keys.bad().count(), 2);

        // Key 1 would qualify by its good row alone, and is newer in no way.
        let sealing = keys.sealing_key(&desired(1, 1, "a"), &scope("w1"));
        assert_eq!(sealing.map(KeyRowBody::key_id), Some(KeyId([3; 16])));

        let open = |k: u8| {
            keys.wrap_to_open(KeyId([k; 16]), &allow(&["a"]), epoch(0))
                .map(|r| r.wrap_epoch)
        };
        assert_eq!(
            open(1),
            Err(CellError::KeyRowMalformed(KeyRowError::Length))
        );
        assert_eq!(open(2), Err(CellError::KeyRowMisplaced));
        assert_eq!(open(3), Ok(epoch(1)));
    }

    #[test]
    fn a_good_wrap_above_a_bad_one_opens() {
        let mut cut = stored(&row(1, 1, "a"));
        cut.row.pop();
        let keys = SliceKeys::parse(&[cut, stored(&row(1, 2, "a"))]);
        let open = keys.wrap_to_open(KeyId([1; 16]), &allow(&["a"]), epoch(0));
        assert_eq!(open.map(|r| r.wrap_epoch), Ok(epoch(2)));
        // It still does not seal: how old the key is, the bad row does not say.
        assert!(
            keys.sealing_key(&desired(1, 1, "a"), &scope("w1"))
                .is_none()
        );
    }
}
