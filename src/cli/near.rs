//! "Did you mean": the name that there is, beside one that there is not.

use crate::cli::context::Context;
use crate::cli::report::{Failure, Missing};
use crate::job::JobBook;
use crate::registry::Registry;

/// Names that are looked through: a help, not a listing of everything.
const LOOKED_THROUGH: usize = 10_000;
/// How alike two names must be to be taken for each other, of 1.
const ALIKE: f64 = 0.8;

/// Adds the nearest name to a failure that is about one that is not there. What
/// fails on the way is passed over: the failure itself is what is to be told.
pub(super) fn suggest(context: &Context, failure: Failure) -> Failure {
    let Some(missing) = failure.missing.clone() else {
        return failure;
    };
    let found = context.run(async {
        let store = context.store().await?;
        let (asked, names) = match missing {
            Missing::Org(org) => {
                let registry = Registry::new(store, context.clock.clone());
                let orgs = registry.orgs(None, LOOKED_THROUGH).await?;
                let names: Vec<String> = orgs.into_iter().map(|o| o.to_string()).collect();
                (org.to_string(), names)
            }
            Missing::Job(job) => {
                let open = JobBook::new(store, context.clock.clone())
                    .open_everywhere()
                    .await?;
                let names: Vec<String> = open.into_iter().map(|(_, id)| id.to_string()).collect();
                (job.to_string(), names)
            }
        };
        Ok(nearest(&asked, names))
    });
    match found {
        Ok(Some(name)) => failure.did_you_mean(&name),
        Ok(None) | Err(_) => failure,
    }
}

/// The name that is most like the one asked for, if any is much like it.
fn nearest(asked: &str, names: Vec<String>) -> Option<String> {
    let asked = asked.to_lowercase();
    let alike = names.into_iter().map(|name| {
        let alike = strsim::normalized_damerau_levenshtein(&asked, &name.to_lowercase());
        let begins = name.to_lowercase().starts_with(&asked);
        // Of few letters one that is wrong weighs much.
        let one_off = strsim::damerau_levenshtein(&asked, &name.to_lowercase()) <= 1;
        (
            if begins || one_off {
                alike.max(ALIKE)
            } else {
                alike
            },
            name,
        )
    });
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant_and_a_far_one_is_not() {
        let names = || ["acme", "beta", "acme-europe"].map(str::to_owned).to_vec();
        for (asked, meant) in [
            ("acne", Some("acme")),
            ("Acme", Some("acme")),
            ("acme-eu", Some("acme-europe")),
            ("acme-euorpe", Some("acme-europe")),
            ("gamma", None),
        ] {
            assert_eq!(nearest(asked, names()).as_deref(), meant, "{asked}");
        }
        assert_eq!(nearest("acme", Vec::new()), None);
    }
}
