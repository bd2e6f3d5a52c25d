//! Keys and ranges of the keyset walk. A key contains the value of each key column as text, in
//! index order. The text can be converted back to the same value under any DateStyle, IntervalStyle
//! and TimeZone.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The value of each key column as text, in index order. A value is never null.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Vec<String>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.0.join(", "))
    }
}

/// The range `(lower, upper]`. A range without `lower` begins with the first row.
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
        fn any_key_survives_a_round_trip(columns in proptest::collection::vec(".*", 0..4)) {
            let key = Key(columns);
            let stored = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<Key>(&stored).unwrap(), key);
        }

        #[test]
        fn an_invalid_key_is_refused(stored in r#"\[?("[a-z\\"]*"|null|[0-9]{1,3}|\{\}|\[\]|,){0,4}\]?"#) {
            // A key contains only strings. If a number, a null or a list were accepted, the key
            // could be taken for the key of another row.
            if let Ok(key) = serde_json::from_str::<Key>(&stored) {
                let columns: Vec<serde_json::Value> = serde_json::from_str(&stored).unwrap();
                prop_assert!(columns.iter().all(serde_json::Value::is_string));
                prop_assert_eq!(columns.len(), key.0.len());
            }
        }
    }
}
