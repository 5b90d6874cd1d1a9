//! Cells: parsing, the checks before opening, opening. The input is taken as a
//! cell, and as a text that is sealed and then spoiled.

use std::sync::LazyLock;

use rekeyd::clock::WallTime;
use rekeyd::crypto::cell::{self, OVERHEAD_BYTES, Scratch};
use rekeyd::crypto::{Admission, CellError, CellKey, Header, KeyId, admit_cell};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, OrgId, RecordId, WorkspaceId};
use rekeyd::kms::Dek;
use rekeyd::scope::{Locus, Scope};
use zeroize::Zeroizing;

use super::is_short;

/// Key and place of the vectors of docs/format.md.
struct Fixed {
    key: CellKey,
    org: OrgId,
    channel: ChannelId,
    record: RecordId,
    other: RecordId,
}

static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let (org, channel) = (OrgId::new("acme").unwrap(), ChannelId::new("c1").unwrap());
    let scope = Scope::Message {
        org: org.clone(),
        workspace: WorkspaceId::new("w1").unwrap(),
        channel: channel.clone(),
        hour: "2019-02-13T17".parse().unwrap(),
    };
    let dek: [u8; 32] = std::array::from_fn(|i| i as u8);
    Fixed {
        key: CellKey::derive(Dek::new(Zeroizing::new(dek)), &scope),
        org,
        channel,
        record: "0000016880a1b2c3d4e5f60718293a4b".parse().unwrap(),
        other: "0000016880a1b2c3d4e5f60718293a4c".parse().unwrap(),
    }
});

impl Fixed {
    fn locus<'a>(&'a self, record: &'a RecordId) -> Locus<'a> {
        Locus::Message {
            org: &self.org,
            channel: &self.channel,
            record,
        }
    }
}

/// Takes the input as a cell and as a text. Answers whether it opened.
pub fn run(input: &[u8]) -> bool {
    parses_as_the_page_says(input);
    is_admitted_in_order(input);
    comes_back_or_not_at_all(input);
    opens_as_it_was_sealed(input)
}

/// docs/format.md once more, in other words.
fn by_the_page(cell: &[u8]) -> Result<Header, CellError> {
    if cell.len() < 54 {
        return Err(CellError::CellTooShort { bytes: cell.len() });
    }
    let number = cell[..4]
        .iter()
        .fold(0u64, |n, b| n * 128 + u64::from(*b & 0x7f));
    if cell[..4].iter().any(|b| b & 0x80 != 0) {
        return Err(CellError::BadEpoch);
    }
    if cell[4] != 1 {
        return Err(CellError::UnknownVersion(cell[4]));
    }
    if cell[5] != 1 {
        return Err(CellError::UnknownSuite(cell[5]));
    }
    let expiry = cell[22..26]
        .iter()
        .fold(0u64, |n, b| n * 256 + u64::from(*b));
    Ok(Header {
        epoch: Epoch::new(u32::try_from(number).unwrap()).unwrap(),
        key_id: KeyId(cell[6..22].try_into().unwrap()),
        expiry: (expiry != 0).then(|| u32::try_from(expiry).unwrap()),
    })
}

fn parses_as_the_page_says(cell: &[u8]) {
    assert_eq!(Header::parse(cell), by_the_page(cell));
}

/// An expired cell is absent whatever else is wrong with it, then the floor
/// speaks, then the newest epoch.
fn is_admitted_in_order(cell: &[u8]) {
    let now = WallTime(1_800_000_000_000_000);
    let (floor, newest) = (Epoch::new(2).unwrap(), Epoch::new(300).unwrap());
    let admission = admit_cell(cell, now, floor, newest);
    let Ok(header) = by_the_page(cell) else {
        assert!(admission.is_err());
        return;
    };
    let expected = if header.expiry.is_some_and(|at| at <= 1_800_000_000) {
        Ok(Admission::Expired)
    } else if header.epoch < floor {
        Err(CellError::EpochBelowFloor {
            epoch: header.epoch,
            floor,
        })
    } else if header.epoch > newest {
        Ok(Admission::AboveNewest(header))
    } else {
        Ok(Admission::Ok(header))
    };
    assert_eq!(admission, expected);
}

/// Whatever opens is, byte for byte, what sealing makes of its own parts; and it
/// opens at one place only, with no byte more and none less.
fn opens_as_it_was_sealed(bytes: &[u8]) -> bool {
    let fixed = &*FIXED;
    let locus = fixed.locus(&fixed.record);
    let text = match cell::open(&fixed.key, &locus, bytes) {
        Ok(text) => text,
        Err(error) => {
            is_short(&error);
            return false;
        }
    };
    let header = Header::parse(bytes).expect("what opens has a header");
    let nonce: [u8; 12] = bytes[26..38].try_into().unwrap();
    let sealed = cell::seal(
        &fixed.key,
        header.epoch,
        header.expiry,
        &nonce,
        &locus,
        text.as_bytes(),
    );
    assert_eq!(sealed.as_deref(), Ok(bytes));
    is_refused_when_spoiled(bytes);
    true
}

/// A text that is sealed comes back; changed, moved, cut or lengthened it does
/// not, and what was held before does not show.
fn comes_back_or_not_at_all(text: &[u8]) {
    let fixed = &*FIXED;
    let locus = fixed.locus(&fixed.record);
    let epoch = Epoch::new(1 + text.len() as u32 % 1_000_000).unwrap();
    let mut nonce = [0; 12];
    for (n, byte) in text.iter().enumerate() {
        nonce[n % 12] ^= byte.rotate_left(n as u32 % 8);
    }
    let expiry = text.len().is_multiple_of(3).then_some(1_893_456_000);
    let cell = cell::seal(&fixed.key, epoch, expiry, &nonce, &locus, text)
        .expect("what a fuzzer gives is no longer than a message may be");
    assert_eq!(cell.len(), text.len() + OVERHEAD_BYTES);
    assert!(cell.starts_with(&epoch.to_bytes()));
    let mut scratch = Scratch::default();
    let opened = cell::open_into(&fixed.key, &locus, &cell, &mut scratch);
    assert!(opened.is_ok_and(|opened| opened == text));
    is_refused_when_spoiled(&cell);
}

fn is_refused_when_spoiled(cell: &[u8]) {
    let fixed = &*FIXED;
    let here = fixed.locus(&fixed.record);
    let elsewhere = fixed.locus(&fixed.other);
    let refused = |locus: &Locus<'_>, cell: &[u8]| match cell::open(&fixed.key, locus, cell) {
        Ok(_) => panic!("a spoiled cell opens"),
        Err(error) => is_short(&error),
    };
    refused(&elsewhere, cell);
    let mut longer = cell.to_vec();
    longer.push(0);
    refused(&here, &longer);
    refused(&here, &cell[..cell.len() - 1]);
    // One bit, in a place that follows from the cell.
    let sum = cell
        .iter()
        .fold(7usize, |n, b| n * 31 % 65_521 + *b as usize);
    let mut flipped = cell.to_vec();
    flipped[sum % cell.len()] ^= 1 << (sum % 8);
    refused(&here, &flipped);
}
