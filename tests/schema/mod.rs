//! JSON Schema (draft 2020-12), as much of it as our schemas use; panics at the
//! rest. For tests: those of what commands print, and those of job messages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde_json::Value;

/// Where the schemas of commands are.
#[allow(dead_code)]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas")
}

/// What is wrong with a command's answer by its schema, a file of [`folder`].
#[allow(dead_code)]
pub fn misfit(file: &str, answer: &Value) -> Option<String> {
    let read = |name: &str| {
        let path = folder().join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let misfit = Schema::among(read(file), &read).whole().misfit(answer)?;
    Some(format!("docs/schemas/{file}: {misfit}"))
}

/// A schema, and the files that it refers to.
pub struct Schema<'a> {
    root: Value,
    file: &'a dyn Fn(&str) -> Value,
    whole: bool,
}

impl<'a> Schema<'a> {
    /// One that refers to no other.
    #[allow(dead_code)]
    pub fn new(root: Value) -> Self {
        Self::among(root, &|name| {
            panic!("no other schema is expected, not {name}")
        })
    }

    /// One among others, which `file` reads.
    pub fn among(root: Value, file: &'a dyn Fn(&str) -> Value) -> Self {
        Self {
            root,
            file,
            whole: false,
        }
    }

    /// Takes no field that the schema does not name, even where it would allow
    /// one: readers must expect new fields, we must document them.
    #[allow(dead_code)]
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// What does not fit, and where; `None` if all does.
    pub fn misfit(&self, value: &Value) -> Option<String> {
        self.of(&self.root, value, "")
    }

    fn of(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let rules = schema.as_object().unwrap();
        rules
            .iter()
            .find_map(|(rule, want)| self.by_rule(schema, rule, want, value, at))
    }

    fn by_rule(
        &self,
        rules: &Value,
        rule: &str,
        want: &Value,
        value: &Value,
        at: &str,
    ) -> Option<String> {
        let text = value.as_str();
        let length = || text.map(|text| text.chars().count() as u64);
        let items = || value.as_array().map(|all| all.len() as u64);
        let must = |holds: bool| (!holds).then(|| format!("{at}: {value} breaks {rule} {want}"));
        let fitting = |schemas: &Value| {
            let schemas = schemas.as_array().unwrap().iter();
            schemas.filter(|s| self.of(s, value, at).is_none()).count()
        };
        match rule {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "format" => {
                None
            }
            "$ref" => self.referred(want.as_str().unwrap(), value, at),
            "type" => must(match want {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
                kind => is_of(kind, value),
            }),
            "const" => must(value == want),
            "enum" => must(want.as_array().unwrap().contains(value)),
            "pattern" => must(
                text.is_none_or(|text| Regex::new(want.as_str().unwrap()).unwrap().is_match(text)),
            ),
            "minLength" => must(length().is_none_or(|n| n >= want.as_u64().unwrap())),
            "maxLength" => must(length().is_none_or(|n| n <= want.as_u64().unwrap())),
            "minimum" => must(value.as_f64().is_none_or(|n| n >= want.as_f64().unwrap())),
            "maximum" => must(value.as_f64().is_none_or(|n| n <= want.as_f64().unwrap())),
            "minItems" => must(items().is_none_or(|n| n >= want.as_u64().unwrap())),
            "maxItems" => must(items().is_none_or(|n| n <= want.as_u64().unwrap())),
            "uniqueItems" => must(value.as_array().is_none_or(|all| {
                let different: BTreeSet<String> = all.iter().map(Value::to_string).collect();
                different.len() == all.len()
            })),
            "items" => value
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
                .find_map(|(n, item)| self.of(want, item, &format!("{at}/{n}"))),
            "properties" => want
                .as_object()
                .unwrap()
                .iter()
                .find_map(|(name, schema)| {
                    self.of(schema, value.get(name)?, &format!("{at}/{name}"))
                })
                .or_else(|| {
                    let open = self.whole && rules.get("additionalProperties").is_none();
                    open.then(|| unnamed(want, value, at)).flatten()
                }),
            "required" => value.as_object().and_then(|fields| {
                let mut names = want.as_array().unwrap().iter();
                let lacks = names.find(|name| !fields.contains_key(name.as_str().unwrap()))?;
                Some(format!("{at}: lacks the field {lacks}"))
            }),
            "additionalProperties" => match want {
                Value::Bool(false) => unnamed(&rules["properties"], value, at),
                schema => value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .find_map(|(name, value)| self.of(schema, value, &format!("{at}/{name}"))),
            },
            "if" => match self.of(want, value, at) {
                Some(_) => None,
                None => self.of(&rules["then"], value, at),
            },
            "then" => None,
            "anyOf" => must(fitting(want) > 0),
            // As in the standard: exactly one of them.
            "oneOf" => must(fitting(want) == 1),
            other => panic!("the schema uses `{other}`; this test does not know it"),
        }
    }

    fn referred(&self, to: &str, value: &Value, at: &str) -> Option<String> {
        let (file, place) = to.split_once('#').unwrap();
        let find = |root: &Value| {
            let found = root.pointer(place);
            found
                .unwrap_or_else(|| panic!("{to} leads nowhere"))
                .clone()
        };
        if file.is_empty() {
            return self.of(&find(&self.root), value, at);
        }
        let root = (self.file)(file);
        let schema = find(&root);
        let other = Schema {
            root,
            file: self.file,
            whole: self.whole,
        };
        other.of(&schema, value, at)
    }
}

/// A field that no schema names.
fn unnamed(properties: &Value, value: &Value, at: &str) -> Option<String> {
    let known = properties.as_object().unwrap();
    let fields = value.as_object()?;
    let new = fields.keys().find(|name| !known.contains_key(*name))?;
    Some(format!("{at}: the schema has no field `{new}`"))
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}
