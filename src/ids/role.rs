//! The role in a customer's account, and the external id that goes with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::InvalidId;

const ROLE_RULE: &str = "a role is named by its full ARN, \
     `arn:<partition>:iam::<account>:role/<path and name>`";

fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let plain =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let name = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
    };
    text.len() <= 2048
        && parts.len() == 6
        && parts[0] == "arn"
        && plain(parts[1])
        && parts[2] == "iam"
        && parts[3].is_empty()
        && plain(parts[4])
        && parts[5]
            .strip_prefix("role/")
            .is_some_and(|path| path.split('/').all(name))
}

text_id!(
    /// A role that may be assumed, named by its full ARN.
    RoleArn, "role ARN", is_role_arn, ROLE_RULE
);

impl RoleArn {
    fn part(&self, n: usize) -> &str {
        self.0.split(':').nth(n).unwrap_or_default()
    }

    /// The account that the role is in.
    pub fn account(&self) -> &str {
        self.part(4)
    }

    /// The name, without the path before it.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The ARN of a session of this role, as logs name it.
    pub fn session_arn(&self, session: &str) -> String {
        let (partition, account, name) = (self.part(1), self.account(), self.name());
        format!("arn:{partition}:sts::{account}:assumed-role/{name}/{session}")
    }
}

/// What a customer's role asks for besides our identity, so that nobody can make
/// us use it for another customer. Not a secret, but it stays out of logs,
/// errors and the audit log: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalId(String);

impl ExternalId {
    /// Checks the text against STS's grammar: 2 to 1224 letters, digits and
    /// `_+=,.@:/-`.
    ///
    /// # Errors
    /// If it does not follow it. The error does not repeat the text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        let fits = (2..=1224).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b));
        if fits {
            Ok(Self(text))
        } else {
            Err(InvalidId {
                what: "external id",
                given: "(not shown)".to_owned(),
                rule: "an external id has 2 to 1224 letters, digits and `_+=,.@:/-`",
            })
        }
    }

    /// The text, for the token service only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalId(not shown)")
    }
}

impl FromStr for ExternalId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<String> for ExternalId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl From<ExternalId> for String {
    fn from(id: ExternalId) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_full_arns() {
        let role = RoleArn::new("arn:aws-cn:iam::111122223333:role/a/b/rekeyd+x").unwrap();
        assert_eq!((role.account(), role.name()), ("111122223333", "rekeyd+x"));
        assert_eq!(
            role.session_arn("rekeyd-acme"),
            "arn:aws-cn:sts::111122223333:assumed-role/rekeyd+x/rekeyd-acme"
        );
        for wrong in [
            "",
            "rekeyd",
            "arn:aws:iam::111122223333:user/x",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role//x",
            "arn:aws:iam:eu-west-1:111122223333:role/x",
            "arn:aws:iam::111122223333:role/x y",
        ] {
            assert!(RoleArn::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_external_id_is_never_shown() {
        let id = ExternalId::new("T0P:secret/7").unwrap();
        assert!(!format!("{id:?}").contains("T0P"));
        let error = ExternalId::new("T0P secret").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("T0P"));
        assert!(ExternalId::new("x").is_err());
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"T0P:secret/7\"");
    }
}
