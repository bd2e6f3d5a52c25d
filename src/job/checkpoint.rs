//! The durable low watermark of a slice. One value goes into the executor with a batch, and the next one comes out.

use serde::Deserialize;

use crate::key::Key;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Checkpoint {
    /// All rows up to here are passed; none at the start of the table.
    pub position: Option<Key>,
    /// The end of the slice was reached.
    pub done: bool,
    /// Where the checkpoint's row was last seen: an outdated one costs time and nothing else.
    #[serde(rename = "checkpoint_ctid")]
    pub ctid: String,
}
