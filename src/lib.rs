//! backfilld fills columns of live PostgreSQL tables without anyone noticing.
//!
//! The modules in the order of the flow: a job is enqueued in SQL, claimed from the [`queue`], given a [`plan`], and
//! [`walk`]ed in batches that the [`throttle`] admits and [`execute`] commits together with their checkpoint; then
//! [`verify`] proves it. [`worker`] tells that story.

pub mod cli;
pub mod daemon;

pub mod http;
pub mod window;
pub mod worker;

pub mod execute;
pub mod plan;
pub mod queue;
pub mod throttle;
pub mod verify;
pub mod walk;

pub mod pg;
pub mod telemetry;

pub mod job;

pub mod config;
pub mod error;
pub mod failpoint;
pub mod key;
pub mod metrics;
pub mod shutdown;
pub mod text;
pub mod yaml;
