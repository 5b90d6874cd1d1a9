//! A cell opens where it was sealed, byte for byte as it was sealed, and nowhere
//! else.

use proptest::prelude::*;

use super::Site;
use crate::clock::WallTime;
use crate::crypto::cell::{self, MAX_PLAINTEXT_BYTES, OVERHEAD_BYTES};
use crate::crypto::open::{self, Admission, MessageLocus};
use crate::crypto::{CellError, Header, KeyRowBody, NonceSource, Plaintext, Provider};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, OrgId, RecordId, WorkspaceId};

const EPOCH: Epoch = Epoch::FIRST;
const TEXT: &[u8] = b"synthetic text";

fn code<T>(result: Result<T, CellError>) -> &'static str {
    match result {
        Ok(_) => "opened",
        Err(e) => e.code(),
    }
}

fn sealed(site: &Site, n: u8) -> Vec<u8> {
    let nonce = NonceSource::new().next();
    cell::seal(&site.key(n), EPOCH, None, &nonce, &site.locus(), TEXT).unwrap()
}

/// Each other site that differs from the vector's in one thing.
fn other_sites() -> Vec<(&'static str, Site)> {
    let at = Site::vector();
    let mut last_bit = at.record.as_bytes().to_vec();
    *last_bit.last_mut().unwrap() ^= 1;
    let mut longer = at.record.as_bytes().to_vec();
    longer.push(0);
    vec![
        (
            "organization",
            Site {
                org: OrgId::new("acmf").unwrap(),
                ..at.clone()
            },
        ),
        (
            "workspace",
            Site {
                workspace: WorkspaceId::new("w2").unwrap(),
                ..at.clone()
            },
        ),
        (
            "channel",
            Site {
                channel: ChannelId::new("c2").unwrap(),
                ..at.clone()
            },
        ),
        (
            "hour",
            Site {
                hour: at.hour.next(),
                ..at.clone()
            },
        ),
        (
            "record",
            Site {
                record: RecordId::new(last_bit).unwrap(),
                ..at.clone()
            },
        ),
        (
            "record, longer",
            Site {
                record: RecordId::new(longer).unwrap(),
                ..at.clone()
            },
        ),
    ]
}

#[test]
fn every_single_bit_flip_is_refused() {
    for expiry in [None, Some(1_893_456_000)] {
        let site = Site::vector();
        let key = site.key(0);
        let nonce = NonceSource::new().next();
        let good = cell::seal(&key, EPOCH, expiry, &nonce, &site.locus(), TEXT).unwrap();
        assert!(cell::open(&key, &site.locus(), &good).unwrap().as_bytes() == TEXT);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..=3 if bit % 8 == 7 => "bad_epoch",
                4 => "unknown_version",
                5 => "unknown_suite",
                6..=21 => "key_id_mismatch",
                _ => "tag_mismatch",
            };
            assert_eq!(
                code(cell::open(&key, &site.locus(), &bad)),
                expected,
                "bit {bit}"
            );
        }
    }
}

#[test]
fn every_cut_and_every_added_byte_is_refused() {
    let site = Site::vector();
    let key = site.key(0);
    let good = sealed(&site, 0);
    for length in 0..good.len() {
        let expected = if length < OVERHEAD_BYTES {
            "cell_too_short"
        } else {
            "tag_mismatch"
        };
        assert_eq!(
            code(cell::open(&key, &site.locus(), &good[..length])),
            expected,
            "{length}"
        );
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(
        code(cell::open(&key, &site.locus(), &longer)),
        "tag_mismatch"
    );
}

#[test]
fn a_cell_moved_to_another_record_or_channel_or_organization_does_not_open() {
    let site = Site::vector();
    let key = site.key(0);
    let cell = sealed(&site, 0);
    for (what, other) in other_sites() {
        // The key is the old one: only the locus differs. Workspace and hour are
        // not part of it; they are held by the key's scope (next test).
        let expected = match what {
            "workspace" | "hour" => "opened",
            _ => "tag_mismatch",
        };
        assert_eq!(
            code(cell::open(&key, &other.locus(), &cell)),
            expected,
            "{what}"
        );
    }
}

#[test]
fn the_same_data_key_under_another_scope_is_another_key() {
    let site = Site::vector();
    let mut cell = sealed(&site, 0);
    for (what, other) in other_sites() {
        let key = other.key(0);
        if what.starts_with("record") {
            assert!(
                key.matches(site.key(0).commitment()),
                "{what} is no part of the scope"
            );
            continue;
        }
        assert!(!key.matches(site.key(0).commitment()), "{what}");
        assert_eq!(
            code(cell::open(&key, &site.locus(), &cell)),
            "key_id_mismatch",
            "{what}"
        );
        // Even if the cell is made to name the other key.
        cell[6..22].copy_from_slice(&key.key_id().0);
        assert_eq!(
            code(cell::open(&key, &site.locus(), &cell)),
            "tag_mismatch",
            "{what}"
        );
        cell[6..22].copy_from_slice(&site.key(0).key_id().0);
    }
}

#[test]
fn a_key_row_copied_along_does_not_help() {
    let site = Site::vector();
    let had = [site.workspace.clone()];
    for (what, other) in other_sites() {
        let asked = MessageLocus {
            org: &other.org,
            channel: &other.channel,
            hour: other.hour,
        };
        // The workspaces that the channel asked for has had.
        let had_there = [other.workspace.clone()];
        let expected = if what.starts_with("record") {
            "opened"
        } else {
            "scope_mismatch"
        };
        assert_eq!(
            code(open::scope_fits(&site.scope(), &asked, &had_there)),
            expected,
            "{what}"
        );
    }
    let asked = MessageLocus {
        org: &site.org,
        channel: &site.channel,
        hour: site.hour,
    };
    assert_eq!(
        code(open::scope_fits(&site.scope(), &asked, &had)),
        "opened"
    );
    assert_eq!(
        code(open::scope_fits(&site.scope(), &asked, &[])),
        "scope_mismatch"
    );
    let not_messages = crate::scope::Scope::Search {
        org: site.org.clone(),
    };
    assert_eq!(
        code(open::scope_fits(&not_messages, &asked, &had)),
        "scope_mismatch"
    );
    // Were the scope check left out, the locus would still refuse.
    for (what, other) in other_sites() {
        if !matches!(what, "workspace" | "hour") {
            let result = cell::open(&site.key(0), &other.locus(), &sealed(&site, 0));
            assert_eq!(code(result), "tag_mismatch", "{what}");
        }
    }
}

fn row_for(site: &Site, n: u8) -> KeyRowBody {
    KeyRowBody {
        wrap_epoch: EPOCH,
        provider: Provider::LocalRing,
        commitment: site.key(n).commitment().clone(),
        created_ms: 1_550_077_323_000,
        cmk: CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/1234abcd").unwrap(),
        key_material_id: None,
        scope: site.scope(),
        wrapped: vec![7; 184],
    }
}

#[test]
fn a_swapped_data_key_is_caught_before_a_cell_is_opened() {
    let site = Site::vector();
    let (mine, theirs) = (site.key(0), site.key(1));
    let row = row_for(&site, 0);
    assert_eq!(
        code(open::check_commitment(&mine, &row, &mine.key_id())),
        "opened"
    );
    // The wrapped key was exchanged, the commitment left.
    assert_eq!(
        code(open::check_commitment(&theirs, &row, &mine.key_id())),
        "commitment_mismatch"
    );
    // The commitment was exchanged as well: it no longer begins with the key id.
    let swapped = row_for(&site, 1);
    assert_eq!(
        code(open::check_commitment(&theirs, &swapped, &mine.key_id())),
        "commitment_mismatch"
    );
    assert_eq!(
        code(swapped.check_address(&mine.key_id(), EPOCH)),
        "key_row_misplaced"
    );
    // The first half alone was put back.
    let mut half = row_for(&site, 1);
    half.commitment.0[..16].copy_from_slice(&mine.key_id().0);
    assert_eq!(
        code(open::check_commitment(&theirs, &half, &mine.key_id())),
        "commitment_mismatch"
    );
}

#[test]
fn a_row_at_another_address_is_refused() {
    let site = Site::vector();
    let row = row_for(&site, 0);
    assert_eq!(code(row.check_address(&row.key_id(), EPOCH)), "opened");
    let next = EPOCH.next().unwrap();
    assert_eq!(
        code(row.check_address(&row.key_id(), next)),
        "key_row_misplaced"
    );
}

#[test]
fn admission_goes_in_order() {
    let site = Site::vector();
    let key = site.key(0);
    let e = |n| Epoch::new(n).unwrap();
    let expiry = 1_893_456_000;
    let nonce = [0; 12];
    let cell = cell::seal(&key, e(5), Some(expiry), &nonce, &site.locus(), TEXT).unwrap();
    let header = Header {
        epoch: e(5),
        key_id: key.key_id(),
        expiry: Some(expiry),
    };
    assert_eq!(Header::parse(&cell), Ok(header));
    let before = WallTime(i64::from(expiry) * 1_000_000 - 1);
    let at = WallTime(i64::from(expiry) * 1_000_000);
    for (now, floor, newest, expected) in [
        (before, 1, 5, Ok(Admission::Ok(header))),
        (before, 5, 9, Ok(Admission::Ok(header))),
        (
            before,
            6,
            9,
            Err(CellError::EpochBelowFloor {
                epoch: e(5),
                floor: e(6),
            }),
        ),
        (before, 1, 4, Ok(Admission::AboveNewest(header))),
        // An expired cell is absent, whatever else is wrong with its epoch.
        (at, 1, 5, Ok(Admission::Expired)),
        (at, 6, 9, Ok(Admission::Expired)),
        (at, 1, 4, Ok(Admission::Expired)),
    ] {
        assert_eq!(open::admit_cell(&cell, now, e(floor), e(newest)), expected);
    }
    let lasting = cell::seal(&key, e(5), None, &nonce, &site.locus(), TEXT).unwrap();
    let end = WallTime(i64::MAX);
    assert!(matches!(
        open::admit_cell(&lasting, end, e(1), e(5)),
        Ok(Admission::Ok(_))
    ));
    assert_eq!(
        code(open::admit_cell(&[0; 53], at, e(1), e(5))),
        "cell_too_short"
    );
}

#[test]
fn sealing_refuses_what_nobody_could_read() {
    let site = Site::vector();
    let key = site.key(0);
    let too_long = vec![0; MAX_PLAINTEXT_BYTES + 1];
    let seal = |expiry, text: &[u8]| {
        code(cell::seal(
            &key,
            EPOCH,
            expiry,
            &[0; 12],
            &site.locus(),
            text,
        ))
    };
    assert_eq!(seal(None, &too_long), "plaintext_too_large");
    assert_eq!(seal(None, &too_long[1..]), "opened");
    assert_eq!(seal(None, b""), "opened");
    assert_eq!(seal(Some(0), TEXT), "bad_expiry");
    assert_eq!(seal(Some(2_114_380_800), TEXT), "opened");
    assert_eq!(seal(Some(2_114_380_801), TEXT), "bad_expiry");
    for (what, other) in other_sites() {
        if matches!(what, "organization" | "channel") {
            let result = cell::seal(&key, EPOCH, None, &[0; 12], &other.locus(), TEXT);
            assert_eq!(code(result), "scope_mismatch", "{what}");
        }
    }
    // A cell that is too long is refused before anything is decrypted.
    let mut long = sealed(&site, 0);
    long.resize(OVERHEAD_BYTES + MAX_PLAINTEXT_BYTES + 1, 0);
    assert_eq!(
        code(cell::open(&key, &site.locus(), &long)),
        "plaintext_too_large"
    );
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        text in proptest::collection::vec(any::<u8>(), 0..2000),
        record in proptest::collection::vec(any::<u8>(), 1..=256),
        epoch in 1..Epoch::LIMIT,
        expiry in proptest::option::of(1..=crate::crypto::expiry::LATEST),
        nonce: [u8; 12],
    ) {
        let site = Site { record: RecordId::new(record).unwrap(), ..Site::vector() };
        let key = site.key(3);
        let epoch = Epoch::new(epoch).unwrap();
        let cell = cell::seal(&key, epoch, expiry, &nonce, &site.locus(), &text).unwrap();
        prop_assert_eq!(cell.len(), text.len() + OVERHEAD_BYTES);
        prop_assert_eq!(
            Header::parse(&cell).unwrap(),
            Header { epoch, key_id: key.key_id(), expiry }
        );
        prop_assert!(
            cell::open(&key, &site.locus(), &cell).unwrap() == Plaintext::new(text.clone())
        );
        if let Some(next) = epoch.next() {
            // At one write time the newer epoch has the larger bytes.
            let newer = cell::seal(&key, next, None, &nonce, &site.locus(), b"").unwrap();
            prop_assert!(newer > cell);
        }
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let site = Site::vector();
        let _ = Header::parse(&bytes);
        prop_assert!(cell::open(&site.key(0), &site.locus(), &bytes).is_err());
        let _ = KeyRowBody::decode(&bytes);
        let _ = crate::scope::Scope::from_bytes(&bytes);
    }
}
