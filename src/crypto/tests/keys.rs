//! Keys, nonces and key rows.

use std::collections::HashSet;

use proptest::prelude::*;

use super::Site;
use crate::crypto::{CellKey, Commitment, KeyRowBody, KeyRowError, NonceSource, Provider};
use crate::epoch::Epoch;
use crate::ids::CmkArn;
use crate::scope::Scope;

#[test]
fn seals_are_counted_before_and_end_at_the_limit() {
    let key = Site::vector().key(0);
    key.reserve_seals(CellKey::MAX_SEALS - 1).unwrap();
    let refused = key.reserve_seals(2).unwrap_err();
    assert_eq!((refused.used, refused.asked), (CellKey::MAX_SEALS - 1, 2));
    assert_eq!(
        key.seals_reserved(),
        CellKey::MAX_SEALS - 1,
        "a refusal counts nothing"
    );
    key.reserve_seals(1).unwrap();
    assert!(key.reserve_seals(1).is_err());
    assert!(
        key.reserve_seals(u32::MAX).is_err(),
        "the count does not wrap"
    );
    key.reserve_seals(0).unwrap();
}

#[test]
fn threads_together_do_not_pass_the_limit() {
    let key = Site::vector().key(0);
    let granted: u32 = std::thread::scope(|threads| {
        let run = || {
            let mut mine = 0;
            while key.reserve_seals(1000).is_ok() {
                mine += 1000;
            }
            mine
        };
        let workers: Vec<_> = (0..4).map(|_| threads.spawn(run)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(granted, key.seals_reserved());
    assert_eq!(granted, CellKey::MAX_SEALS / 1000 * 1000);
}

#[test]
fn a_commitment_is_equal_only_to_itself() {
    let key = Site::vector().key(0);
    for bit in 0..256 {
        let mut other = key.commitment().clone();
        other.0[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.matches(&other), "bit {bit}");
    }
    assert!(key.matches(&Commitment(key.commitment().0)));
    assert_eq!(key.key_id().0, key.commitment().0[..16]);
}

#[test]
fn nonces_do_not_repeat_within_or_between_sources() {
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let mut source = NonceSource::new();
        for _ in 0..500 {
            assert!(seen.insert(source.next()));
        }
    }
}

fn a_row() -> impl Strategy<Value = KeyRowBody> {
    let scope = prop_oneof![
        Just(Site::vector().scope()),
        Just(Scope::Search {
            org: Site::vector().org
        }),
        Just(Scope::Canary {
            org: Site::vector().org
        }),
        Just(Scope::SetAside {
            org: Site::vector().org,
            channel: "c1".parse().unwrap(),
            job: "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69".parse().unwrap(),
        }),
        Just(Scope::File {
            org: Site::vector().org,
            file: "F1".parse().unwrap()
        }),
    ];
    let provider = prop_oneof![
        Just(Provider::Aws),
        Just(Provider::LocalRing),
        Just(Provider::Pkcs11),
        Just(Provider::Vault),
    ];
    (
        0..Epoch::LIMIT,
        provider,
        any::<[u8; 32]>(),
        any::<u64>(),
        "arn:aws:kms:eu-west-1:[0-9]{12}:key/[0-9a-f-]{1,36}",
        proptest::option::of("[ -~é]{1,64}"),
        scope,
        proptest::collection::vec(any::<u8>(), 1..=300),
    )
        .prop_map(
            |(wrap, provider, commitment, created_ms, cmk, material, scope, wrapped)| KeyRowBody {
                wrap_epoch: Epoch::new(wrap).unwrap(),
                provider,
                commitment: Commitment(commitment),
                created_ms,
                cmk: CmkArn::new(cmk).unwrap(),
                key_material_id: material,
                scope,
                wrapped,
            },
        )
}

proptest! {
    #[test]
    fn key_rows_come_back_as_they_went(row in a_row()) {
        let bytes = row.encode().unwrap();
        prop_assert_eq!(KeyRowBody::decode(&bytes).unwrap(), row);
        for length in 0..bytes.len() {
            prop_assert!(KeyRowBody::decode(&bytes[..length]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_eq!(KeyRowBody::decode(&longer), Err(KeyRowError::Length));
    }

    /// There is one way to write a row: what decodes encodes to the same bytes.
    #[test]
    fn a_changed_row_is_another_row_or_none(row in a_row(), at: prop::sample::Index, to: u8) {
        let mut bytes = row.encode().unwrap();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        if let Ok(other) = KeyRowBody::decode(&bytes) {
            prop_assert_ne!(&other, &row);
            prop_assert_eq!(other.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn a_row_that_could_not_be_read_is_not_written() {
    let row = |wrapped: usize, material: Option<&str>| {
        KeyRowBody {
            wrap_epoch: Epoch::FIRST,
            provider: Provider::Aws,
            commitment: Commitment([0; 32]),
            created_ms: 0,
            cmk: CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/1").unwrap(),
            key_material_id: material.map(str::to_owned),
            scope: Site::vector().scope(),
            wrapped: vec![0; wrapped],
        }
        .encode()
    };
    assert_eq!(row(0, None), Err(KeyRowError::Wrapped(0)));
    assert!(row(6144, None).is_ok());
    assert_eq!(row(6145, None), Err(KeyRowError::Wrapped(6145)));
    assert_eq!(row(1, Some("")), Err(KeyRowError::KeyMaterial));
    assert!(row(1, Some(&"m".repeat(256))).is_ok());
    assert_eq!(
        row(1, Some(&"m".repeat(257))),
        Err(KeyRowError::KeyMaterial)
    );
}
