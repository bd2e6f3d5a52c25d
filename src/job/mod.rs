//! The types that the stages exchange: jobs and their plans, claims, batches and checkpoints.

pub mod batch;
pub mod checkpoint;
pub mod claim;
pub mod next;
pub mod options;
pub mod permit;
pub mod plan;
pub mod put_off;
pub mod rollout;
pub mod settings;
pub mod state;
pub mod waiting;
