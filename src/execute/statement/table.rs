//! What the statements depend on in the table that they work on.

/// How the executor found the table, asked when its statements are prepared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// A row trigger may leave a row as it is.
    pub suppressible: bool,
    /// One that has such a trigger whose text says `return old`.
    pub returns_old: bool,
    /// A column is assigned that foreign keys may refer to: such an update locks its rows more strongly.
    pub keys_change: bool,
}
