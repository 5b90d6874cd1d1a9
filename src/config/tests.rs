use std::collections::BTreeSet;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect()
}

fn from_text(text: &str) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    layers.text(Path::new("x.toml"), text);
    build(layers.finish()?)
}

fn problems(result: Result<Loaded, ConfigError>) -> Vec<String> {
    result
        .unwrap_err()
        .0
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn samples() -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let text = |p: &Path| std::fs::read_to_string(p).unwrap();
    files
        .into_iter()
        .map(|path| {
            let text = text(&path);
            (path, text)
        })
        .collect()
}

/// The settings a sample names, commented out or not, as `section.name`.
fn mentioned(sample: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in sample.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = format!("{}.", header.trim_end_matches(']'));
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ")
            && !name.contains(' ')
        {
            names.insert(format!("{section}{name}"));
        }
    }
    names
}

#[test]
fn every_sample_parses_and_mentions_every_setting_and_no_other() {
    let samples = samples();
    assert!(samples.len() >= 2);
    let all: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    for (path, text) in samples {
        assert_eq!(mentioned(&text), all, "{}", path.display());
        load(Some(&path), [], []).unwrap_or_else(|e| panic!("{e}"));
        // What is commented out must be right as well.
        let uncommented: Vec<&str> = text
            .lines()
            .map(|line| {
                let setting = line.strip_prefix("# ").filter(|rest| {
                    rest.split_once(" = ")
                        .is_some_and(|(name, _)| !name.contains(' '))
                });
                setting.unwrap_or(line)
            })
            .collect();
        from_text(&uncommented.join("\n")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn the_embedded_sample_is_the_defaults() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/embedded.toml");
    let sample = load(Some(&sample), [], []).unwrap().config;
    assert_eq!(sample, load(None, [], []).unwrap().config);
    assert_eq!(
        sample,
        Config::default_for(Path::new("rekeyd-data")).unwrap()
    );
}

#[test]
fn the_documentation_has_every_setting_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let table = markdown_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let head = table.lines().next().unwrap();
        let from = text.find(head).unwrap();
        let old: usize = text[from..]
            .split_inclusive('\n')
            .take_while(|line| line.starts_with('|'))
            .map(str::len)
            .sum();
        text.replace_range(from..from + old, &table);
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        text.contains(&table),
        "docs/configuration.md should have this table; UPDATE_DOCS=1 cargo test --lib \
         the_documentation_has writes it:\n{table}"
    );
    for name in OTHER_VARIABLES {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_schema_holds_together() {
    let mut names = BTreeSet::new();
    for key in KEYS {
        assert!(names.insert(key.name), "{} stands twice", key.name);
        assert!(
            names.insert(Box::leak(key.env().into_boxed_str())),
            "{}",
            key.env()
        );
        assert_eq!(Key::named(key.name).unwrap().name, key.name);
        // Sections are told from names by `__`, so neither may have one.
        assert!(!key.name.contains("__"), "{}", key.name);
        assert!(
            !KEYS.iter().any(|other| other.parts().0 == key.name),
            "{}",
            key.name
        );
        assert_eq!(
            key.unit.is_empty(),
            !matches!(key.kind, Kind::Int { .. }),
            "{}",
            key.name
        );
        if let schema::Default::Int(n) = key.default {
            assert!(key.check_int(i128::from(n)).is_some(), "{}", key.name);
        }
        if let schema::Default::Text(text) = key.default {
            assert!(key.check_text(text).is_some(), "{}", key.name);
        }
    }
}

#[test]
fn every_number_is_held_to_both_ends_in_every_layer() {
    for key in KEYS {
        let Kind::Int { min, max } = key.kind else {
            continue;
        };
        let (section, name) = key.parts();
        for (n, good) in [
            (i128::from(min), true),
            (i128::from(max), true),
            (i128::from(min) - 1, false),
            (i128::from(max) + 1, false),
            (i128::from(u64::MAX) + 1, false),
        ] {
            let n = n.to_string();
            // So that the rule between page and memory does not speak here.
            let room = match key.name {
                "worker.bytes_in_flight" => ("worker.page_bytes", "4096"),
                _ => ("worker.bytes_in_flight", "68719476736"),
            };
            let flags = || std::iter::once(room);
            let by_env = load(None, env(&[(&key.env(), &n)]), flags());
            let by_flag = load(None, [], flags().chain([(key.name, n.as_str())]));
            let mut layers = Layers::default();
            layers.text(Path::new("x.toml"), &format!("[{section}]\n{name} = {n}\n"));
            layers.flags(flags());
            let by_file = layers.finish().and_then(build);
            for (layer, result) in [("env", by_env), ("flag", by_flag), ("file", by_file)] {
                assert_eq!(
                    result.is_ok(),
                    good,
                    "{} = {n} by {layer}: {result:?}",
                    key.name
                );
            }
        }
    }
}

#[test]
fn later_layers_win_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rekeyd.toml");
    std::fs::write(
        &file,
        "data_dir = \"/d\"\n\n[worker]\npage_rows = 1\npoll_ms = 20\ntasks_in_flight = 3\n",
    )
    .unwrap();
    let vars = env(&[
        ("REKEYD_WORKER__PAGE_ROWS", "2"),
        ("REKEYD_WORKER__POLL_MS", "30"),
        ("REKEYD_CONFIG", "ignored"),
        ("PATH", "ignored"),
    ]);
    let loaded = load(Some(&file), vars, [("worker.page_rows", "3")]).unwrap();
    let worker = &loaded.config.worker;
    assert_eq!(
        (worker.page_rows, worker.poll_ms, worker.tasks_in_flight),
        (3, 30, 3)
    );
    assert_eq!(loaded.config.store.path, Path::new("/d/store.db"));
    let source = |name: &str| {
        let all = loaded.effective();
        all.into_iter()
            .find(|e| e.name == name)
            .unwrap()
            .source
            .to_string()
    };
    assert_eq!(source("worker.page_rows"), "flag worker.page_rows");
    assert_eq!(
        source("worker.poll_ms"),
        "environment REKEYD_WORKER__POLL_MS"
    );
    assert_eq!(
        source("worker.tasks_in_flight"),
        format!("{} line 6", file.display())
    );
    assert_eq!(source("store.path"), "default");
    // What `config check` prints can be used as it is.
    assert_eq!(from_text(&loaded.to_toml()).unwrap().config, loaded.config);
}

#[test]
fn an_empty_value_switches_an_optional_setting_off_and_no_other() {
    let on = [("metrics.listen", "127.0.0.1:1")];
    assert!(load(None, [], on).unwrap().config.metrics.listen.is_some());
    let off = load(
        None,
        [],
        [("metrics.listen", "127.0.0.1:1"), ("metrics.listen", "")],
    );
    assert_eq!(off.unwrap().config.metrics.listen, None);
    assert_eq!(
        from_text("[worker]\nid = \"\"").unwrap().config.worker.id,
        None
    );
    assert!(load(None, [], [("log.filter", "")]).is_err());
    assert!(load(None, env(&[("REKEYD_DATA_DIR", "")]), []).is_err());
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_is_allowed() {
    let file = |text: &str| problems(from_text(text));
    let by_env = |name: &str, value: &str| problems(load(None, env(&[(name, value)]), []));
    let cases: &[(Vec<String>, &[&str])] = &[
        (
            file("[worker]\n\ntask_in_flight = 3\n"),
            &[
                "x.toml line 3: `worker.task_in_flight` is not a setting; did you mean `worker.tasks_in_flight`?",
            ],
        ),
        (
            file("page_rows = 3\n"),
            &["x.toml line 1: `page_rows` is not a setting; did you mean `worker.page_rows`?"],
        ),
        (
            file("[wroker]\npage_rows = 3\n"),
            &["x.toml line 1: `wroker` is not a setting; did you mean `worker`?"],
        ),
        (
            file("[nonsense]\nx = 3\n"),
            &[
                "x.toml line 1: `nonsense` is not a setting; `rekeyd config check` lists all of them",
            ],
        ),
        (
            file("store = 3\n"),
            &["x.toml line 1: `store` is not a setting; did you mean `store.path`?"],
        ),
        (
            file("[worker]\npage_rows = \"many\"\npoll_ms = 1.5\n"),
            &[
                "x.toml line 2: `worker.page_rows` must be a whole number from 1 to 10000 (rows), not \"many\"",
                "x.toml line 3: `worker.poll_ms` must be a whole number from 10 to 60000 (milliseconds), not 1.5",
            ],
        ),
        (
            file("[log]\nformat = \"xml\"\nfilter = 3\n"),
            &[
                "x.toml line 3: `log.filter` must be a log filter such as `info` or `warn,rekeyd=debug`, not 3",
                "x.toml line 2: `log.format` must be `human` or `json`, not \"xml\"",
            ],
        ),
        (
            by_env("REKEYD_WORKER__PAGE_ROW", "3"),
            &[
                "environment REKEYD_WORKER__PAGE_ROW: `REKEYD_WORKER__PAGE_ROW` is not a setting; did you mean `REKEYD_WORKER__PAGE_ROWS`?",
            ],
        ),
        (
            by_env("REKEYD_PAGE_ROWS", "3"),
            &[
                "environment REKEYD_PAGE_ROWS: `REKEYD_PAGE_ROWS` is not a setting; did you mean `REKEYD_WORKER__PAGE_ROWS`?",
            ],
        ),
        (
            by_env("REKEYD_METRICS__LISTEN", "9464"),
            &[
                "environment REKEYD_METRICS__LISTEN: `metrics.listen` must be an address and port such as `127.0.0.1:9464`, not \"9464\"",
            ],
        ),
        (
            problems(load(None, [], [("worker.page_byte", "1")])),
            &[
                "flag worker.page_byte: `worker.page_byte` is not a setting; did you mean `worker.page_bytes`?",
            ],
        ),
        (
            problems(load(
                None,
                [],
                [
                    ("worker.page_bytes", "67108864"),
                    ("worker.bytes_in_flight", "1048576"),
                ],
            )),
            &[
                "flag worker.page_bytes: `worker.page_bytes` must be at most worker.bytes_in_flight, 1048576, not 67108864",
            ],
        ),
    ];
    for (got, expected) in cases {
        assert_eq!(got, expected);
    }
    let syntax = file("[worker]\npage_rows = = 3\n");
    assert!(
        syntax[0].starts_with("x.toml line 2: not valid TOML:"),
        "{syntax:?}"
    );
    let missing = problems(load(Some(Path::new("/nonexistent/x.toml")), [], []));
    assert!(
        missing[0].starts_with("/nonexistent/x.toml: cannot be read:"),
        "{missing:?}"
    );
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let vars = vec![("REKEYD_DATA_DIR".into(), OsString::from_vec(vec![0xFF]))];
    assert!(problems(load(None, vars, []))[0].contains("not UTF-8"));
}

#[test]
fn a_backend_without_what_it_needs_is_refused_where_it_was_chosen() {
    for (text, wrong) in [
        (
            "[store]\nkind = \"cassandra\"\n",
            "x.toml line 2: `store.nodes` must be hosts such as `10.0.0.1:9042,10.0.0.2`, with commas between where store.kind is a cluster, not not set",
        ),
        ("[queue]\nkind = \"sqs\"\n", "`queue.url` must be"),
        ("[store]\ntls_cert = \"c.pem\"\n", "`store.tls_key` must be"),
        ("[aws]\ncredentials_file = \"c\"\n", "`aws.profile` must be"),
    ] {
        let error = from_text(text).unwrap_err().to_string();
        assert!(error.contains(wrong), "{error}");
    }
    for hosts in [
        "a:9042,b",
        "10.0.0.1",
        "[::1]:9042,[::2]",
        "node-1.example.com:1",
    ] {
        let text = format!("[store]\nkind = \"scylla\"\nnodes = \"{hosts}\"\n");
        from_text(&text).unwrap();
    }
    for hosts in ["a,,b", "a:0", "a:99999", "::1", "a b", "[x]:1"] {
        let text = format!("[store]\nnodes = \"{hosts}\"\n");
        assert!(from_text(&text).is_err(), "{hosts}");
    }
    for url in ["sqs", "ftp://x/y", "http://", "https://a b"] {
        let text = format!("[queue]\nurl = \"{url}\"\n");
        assert!(from_text(&text).is_err(), "{url}");
    }
}
