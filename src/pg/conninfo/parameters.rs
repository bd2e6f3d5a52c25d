//! Lists the parameters that libpq knows, and how backfilld treats each parameter. Source:
//! PostgreSQL 18 documentation, libpq, "Parameter Key Words" and "Environment Variables".

/// The treatment of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Heeded,
    /// Is accepted, but has no effect on backfilld. Refusing the parameter would only break
    /// connection strings that work elsewhere.
    Ignored,
    /// The parameter is not supported, and ignoring it would change something that the user relies
    /// on. The text says what to do instead.
    Refused(&'static str),
}

pub(super) struct Parameter {
    pub name: &'static str,
    /// The environment variable that provides the default.
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

const NO_GSS: &str = "GSSAPI is not built in. Use a password or a client certificate.";
const NO_REVOCATION: &str =
    "Revocation lists are not read. Leave the parameter out, and use certificates with a short lifetime.";
const NO_OAUTH: &str = "OAuth is not built in. Use a password or a client certificate.";

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
    // backfilld sets the name that pg_stat_activity shows. Operators find the sessions of backfilld
    // by this name, and the load signals leave these sessions out.
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
        "Encrypted keys are not supported. Keep the key unencrypted, in a file that only its owner can read.",
    ),
    refused("sslkeylogfile", None, "Leave it out. The file would disclose all secrets of the connection."),
    refused(
        "requirepeer",
        Some("PGREQUIREPEER"),
        "The owner of the socket is not checked. Put the socket into a directory that only the server can write to.",
    ),
    refused(
        "require_auth",
        Some("PGREQUIREAUTH"),
        "The authentication method is not checked. Use channel_binding=require or sslmode=verify-full.",
    ),
    refused("scram_client_key", None, "Leave it out, and set the parameter password."),
    refused("scram_server_key", None, "Leave it out, and set the parameter password."),
    refused("replication", None, "Leave it out. The daemon needs a regular connection."),
    refused("oauth_issuer", None, NO_OAUTH),
    refused("oauth_client_id", None, NO_OAUTH),
    refused("oauth_client_secret", None, NO_OAUTH),
    refused("oauth_scope", None, NO_OAUTH),
    refused("krbspn", None, NO_GSS),
];

/// Finds a parameter by its name in libpq. Also accepts `keepalives_retries`, the driver's name for
/// `keepalives_count`, because earlier releases accepted this name.
pub(super) fn find(name: &str) -> Option<&'static Parameter> {
    let name = if name == "keepalives_retries" { "keepalives_count" } else { name };
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}
