//! Integration tests. Each test that needs servers starts its own. All tests are in one binary, so
//! that they are linked once.
#![allow(
    clippy::disallowed_methods,
    reason = "a test may panic on an unexpected row; tests/layering forbids the other methods"
)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod assert;
mod attacks;
mod cancel;
mod checkpoint_fence;
mod clocks;
mod command_line;
mod control;
mod deferred_rows;
mod delete;
mod documentation;
mod drift;
mod enqueue;
mod error_policy;
mod exactly_once;
mod flows;
mod footprint;
mod guard;
mod isolation;
mod locks;
mod logs;
mod long_queue;
mod majors;
mod messages;
mod metrics;
mod migrate;
mod model;
mod one_statement;
mod other_load;
mod plans;
mod pooler;
mod preview;
mod privileges;
mod proof;
mod quarantine;
mod queue;
mod reasons;
mod reconnect;
mod reload;
mod replicas;
mod retention;
mod rights;
mod role_settings;
mod rollout;
mod signals;
mod slow_rows;
mod status_page;
mod support;
mod tables;
mod takeover;
mod throttle;
mod tls;
mod two_releases;
mod upgrade;
mod vacuum;
mod verify;
mod walking;
mod window;
mod writers;
