//! A case: a table, a job, an application and its faults, all generated from one number.

use crate::model::key::{Key, literal, one_in, pick, quote};
use crate::proof::Dice;

/// The features that a case may have: all of them, or only those named in `BACKFILLD_KINDS`,
/// separated by commas. The same seed with the same kinds reproduces the same case.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds {
    /// The table has partitions.
    pub partitioned: bool,
    /// The key's index is descending in some columns and ascending in others.
    pub mixed_directions: bool,
    /// The job may delete rows.
    pub deletes: bool,
    /// Some rows cannot be changed.
    pub bad_rows: bool,
    /// A transaction of the application locks some rows for a second.
    pub locked_rows: bool,
}

impl Kinds {
    const ALL: Self =
        Self { partitioned: true, mixed_directions: true, deletes: true, bad_rows: true, locked_rows: true };

    pub fn asked() -> Self {
        let Ok(words) = std::env::var("BACKFILLD_KINDS") else { return Self::ALL };
        let mut kinds = Self::default();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match word {
                "partitioned" => kinds.partitioned = true,
                "mixed_directions" => kinds.mixed_directions = true,
                "deletes" => kinds.deletes = true,
                "bad_rows" => kinds.bad_rows = true,
                "locked_rows" => kinds.locked_rows = true,
                other => panic!("BACKFILLD_KINDS: there is no kind \"{other}\""),
            }
        }
        kinds
    }
}

/// The form of the job. Depending on the form, a job counts its changes in the last three digits of
/// `n`, sets `c` to `src * 2 + 1`, does both, or deletes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Has no filter, and reads the column that it writes.
    PlusOne,
    /// Reads the column that it writes. A changed row no longer matches the filter.
    PlusOneFiltered,
    /// Fills `c` where it is null.
    Fill,
    /// Like `Fill`, but some rows get null as the new value.
    FillUnresolved,
    /// Like `Fill`, with a subquery on another table.
    FillFromOther,
    /// Sets several columns.
    Several,
    /// Sets several columns from one select.
    SeveralFromSelect,
    /// Reads the column that it writes, and also another table.
    PlusOneFromOther,
    /// Deletes the rows with an even `src`, about half of all rows.
    Delete,
}

impl Form {
    /// Returns whether the job only fills `c`, and does not count its changes in `n`.
    pub fn fills(self) -> bool {
        matches!(self, Self::Fill | Self::FillUnresolved | Self::FillFromOther)
    }

    pub fn counts(self) -> bool {
        !self.fills() && self != Self::Delete
    }

    pub fn set(self, dice: &mut Dice) -> &'static str {
        match self {
            Self::PlusOne | Self::PlusOneFiltered => {
                pick::<&str>(dice, &["n = n + 1", "n = (n + 1) -- one more", "\"n\" = coalesce(n, 0) + 1", "N = 1 + n"])
            }
            Self::Fill => "c = src * 2 + 1",
            Self::FillUnresolved => "c = case when src % 7 <> 0 then src * 2 + 1 end",
            Self::FillFromOther => "c = src * (select f from public.factor where id = src % 5) + 1",
            Self::Several => pick::<&str>(
                dice,
                &[
                    "n = n + 1, c = src * 2 + 1",
                    "(n, c) = (n + 1, src * 2 + 1)",
                    "(c, \"n\") = row(src * 2 + 1, n + 1)",
                ],
            ),
            Self::SeveralFromSelect => "(n, c) = (select n + 1, src * f + 1 from public.factor where id = src % 5)",
            Self::PlusOneFromOther => "n = n + (select f - 1 from public.factor where id = src % 5)",
            Self::Delete => "",
        }
    }

    pub fn filter(self) -> Option<&'static str> {
        match self {
            Self::PlusOneFiltered => Some("n % 1000 = 0"),
            Self::Fill | Self::FillUnresolved | Self::FillFromOther => Some("c is null"),
            Self::Delete => Some("src % 2 = 0"),
            _ => None,
        }
    }
}

/// A fault that affects the daemons or the job while the job runs.
#[derive(Debug, Clone)]
pub enum Fault {
    Kill,
    /// All connections of the daemons are closed.
    Cut,
    /// All connections of the daemons are closed in the middle of a request: after the daemons have
    /// sent this many more bytes.
    CutAfter(u32),
    /// The daemons receive no results, so a statement may commit without their knowledge. After
    /// that, all their connections are closed.
    Swallow,
    /// The server terminates all sessions of the daemons except those that send heartbeats.
    Terminate,
    /// The server cancels the statements of all the daemons' sessions, except the sessions that
    /// send heartbeats.
    Cancel,
    /// A daemon is replaced by another daemon whose variable `BACKFILLD_FAILPOINT` has this value.
    Named(String),
    /// A daemon is frozen for longer than its lease, and then continues.
    Freeze,
    Pause,
    Tune(String),
    /// A transaction of the application locks some rows for a second.
    Lock,
}

const POINTS: &[&str] = &[
    "after_claim",
    "before_save_plan",
    "after_save_plan",
    "before_register_backend",
    "after_register_backend",
    "before_batch",
    "after_batch",
    "before_giving_back",
    "after_finish",
];

/// Failpoints just before and just after the daemon defers, quarantines or retries rows.
const DEFERRED_POINTS: &[&str] =
    &["before_skip_row", "after_skip_row", "before_retry_deferred", "after_retry_deferred"];

impl Fault {
    fn roll(dice: &mut Dice, kinds: Kinds) -> Self {
        match dice.roll(0, if kinds.locked_rows { 12 } else { 11 }) {
            0 | 1 => Self::Kill,
            2 => Self::Cut,
            3 => Self::CutAfter(u32::try_from(dice.roll(1, 1500)).unwrap()),
            4 => Self::Swallow,
            5 => Self::Terminate,
            6 => Self::Cancel,
            7 | 8 => {
                let action = *pick(dice, &["abort", "abort", "error", "sleep:1300"]);
                let aside = (kinds.bad_rows || kinds.locked_rows) && one_in(dice, 3);
                Self::Named(format!(
                    "{}:{}={action}",
                    pick(dice, if aside { DEFERRED_POINTS } else { POINTS }),
                    dice.roll(1, 4)
                ))
            }
            9 => Self::Freeze,
            10 => Self::Pause,
            11 => Self::Tune(format!(
                r#"{{"max_batch_rows": {}, "target_batch_ms": {}}}"#,
                dice.roll(1, 100),
                dice.roll(1, 20)
            )),
            _ => Self::Lock,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    pub form: Form,
    /// The table's name, quoted and with its schema.
    pub target: String,
    pub key: Key,
    pub set: &'static str,
    pub options: String,
    /// The job's verification includes sweeps.
    pub sweeps: bool,
    pub daemons: u64,
    pub faults: Vec<Fault>,
    pub writers: u64,
    pub writes: u64,
    /// A trigger records each update and delete of a row, with the application name of the session.
    pub audited: bool,
    pub script: Vec<String>,
    pub partitioned: bool,
    /// Tags of the rows that cannot be changed until they are fixed.
    pub bad_rows: Vec<i64>,
    /// Faults that happen after each retry.
    pub later: Vec<Fault>,
}

impl Case {
    /// Generates the case with this number. `collations` are the quoted names of the server's
    /// collations.
    pub fn roll(seed: u64, collations: &[String], kinds: Kinds) -> Self {
        let dice = &mut Dice::of(seed);
        let mut forms = vec![
            Form::PlusOne,
            Form::PlusOneFiltered,
            Form::Fill,
            Form::FillUnresolved,
            Form::FillFromOther,
            Form::Several,
            Form::SeveralFromSelect,
            Form::PlusOneFromOther,
        ];
        if kinds.deletes {
            forms.extend([Form::Delete, Form::Delete]);
        }
        let form = *pick(dice, &forms);
        let key = Key::roll(dice, collations, kinds.mixed_directions);
        let rows = *pick(dice, &[0, 1, 2, 30, 150, 400, 400, 800, 800, 1500]);
        let rows = if rows > 2 { dice.roll(rows / 2, rows) } else { rows };
        let most = match dice.roll(0, 4) {
            0 if rows <= 300 => 1,
            0 | 1 => dice.roll(2, 9),
            2 => dice.roll(10, 40),
            3 => dice.roll(40, 300),
            _ => 5000,
        };
        let faults: Vec<Fault> =
            if one_in(dice, 5) { Vec::new() } else { (0..dice.roll(1, 4)).map(|_| Fault::roll(dice, kinds)).collect() };
        let (writers, writes) = if one_in(dice, 6) { (0, 0) } else { (dice.roll(1, 3), dice.roll(20, 150)) };
        let pace = if faults.is_empty() && writers == 0 {
            r#""throttle": "off""#.to_owned()
        } else {
            format!(r#""max_rows_per_second": {}"#, rows.max(30) * dice.roll(5, 20) / 10)
        };
        let verify = *pick(dice, &["auto", "auto", "auto", "coverage", "none"]);
        let options = format!(
            r#"{{"slices": {}, "max_batch_rows": {most}, "target_batch_ms": {}, "verify": "{verify}", {pace}}}"#,
            dice.roll(1, 4),
            *pick(dice, &[1, 5, 10, 10, 50]),
        );
        let target =
            (*pick(dice, &["public.walked", "\"Odd Schema\".\"Wa'lk\"\"ed\"", "public.\"select\""])).to_owned();
        let partitioned = kinds.partitioned && one_in(dice, 3) && key.columns[0].may_divide();
        let audited = form.fills() || form == Form::Delete || one_in(dice, 2);
        let (set, daemons) = (form.set(dice), dice.roll(1, 2));
        let sweeps = form.fills() && verify == "auto";
        let mut bad_rows: Vec<i64> = Vec::new();
        if kinds.bad_rows && rows > 0 && one_in(dice, 3) {
            // The bad rows are adjacent or spread over the table.
            let (count, first) = (dice.roll(1, 12), dice.roll(1, rows));
            let close = one_in(dice, 3);
            bad_rows.extend(
                (0..count)
                    .map(|n| if close { first + n } else { dice.roll(1, rows) })
                    .filter_map(|tag| i64::try_from(tag).ok()),
            );
            bad_rows.sort_unstable();
            bad_rows.dedup();
        }
        let later =
            if one_in(dice, 3) { Vec::new() } else { (0..dice.roll(1, 2)).map(|_| Fault::roll(dice, kinds)).collect() };
        let mut case = Self {
            seed,
            form,
            target,
            key,
            set,
            options,
            sweeps,
            daemons,
            faults,
            writers,
            writes,
            audited,
            script: Vec::new(),
            partitioned,
            bad_rows,
            later,
        };
        case.script = case.script(dice, rows);
        case
    }

    pub fn key_given(&self) -> Option<Vec<&str>> {
        (!self.key.primary).then(|| self.key.columns.iter().rev().map(|column| column.name.as_str()).collect())
    }

    fn script(&self, dice: &mut Dice, rows: u64) -> Vec<String> {
        let (target, key) = (&self.target, &self.key);
        let mut script = vec![
            "create schema \"Odd Schema\"; create table public.factor (id bigint primary key, f bigint not null);
             insert into public.factor select i, 2 from generate_series(-4, 4) i"
                .to_owned(),
        ];
        let mut columns: Vec<String> =
            key.columns.iter().map(|column| format!("{} {} not null", quote(&column.name), column.declared)).collect();
        columns.extend(
            [
                "tag bigint not null",
                "n bigint not null default 0",
                "src bigint not null",
                "c bigint",
                "s bigint not null default 0",
                "gone int",
            ]
            .map(str::to_owned),
        );
        let more = [
            "pad text not null default 'pad'",
            "toasted text default repeat('toast', 600)",
            "doubled bigint generated always as (src * 2) stored",
            "counted bigint generated by default as identity",
            "note jsonb default '{\"a\": [1, null]}'",
            "at timestamptz default '2024-01-01'",
        ];
        columns.extend(more.iter().filter(|_| one_in(dice, 2)).map(|column| (*column).to_owned()));
        // The columns are shuffled, so that the key is not always the first column.
        for n in (1..columns.len()).rev() {
            columns.swap(n, usize::try_from(dice.roll(0, n as u64)).unwrap());
        }
        if key.primary {
            columns.push(format!("primary key ({})", key.names()));
        }
        let storage = *pick(dice, &["", "", " with (fillfactor = 50)"]);
        let unlogged = if one_in(dice, 10) && !self.partitioned { "unlogged " } else { "" };
        let partitions = if self.partitioned {
            format!(" partition by hash ({})", quote(&key.columns[0].name))
        } else {
            storage.to_owned()
        };
        script.push(format!("create {unlogged}table {target} ({}){partitions}", columns.join(", ")));
        if self.partitioned {
            script.extend((0..3).map(|n| {
                format!("create table public.leaf_{n} partition of {target} for values with (modulus 3, remainder {n})")
            }));
        }
        script.push(format!("alter table {target} drop column gone"));
        if !key.primary {
            let more = if one_in(dice, 3) { " include (tag)" } else { "" };
            script.push(format!("create unique index on {target} ({}){more}", key.indexed()));
        }
        if one_in(dice, 2) {
            script.push(format!("create index on {target} (tag)"));
        }
        if one_in(dice, 4) {
            script.push(format!("create index on {target} (c)"));
        }
        if self.audited {
            script.push(audit(target));
        }
        if !self.bad_rows.is_empty() {
            script.push(bad_rows(dice, target, &self.bad_rows));
        }
        // If several rows have the same key, only one of them is inserted. The test therefore reads
        // the initial rows back from the table.
        let tags: Vec<u64> = (1..=rows).collect();
        for chunk in tags.chunks(200) {
            let values: Vec<String> =
                chunk.iter().map(|tag| format!("({}, {tag}, {})", key.values(dice), dice.roll(0, 1000))).collect();
            script.push(format!(
                "insert into {target} ({}, tag, src) values {} on conflict do nothing",
                key.names(),
                values.join(", ")
            ));
        }
        match dice.roll(0, 3) {
            0 => script.push(format!("analyze {target}")),
            // The table is analyzed before its rows are inserted, so its statistics are wrong.
            1 => script.insert(2, format!("analyze {target}")),
            _ => {}
        }
        script
    }

    /// Describes the case for a developer who investigates a failure.
    pub fn describe(&self) -> String {
        format!(
            "BACKFILLD_SEED={} {:?} on {} ({}) by ({}), set {}, filter {:?}, options {}, {} daemons, {} writers of {} writes, faults {:?}, partitioned {}, bad_rows {:?}, later {:?}",
            self.seed,
            self.form,
            self.target,
            self.key
                .columns
                .iter()
                .map(|column| format!("{} {}", quote(&column.name), column.declared))
                .collect::<Vec<_>>()
                .join(", "),
            self.key.indexed(),
            self.set,
            self.form.filter(),
            self.options,
            self.daemons,
            self.writers,
            self.writes,
            self.faults,
            self.partitioned,
            self.bad_rows,
            self.later
        )
    }
}

fn audit(target: &str) -> String {
    format!(
        "create table public.audit (at timestamptz not null default clock_timestamp(), who text, tag bigint, old jsonb, new jsonb);
         create function public.audit() returns trigger language plpgsql set search_path = pg_catalog as $$ begin
           insert into public.audit (who, tag, old, new) values (current_setting('application_name'), coalesce(new.tag, old.tag), to_jsonb(old), to_jsonb(new));
           return null; end $$;
         create trigger {} after update or delete on {target} for each row execute function public.audit()",
        quote(literal("audit").trim_matches('\''))
    )
}

/// Creates a trigger that prevents daemons from changing these rows: it raises an error or
/// suppresses the change.
fn bad_rows(dice: &mut Dice, target: &str, tags: &[i64]) -> String {
    let rows: Vec<String> = tags
        .iter()
        .map(|tag| {
            let code = *pick(dice, &["null", "null", "'22012'", "'23514'", "'P0001'", "'22P02'", "'54000'", "'38000'"]);
            format!("({tag}, {code})")
        })
        .collect();
    format!(
        "create table public.bad_rows (tag bigint primary key, code text);
         insert into public.bad_rows values {};
         create function public.bad_rows() returns trigger language plpgsql set search_path = pg_catalog as $$
         declare p public.bad_rows; begin
           if current_setting('application_name') like 'backfilld %' then
             select * into p from public.bad_rows where bad_rows.tag = old.tag;
             if p.code is not null then raise exception using errcode = p.code, message = 'row ' || old.tag || ' is bad'; end if;
             if p.tag is not null then return null; end if;
           end if;
           return coalesce(new, old); end $$;
         create trigger bad_rows before update or delete on {target} for each row execute function public.bad_rows()",
        rows.join(", ")
    )
}
