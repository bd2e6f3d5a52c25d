//! Keys and ranges of the keyset walk. A key is the text form of each of its columns, in the order of the index,
//! as the job's own session settings read and write it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The value of each key column, in index order; never null.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Vec<String>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.0.join(", "))
    }
}

/// `(lower, upper]`; no lower means from the first row on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    pub lower: Option<Key>,
    pub upper: Key,
}

/// What the walk wants done next: the rows after `from`, at most `rows` of them, none beyond `upper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub from: Option<Key>,
    pub upper: Key,
    /// Rows to scan, at least 1.
    pub rows: u32,
    pub care: Care,
}

/// How a batch treats rows that are not like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Care {
    /// It waits for a locked row, and takes it that every row which it finds is changed. Fast.
    Plain,
    /// It goes around locked rows, and tells apart those that a trigger leaves as they are.
    Careful,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_its_columns_in_parentheses() {
        assert_eq!(Key(vec!["7".into(), "b".into()]).to_string(), "(7, b)");
    }
}
