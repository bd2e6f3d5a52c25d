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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_reads_as_its_columns_in_parentheses() {
        assert_eq!(Key(vec!["7".into(), "b".into()]).to_string(), "(7, b)");
    }

    proptest! {
        #[test]
        fn any_key_comes_back_as_it_was_written(columns in proptest::collection::vec(".*", 0..4)) {
            let key = Key(columns);
            let stored = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<Key>(&stored).unwrap(), key);
        }

        #[test]
        fn what_is_no_key_is_refused(stored in r#"\[?("[a-z\\"]*"|null|[0-9]{1,3}|\{\}|\[\]|,){0,4}\]?"#) {
            // Texts and nothing else: a number, a null or a list in the place of a column would be another row's key.
            if let Ok(key) = serde_json::from_str::<Key>(&stored) {
                let columns: Vec<serde_json::Value> = serde_json::from_str(&stored).unwrap();
                prop_assert!(columns.iter().all(serde_json::Value::is_string));
                prop_assert_eq!(columns.len(), key.0.len());
            }
        }
    }
}
