//! Properties of the walked table. The text of the table's statements depends on these properties.

/// Properties of the table, read when its statements are prepared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// Whether a BEFORE trigger can leave a row unchanged.
    pub suppressible: bool,
    /// Whether the source of a BEFORE trigger contains `return old`.
    pub returns_old: bool,
    /// Whether the job assigns a column that foreign keys may refer to. Such an update takes a
    /// stronger row lock.
    pub keys_change: bool,
    /// Whether the statements skip the filter for rows that were changed, because the filter may
    /// raise an error for these rows.
    pub lenient: bool,
}
