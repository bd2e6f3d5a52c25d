//! Stand-in until the command line joins: `run [--listen ADDR] [--config FILE] [--until-idle]`, `migrate`.
use backfilld::{config, daemon, fault, pg, telemetry};
use std::process::ExitCode;
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)).cloned();
    let work = || -> backfilld::error::Result<u8> {
        let mut config = config::Config::load(config::LoadArgs {
            config: after("--config").map(Into::into),
            database_url: after("--database-url"),
            ..Default::default()
        })?;
        if let Some(listen) = after("--listen") {
            config.http.listen = listen.parse().unwrap_or(config.http.listen);
        }
        telemetry::init(config.log)?;
        fault::init()?;
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|e| backfilld::error::Error::new(backfilld::error::Kind::Internal, e.to_string()))?;
        runtime.block_on(async {
            if args.get(1).map(String::as_str) == Some("migrate") {
                let logins = pg::pools::Logins::new(config.database()?.clone());
                let mut session = logins.open_control("backfilld migrate", |_| {}).await?;
                pg::migrate::migrate(&mut session.client, false).await?;
                return Ok(0);
            }
            daemon::run(
                config,
                daemon::Options {
                    until_idle: args.iter().any(|a| a == "--until-idle"),
                    migrate: !args.iter().any(|a| a == "--no-migrate"),
                },
            )
            .await
        })
    };
    work().map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        },
        ExitCode::from,
    )
}
