//! Scopes, as key rows hold them and the KMS is sent them.

use rekeyd::scope::{Scope, ScopeError};

use super::is_short;

/// Takes the input as a scope. Answers whether it is one.
pub fn run(bytes: &[u8]) -> bool {
    let scope = match Scope::from_bytes(bytes) {
        Ok(scope) => scope,
        Err(error) => {
            is_short(&error);
            return false;
        }
    };
    assert_eq!(scope.to_bytes(), bytes, "there is one spelling");
    let pairs: Vec<(String, String)> = scope.context().into_iter().collect();
    assert_eq!(spell(pairs.iter()), bytes);
    // No other order, none twice, nothing after it, nothing cut off.
    for shift in 1..pairs.len() {
        let turned = pairs[shift..].iter().chain(&pairs[..shift]);
        assert_eq!(Scope::from_bytes(&spell(turned)), Err(ScopeError::Order));
    }
    let twice = pairs.iter().chain(&pairs[pairs.len() - 1..]);
    assert_eq!(Scope::from_bytes(&spell(twice)), Err(ScopeError::Order));
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(Scope::from_bytes(&longer), Err(ScopeError::Length));
    for end in 0..bytes.len() {
        assert!(Scope::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
    }
    true
}

/// `u8 n ‖ n × (LP(key) ‖ LP(value))`, in the order given.
fn spell<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> Vec<u8> {
    let mut out = vec![0];
    for (key, value) in pairs {
        out[0] += 1;
        for part in [key, value] {
            out.extend((part.len() as u16).to_be_bytes());
            out.extend(part.as_bytes());
        }
    }
    out
}
