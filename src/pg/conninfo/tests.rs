use super::*;
use crate::config::secret::SecretUrl;
use crate::pg::tls::terms::SslMode;

fn with(url: &str, environment: &[(&str, &str)]) -> Result<ConnInfo> {
    let lookup = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    read(&SecretUrl::new(url).into(), "test", &lookup)
}

fn refusal(url: &str) -> String {
    let error = with(url, &[]).unwrap_err();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.hint.is_some() || error.message.contains("not a connection string"), "{error}");
    error.to_string()
}

fn tcp(name: &str, port: u16) -> Place {
    Place { host: Host::Tcp { name: name.to_owned(), address: None }, port }
}

#[test]
fn hosts_ports_and_addresses_go_together() {
    let places = |url: &str| with(url, &[]).unwrap().places;
    assert_eq!(places("postgres://o@a:1,b,[::1]:2/app"), [tcp("a", 1), tcp("b", 5432), tcp("::1", 2)]);
    assert_eq!(places("host=a,b port=6432"), [tcp("a", 6432), tcp("b", 6432)]);
    assert_eq!(places("host=/run/pg")[0].host, Host::Unix("/run/pg".into()));
    let address = Some("10.0.0.5".parse().unwrap());
    assert_eq!(places("host=db hostaddr=10.0.0.5")[0].host, Host::Tcp { name: "db".to_owned(), address });
    assert_eq!(places("hostaddr=10.0.0.5")[0].host, Host::Tcp { name: "10.0.0.5".to_owned(), address });
    for url in ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.5", "host=a port=x", "host=a port=0", "hostaddr=db"] {
        refusal(&format!("user=o {url}"));
    }
}

#[test]
fn variables_fill_in_what_the_string_leaves_open() {
    let environment = [
        ("PGHOST", "elsewhere"),
        ("PGPORT", "6432"),
        ("PGUSER", "clerk"),
        ("PGPASSWORD", "hunter2"),
        ("PGDATABASE", "shop"),
        ("PGSSLMODE", "disable"),
    ];
    let read = with("postgres://o@db", &environment).unwrap();
    assert_eq!(read.places, [tcp("db", 6432)]);
    let config = read.config(&read.places[0]).unwrap();
    assert_eq!((config.get_user(), config.get_dbname()), (Some("o"), Some("shop")));
    assert_eq!(config.get_password(), Some(b"hunter2".as_slice()));
    assert_eq!(read.terms.mode, SslMode::Disable);
    assert_eq!(with("postgres://", &environment).unwrap().places, [tcp("elsewhere", 6432)]);
    // PGHOSTADDR is the address of another host, so it is ignored.
    assert_eq!(with("postgres://o@db", &[("PGHOSTADDR", "10.0.0.5")]).unwrap().places, [tcp("db", 5432)]);
    assert!(with("postgres://o@db", &[("PGSSLCRL", "x")]).unwrap_err().message.contains("PGSSLCRL"));
}

#[test]
fn the_obsolete_variable_for_tls_is_read_like_in_libpq() {
    let mode = |environment: &[(&'static str, &'static str)]| with("postgres://o@db", environment).unwrap().terms.mode;
    assert_eq!(mode(&[("PGREQUIRESSL", "1")]), SslMode::Require);
    assert_eq!(mode(&[("PGREQUIRESSL", "0")]), SslMode::Prefer);
    assert_eq!(mode(&[("PGREQUIRESSL", "1"), ("PGSSLMODE", "disable")]), SslMode::Disable);
}

#[test]
fn a_password_in_the_name_of_the_user_is_refused_and_not_shown() {
    for url in ["postgres://o%3Ahunter2@db/app", "host=db user=o:hunter2", "postgres://db/app?user=o:hunter2"] {
        let error = with(url, &[]).unwrap_err();
        assert!(error.message.contains("user contains a colon") && error.hint.is_some(), "{url}: {error}");
        assert!(!format!("{error} {error:?} {}", SecretUrl::new(url)).contains("hunter2"), "{url}: {error:?}");
    }
}

#[test]
fn a_separate_password_takes_precedence_over_the_variable() {
    let login = Login { url: SecretUrl::new("postgres://o@db"), password: Some(Password::new("apart")) };
    let read = read(&login, "test", &|name| (name == "PGPASSWORD").then(|| "variable".to_owned())).unwrap();
    assert_eq!(read.config(&read.places[0]).unwrap().get_password(), Some(b"apart".as_slice()));
    assert!(!format!("{read:?}").contains("apart"), "{read:?}");
}

#[test]
fn an_unsupported_parameter_is_named_with_a_hint() {
    for (url, said) in [
        (
            "host=db sslmode=sometimes",
            "sslmode has an unknown value\n  hint: Set sslmode to one of: disable, allow, prefer, require, verify-ca, verify-full",
        ),
        ("host=db sslcrl=x", "sslcrl is not supported"),
        ("host=db requirepeer=postgres", "requirepeer is not supported"),
        ("host=db require_auth=scram-sha-256", "require_auth is not supported"),
        ("host=db gssencmode=require", "gssencmode"),
        ("host=db connect_timeout=soon", "connect_timeout is not an integer"),
        ("host=db target_session_attrs=standby", "target_session_attrs can select a read-only server"),
        ("host=db ssl_mode=require", "unknown parameter \"ssl_mode\"\n  hint: Known parameters: host, "),
        ("host=db sslnegotiation=direct", "sslnegotiation=direct requires an sslmode that always uses TLS"),
        ("host=db sslrootcert=system sslmode=require", "sslrootcert=system is not secure with this sslmode"),
        ("host=db sslmode=verify-ca", "verify-ca requires a root certificate"),
    ] {
        let text = refusal(&format!("user=o {url}"));
        assert!(text.contains(said), "{url}: {text}");
    }
}

#[test]
fn no_refusal_shows_a_piece_of_a_password() {
    for url in [
        "postgres://o:hun/ter2@db/app",
        "postgres://o:hun?ter2=x@db/app",
        "postgres://o:hun@ter2@db/app",
        "host=db user=o password=hun ter2=x",
        "host=db user=o password=hun ter2",
        "host=db user=o password=hun sslmode=ter2",
        "host=db user=o password=hun port=ter2",
    ] {
        let text = refusal(url);
        assert!(!text.contains("ter2"), "{url}: {text}");
    }
}

#[test]
fn parameters_without_effect_are_ignored() {
    let read =
        with("host=db user=o application_name=mine client_encoding=utf8 sslcompression=0 krbsrvname=x", &[]).unwrap();
    assert_eq!(read.config(&read.places[0]).unwrap().get_application_name(), Some("test"));
}

#[test]
fn a_service_stands_between_the_string_and_the_variables() {
    let path = std::env::temp_dir().join(format!("backfilld-service-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, "[shop]\nhost=db\nuser=o\nport=1\n").unwrap();
    let file = path.to_string_lossy().into_owned();
    let environment = [("PGSERVICEFILE", file.as_str()), ("PGUSER", "clerk"), ("PGDATABASE", "shop")];
    let read = with("service=shop port=2", &environment).unwrap();
    let config = read.config(&read.places[0]).unwrap();
    assert_eq!((read.places, config.get_user(), config.get_dbname()), (vec![tcp("db", 2)], Some("o"), Some("shop")));
    std::fs::write(&path, "[shop]\nnonsense=1\n").unwrap();
    assert!(with("service=shop", &environment).unwrap_err().message.contains("service \"shop\": unknown parameter"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_role_is_set_after_all_other_options() {
    let mut read = with("host=db user=o options='-c jit=off'", &[]).unwrap();
    read.set_role("a b\\c");
    assert_eq!(read.config(&read.places[0]).unwrap().get_options(), Some("-c jit=off -c role=a\\ b\\\\c"));
}
