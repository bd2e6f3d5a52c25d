//! Keys of many kinds: types, collations, indexes, and values up to the limits of their types.

use crate::proof::Dice;

/// Returns true once in `n` calls on average.
pub fn one_in(dice: &mut Dice, n: u64) -> bool {
    dice.roll(1, n) == 1
}

pub fn pick<'a, T>(dice: &mut Dice, of: &'a [T]) -> &'a T {
    &of[usize::try_from(dice.roll(0, of.len() as u64 - 1)).unwrap()]
}

/// Quotes a name for SQL.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a value for SQL, without a type.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Smallint,
    Int,
    Bigint,
    Numeric,
    NumericOfScale,
    Float,
    Text,
    Varchar,
    Char,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    Timestamptz,
    Time,
    Interval,
    Enum,
    PositiveDomain,
    CodeDomain,
    MomentDomain,
    Boolean,
    Inet,
    Array,
    Range,
    Jsonb,
    Bits,
    Oid,
    Name,
}

/// Types with few distinct values. They are used only as part of a key.
const SMALL: &[Kind] = &[Kind::Boolean, Kind::Enum];
const LARGE: &[Kind] = &[
    Kind::Smallint,
    Kind::Int,
    Kind::Bigint,
    Kind::Numeric,
    Kind::NumericOfScale,
    Kind::Float,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Varchar,
    Kind::Char,
    Kind::Uuid,
    Kind::Bytea,
    Kind::Date,
    Kind::Timestamp,
    Kind::Timestamptz,
    Kind::Time,
    Kind::Interval,
    Kind::PositiveDomain,
    Kind::CodeDomain,
    Kind::MomentDomain,
    Kind::Inet,
    Kind::Array,
    Kind::Range,
    Kind::Jsonb,
    Kind::Bits,
    Kind::Oid,
    Kind::Name,
];

const NAMES: &[&str] = &["id", "select", "K 1", "or\"der", "Größe", "a.b", "user", "x'y", "back\\slash", "$1"];

/// The statements that create the tests' own types in the database of a case.
pub const TYPES: &str = "
create type mood as enum ('sad', 'ok', 'it''s', 'Sehr gut', '');
create domain positive as int check (value > 0);
create domain small_positive as positive check (value < 2000000000);
create domain code as text collate \"C\" check (length(value) < 50);
create domain moment as timestamptz;
";

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    kind: Kind,
    /// The type as `create table` declares it, with its collation.
    pub declared: String,
    /// The type as it is written in a cast, without its collation.
    pub sql_type: String,
    /// The collation of the column in the index. `None` is the default collation of the type.
    pub index_collation: Option<String>,
    pub descending: bool,
    /// If this small pool is not empty, values come from it, so that many rows share a value.
    pool: Vec<String>,
}

/// The columns of a key and the kind of its index.
#[derive(Debug, Clone)]
pub struct Key {
    pub columns: Vec<Column>,
    /// True for the primary key; false for a unique index that the job names.
    pub primary: bool,
}

impl Key {
    /// Generates a key. If `mixed` is true, about a third of the keys have some descending and some
    /// ascending columns.
    pub fn roll(dice: &mut Dice, collations: &[String], mixed: bool) -> Self {
        let mixed = mixed && one_in(dice, 3);
        let count = *pick(dice, if mixed { &[2, 2, 3] } else { &[1, 1, 2, 2, 3] });
        // The index of a primary key is ascending in all of its columns.
        let primary = !mixed && !one_in(dice, 3);
        let descending = !primary && one_in(dice, 2);
        let mut columns: Vec<Column> = Vec::new();
        while columns.len() < count {
            let small = count > 1 && one_in(dice, 4);
            let kind = *pick(dice, if small { SMALL } else { LARGE });
            let name = *pick(dice, NAMES);
            if columns.iter().any(|column| column.name == name) {
                continue;
            }
            let mut column = Column::roll(dice, name, kind, collations, !primary);
            column.descending = if mixed { one_in(dice, 2) } else { descending };
            // The last column ensures that the directions differ.
            if mixed && columns.len() + 1 == count && columns.iter().all(|other| other.descending == column.descending)
            {
                column.descending = !column.descending;
            }
            // All columns of a key except the last may have repeated values.
            if columns.len() + 1 < count && one_in(dice, 2) {
                column.pool = (0..dice.roll(1, 5)).map(|_| value(dice, kind)).collect();
            }
            columns.push(column);
        }
        Self { columns, primary }
    }

    pub fn names(&self) -> String {
        self.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// Returns random values for the key of a row, each with its type, in the order of `names`.
    pub fn values(&self, dice: &mut Dice) -> String {
        self.columns.iter().map(|column| column.value(dice)).collect::<Vec<_>>().join(", ")
    }

    /// Returns the column definitions of the key's index, in order.
    pub fn indexed(&self) -> String {
        let column = |column: &Column| {
            let collation =
                column.index_collation.as_ref().map_or(String::new(), |collation| format!(" collate {collation}"));
            format!("{}{collation}{}", quote(&column.name), if column.descending { " desc" } else { "" })
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// Returns the columns, each with the collation of the index.
    pub fn ordered(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| match &column.index_collation {
                Some(collation) => format!("{} collate {collation}", quote(&column.name)),
                None => quote(&column.name),
            })
            .collect()
    }
}

impl Column {
    /// Returns whether a table with a unique index on the column can be hash-partitioned by this
    /// column. Hash partitioning needs a type with a hash function, and the column and the index
    /// must have the same collation. For simplicity, columns with an explicit collation are left
    /// out.
    pub fn may_divide(&self) -> bool {
        self.kind != Kind::Bits && !self.declared.contains("collate") && self.index_collation.is_none()
    }

    fn roll(dice: &mut Dice, name: &str, kind: Kind, collations: &[String], own_index: bool) -> Self {
        let collatable = matches!(kind, Kind::Text | Kind::Varchar | Kind::Char);
        let collation = if collatable && !one_in(dice, 3) { Some(pick(dice, collations).clone()) } else { None };
        let sql_type = match kind {
            Kind::Smallint => "smallint",
            Kind::Int => "int",
            Kind::Bigint => "bigint",
            Kind::Numeric => "numeric",
            Kind::NumericOfScale => "numeric(12,3)",
            Kind::Float => "float8",
            Kind::Text => "text",
            Kind::Varchar => "varchar(40)",
            Kind::Char => "char(9)",
            Kind::Uuid => "uuid",
            Kind::Bytea => "bytea",
            Kind::Date => "date",
            Kind::Timestamp => "timestamp",
            Kind::Timestamptz => "timestamptz",
            Kind::Time => "time",
            Kind::Interval => "interval",
            Kind::Enum => "public.mood",
            Kind::PositiveDomain => *pick(dice, &["public.positive", "public.small_positive"]),
            Kind::CodeDomain => "public.code",
            Kind::MomentDomain => "public.moment",
            Kind::Boolean => "boolean",
            Kind::Inet => "inet",
            Kind::Array => "int[]",
            Kind::Range => *pick(dice, &["int4range", "tstzrange"]),
            Kind::Jsonb => "jsonb",
            Kind::Bits => "bit varying",
            Kind::Oid => "oid",
            Kind::Name => "name",
        };
        let declared =
            collation.as_ref().map_or(sql_type.to_owned(), |collation| format!("{sql_type} collate {collation}"));
        let index_collation =
            if collatable && own_index && one_in(dice, 2) { Some(pick(dice, collations).clone()) } else { collation };
        let (name, sql_type) = (name.to_owned(), sql_type.to_owned());
        Self { name, kind, declared, sql_type, index_collation, descending: false, pool: Vec::new() }
    }

    fn value(&self, dice: &mut Dice) -> String {
        let text = if self.pool.is_empty() { value(dice, self.kind) } else { pick(dice, &self.pool).clone() };
        // Generated ranges are ranges of integers. For a column of type tstzrange, the bounds are
        // converted into times.
        let text = match self.sql_type.as_str() {
            "tstzrange" => moment_range(&text),
            _ => text,
        };
        format!("{}::{}", literal(&text), self.sql_type)
    }
}

fn moment_range(numbers: &str) -> String {
    let bound = |number: &str| match number.parse::<i64>() {
        Ok(number) => format!("{:04}-03-31 01:{:02}:00+00", 1900 + number.rem_euclid(300), number.rem_euclid(60)),
        Err(_) => String::new(),
    };
    let inner = numbers.trim_matches(['[', ')']);
    match inner.split_once(',') {
        Some((low, high)) => {
            let (low, high) = (bound(low), bound(high));
            if !high.is_empty() && low > high { format!("[{high},{low})") } else { format!("[{low},{high})") }
        }
        None => numbers.to_owned(),
    }
}

fn integer(dice: &mut Dice, low: i64, high: i64) -> String {
    match dice.roll(0, 9) {
        0 => low.to_string(),
        1 => high.to_string(),
        2 => dice.roll(0, 2).to_string(),
        3..=5 => dice.roll(0, u64::try_from(high.min(5000)).unwrap()).to_string(),
        _ => {
            let span = i128::from(high) - i128::from(low) + 1;
            let (upper, lower) = (u128::from(dice.roll(0, u32::MAX.into())), u128::from(dice.roll(0, u32::MAX.into())));
            let offset = i128::try_from(((upper << 32) | lower) % u128::try_from(span).unwrap()).unwrap();
            (i128::from(low) + offset).to_string()
        }
    }
}

fn words(dice: &mut Dice, most: u64) -> String {
    const LETTERS: &[&str] = &[
        "a", "b", "A", "B", "z", "Z", "ä", "Ä", "ß", "é", "e\u{301}", " ", "  ", "_", "-", ".", ",", "'", "\"", "\\",
        "{", "}", "(", ")", "%", "0", "1", "9", "\t", "\n", "日", "🦀", "ﬀ", "I", "ı", "null", "NULL",
    ];
    (0..dice.roll(0, most)).map(|_| *pick(dice, LETTERS)).collect()
}

fn date(dice: &mut Dice) -> String {
    match dice.roll(0, 19) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        2 => "4713-01-01 BC".into(),
        3 => "5874897-12-31".into(),
        4 => format!("{:04}-02-28 BC", dice.roll(1, 4000)),
        _ => format!("{:04}-{:02}-{:02}", dice.roll(1, 9999), dice.roll(1, 12), dice.roll(1, 28)),
    }
}

fn moment(dice: &mut Dice, zone: &str) -> String {
    match dice.roll(0, 19) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        2 => format!("4713-01-02 00:00:00{zone} BC"),
        3 => format!("294276-12-31 09:59:59.999999{zone}"),
        4 => format!("{:04}-02-28 12:00:00.5{zone} BC", dice.roll(1, 4000)),
        // On this date, one hour occurs twice in many time zones.
        5..=8 => format!("2024-10-27 {:02}:{:02}:00{zone}", dice.roll(0, 3), dice.roll(0, 59)),
        _ => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}{zone}",
            dice.roll(1, 2999),
            dice.roll(1, 12),
            dice.roll(1, 28),
            dice.roll(0, 23),
            dice.roll(0, 59),
            dice.roll(0, 59),
            dice.roll(0, 999_999)
        ),
    }
}

fn value(dice: &mut Dice, kind: Kind) -> String {
    match kind {
        Kind::Smallint => integer(dice, i16::MIN.into(), i16::MAX.into()),
        Kind::Int => integer(dice, i32::MIN.into(), i32::MAX.into()),
        Kind::Bigint => integer(dice, i64::MIN, i64::MAX),
        Kind::PositiveDomain => dice.roll(1, 1_999_999_999).to_string(),
        Kind::Oid => dice.roll(0, u32::MAX.into()).to_string(),
        Kind::Numeric => match dice.roll(0, 9) {
            0 => (*pick(dice, &["NaN", "Infinity", "-Infinity", "0", "1e-40", "-1e60"])).to_owned(),
            1..=4 => format!("{}.{}", integer(dice, i64::MIN, i64::MAX), dice.roll(0, 999_999_999)),
            _ => format!("{}.{:02}", integer(dice, -1000, 1000), dice.roll(0, 99)),
        },
        Kind::NumericOfScale => format!("{}.{:03}", integer(dice, -999_999_999, 999_999_998), dice.roll(0, 999)),
        Kind::Float => match dice.roll(0, 9) {
            0 => (*pick(dice, &["NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "1.7976931348623157e308"]))
                .to_owned(),
            _ => format!("0.{}e{}", dice.roll(0, u64::MAX - 1), dice.roll(0, 20)),
        },
        Kind::Text => words(dice, 9),
        Kind::Varchar | Kind::CodeDomain => words(dice, 6),
        Kind::Char => words(dice, 2),
        Kind::Name => words(dice, 5),
        Kind::Uuid => {
            let (high, low) = (dice.roll(0, u64::MAX - 1), dice.roll(0, u64::MAX - 1));
            (*pick(
                dice,
                &[uuid::Uuid::from_u64_pair(high, low), uuid::Uuid::from_u64_pair(0, low % 1000), uuid::Uuid::max()],
            ))
            .to_string()
        }
        Kind::Bytea => {
            let bytes: String = (0..dice.roll(0, 6)).map(|_| format!("{:02x}", dice.roll(0, 255))).collect();
            format!("\\x{bytes}")
        }
        Kind::Date => date(dice),
        Kind::Timestamp => moment(dice, ""),
        Kind::Timestamptz | Kind::MomentDomain => {
            let zone = *pick(dice, &["+00", "-03:30", "+14"]);
            moment(dice, zone)
        }
        Kind::Time => format!(
            "{:02}:{:02}:{:02}.{:06}",
            dice.roll(0, 23),
            dice.roll(0, 59),
            dice.roll(0, 59),
            dice.roll(0, 999_999)
        ),
        Kind::Interval => {
            format!("{} mons {} days {} seconds", dice.roll(0, 30), dice.roll(0, 90), dice.roll(0, 900_000))
        }
        Kind::Enum => (*pick(dice, &["sad", "ok", "it's", "Sehr gut", ""])).to_owned(),
        Kind::Boolean => (*pick(dice, &["t", "f"])).to_owned(),
        Kind::Inet => match dice.roll(0, 3) {
            0 => format!("2001:db8::{:x}/{}", dice.roll(0, 65535), dice.roll(100, 128)),
            _ => format!("10.{}.{}.{}/{}", dice.roll(0, 3), dice.roll(0, 255), dice.roll(0, 255), dice.roll(24, 32)),
        },
        Kind::Array => {
            let parts: Vec<String> = (0..dice.roll(0, 3))
                .map(|_| if one_in(dice, 8) { "null".to_owned() } else { dice.roll(0, 99).to_string() })
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Kind::Range => match dice.roll(0, 9) {
            0 => "empty".into(),
            1 => format!("[{},)", dice.roll(0, 99)),
            2 => "[,)".into(),
            _ => {
                let low = dice.roll(0, 9999);
                format!("[{low},{})", low + dice.roll(1, 99))
            }
        },
        Kind::Jsonb => match dice.roll(0, 3) {
            0 => format!("[{}, \"{}\"]", dice.roll(0, 99), dice.roll(0, 9)),
            1 => format!("{{\"a\": {}, \"b\\u00e4\": null}}", dice.roll(0, 999)),
            2 => format!("\"t{}\"", dice.roll(0, 999)),
            _ => format!("{}.{}", dice.roll(0, 999), dice.roll(0, 9)),
        },
        Kind::Bits => (0..dice.roll(0, 14)).map(|_| if one_in(dice, 2) { '1' } else { '0' }).collect(),
    }
}
