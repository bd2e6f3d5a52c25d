//! One batch, one transaction: the rows and their checkpoint commit together, or neither does.

pub mod executor;
pub mod guard;
pub mod statement;
mod written;
