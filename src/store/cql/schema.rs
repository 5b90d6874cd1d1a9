//! The tables as files, how they are applied, and how they are compared with
//! what stands. Nothing that stands is ever altered.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Statement;

use super::connect::Cluster;
use super::errors::Failure;
use super::server::Server;
use super::tables::{self, Keyspace};
use crate::store::{StoreError, StoreErrorClass, StoreProblem, StoreResult};

/// Every statement that makes a table. They are plain CQL, and could be run by
/// hand within the keyspace.
const FILES: [&str; 3] = [
    include_str!("schema/cells.cql"),
    include_str!("schema/data_keys.cql"),
    include_str!("schema/control.cql"),
];

/// Longest wait for a table to be made: nodes agree on it first.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);

const MAKE: &str = "CREATE TABLE IF NOT EXISTS ";

/// How many copies are kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication(BTreeMap<String, String>);

impl Replication {
    /// From the map as CQL writes it: `{'class': 'NetworkTopologyStrategy', 'dc1': 3}`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "replication is written {'class': 'NetworkTopologyStrategy', 'dc1': 3}";
        let pairs = text
            .trim()
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .ok_or(FORM)?;
        let mut map = BTreeMap::new();
        for pair in pairs.split(',') {
            let (name, value) = pair.split_once(':').ok_or(FORM)?;
            let [name, value] = [name, value].map(|part| part.trim().trim_matches('\''));
            let is_plain = |part: &str| {
                !part.is_empty()
                    && part
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
            };
            if !is_plain(name) || !is_plain(value) {
                return Err(format!("`{pair}` is not a pair; {FORM}"));
            }
            map.insert(name.to_owned(), value.to_owned());
        }
        if !map.contains_key("class") {
            return Err(FORM.to_owned());
        }
        Ok(Self(map))
    }

    /// So many copies in one datacenter.
    pub fn of(datacenter: &str, copies: u32) -> Self {
        Self(BTreeMap::from([
            ("class".to_owned(), "NetworkTopologyStrategy".to_owned()),
            (datacenter.to_owned(), copies.to_string()),
        ]))
    }

    fn agrees_with(&self, stands: &Keyspace) -> bool {
        let short = |class: &str| class.rsplit('.').next().unwrap_or(class).to_owned();
        let asked: Vec<_> = self.0.iter().filter(|(name, _)| *name != "class").collect();
        let found: BTreeMap<_, _> = stands.replication.iter().cloned().collect();
        let class_of = |map: &BTreeMap<String, String>| map.get("class").map(|c| short(c));
        if class_of(&self.0) != class_of(&found) {
            return false;
        }
        let found: Vec<_> = found.iter().filter(|(name, _)| *name != "class").collect();
        match asked[..] {
            // For every datacenter there is.
            [(name, n)] if name == "replication_factor" => found.iter().all(|(_, m)| *m == n),
            _ => asked == found,
        }
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| match value.parse::<u32>() {
                Ok(n) => format!("'{name}': {n}"),
                Err(_) => format!("'{name}': '{value}'"),
            })
            .collect();
        write!(f, "{{{}}}", pairs.join(", "))
    }
}

/// What [`Schema::apply`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What was made, by name.
    pub made: Vec<String>,
    /// What stood already.
    pub stood: Vec<String>,
    /// Where what stood is not as it should be. It was left as it is.
    pub problems: Vec<StoreProblem>,
    /// The longest `gc_grace_seconds` of the tables: so long a late write may
    /// still land.
    pub gc_grace_s: u64,
}

/// The keyspace and its tables.
#[derive(Debug, Clone, Copy)]
pub struct Schema;

impl Schema {
    /// The statements, as they could be run by hand. Without a server that is
    /// known, tablets are named in a comment.
    pub fn print(keyspace: &str, replication: Option<&Replication>, on: Option<&Server>) -> String {
        let replication = replication.map_or_else(
            || "{'class': 'NetworkTopologyStrategy', '<datacenter>': 3}".to_owned(),
            Replication::to_string,
        );
        let mut text = match on {
            Some(_) => String::new(),
            None => "-- ScyllaDB 6.0 to 2025.3: add  AND tablets = {'enabled': false}  to the keyspace.\n".to_owned(),
        };
        text += &format!(
            "{};\n\nUSE {keyspace};\n",
            make_keyspace(keyspace, &replication, on)
        );
        for file in FILES {
            text += "\n";
            text += file;
        }
        text
    }

    /// Makes what is missing, compares what stands. May be run any number of
    /// times, also at the same time.
    ///
    /// # Errors
    /// `Fatal` if the keyspace is missing and no replication is given.
    pub async fn apply(cluster: &Cluster, replication: Option<&Replication>) -> StoreResult<Done> {
        let mut done = Done {
            made: Vec::new(),
            stood: Vec::new(),
            problems: Vec::new(),
            gc_grace_s: 0,
        };
        let keyspace = &cluster.keyspace;
        match (cluster.describe_keyspace().await?, replication) {
            (Some(stands), given) => {
                if let Some(given) = given
                    && !given.agrees_with(&stands)
                {
                    done.problems.push(StoreProblem {
                        what: format!(
                            "keyspace {keyspace} has another replication than asked for: {:?}",
                            stands.replication
                        ),
                        fix: format!(
                            "leave --replication out, or ALTER KEYSPACE {keyspace} WITH replication = {given} and run a full repair"
                        ),
                    });
                }
                done.stood.push(keyspace.clone());
            }
            (None, Some(given)) => {
                let text = make_keyspace(keyspace, &given.to_string(), Some(&cluster.server));
                cluster.change_schema(text).await?;
                done.made.push(keyspace.clone());
            }
            (None, None) => {
                return Err(StoreError::not_set_up(format!(
                    "keyspace {keyspace} does not exist: say how it is to be replicated, for example --replication \"{}\"",
                    Replication::of(cluster.datacenter.as_deref().unwrap_or("dc1"), 3)
                )));
            }
        }
        let stood = cluster.describe_tables().await?;
        for (name, statement) in statements(keyspace) {
            if stood.iter().any(|table| table.name == name) {
                done.stood.push(name);
                continue;
            }
            cluster.change_schema(statement).await?;
            done.made.push(name);
        }
        cluster
            .session
            .await_schema_agreement()
            .await
            .map_err(|e| not_agreed(&e))?;
        let tables = cluster.describe_tables().await?;
        done.problems.extend(cluster.schema_problems().await?);
        let longest = tables.iter().map(|table| table.gc_grace_s).max();
        done.gc_grace_s = u64::try_from(longest.unwrap_or(0)).unwrap_or(0);
        Ok(done)
    }

    /// Signs a keyspace as made by `owner` for a demo or a trial, by an empty
    /// table, so that only what was made for one is ever removed.
    ///
    /// # Errors
    /// If the table cannot be made.
    pub async fn sign(cluster: &Cluster, owner: &str) -> StoreResult<()> {
        let (keyspace, table) = (&cluster.keyspace, signature(owner));
        let text = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{table} (id int PRIMARY KEY)");
        cluster.change_schema(text).await
    }

    /// Whether the keyspace was signed by `owner`; `None` if there is no such
    /// keyspace.
    ///
    /// # Errors
    /// If the cluster does not say.
    pub async fn is_signed(cluster: &Cluster, owner: &str) -> StoreResult<Option<bool>> {
        if cluster.describe_keyspace().await?.is_none() {
            return Ok(None);
        }
        Ok(Some(cluster.has_table(&signature(owner)).await?))
    }

    /// Removes the keyspace with all that is in it, if `owner` signed it.
    ///
    /// # Errors
    /// `Invalid` for a keyspace that somebody else made; nothing is removed.
    pub async fn drop_signed(cluster: &Cluster, owner: &str) -> StoreResult<()> {
        let keyspace = &cluster.keyspace;
        if Self::is_signed(cluster, owner).await? == Some(false) {
            return Err(StoreError::new(
                StoreErrorClass::Invalid,
                format!(
                    "keyspace {keyspace} has no table {} and is left as it is: `rekeyd {owner}` did not make it",
                    signature(owner)
                ),
            ));
        }
        let text = format!("DROP KEYSPACE IF EXISTS {keyspace}");
        cluster.change_schema(text).await
    }

    /// What is wrong with what stands.
    pub async fn check(cluster: &Cluster) -> StoreResult<Vec<StoreProblem>> {
        cluster.schema_problems().await
    }
}

fn signature(owner: &str) -> String {
    format!("made_by_rekeyd_{owner}")
}

fn not_agreed(error: &dyn fmt::Display) -> StoreError {
    StoreError::new(
        StoreErrorClass::Transient,
        format!(
            "the nodes do not agree on the schema yet ({error}); run `rekeyd schema apply` again"
        ),
    )
}

fn make_keyspace(keyspace: &str, replication: &str, on: Option<&Server>) -> String {
    let tablets = match on {
        Some(server) if server.tablets_must_be_off() => " AND tablets = {'enabled': false}",
        _ => "",
    };
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication} AND durable_writes = true{tablets}"
    )
}

/// Each table's name and the statement that makes it in the keyspace.
fn statements(keyspace: &str) -> Vec<(String, String)> {
    FILES
        .iter()
        .flat_map(|file| file.split(';'))
        .filter_map(|part| {
            let lines: Vec<&str> = part
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"))
                .collect();
            let text = lines.join("\n");
            let after = text.trim().strip_prefix(MAKE)?;
            let (name, _) = after.split_once(' ')?;
            Some((name.to_owned(), format!("{MAKE}{keyspace}.{after}")))
        })
        .collect()
}

impl Cluster {
    /// Whether the keyspace has replicas in several datacenters.
    pub(super) fn spans_several_datacenters(&self) -> bool {
        use scylla::cluster::metadata::Strategy;
        let state = self.session.get_cluster_state();
        match state.get_keyspace(&self.keyspace).map(|ks| &ks.strategy) {
            Some(Strategy::NetworkTopologyStrategy {
                datacenter_repfactors,
            }) => datacenter_repfactors.values().filter(|n| **n > 0).count() > 1,
            _ => self.datacenters().len() > 1,
        }
    }

    /// What is wrong with keyspace and tables.
    pub(super) async fn schema_problems(&self) -> StoreResult<Vec<StoreProblem>> {
        let keyspace = &self.keyspace;
        let Some(stands) = self.describe_keyspace().await? else {
            return Ok(vec![StoreProblem {
                what: format!("keyspace {keyspace} does not exist"),
                fix: "rekeyd schema apply --replication …".to_owned(),
            }]);
        };
        let mut problems = Vec::new();
        if !stands.durable_writes {
            problems.push(StoreProblem {
                what: format!(
                    "keyspace {keyspace} has durable_writes = false: what was acknowledged could be lost"
                ),
                fix: format!("ALTER KEYSPACE {keyspace} WITH durable_writes = true"),
            });
        }
        let factors = stands.factors();
        if let Some(home) = &self.datacenter
            && !factors
                .iter()
                .any(|(name, n)| (name == home || name == "*") && *n > 0)
        {
            problems.push(StoreProblem {
                what: format!("keyspace {keyspace} has no replica in the home datacenter {home}"),
                fix: format!(
                    "set store.datacenter to one that has, or ALTER KEYSPACE {keyspace} and repair"
                ),
            });
        }
        let found = self.describe_tables().await?;
        problems.extend(tables::problems(&self.server, keyspace, &factors, &found));
        Ok(problems)
    }

    /// Runs a statement that makes something, on the connected node with the
    /// least id: two who do so at once then ask the same node, which takes them
    /// one after the other.
    async fn change_schema(&self, text: String) -> StoreResult<()> {
        let state = self.session.get_cluster_state();
        let node = state
            .get_nodes_info()
            .iter()
            .filter(|node| node.is_connected())
            .min_by_key(|node| node.host_id);
        let mut statement = Statement::new(text);
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        if let Some(node) = node {
            statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(
                NodeIdentifier::Node(node.clone()),
                None,
            )));
        }
        match self.session.query_unpaged(statement, ()).await {
            Ok(_) => Ok(()),
            Err(scylla::errors::ExecutionError::SchemaAgreementError(e)) => Err(not_agreed(&e)),
            Err(error) => Err(Failure::from(error).into_error("making the tables")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_written_and_refused() {
        let text = "{'class': 'NetworkTopologyStrategy', 'dc1': 3}";
        let given = Replication::parse(text).unwrap();
        assert_eq!(given.to_string(), text);
        assert_eq!(given, Replication::of("dc1", 3));
        for bad in [
            "",
            "3",
            "{}",
            "{'dc1': 3}",
            "{'class': 'X'; DROP KEYSPACE k}",
            "{'class': 'X', 'a': ''}",
        ] {
            assert!(Replication::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn replication_is_compared_by_meaning() {
        let stands = Keyspace {
            replication: vec![
                (
                    "class".to_owned(),
                    "org.apache.cassandra.locator.NetworkTopologyStrategy".to_owned(),
                ),
                ("dc1".to_owned(), "3".to_owned()),
            ],
            durable_writes: true,
        };
        let agrees = |text: &str| Replication::parse(text).unwrap().agrees_with(&stands);
        assert!(agrees("{'class': 'NetworkTopologyStrategy', 'dc1': 3}"));
        assert!(agrees(
            "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}"
        ));
        assert!(!agrees("{'class': 'NetworkTopologyStrategy', 'dc1': 2}"));
        assert!(!agrees(
            "{'class': 'SimpleStrategy', 'replication_factor': 3}"
        ));
    }

    #[test]
    fn the_files_make_every_table() {
        let made: Vec<String> = statements("ks").into_iter().map(|(name, _)| name).collect();
        assert_eq!(made, tables::names().collect::<Vec<_>>());
        for (name, statement) in statements("ks") {
            assert!(
                statement.starts_with(&format!("{MAKE}ks.{name} (")),
                "{statement}"
            );
        }
    }

    #[test]
    fn tablets_are_said_to_the_server_that_needs_it() {
        let text =
            |version: &str| Schema::print("ks", None, Some(&Server::Scylla(version.to_owned())));
        assert!(text("2025.1.0").contains("tablets = {'enabled': false}"));
        assert!(!text("2025.4.0").contains("tablets"));
        let on = Server::Cassandra("5.0.5".to_owned());
        assert!(!Schema::print("ks", None, Some(&on)).contains("tablets"));
    }
}
