//! Executes batches. Each batch is one transaction that commits both its rows and its checkpoint,
//! or neither.

mod answer;
pub mod bounds;
pub mod executor;
pub mod guard;
mod standby;
pub mod statement;
mod written;
