//! The parameters that libpq knows, and what becomes of each here. Source: "Parameter Key Words" and "Environment
//! Variables" of the libpq chapter, PostgreSQL 18.

/// What is done with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Heeded,
    /// Says nothing that matters here; refusing it would only make a string unusable that works elsewhere.
    Ignored,
    /// Would change what the user relies on, and can't be done: the sentence says what to do instead.
    Refused(&'static str),
}

pub(super) struct Parameter {
    pub name: &'static str,
    /// The variable that gives its default.
    pub variable: Option<&'static str>,
    pub used: Use,
}

const fn heeded(name: &'static str, variable: &'static str) -> Parameter {
    Parameter { name, variable: Some(variable), used: Use::Heeded }
}

const fn plain(name: &'static str, used: Use) -> Parameter {
    Parameter { name, variable: None, used }
}

const fn refused(name: &'static str, variable: Option<&'static str>, why: &'static str) -> Parameter {
    Parameter { name, variable, used: Use::Refused(why) }
}

const NO_GSS: &str = "GSSAPI is not built in: log in by password or client certificate";
const NO_REVOCATION: &str = "revocation lists are not read: let certificates live for a short time instead";
const NO_OAUTH: &str = "OAuth is not built in: log in by password or client certificate";

pub(super) const PARAMETERS: &[Parameter] = &[
    heeded("host", "PGHOST"),
    heeded("hostaddr", "PGHOSTADDR"),
    heeded("port", "PGPORT"),
    heeded("dbname", "PGDATABASE"),
    heeded("user", "PGUSER"),
    heeded("password", "PGPASSWORD"),
    heeded("passfile", "PGPASSFILE"),
    heeded("service", "PGSERVICE"),
    heeded("servicefile", "PGSERVICEFILE"),
    heeded("options", "PGOPTIONS"),
    heeded("connect_timeout", "PGCONNECT_TIMEOUT"),
    heeded("channel_binding", "PGCHANNELBINDING"),
    heeded("sslmode", "PGSSLMODE"),
    heeded("sslnegotiation", "PGSSLNEGOTIATION"),
    heeded("sslcert", "PGSSLCERT"),
    heeded("sslkey", "PGSSLKEY"),
    heeded("sslcertmode", "PGSSLCERTMODE"),
    heeded("sslrootcert", "PGSSLROOTCERT"),
    heeded("sslsni", "PGSSLSNI"),
    heeded("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    heeded("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    heeded("target_session_attrs", "PGTARGETSESSIONATTRS"),
    heeded("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    heeded("gssencmode", "PGGSSENCMODE"),
    plain("keepalives", Use::Heeded),
    plain("keepalives_idle", Use::Heeded),
    plain("keepalives_interval", Use::Heeded),
    plain("keepalives_count", Use::Heeded),
    plain("tcp_user_timeout", Use::Heeded),
    // What pg_stat_activity shows is ours to say: a takeover and the operator go by it.
    plain("application_name", Use::Ignored),
    plain("fallback_application_name", Use::Ignored),
    plain("client_encoding", Use::Ignored),
    plain("sslcompression", Use::Ignored),
    plain("krbsrvname", Use::Ignored),
    plain("gsslib", Use::Ignored),
    plain("gssdelegation", Use::Ignored),
    plain("min_protocol_version", Use::Ignored),
    plain("max_protocol_version", Use::Ignored),
    refused("sslcrl", Some("PGSSLCRL"), NO_REVOCATION),
    refused("sslcrldir", Some("PGSSLCRLDIR"), NO_REVOCATION),
    refused(
        "sslpassword",
        None,
        "encrypted keys are not read: keep the key decrypted in a file that only its owner may read",
    ),
    refused("sslkeylogfile", None, "it would give all secrets of the connection away"),
    refused(
        "requirepeer",
        Some("PGREQUIREPEER"),
        "it is not checked: put the socket into a directory that only the server may write",
    ),
    refused(
        "require_auth",
        Some("PGREQUIREAUTH"),
        "it is not checked: use channel_binding=require, or sslmode=verify-full",
    ),
    refused("scram_client_key", None, "it is not used: give the password"),
    refused("scram_server_key", None, "it is not used: give the password"),
    refused("replication", None, "the daemon needs an ordinary connection"),
    refused("oauth_issuer", None, NO_OAUTH),
    refused("oauth_client_id", None, NO_OAUTH),
    refused("oauth_client_secret", None, NO_OAUTH),
    refused("oauth_scope", None, NO_OAUTH),
    refused("krbspn", None, NO_GSS),
];

/// By the name that libpq knows, or the driver, which earlier releases went by.
pub(super) fn find(name: &str) -> Option<&'static Parameter> {
    let name = if name == "keepalives_retries" { "keepalives_count" } else { name };
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}
