//! The JSON of a policy, as far as ours go. What is not in here (`NotResource`,
//! `NotPrincipal`, …) does not parse, so it cannot be judged wrongly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Operator to condition key to values, as they stand in a statement.
pub type Condition = BTreeMap<String, BTreeMap<String, OneOrMany>>;

/// A policy document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Policy {
    /// Always `2012-10-17`: without it IAM reads an older grammar.
    pub version: String,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The statements.
    pub statement: Vec<Statement>,
}

/// What a statement does where it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Allows.
    Allow,
    /// Denies, whatever else allows.
    Deny,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Statement {
    /// What it is called.
    pub sid: String,
    /// What it does.
    pub effect: Effect,
    /// About whom, in a policy that stands with the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// The actions it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<OneOrMany>,
    /// The actions it is not about: it is about all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_action: Option<OneOrMany>,
    /// The resources it is about. A trust policy has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<OneOrMany>,
    /// All of these must hold.
    #[serde(default, skip_serializing_if = "Condition::is_empty")]
    pub condition: Condition,
}

/// About whom a statement is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// ARNs of roles.
    #[serde(rename = "AWS")]
    pub aws: OneOrMany,
}

/// A text or a list of texts: both mean the same to IAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several; one of them has to match.
    Many(Vec<String>),
}

impl OneOrMany {
    /// From a list; one alone is written without brackets.
    pub fn of<T: ToString>(items: impl IntoIterator<Item = T>) -> Self {
        let mut all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        match all.len() {
            1 => Self::One(all.remove(0)),
            _ => Self::Many(all),
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(all) => all,
        }
        .iter()
        .map(String::as_str)
    }
}

impl Policy {
    /// A document of these statements.
    pub fn of(id: Option<String>, statement: Vec<Statement>) -> Self {
        Self {
            version: "2012-10-17".to_owned(),
            id,
            statement,
        }
    }

    /// Its size as IAM counts it: characters without white space.
    pub fn chars(&self) -> usize {
        let text = serde_json::to_string(self).unwrap_or_default();
        text.chars().filter(|c| !c.is_whitespace()).count()
    }
}

impl Statement {
    /// A statement about these actions.
    pub fn new<T: ToString>(
        sid: &str,
        effect: Effect,
        actions: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            sid: sid.to_owned(),
            effect,
            principal: None,
            action: Some(OneOrMany::of(actions)),
            not_action: None,
            resource: None,
            condition: Condition::new(),
        }
    }

    /// About these resources.
    #[must_use]
    pub fn on<T: ToString>(mut self, resources: impl IntoIterator<Item = T>) -> Self {
        self.resource = Some(OneOrMany::of(resources));
        self
    }

    /// About this role.
    #[must_use]
    pub fn about(mut self, role_arn: &str) -> Self {
        self.principal = Some(Principal {
            aws: OneOrMany::One(role_arn.to_owned()),
        });
        self
    }

    /// Only where this holds too.
    #[must_use]
    pub fn only_if<T: ToString>(
        mut self,
        operator: &str,
        key: &str,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        self.condition
            .entry(operator.to_owned())
            .or_default()
            .insert(key.to_owned(), OneOrMany::of(values));
        self
    }
}
