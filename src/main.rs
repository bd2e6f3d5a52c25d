fn main() -> std::process::ExitCode {
    let args = backfilld::config::LoadArgs { database_url: std::env::args().nth(2), ..Default::default() };
    let config = backfilld::config::Config::load(args).expect("config");
    backfilld::telemetry::init(config.log).expect("log");
    let runtime = tokio::runtime::Runtime::new().expect("rt");
    let code = runtime.block_on(backfilld::daemon::run(config, backfilld::daemon::Options { until_idle: std::env::args().any(|a| a == "--until-idle"), migrate: true }));
    match code { Ok(c) => std::process::ExitCode::from(c), Err(e) => { eprintln!("error: {e}"); std::process::ExitCode::from(e.exit_code()) } }
}
