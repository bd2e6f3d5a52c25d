//! The nouns: what a job is, what was found about it, who works on which part, and what may become of it.

pub mod batch;
pub mod checkpoint;
pub mod claim;
pub mod next;
pub mod options;
pub mod permit;
pub mod plan;
pub mod settings;
pub mod state;
pub mod waiting;
