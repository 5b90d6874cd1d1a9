//! The vectors of tests/vectors, and the two of docs/format.md.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Site;
use crate::clock::WallTime;
use crate::crypto::key::Derived;
use crate::crypto::open::{self, Admission, MessageLocus};
use crate::crypto::{CellError, CellKey, Header, KeyId, KeyRowBody, Plaintext, cell, expiry};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, Hour, OrgId, RecordId, WorkspaceId};
use crate::keys::SliceKeys;
use crate::kms::Dek;
use crate::registry::{AllowList, CmkRole, CmkRow};
use crate::scope::{EncryptionContext, Locus, Scope};
use crate::store::KeyRow;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// A part of a vector file: a list of entries.
fn entries<T: DeserializeOwned>(file: &str, part: &str) -> Vec<T> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let entries: Vec<T> = serde_json::from_value(all[part].take()).unwrap();
    assert!(!entries.is_empty(), "{file}: {part}");
    entries
}

/// Bytes in hexadecimal.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl Hex {
    fn dek(&self) -> Dek {
        Dek::new(Zeroizing::new(self.0.as_slice().try_into().unwrap()))
    }
}

/// The scope of these pairs, by the decoder. Written out here and not by
/// `Scope::to_bytes`, so that the two are held against each other.
fn scope_of(context: &EncryptionContext) -> Scope {
    let mut bytes = vec![context.len() as u8];
    for text in context.iter().flat_map(|(k, v)| [k, v]) {
        bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Scope::from_bytes(&bytes).unwrap()
}

#[derive(Deserialize)]
struct Place {
    organization: OrgId,
    channel: ChannelId,
    record: RecordId,
}

impl Place {
    fn locus(&self) -> Locus<'_> {
        Locus::Message {
            org: &self.organization,
            channel: &self.channel,
            record: &self.record,
        }
    }
}

#[test]
fn every_file_is_read_by_a_test() {
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let read = [
        "cells.json",
        "epochs.json",
        "expiry.json",
        "key_rows.json",
        "keys.json",
        "open.json",
        "scopes.json",
    ];
    assert_eq!(found, read.map(str::to_owned).into());
}

#[test]
fn epochs() {
    #[derive(Deserialize)]
    struct Good {
        epoch: Epoch,
        bytes: Hex,
    }
    for good in entries::<Good>("epochs.json", "positive") {
        assert_eq!(good.epoch.to_bytes()[..], good.bytes.0);
        let back = Epoch::from_bytes(good.bytes.0.try_into().unwrap());
        assert_eq!(back, Some(good.epoch));
    }
    #[derive(Deserialize)]
    struct Bad {
        bytes: Hex,
        failure: String,
    }
    for bad in entries::<Bad>("epochs.json", "negative") {
        assert_eq!(bad.failure, "bad_epoch");
        assert_eq!(Epoch::from_bytes(bad.bytes.0.try_into().unwrap()), None);
    }
}

#[test]
fn scopes() {
    #[derive(Deserialize)]
    struct Good {
        name: String,
        context: EncryptionContext,
        scope: Hex,
    }
    for good in entries::<Good>("scopes.json", "positive") {
        let scope = Scope::from_bytes(&good.scope.0).unwrap();
        assert_eq!(scope.context(), good.context, "{}", good.name);
        assert_eq!(scope.to_bytes(), good.scope.0, "{}", good.name);
    }
    #[derive(Deserialize)]
    struct Bad {
        name: String,
        scope: Hex,
        failure: String,
    }
    for bad in entries::<Bad>("scopes.json", "negative") {
        let error = Scope::from_bytes(&bad.scope.0).expect_err(&bad.name);
        assert_eq!(error.code(), bad.failure, "{}", bad.name);
    }
}

#[test]
fn keys() {
    #[derive(Deserialize)]
    struct Good {
        name: String,
        dek: Hex,
        context: EncryptionContext,
        commitment: Hex,
        key_id: KeyId,
        cell_key: Hex,
    }
    for good in entries::<Good>("keys.json", "positive") {
        let scope = scope_of(&good.context);
        let derived = Derived::from(good.dek.dek(), &scope.to_bytes());
        assert_eq!(derived.commitment.0[..], good.commitment.0, "{}", good.name);
        assert_eq!(derived.cell_key[..], good.cell_key.0, "{}", good.name);
        let key = CellKey::derive(good.dek.dek(), &scope);
        assert!(key.matches(&derived.commitment));
        assert_eq!(key.key_id(), good.key_id, "{}", good.name);
        assert_eq!(*key.scope(), scope);
    }
}

#[test]
fn cells() {
    #[derive(Deserialize)]
    struct Good {
        name: String,
        dek: Hex,
        context: EncryptionContext,
        locus: Place,
        epoch: Epoch,
        expiry: Option<u32>,
        nonce: Hex,
        plaintext: Hex,
        aad: Hex,
        cell: Hex,
    }
    for good in entries::<Good>("cells.json", "positive") {
        let name = good.name;
        let key = CellKey::derive(good.dek.dek(), &scope_of(&good.context));
        let nonce = good.nonce.0.try_into().unwrap();
        let locus = good.locus.locus();
        let sealed = cell::seal(
            &key,
            good.epoch,
            good.expiry,
            &nonce,
            &locus,
            &good.plaintext.0,
        );
        assert_eq!(
            hex::encode(sealed.unwrap()),
            hex::encode(&good.cell.0),
            "{name}"
        );
        let header = Header::parse(&good.cell.0).unwrap();
        assert_eq!(
            (header.epoch, header.expiry),
            (good.epoch, good.expiry),
            "{name}"
        );
        assert_eq!(
            cell::aad_of(&key, &good.cell.0, &locus),
            good.aad.0,
            "{name}"
        );
        let opened = cell::open(&key, &locus, &good.cell.0).unwrap();
        assert!(opened == Plaintext::new(good.plaintext.0), "{name}");
    }
    #[derive(Deserialize)]
    struct Bad {
        name: String,
        dek: Hex,
        context: EncryptionContext,
        locus: Place,
        cell: Hex,
        failure: String,
    }
    for bad in entries::<Bad>("cells.json", "negative") {
        let key = CellKey::derive(bad.dek.dek(), &scope_of(&bad.context));
        let error = cell::open(&key, &bad.locus.locus(), &bad.cell.0).err();
        assert_eq!(error.map(|e| e.code()), Some(&*bad.failure), "{}", bad.name);
    }
}

#[test]
fn key_rows() {
    #[derive(Deserialize)]
    struct Good {
        name: String,
        wrap_epoch: Epoch,
        provider: u8,
        commitment: Hex,
        key_id: KeyId,
        created_ms: u64,
        cmk: CmkArn,
        key_material_id: Option<String>,
        context: EncryptionContext,
        wrapped: Hex,
        row: Hex,
    }
    for good in entries::<Good>("key_rows.json", "positive") {
        let row = KeyRowBody::decode(&good.row.0).unwrap();
        assert_eq!(row.encode().unwrap(), good.row.0, "{}", good.name);
        assert_eq!(row.wrap_epoch, good.wrap_epoch, "{}", good.name);
        assert_eq!(row.provider as u8, good.provider, "{}", good.name);
        assert_eq!(row.commitment.0[..], good.commitment.0, "{}", good.name);
        assert_eq!(row.key_id(), good.key_id, "{}", good.name);
        assert_eq!(row.created_ms, good.created_ms, "{}", good.name);
        assert_eq!(row.cmk, good.cmk, "{}", good.name);
        assert_eq!(row.key_material_id, good.key_material_id, "{}", good.name);
        assert_eq!(row.scope, scope_of(&good.context), "{}", good.name);
        assert_eq!(row.wrapped, good.wrapped.0, "{}", good.name);
    }
    #[derive(Deserialize)]
    struct Bad {
        name: String,
        row: Hex,
        failure: String,
    }
    for bad in entries::<Bad>("key_rows.json", "negative") {
        let error = KeyRowBody::decode(&bad.row.0).expect_err(&bad.name);
        assert_eq!(error.code(), bad.failure, "{}", bad.name);
        assert_eq!(CellError::from(error).code(), "key_row_malformed");
    }
}

#[derive(Deserialize)]
struct Opening {
    name: String,
    asked: Asked,
    registry: Registry,
    now_us: i64,
    cell: Hex,
    key_rows: Vec<FoundRow>,
    plaintext: Option<Hex>,
    failure: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    organization: OrgId,
    channel: ChannelId,
    hour: Hour,
    record: RecordId,
}

#[derive(Deserialize)]
struct Registry {
    newest: Epoch,
    cell_floor: Epoch,
    wrap_floor: Epoch,
    allowed: Vec<CmkArn>,
    workspaces: Vec<WorkspaceId>,
}

#[derive(Deserialize)]
struct FoundRow {
    key_id: KeyId,
    wrap_epoch: Epoch,
    row: Hex,
    unwrapped: Hex,
}

impl Registry {
    fn allow_list(&self) -> AllowList {
        let row = CmkRow {
            role: CmkRole::SourceOnly,
            canary_hex: String::new(),
            entered_by: "vectors".to_owned(),
            entered_ms: 0,
            role_arn: None,
            external_id: None,
        };
        let allowed = self.allowed.iter();
        allowed.map(|cmk| (cmk.clone(), row.clone())).collect()
    }
}

impl FoundRow {
    fn stored(&self) -> KeyRow {
        KeyRow {
            key_id: self.key_id,
            wrap_epoch: self.wrap_epoch,
            row: self.row.0.clone(),
        }
    }
}

/// All steps, as a reader takes them; the registry has just been read.
fn open_all(case: &Opening) -> Result<Option<Plaintext>, CellError> {
    let Opening {
        asked, registry, ..
    } = case;
    let now = WallTime(case.now_us);
    let newest = registry.newest;
    let header = match open::admit_cell(&case.cell.0, now, registry.cell_floor, newest)? {
        Admission::Expired => return Ok(None),
        Admission::AboveNewest(Header { epoch, .. }) => {
            return Err(CellError::EpochAboveNewest { epoch, newest });
        }
        Admission::Ok(header) => header,
    };
    let named = header.key_id;
    let rows: Vec<KeyRow> = case.key_rows.iter().map(FoundRow::stored).collect();
    let keys = SliceKeys::parse(&rows);
    let row = keys.wrap_to_open(named, &registry.allow_list(), registry.wrap_floor)?;
    let slice = MessageLocus {
        org: &asked.organization,
        channel: &asked.channel,
        hour: asked.hour,
    };
    open::scope_fits(&row.scope, &slice, &registry.workspaces)?;
    let mut found = case.key_rows.iter();
    let unwrapped = found
        .find(|r| (r.key_id, r.wrap_epoch) == (named, row.wrap_epoch))
        .unwrap();
    let key = CellKey::derive(unwrapped.unwrapped.dek(), &row.scope);
    open::check_commitment(&key, row, &named)?;
    let locus = Locus::Message {
        org: &asked.organization,
        channel: &asked.channel,
        record: &asked.record,
    };
    cell::open(&key, &locus, &case.cell.0).map(Some)
}

#[test]
fn opening_step_by_step() {
    for case in entries::<Opening>("open.json", "positive") {
        let opened = open_all(&case)
            .map_err(|e| format!("{}: {e}", case.name))
            .unwrap();
        let expected = case.plaintext.map(|text| Plaintext::new(text.0));
        assert!(opened == expected, "{}", case.name);
    }
    for case in entries::<Opening>("open.json", "negative") {
        let error = open_all(&case).err();
        assert_eq!(
            error.map(|e| e.code()),
            case.failure.as_deref(),
            "{}",
            case.name
        );
    }
}

#[test]
fn expiries() {
    #[derive(Deserialize)]
    struct Read {
        epoch: Epoch,
        ttl_s: u32,
        answered_us: i64,
    }
    #[derive(Deserialize)]
    struct Ttl {
        name: String,
        expiry: u32,
        epoch: Epoch,
        read: Option<Read>,
        now_us: i64,
        ttl_s: Option<u32>,
    }
    for case in entries::<Ttl>("expiry.json", "ttl") {
        let read = case
            .read
            .map(|r| (r.epoch, r.ttl_s, WallTime(r.answered_us)));
        let ttl = expiry::store_ttl(case.expiry, case.epoch, read, WallTime(case.now_us));
        assert_eq!(ttl, case.ttl_s, "{}", case.name);
    }
    #[derive(Deserialize)]
    struct New {
        now_s: i64,
        expiry: u32,
        failure: Option<String>,
    }
    for case in entries::<New>("expiry.json", "new_expiry") {
        let error = expiry::check_new_expiry(case.expiry, case.now_s).err();
        assert_eq!(
            error.map(|e| e.code()),
            case.failure.as_deref(),
            "{}",
            case.expiry
        );
    }
}

#[test]
fn the_vectors_of_the_format_page() {
    let site = Site::vector();
    let key = site.key(0);
    assert_eq!(
        key.commitment().to_string(),
        "f30feb6fd5afb0816262deb3d35178a8a3bb85576f16d9a17556c619c8a4be8b"
    );
    let nonce: [u8; 12] = std::array::from_fn(|i| 0xa0 + i as u8);
    let epoch = Epoch::new(300).unwrap();
    for (expiry, hex) in [
        (
            None,
            "0000022c0101f30feb6fd5afb0816262deb3d35178a800000000a0a1a2a3a4a5a6a7a8a9aaabeac9\
             b09f454e58e7b0d611ec2d06bbfe1c3a3935d75c",
        ),
        (
            Some(1_893_456_000),
            "0000022c0101f30feb6fd5afb0816262deb3d35178a870dbd880a0a1a2a3a4a5a6a7a8a9aaabeac9\
             b09f454ec2a70ae092778cf5c23361a942646dab",
        ),
    ] {
        let text = "héllo".as_bytes();
        let cell = cell::seal(&key, epoch, expiry, &nonce, &site.locus(), text).unwrap();
        assert_eq!(hex::encode(&cell), hex);
        assert!(cell::open(&key, &site.locus(), &cell).unwrap().as_bytes() == text);
    }
}
