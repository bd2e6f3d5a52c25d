use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::database::Executor;
use super::replica::ReplicaRule;
use super::secret::{Password, SecretUrl};
use super::*;
use crate::yaml;

fn parse(text: &str) -> Result<Config> {
    let config: Config = yaml::parse(text, "x.yaml")?;
    config.check()?;
    Ok(config)
}

fn refusal(text: &str) -> String {
    let error = parse(text).unwrap_err();
    assert_eq!(error.kind, Kind::Config);
    assert_eq!(error.exit_code(), 78);
    error.to_string()
}

/// A file that is deleted when the test ends.
struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("backfilld-config-{}", uuid::Uuid::new_v4()));
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn load(file: Option<&File>, flag: Option<&str>, database: Option<&str>, env: &[(&str, &str)]) -> Result<Config> {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    let args = LoadArgs {
        config: file.map(|file| file.0.clone()),
        database_url: flag.map(str::to_owned),
        database: database.map(str::to_owned),
        listen: None,
    };
    Config::load_with(args, &|name| env.get(name).map(|value| (*value).to_owned()))
}

fn url(config: &Config) -> String {
    config.database().unwrap().resolve_url_with(&|_| None).unwrap().expose().to_owned()
}

#[test]
fn a_reload_names_settings_that_need_a_restart_and_keeps_flags() {
    let file = File::new("http: {listen: '127.0.0.1:9000'}\ndatabases: [{url: 'postgres://o@db/app'}]\n");
    let config = load(Some(&file), None, None, &[]).unwrap();
    assert!(config.needs_restart(&config.load_again().unwrap()).is_empty());
    fs::write(&file.0, "http: {listen: '127.0.0.1:9001'}\nlog: {format: json, level: debug}\nretention: {days: 3}\ndatabases: [{url: 'postgres://o@db/b'}]\n").unwrap();
    let newer = config.load_again().unwrap();
    assert_eq!(config.needs_restart(&newer), ["http.listen", "log.format"]);
    assert_eq!((newer.retention.days, url(&newer).as_str()), (3, "postgres://o@db/b"));

    let args = LoadArgs {
        config: Some(file.0.clone()),
        database_url: Some("postgres://flag@db/app".to_owned()),
        listen: Some(([127, 0, 0, 1], 7000).into()),
        database: None,
    };
    let config = Config::load_with(args, &|_| None).unwrap();
    let again = config.load_again().unwrap();
    assert_eq!((again.http.listen.port(), url(&again).as_str()), (7000, "postgres://flag@db/app"));
    assert_eq!(again, config);
}

const ALL: &str = r#"
http: {listen: "0.0.0.0:9000", status_page: false, token_file: /run/token}
log: {format: json, level: debug}
shutdown: {grace_seconds: 7.5}
retention: {days: 30}
defaults: {target_batch_ms: 20, verify: none, window: {open: "0 22 * * *", hours: 6, time_zone: UTC}}
lease: {ttl_seconds: 10, heartbeat_seconds: 2.5, poll_ms: 250}
databases:
  - name: shop
    url: postgres://owner:hunter2@db/app
    workers: 4
    executors: [{run_as: app_owner, url_env: APP_OWNER_URL}]
    replicas:
      - {match: "eu-*", max_lag_seconds: 10}
      - {match: "backup*", ignore: true}
      - {match: us-1, url_env: REPLICA_URL}
      - {address: 10.0.0.0/8, max_lag_bytes: 1GiB, required: true}
    signals: [{name: depth, sql: "select 1", limit: 5}]
    window: {open: "0 22 * * *", hours: 6}
  - {name: other, url_file: /run/url}
"#;

#[test]
fn every_key_is_read() {
    let config = parse(ALL).unwrap();
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:9000");
    assert!(!config.http.status_page);
    assert_eq!(config.http.token_file.as_deref(), Some(Path::new("/run/token")));
    assert_eq!(config.log, Log { format: LogFormat::Json, level: LogLevel::Debug });
    assert_eq!(config.shutdown.grace, Duration::from_millis(7500));
    assert_eq!(config.retention.days, 30);
    assert_eq!(config.defaults["target_batch_ms"], 20);
    assert_eq!(config.defaults["window"]["hours"], 6);
    assert_eq!(config.lease.ttl, Duration::from_secs(10));
    assert_eq!(config.lease.heartbeat, Duration::from_millis(2500));
    assert_eq!(config.lease.poll, Duration::from_millis(250));
    let [shop, other] = config.databases.as_slice() else { panic!("two databases") };
    assert_eq!((shop.name.as_str(), shop.workers), ("shop", 4));
    assert_eq!(shop.executors[0].run_as, "app_owner");
    assert_eq!(shop.executors[0].url_env.as_deref(), Some("APP_OWNER_URL"));
    assert_eq!(shop.replica_rule("eu-1", None).max_lag, Duration::from_secs(10));
    assert!(shop.replica_rule("backup7", None).ignore);
    let by_address = shop.replica_rule("x", "10.1.1.1".parse().ok());
    assert_eq!((by_address.max_lag_bytes, by_address.required), (1 << 30, true));
    assert_eq!(shop.replica_rule("us-1", None).url_env.as_deref(), Some("REPLICA_URL"));
    assert_eq!(shop.replica_rule("matches no rule", None), ReplicaRule::default());
    assert_eq!((shop.signals[0].name.as_str(), shop.signals[0].limit), ("depth", Some(5.0)));
    assert_eq!(other.url_file.as_deref(), Some(Path::new("/run/url")));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = parse("databases: [{url: 'postgres://owner@db/app'}]").unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8432");
    assert!(config.http.status_page && config.http.token_file.is_none());
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
    assert_eq!(config.shutdown.grace, Duration::from_secs(20));
    assert_eq!(config.retention.days, 90);
    assert_eq!(config.lease.ttl, Duration::from_secs(6));
    assert_eq!(config.lease.heartbeat, Duration::from_millis(1500));
    assert_eq!(config.lease.poll, Duration::from_millis(500));
    let main = &config.databases[0];
    assert_eq!((main.name.as_str(), main.workers), ("main", 2));
    let rule = main.replica_rule("any", None);
    assert_eq!((rule.max_lag, rule.max_lag_bytes), (Duration::from_secs(1), 67_108_864));
    assert!(!rule.required && !rule.ignore);
}

#[test]
fn a_section_with_all_keys_commented_out_has_its_defaults() {
    assert_eq!(parse("http:\nlog:\nlease:\ndefaults:\ndatabases:\n").unwrap(), Config::default());
}

#[test]
fn unknown_keys_are_refused_naming_the_known_ones() {
    let said = refusal("lease: {ttl: 6}");
    assert!(said.contains("`ttl`") && said.contains("`ttl_seconds`") && said.contains("x.yaml:1:"), "{said}");
    for text in ["nope: 1", "http: {port: 1}", "databases: [{uri: x}]", "databases: [{replicas: [{lag: 1}]}]"] {
        assert!(refusal(text).contains("unknown field"), "{text}");
    }
}

#[test]
fn wrong_units_and_values_are_refused() {
    for (text, part) in [
        ("lease: {ttl_seconds: 6s}", "a number of seconds without a unit"),
        ("lease: {poll_ms: 0.5s}", "a number of milliseconds without a unit"),
        ("shutdown: {grace_seconds: -1}", "not a valid number of seconds"),
        ("shutdown: {grace_seconds: 86400}", "3600 or less"),
        ("retention: {days: 1.5}", "not a whole number of days"),
        ("retention: {days: 0}", "between 1 and 36500"),
        ("lease: {poll_ms: 1}", "between 10 and 60000"),
        ("lease: {ttl_seconds: 0.5, heartbeat_seconds: 0.1}", "between 1 and 3600"),
        ("databases: [{replicas: [{max_lag_bytes: 64MB}]}]", "a size, for example 64MiB"),
        ("databases: [{replicas: [{max_lag_seconds: 1min}]}]", "a number of seconds"),
        ("log: {level: loud}", "`info`"),
        ("log: {format: xml}", "`text`"),
        ("http: {listen: localhost}", "an IP address and a port"),
        ("http: {listen: ':8432'}", "an IP address and a port"),
        ("databases: [{url: 'mysql://x'}]", "not a connection string"),
        ("databases: [{url: ''}]", "is empty"),
        ("databases: [{name: 'a b', url: 'postgres://x'}]", "1 to 63"),
        ("databases: [{url: 'postgres://x', workers: 0}]", "1 to 64"),
        ("databases: [{url: 'postgres://x', workers: 65}]", "1 to 64"),
        ("databases: [{url: 'postgres://x', replicas: [{address: nowhere}]}]", "nor a network"),
        ("databases: [{url: 'postgres://x', replicas: [{max_lag_seconds: 0}]}]", "held permanently"),
        ("databases: [{url: 'postgres://x', executors: [{url: 'postgres://y'}]}]", "no run_as"),
        ("databases: [{url: 'postgres://x', executors: [{run_as: a}]}]", "executors[0]: no url"),
    ] {
        let said = refusal(text);
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn impossible_combinations_are_refused_with_the_remedy() {
    for (text, part) in [
        ("lease: {ttl_seconds: 3}", "less than half"),
        ("lease: {heartbeat_seconds: 0}", "above 0"),
        ("databases: [{url: 'postgres://x', url_env: X}]", "url and url_env are both set"),
        ("databases: [{url_env: X, url_file: /x}]", "exactly one of"),
        ("databases: [{name: main}]", "no url is set"),
        ("databases: [{url_env: A}, {url_env: B}]", "used twice"),
        ("databases: [{url_env: A, executors: [{run_as: r, url_env: B}, {run_as: r, url_env: C}]}]", "used twice"),
        ("databases: [{url_env: A, executors: [{run_as: r, url_env: B, url: 'postgres://x'}]}]", "both set"),
        ("databases: [{url_env: A, replicas: [{ignore: true, required: true}]}]", "cannot both be set"),
        ("databases: [{url_env: A, replicas: [{url_env: B}]}]", "the url belongs to one replica"),
        ("databases: [{url_env: A, replicas: [{match: a, url_env: B, url_file: /c}]}]", "exactly one of"),
        ("databases: [{url_env: A, replicas: [{match: a, url_env: B, ignore: true}]}]", "`ignore` and a url cannot"),
        ("databases: [{url_env: A, replicas: [{match: a, password_env: B}]}]", "without a url"),
        (
            "databases: [{url_env: A, replicas: [{match: a, url_env: B}, {match: a, url_env: C}]}]",
            "an earlier rule has the same",
        ),
    ] {
        let said = refusal(text);
        assert!(said.contains(part) && said.contains("hint: "), "{text}: {said}");
    }
}

#[test]
fn one_url_is_enough() {
    let config = load(None, Some("postgres://flag"), None, &[]).unwrap();
    assert_eq!((config.database().unwrap().name.as_str(), url(&config).as_str()), ("main", "postgres://flag"));
    assert_eq!(url(&load(None, None, None, &[("DATABASE_URL", "postgres://plain")]).unwrap()), "postgres://plain");
    let said = load(None, None, None, &[]).unwrap_err().to_string();
    assert!(said.contains("--database-url"), "{said}");
}

#[test]
fn flags_take_precedence_over_the_environment_and_the_environment_over_the_file() {
    let file = File::new("databases: [{name: shop, url_env: FROM_FILE, workers: 5}]");
    let env = [("BACKFILLD_DATABASE_URL", "postgres://env"), ("DATABASE_URL", "postgres://plain")];
    assert_eq!(url(&load(Some(&file), Some("postgres://flag"), None, &env).unwrap()), "postgres://flag");
    let config = load(Some(&file), None, None, &env).unwrap();
    assert_eq!(url(&config), "postgres://env");
    assert_eq!(config.database().unwrap().workers, 5, "the other keys stay");
    // DATABASE_URL usually belongs to the application, so it is not read if there is a
    // configuration file.
    let config = load(Some(&file), None, None, &env[1..]).unwrap();
    assert_eq!(config.database().unwrap().url_env.as_deref(), Some("FROM_FILE"));
    // An environment variable may also name the configuration file. An empty variable counts as not
    // set.
    let path = file.0.to_str().unwrap();
    let config = load(None, None, None, &[("BACKFILLD_CONFIG", path), ("BACKFILLD_DATABASE_URL", "")]).unwrap();
    assert_eq!(config.database().unwrap().name, "shop");
}

#[test]
fn with_several_databases_one_must_be_selected() {
    let file = File::new("databases: [{name: a, url: 'postgres://a'}, {name: b, url: 'postgres://b', workers: 9}]");
    let config = load(Some(&file), None, None, &[]).unwrap();
    let said = config.database().unwrap_err().to_string();
    assert!(said.contains("--database with one of these names: a, b"), "{said}");
    assert_eq!(config.databases_to_run().unwrap().len(), 2, "run works in all of them");
    let config = load(Some(&file), Some("postgres://flag"), Some("b"), &[]).unwrap();
    assert_eq!((url(&config).as_str(), config.database().unwrap().workers), ("postgres://flag", 9));
    assert_eq!(
        config.databases[0].url.as_ref().unwrap().expose(),
        "postgres://a",
        "the url of the other database is unchanged"
    );
    assert_eq!(config.databases_to_run().unwrap().len(), 1);
    let said = load(Some(&file), Some("postgres://flag"), None, &[]).unwrap_err().to_string();
    assert!(said.contains("one of these names: a, b"), "{said}");
    let said = load(Some(&file), Some("postgres://flag"), Some("c"), &[]).unwrap_err().to_string();
    assert!(said.contains("\"c\"") && said.contains("a, b"), "{said}");
}

#[test]
fn a_rotated_secret_is_read_again() {
    let file = File::new("postgres://first\n");
    let database = Database { url_file: Some(file.0.clone()), ..Database::default() };
    assert_eq!(database.resolve_url().unwrap().expose(), "postgres://first");
    fs::write(&file.0, "postgres://second").unwrap();
    assert_eq!(database.resolve_url().unwrap().expose(), "postgres://second");
    let database = Database { url_env: Some("SHOP_URL".to_owned()), ..Database::default() };
    let resolved = database.resolve_url_with(&|name| (name == "SHOP_URL").then(|| "postgres://x".to_owned()));
    assert_eq!(resolved.unwrap().expose(), "postgres://x");
    let said = database.resolve_url_with(&|_| None).unwrap_err().to_string();
    assert!(said.contains("SHOP_URL") && said.contains("database \"main\""), "{said}");
}

#[test]
fn a_separate_password_is_read_again_and_must_be_the_only_one() {
    let file = File::new("first \n");
    let database = Database {
        url: Some(SecretUrl::new("postgres://o@db/app")),
        password_file: Some(file.0.clone()),
        ..Database::default()
    };
    let password = || database.login().unwrap().password;
    assert_eq!(password(), Some(Password::new("first ")));
    fs::write(&file.0, "second").unwrap();
    assert_eq!(password(), Some(Password::new("second")));
    fs::write(&file.0, "\n").unwrap();
    assert!(database.login().unwrap_err().message.contains("(password_file) is empty"));
    let one = "databases: [{url: 'postgres://o@db', password_env: A, password_file: b}]";
    assert!(refusal(one).contains("password_env and password_file are both set"));
    let two = "databases: [{url: 'postgres://o:hunter2@db', password_env: A}]";
    assert!(refusal(two).contains("the url contains a password, but password_env is set"));
    let executor = "databases: [{url: 'postgres://o@db', executors: [{run_as: e, url: 'postgres://o:hunter2@db', password_file: b}]}]";
    assert!(refusal(executor).contains("executors[0]: the url contains a password"));
}

#[test]
fn a_url_with_a_password_replaces_the_one_of_the_file() {
    let file = File::new("databases: [{url: 'postgres://o@db', password_env: SHOP_PASSWORD}]");
    let kept = load(Some(&file), Some("postgres://me@other"), None, &[]).unwrap();
    assert_eq!(kept.databases[0].password_env.as_deref(), Some("SHOP_PASSWORD"));
    let replaced = load(Some(&file), Some("postgres://me:hunter2@other"), None, &[]).unwrap();
    assert_eq!(replaced.databases[0].password_env, None);
}

#[test]
fn a_missing_file_is_named() {
    let args = LoadArgs { config: Some("/nowhere/x.yaml".into()), ..LoadArgs::default() };
    let error = Config::load_with(args, &|_| None).unwrap_err();
    assert!(error.message.contains("/nowhere/x.yaml") && error.kind == Kind::Config);
}

#[test]
fn a_password_on_the_command_line_is_not_shown() {
    let args = LoadArgs { database_url: Some("postgres://o:hunter2@db/app".to_owned()), ..LoadArgs::default() };
    assert!(!format!("{args:?}").contains("hunter2"));
}

const EXAMPLE: &str = include_str!("../../config/backfilld.yaml");

#[test]
fn the_shipped_file_is_the_defaults() {
    let shipped = parse(EXAMPLE).unwrap();
    let url = shipped.databases[0].url.clone();
    let main = Database { url, ..Database::default() };
    assert_eq!(shipped, Config { databases: vec![main], ..Config::default() });
}

/// Returns the keys of a type. Takes them from the error about an unknown key, because this error
/// lists all known keys.
fn known_keys<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let Err(error) = yaml::parse::<T>("{no such key: 1}", "x") else { panic!("took an unknown key") };
    let (_, known) = error.message.split_once("expected ").unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_shipped_file_explains_every_key() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let types = [
        known_keys::<Config>(),
        known_keys::<Http>(),
        known_keys::<Log>(),
        known_keys::<Shutdown>(),
        known_keys::<Retention>(),
        known_keys::<Lease>(),
        known_keys::<Database>(),
        known_keys::<Executor>(),
        known_keys::<ReplicaRule>(),
    ];
    assert_eq!(types[0].len(), 7);
    for key in types.iter().flatten() {
        let found = lines.iter().any(|line| {
            line.trim_start_matches(|c: char| c == '#' || c == '-' || c.is_whitespace()).starts_with(&format!("{key}:"))
        });
        assert!(found, "{key} is missing from config/backfilld.yaml");
    }
}

#[test]
fn a_file_that_others_can_read_and_that_holds_a_password_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let with = "databases: [{name: main, url: 'postgres://o:hunter2@db/app'}]";
    let without = "databases: [{name: main, url: 'postgres://o@db/app'}]";
    let executor = "databases: [{name: main, url: 'postgres://o@db/app', executors: [{run_as: e, url: 'host=db password=hunter2'}]}]";
    for (text, mode, warned) in [
        (with, 0o644, true),
        (with, 0o640, true),
        (executor, 0o604, true),
        (with, 0o600, false),
        (without, 0o644, false),
    ] {
        let file = File::new(text);
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = load(Some(&file), None, None, &[]).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(warned), "{mode:o} {text}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains("chmod 600") && !line.contains("hunter2")), "{warnings:?}");
    }
}

/// Covers a few lines that expand to billions of values, deeply nested brackets, a file of more
/// than 1 MiB, control characters, an unsupported YAML version, and an alias that contains itself.
#[test]
fn a_file_that_grows_without_bound_is_refused_at_once() {
    let mut bomb = "defaults:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        let many = vec![format!("*a{before}"); 9].join(", ");
        bomb.push_str(&format!("  a{level}: &a{level} [{many}]\n"));
    }
    let deep = format!("defaults: {{a: {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let long = format!("# {}", "x".repeat(2 << 20));
    for text in [bomb, deep, long, "\0\u{1}\u{2}".to_owned(), "%YAML 9.9\n---\na: 1".to_owned(), "&a [*a]".to_owned()] {
        let file = File::new(&text);
        // Without a limit, reading the first text would take hours and use all memory.
        let error = load(Some(&file), None, None, &[]).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "{error}");
    }
}

/// Every text results in a configuration or in a configuration error. Neither the configuration nor
/// the error shows a secret.
#[test]
fn no_text_makes_the_configuration_panic_or_show_a_password() {
    use proptest::strategy::{Strategy, ValueTree};
    const PIECES: &[&str] = &[
        "http:",
        "log:",
        "lease:",
        "databases:",
        "defaults:",
        "retention:",
        "shutdown:",
        "  - ",
        "- ",
        "  ",
        "\n",
        "\t",
        ": ",
        ":",
        "name: main",
        "url: ",
        "postgres://o:hunter2@db/app",
        "host=db password=hunter2",
        "url_env: X",
        "workers: ",
        "ttl_seconds: ",
        "poll_ms: ",
        "days: ",
        "listen: ",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "!!str ",
        "!x ",
        "<<: ",
        "|\n",
        ">\n",
        "---\n",
        "...\n",
        "# c\n",
        "null",
        "~",
        "true",
        "-1",
        "1e999",
        "0x10",
        "9999999999999999999999",
        ".inf",
        ".nan",
        "64MiB",
        "6 s",
        "\u{feff}",
        "é",
        "😀",
        "executors: ",
        "replicas: ",
        "match: ",
        "max_lag_bytes: ",
        "%",
    ];
    let made = proptest::collection::vec(proptest::sample::select(PIECES), 1..24);
    let mut runner = proptest::test_runner::TestRunner::default();
    for _ in 0..3000 {
        let text = made.new_tree(&mut runner).unwrap().current().concat();
        match parse(&text) {
            Ok(config) => assert!(!format!("{config:?}").contains("hunter2"), "{text:?}"),
            Err(error) => {
                assert_eq!(error.kind, Kind::Config, "{text:?}");
                assert!(!error.to_string().contains("hunter2"), "{text:?}: {error}");
            }
        }
    }
}
