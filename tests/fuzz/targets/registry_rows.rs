//! The rows of an organization's partition, and the waits of a store. A row does
//! not say what it is; its id does. So the input is taken as each of them.

use rekeyd::registry::{ActivationRow, ChannelRow, CmkRow, ConsentRow, MoveRow, OrgRow, Timing};
use serde_json::Value;

use super::{is_short, json_row};

/// Takes the input as each row. Answers whether it is one.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    // The one thing in these rows that stays out of errors and logs.
    let external_id = secret(text);
    let secrets: Vec<&str> = external_id.as_deref().into_iter().collect();
    let cmk: Option<CmkRow> = json_row(text, &secrets);
    if let Some(cmk) = &cmk {
        let shown = format!("{cmk:?}");
        assert!(secrets.iter().all(|secret| !shown.contains(secret)));
    }
    let timing: Option<Timing> = json_row(text, &secrets);
    if let Some(timing) = &timing {
        waits_are_checked(timing);
    }
    let taken = [
        cmk.is_some(),
        timing.is_some(),
        json_row::<OrgRow>(text, &secrets).is_some(),
        json_row::<ChannelRow>(text, &secrets).is_some(),
        json_row::<ActivationRow>(text, &secrets).is_some(),
        json_row::<MoveRow>(text, &secrets).is_some(),
        json_row::<ConsentRow>(text, &secrets).is_some(),
    ];
    let kinds = taken.iter().filter(|taken| **taken).count();
    if text.trim_start().starts_with('{') {
        assert!(kinds <= 1, "one row is taken for two things");
    }
    kinds > 0
}

/// An external id, where it stands once and nowhere else.
fn secret(text: &str) -> Option<String> {
    let row: Value = serde_json::from_str(text).ok()?;
    let id = row.get("external_id")?.as_str()?;
    (id.len() >= 6 && text.matches(id).count() == 1).then(|| id.to_owned())
}

/// Waits of any size are judged, and what was judged good can be reckoned with.
fn waits_are_checked(timing: &Timing) {
    match timing.check() {
        Err(error) => is_short(&error),
        Ok(()) => {
            assert!(timing.margin_ms > 2 * timing.max_skew_ms);
            assert!(timing.drain_ms >= timing.settle_ms());
            assert!(timing.trust() < timing.lease());
            for tries in [0, 1, 7, u32::MAX] {
                assert!(timing.blocked_retry(tries).as_millis() > 0);
            }
        }
    }
}
