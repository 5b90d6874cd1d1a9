//! Rows of data keys.

use rekeyd::crypto::{KeyRowBody, KeyRowError};

use super::is_short;

/// Takes the input as a key row. Answers whether it is one.
pub fn run(row: &[u8]) -> bool {
    let body = match KeyRowBody::decode(row) {
        Ok(body) => body,
        Err(error) => {
            is_short(&error);
            return false;
        }
    };
    assert_eq!(body.encode().as_deref(), Ok(row), "there is one spelling");
    assert!(body.wrapped.len() <= KeyRowBody::MAX_WRAPPED_BYTES);
    assert!(body.check_address(&body.key_id(), body.wrap_epoch).is_ok());
    // It ends where it ends.
    let mut longer = row.to_vec();
    longer.push(0);
    assert_eq!(KeyRowBody::decode(&longer), Err(KeyRowError::Length));
    for end in (0..row.len()).step_by(1 + row.len() / 64) {
        assert!(KeyRowBody::decode(&row[..end]).is_err(), "cut at {end}");
    }
    assert!(KeyRowBody::decode(&row[..row.len() - 1]).is_err());
    true
}
