//! The tables as the servers describe them, and what of it breaks a promise.

use super::connect::Cluster;
use super::server::{Described, Server};
use super::statements::CONTROL_TABLES;
use crate::store::{StoreProblem, StoreResult};

/// Deletes are kept at least so long: a replica that was away for less must not
/// bring back what was deleted.
const SHORTEST_GC_GRACE_S: i64 = 86_400;

/// A column: name, kind, position in its key, type, order.
pub(super) type Column = (String, String, i64, String, String);

/// A table as it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub default_ttl_s: i64,
    pub gc_grace_s: i64,
    pub cdc: bool,
    /// Cassandra: `BLOCKING` or `NONE`.
    pub read_repair: Option<String>,
    /// ScyllaDB: `timeout`, `repair`, `immediate`, `disabled`.
    pub tombstone_gc: Option<String>,
}

/// The keyspace as it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyspace {
    /// `class` and the rest, as the server says them.
    pub replication: Vec<(String, String)>,
    pub durable_writes: bool,
}

impl Keyspace {
    /// Replicas by datacenter; under `*` for a strategy that knows none.
    pub fn factors(&self) -> Vec<(String, u64)> {
        self.replication
            .iter()
            .filter(|(name, _)| name != "class")
            .filter_map(|(name, n)| {
                let name = match name.as_str() {
                    "replication_factor" => "*",
                    name => name,
                };
                Some((name.to_owned(), n.parse().ok()?))
            })
            .collect()
    }
}

impl Cluster {
    /// The keyspace; `None` if there is none.
    pub(super) async fn describe_keyspace(&self) -> StoreResult<Option<Keyspace>> {
        use scylla::value::CqlValue;
        let query = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let found = Described::ask(&self.session, query, (&*self.keyspace,)).await?;
        if found.len() == 0 {
            return Ok(None);
        }
        let mut replication = Vec::new();
        if let Some(CqlValue::Map(pairs)) = found.value(0, "replication") {
            for pair in pairs {
                if let (CqlValue::Text(name), CqlValue::Text(value)) = pair {
                    replication.push((name.clone(), value.clone()));
                }
            }
        }
        replication.sort();
        Ok(Some(Keyspace {
            replication,
            durable_writes: found.boolean(0, "durable_writes").unwrap_or(true),
        }))
    }

    /// The tables of the keyspace that are ours by name.
    /// Whether the keyspace has a table of this name, ours or not.
    pub(super) async fn has_table(&self, name: &str) -> StoreResult<bool> {
        let query = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
        let found = Described::ask(&self.session, query, (&*self.keyspace, name)).await?;
        Ok(found.len() > 0)
    }

    pub(super) async fn describe_tables(&self) -> StoreResult<Vec<Table>> {
        let query = "SELECT * FROM system_schema.tables WHERE keyspace_name = ?";
        let found = Described::ask(&self.session, query, (&*self.keyspace,)).await?;
        let mut tables = Vec::new();
        for row in 0..found.len() {
            let name = found.text(row, "table_name").unwrap_or_default();
            if !names().any(|ours| ours == name) {
                continue;
            }
            let mut table = Table {
                name: name.to_owned(),
                columns: self.describe_columns(name).await?,
                default_ttl_s: found.int(row, "default_time_to_live").unwrap_or(0),
                gc_grace_s: found.int(row, "gc_grace_seconds").unwrap_or(0),
                cdc: found.boolean(row, "cdc").unwrap_or(false),
                read_repair: found.text(row, "read_repair").map(str::to_owned),
                tombstone_gc: None,
            };
            if self.server.is_scylla() {
                let text = self.describe(name).await?;
                table.cdc = option_of(&text, "cdc")
                    .and_then(|cdc| entry(cdc, "enabled"))
                    .is_some_and(|on| on.eq_ignore_ascii_case("true"));
                table.tombstone_gc = option_of(&text, "tombstone_gc")
                    .and_then(|gc| entry(gc, "mode"))
                    .map(str::to_owned);
            }
            tables.push(table);
        }
        Ok(tables)
    }

    async fn describe_columns(&self, table: &str) -> StoreResult<Vec<Column>> {
        let query =
            "SELECT * FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
        let found = Described::ask(&self.session, query, (&*self.keyspace, table)).await?;
        let text = |row, column| found.text(row, column).unwrap_or_default().to_lowercase();
        let mut columns: Vec<Column> = (0..found.len())
            .map(|row| {
                (
                    text(row, "column_name"),
                    text(row, "kind"),
                    found.int(row, "position").unwrap_or(-1),
                    text(row, "type"),
                    text(row, "clustering_order"),
                )
            })
            .collect();
        columns.sort();
        Ok(columns)
    }

    /// ScyllaDB keeps these options in a form of its own; DESCRIBE is how it
    /// documents them.
    async fn describe(&self, table: &str) -> StoreResult<String> {
        let query = format!("DESCRIBE TABLE {}.{table}", self.keyspace);
        let found = Described::ask(&self.session, &query, ()).await?;
        Ok(found
            .text(0, "create_statement")
            .unwrap_or_default()
            .to_owned())
    }
}

/// Every table's name.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ["cells", "data_keys"]
        .into_iter()
        .chain(CONTROL_TABLES.map(|table| table.as_str()))
}

/// The columns that a table must have, in order of their names.
fn expected_columns(table: &str) -> Vec<Column> {
    let parts: &[(&str, &str, i64, &str, &str)] = match table {
        "cells" => &[
            ("cell", "regular", -1, "blob", "none"),
            ("hour", "partition_key", 2, "text", "none"),
            ("org", "partition_key", 0, "text", "none"),
            ("place", "partition_key", 1, "text", "none"),
            ("record", "clustering", 0, "blob", "asc"),
        ],
        "data_keys" => &[
            ("grp", "partition_key", 2, "text", "none"),
            ("key_id", "clustering", 1, "blob", "asc"),
            ("kind", "partition_key", 1, "text", "none"),
            ("org", "partition_key", 0, "text", "none"),
            ("row", "regular", -1, "blob", "none"),
            ("slice", "clustering", 0, "text", "asc"),
            ("wrap_epoch", "clustering", 2, "int", "desc"),
        ],
        _ => &[
            ("body", "regular", -1, "text", "none"),
            ("id", "clustering", 0, "text", "asc"),
            ("op", "regular", -1, "uuid", "none"),
            ("part", "partition_key", 0, "text", "none"),
            ("rev", "regular", -1, "bigint", "none"),
        ],
    };
    parts
        .iter()
        .map(|(name, kind, position, of, order)| {
            let text = |t: &&str| (*t).to_owned();
            (text(name), text(kind), *position, text(of), text(order))
        })
        .collect()
}

fn problem(what: impl Into<String>, fix: impl Into<String>) -> StoreProblem {
    StoreProblem {
        what: what.into(),
        fix: fix.into(),
    }
}

/// What is wrong with the tables, each with its fix.
pub(super) fn problems(
    server: &Server,
    keyspace: &str,
    replicas: &[(String, u64)],
    tables: &[Table],
) -> Vec<StoreProblem> {
    let mut problems = Vec::new();
    for name in names() {
        match tables.iter().find(|table| table.name == name) {
            None => problems.push(problem(
                format!("table {keyspace}.{name} is missing"),
                "rekeyd schema apply",
            )),
            Some(table) => {
                columns(keyspace, table, &mut problems);
                options(server, keyspace, replicas, table, &mut problems);
            }
        }
    }
    problems
}

fn columns(keyspace: &str, table: &Table, problems: &mut Vec<StoreProblem>) {
    let name = format!("{keyspace}.{}", table.name);
    let expected = expected_columns(&table.name);
    for column in &table.columns {
        let (of, kind) = (&column.0, &column.1);
        if expected.iter().any(|e| e.0 == *of) {
            continue;
        }
        let (what, why) = match kind.as_str() {
            "static" => ("a static column", "a delete of rows would leave it"),
            _ => ("a column that is not rekeyd's", "it would not be rewritten"),
        };
        problems.push(problem(
            format!("table {name} has {what}, `{of}`: {why}. Keep it in a table of its own"),
            format!("ALTER TABLE {name} DROP {of}"),
        ));
    }
    for want in &expected {
        match table.columns.iter().find(|column| column.0 == want.0) {
            Some(found) if found == want => {}
            Some(found) => problems.push(problem(
                format!(
                    "table {name}: column `{}` is {} {} {}, and must be {} {} {}",
                    want.0, found.1, found.3, found.4, want.1, want.3, want.4
                ),
                format!(
                    "{name} was not made by rekeyd: use another keyspace (store.keyspace), or rename the table, then `rekeyd schema apply`"
                ),
            )),
            None => problems.push(problem(
                format!("table {name} has no column `{}`", want.0),
                match want.1.as_str() {
                    "regular" => format!("ALTER TABLE {name} ADD {} {}", want.0, want.3),
                    _ => format!(
                        "{name} was not made by rekeyd: use another keyspace (store.keyspace), or rename the table, then `rekeyd schema apply`"
                    ),
                },
            )),
        }
    }
}

fn options(
    server: &Server,
    keyspace: &str,
    replicas: &[(String, u64)],
    table: &Table,
    problems: &mut Vec<StoreProblem>,
) {
    let name = format!("{keyspace}.{}", table.name);
    let alter = |what: &str| format!("ALTER TABLE {name} WITH {what}");
    if table.default_ttl_s != 0 {
        problems.push(problem(
            format!(
                "table {name} has default_time_to_live = {}: what is written without a TTL would vanish",
                table.default_ttl_s
            ),
            alter("default_time_to_live = 0"),
        ));
    }
    if table.gc_grace_s < SHORTEST_GC_GRACE_S {
        problems.push(problem(
            format!(
                "table {name} has gc_grace_seconds = {}, less than a day: a late write could bring back what was deleted",
                table.gc_grace_s
            ),
            alter("gc_grace_seconds = 864000"),
        ));
    }
    if table.cdc {
        let off = match server.is_scylla() {
            true => "cdc = {'enabled': false}",
            false => "cdc = false",
        };
        problems.push(problem(
            format!("table {name} has CDC on: old ciphertext would stay in its log"),
            alter(off),
        ));
    }
    if table
        .read_repair
        .as_deref()
        .is_some_and(|mode| mode.eq_ignore_ascii_case("none"))
    {
        problems.push(problem(
            format!(
                "table {name} has read_repair = 'NONE': of two reads the later could show the older"
            ),
            alter("read_repair = 'BLOCKING'"),
        ));
    }
    let has_one_replica = replicas.iter().any(|(_, n)| *n == 1);
    match table.tombstone_gc.as_deref() {
        Some(mode @ ("immediate" | "disabled")) => problems.push(problem(
            format!("table {name} has tombstone_gc mode `{mode}`: deletes would be forgotten before late writes, or kept for ever"),
            alter("tombstone_gc = {'mode': 'timeout'}"),
        )),
        Some("repair") if has_one_replica => problems.push(problem(
            format!("table {name} has tombstone_gc mode `repair` with one replica, where it works as `immediate`"),
            alter("tombstone_gc = {'mode': 'timeout'}"),
        )),
        _ => {}
    }
}

/// The braces of `option = {…}` in a statement.
fn option_of<'t>(statement: &'t str, option: &str) -> Option<&'t str> {
    let (_, after) = statement.split_once(&format!(" {option} = {{"))?;
    Some(after.split_once('}')?.0)
}

/// The value of `'key': 'value'` between braces, without quotes.
fn entry<'t>(braces: &'t str, key: &str) -> Option<&'t str> {
    braces.split(',').find_map(|pair| {
        let (name, value) = pair.split_once(':')?;
        (name.trim().trim_matches('\'') == key).then(|| value.trim().trim_matches('\''))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<Table> {
        names()
            .map(|name| Table {
                name: name.to_owned(),
                columns: expected_columns(name),
                gc_grace_s: 864_000,
                ..Table::default()
            })
            .collect()
    }

    fn scylla() -> Server {
        Server::Scylla("2025.1.0".to_owned())
    }

    fn found(tables: &[Table], replicas: u64) -> Vec<StoreProblem> {
        problems(&scylla(), "ks", &[("dc1".to_owned(), replicas)], tables)
    }

    #[test]
    fn good_tables_have_no_problem() {
        assert_eq!(found(&good(), 3), []);
    }

    #[test]
    fn each_forbidden_option_is_named_with_its_table_and_fix() {
        type Spoil = fn(&mut Table);
        let spoils: [(Spoil, &str, &str); 7] = [
            (|t| t.default_ttl_s = 60, "default_time_to_live", "= 0"),
            (|t| t.gc_grace_s = 86_399, "gc_grace_seconds", "864000"),
            (|t| t.cdc = true, "CDC", "{'enabled': false}"),
            (
                |t| t.read_repair = Some("NONE".to_owned()),
                "read_repair",
                "BLOCKING",
            ),
            (
                |t| t.tombstone_gc = Some("immediate".to_owned()),
                "immediate",
                "timeout",
            ),
            (
                |t| t.tombstone_gc = Some("disabled".to_owned()),
                "disabled",
                "timeout",
            ),
            (
                |t| {
                    t.columns.push((
                        "s".to_owned(),
                        "static".to_owned(),
                        -1,
                        "blob".to_owned(),
                        "none".to_owned(),
                    ));
                },
                "static",
                "DROP s",
            ),
        ];
        for (spoil, what, fix) in spoils {
            for at in 0..good().len() {
                let mut tables = good();
                spoil(&mut tables[at]);
                let problems = found(&tables, 3);
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].what.contains(what), "{problems:?}");
                assert!(problems[0].what.contains(&tables[at].name), "{problems:?}");
                assert!(problems[0].fix.contains(fix), "{problems:?}");
            }
        }
    }

    #[test]
    fn repair_mode_is_refused_with_one_replica_only() {
        let mut tables = good();
        tables[0].tombstone_gc = Some("repair".to_owned());
        assert_eq!(found(&tables, 3), []);
        assert_eq!(found(&tables, 1).len(), 1);
    }

    #[test]
    fn missing_and_changed_columns_and_tables_show() {
        let mut tables = good();
        tables[0].columns[0].3 = "text".to_owned();
        tables[1].columns.remove(4);
        tables.pop();
        let problems = found(&tables, 3);
        let text = format!("{problems:?}");
        assert_eq!(problems.len(), 3, "{text}");
        assert!(text.contains("`cell` is regular text"), "{text}");
        assert!(text.contains("ks.data_keys has no column `row`"), "{text}");
        assert!(text.contains("ks.timing is missing"), "{text}");
    }

    #[test]
    fn options_are_read_from_a_description() {
        let text = "CREATE TABLE ks.cells (\n    org text\n) WITH cdc = {'enabled': 'true', 'ttl': '86400'}\n    AND gc_grace_seconds = 864000\n    AND tombstone_gc = {'mode': 'repair', 'propagation_delay_in_seconds': '3600'};";
        let cdc = option_of(text, "cdc").unwrap();
        assert_eq!(entry(cdc, "enabled"), Some("true"));
        let gc = option_of(text, "tombstone_gc").unwrap();
        assert_eq!(entry(gc, "mode"), Some("repair"));
        assert_eq!(option_of(text, "paxos"), None);
    }
}
