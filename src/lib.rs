//! Backfills columns of live PostgreSQL tables, in small batches that adapt to replica lag, lock
//! waits and load.
//!
//! A submitter enqueues a job in SQL. A worker claims the job from the [`queue`] and makes its
//! [`plan`]. Then the worker [`walk`]s the table in batches: the [`throttle`] admits a batch, and
//! [`execute`] commits the batch together with its checkpoint. Finally [`verify`] checks that the
//! job is complete. [`worker`] connects these steps.
//!
//! A rollout takes a new column through its stages. [`rollout`] runs the statements of the rollout,
//! and a job fills the column between two of these stages.

pub mod cli;
pub mod daemon;

pub mod http;
pub mod rollout;
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
