//! Executes batches. Each batch is one transaction: its rows and its checkpoint commit together, or
//! neither does.

pub mod executor;
pub mod guard;
pub mod statement;
mod written;
