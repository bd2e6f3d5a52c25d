//! Tests keyset walks over keys of many types and index orders, in one slice and in several slices:
//! each row is changed exactly once.

use backfilld_testbed::cluster::Options;

use crate::support::{SOON, daemon_with, installed, run, until_true, value};

/// Keys, each as (name, columns). A column consists of its type and of an expression for its value,
/// in which `i` runs from 1 to 600.
const KEYS: &[(&str, &[(&str, &str)])] = &[
    ("k_int2", &[("int2", "i - 300")]),
    ("k_int4", &[("int4", "i * 7 - 2000")]),
    (
        "k_int8",
        &[(
            "int8",
            "case i when 1 then -9223372036854775808 when 600 then 9223372036854775807 else i::int8 * 1000000007 end",
        )],
    ),
    ("k_numeric", &[("numeric(12,3)", "(i - 300) / 7.0")]),
    ("k_wide_numeric", &[("numeric", "(i - 300)::numeric ^ 9 / 3")]),
    ("k_float8", &[("float8", "sqrt(i)")]),
    ("k_text", &[("text", "md5(i::text)")]),
    ("k_text_c", &[("text collate \"C\"", "chr(65 + i % 60) || chr(900 + i) || '\\'' || i")]),
    (
        "k_text_en",
        &[(
            "text collate \"LINGUA\"",
            "case i % 3 when 0 then 'a' when 1 then 'B' else 'Ä ' end || (i / 2) || case i % 2 when 0 then 'x' else 'X' end",
        )],
    ),
    ("k_varchar", &[("varchar(40)", "repeat(' ', i % 5) || i")]),
    ("k_char", &[("char(8)", "(i * 13 % 601)::text")]),
    ("k_uuid", &[("uuid", "md5(i::text)::uuid")]),
    ("k_bytea", &[("bytea", "decode(md5(i::text), 'hex')")]),
    ("k_date", &[("date", "date '1999-12-01' + i")]),
    ("k_timestamp", &[("timestamp", "timestamp '2024-10-27 00:00' + i * interval '10 min 0.000001 s'")]),
    ("k_timestamptz", &[("timestamptz", "timestamptz '2024-10-26 20:00+00' + i * interval '1 min 0.000001 s'")]),
    (
        "k_endless_date",
        &[("date", "case i when 1 then 'infinity' when 2 then '-infinity' else date '1999-12-01' + i end")],
    ),
    (
        "k_endless_moment",
        &[
            (
                "timestamptz",
                "case i when 1 then 'infinity' when 2 then '-infinity' else timestamptz '2024-10-26 20:00+00' + i * interval '1 min' end",
            ),
            ("int", "i % 3"),
        ],
    ),
    ("k_endless_numeric", &[("numeric", "case i when 1 then 'NaN' else i / 3.0 end")]),
    ("k_time", &[("time", "time '00:00' + i * interval '1 min'")]),
    ("k_interval", &[("interval", "i * interval '1 day -1 h 0.5 s'")]),
    ("k_enum", &[("mood", "(array['sad', 'ok', 'it''s'])[1 + i % 3]::mood"), ("int", "i")]),
    ("k_domain", &[("positive", "i")]),
    ("k_date_domain", &[("day", "date '2024-01-13' + i")]),
    ("k_moment_domain", &[("moment", "timestamptz '2024-10-26 20:00+00' + i * interval '1 min 0.000001 s'")]),
    ("k_bool", &[("bool", "i % 2 = 0"), ("int", "i")]),
    ("k_inet", &[("inet", "'10.0.0.0'::inet + i")]),
    ("k_array", &[("int[]", "array[i % 7, i]")]),
    (
        "k_moments",
        &[("timestamptz[]", "array['2026-03-29 00:00+00'::timestamptz + i * interval '1 minute', 'infinity']")],
    ),
    ("k_times", &[("timestamp[]", "array['2026-03-29'::timestamp + i * interval '1 minute']")]),
    ("k_int_text", &[("int", "i % 5"), ("text", "'t' || i")]),
    ("k_uuid_date", &[("uuid", "md5((i % 20)::text)::uuid"), ("date", "date '2024-01-13' + i")]),
    (
        "k_three",
        &[
            ("int", "i % 3"),
            ("text", "chr(97 + i % 4)"),
            ("timestamptz", "timestamptz '2024-10-26 20:00+00' + i * interval '1 min'"),
        ],
    ),
];

/// Configuration with four workers, in which the probe has no effect. With the probe, the jobs
/// would run at their minimum rate on a machine that is busy with other tests.
const FOUR_WORKERS: &str = "lease: {poll_ms: 50}\ndatabases: [{name: main, url: x, workers: 4, signals: [{name: probe_latency, limit: 1000}]}]\n";

#[tokio::test]
async fn keys_of_every_type_are_walked_row_by_row_exactly_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create type mood as enum ('sad', 'ok', 'it''s'); create domain positive as int check (value > 0);
        create domain day as date; create domain moment as timestamptz;
        set DateStyle = 'SQL, DMY'; set TimeZone = 'Europe/Berlin'; set IntervalStyle = sql_standard",
    )
    .await;
    let linguistic: Option<String> = owner
        .query_opt("select quote_ident(collname) from pg_collation where collname in ('en-x-icu', 'und-x-icu', 'en_US.utf8') order by collname = 'en-x-icu' desc limit 1", &[])
        .await
        .unwrap()
        .map(|row| row.get(0));
    for (name, columns) in KEYS {
        let names: Vec<String> = (1..=columns.len()).map(|n| format!("\"K \"\"{n}\"")).collect();
        let typed: Vec<String> = names.iter().zip(*columns).map(|(name, (kind, _))| format!("{name} {kind}")).collect();
        let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
        for slices in [1, 5] {
            let table = format!("{name}_{slices}");
            let script = format!(
                "create table {table} ({}, n int not null default 0, primary key ({}));
                 insert into {table} select {} from generate_series(1, 600) i order by md5(i::text || 'x');
                 select backfill.enqueue('{table}', '{table}', 'n = n + 1', options => '{{\"slices\": {slices}, \"max_batch_rows\": 7}}');",
                typed.join(", "),
                names.join(", "),
                values.join(", "),
            );
            let collation = linguistic.as_deref().unwrap_or("\"default\"");
            run(&owner, &script.replace("\\'", "''").replace("\"LINGUA\"", collation)).await;
        }
    }
    let _daemon = daemon_with(&cluster, FOUR_WORKERS).await;
    until_true(&owner, SOON * 3, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    let failed = owner
        .query("select name, error from backfill.jobs where state <> 'succeeded' or verified_at is null", &[])
        .await
        .unwrap();
    let failed: Vec<String> = failed
        .iter()
        .map(|row| format!("{}: {:?}", row.get::<_, String>(0), row.get::<_, Option<String>>(1)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (name, _) in KEYS {
        for slices in [1, 5] {
            let table = format!("{name}_{slices}");
            let row = owner.query_one(&format!("select min(n), max(n), count(*), (select array[rows_scanned, rows_changed] from backfill.jobs where name = '{table}'),
                (select count(*) from backfill.slices where name = '{table}'), (select max(batches) from backfill.slices where name = '{table}') from {table}"), &[]).await.unwrap();
            assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), (1, 1, 600), "{table}");
            assert_eq!(row.get::<_, Vec<i64>>(3), [600, 600], "{table}");
            assert_eq!(row.get::<_, i64>(4), slices, "{table}");
            assert!(row.get::<_, i64>(5) >= 600 / 7 / slices, "{table}");
        }
    }
}

type Columns = &'static [(&'static str, &'static str)];

/// Keys whose index has mixed directions, each as (name, columns, columns of the index). Each
/// column is given as its type and an expression for its value. In the expression, `i` runs from 1
/// to 600.
const MIXED: &[(&str, Columns, &str)] = &[
    ("down_up", &[("int", "i % 5"), ("int", "i")], "k1 desc, k2"),
    ("up_down", &[("int", "i % 5"), ("int", "i")], "k1, k2 desc"),
    ("one_prefix", &[("int", "7"), ("int", "i * 7919 % 601")], "k1 desc, k2"),
    ("nulls_asked_for", &[("int", "i % 5"), ("int", "i")], "k1 desc nulls last, k2 nulls first"),
    ("no_prefix_twice", &[("int", "i * 7919 % 601"), ("int", "i % 2")], "k1, k2 desc"),
    (
        "words",
        &[("text collate \"LINGUA\"", "chr(97 + i % 3) || case i % 2 when 0 then 'x' else 'X' end"), ("int", "i")],
        "k1 desc, k2",
    ),
    (
        "words_down",
        &[
            ("int", "i % 5"),
            ("text collate \"LINGUA\"", "case i % 3 when 0 then 'a' when 1 then 'B' else 'Ä ' end || i"),
        ],
        "k1, k2 desc",
    ),
    (
        "own_collation",
        &[("int", "i % 5"), ("text", "case i % 2 when 0 then 'a' else 'A' end || i")],
        "k1, k2 collate \"C\" desc",
    ),
    ("arrays", &[("int[]", "array[i % 7, i % 2]"), ("int", "i")], "k1 desc, k2"),
    ("enums", &[("mood", "(array['sad', 'ok', 'it''s'])[1 + i % 3]::mood"), ("positive", "i")], "k1 desc, k2"),
    (
        "moments",
        &[
            ("moment", "timestamptz '2024-10-26 20:00+00' + i % 20 * interval '1 min'"),
            ("day", "date '2024-01-13' + i"),
        ],
        "k1, k2 desc",
    ),
    ("three_1", THREE, "k1 desc, k2, k3"),
    ("three_2", THREE, "k1, k2 desc, k3"),
    ("three_3", THREE, "k1, k2, k3 desc"),
    ("three_4", THREE, "k1 desc, k2 desc, k3"),
    ("three_5", THREE, "k1 desc, k2, k3 desc"),
    ("three_6", THREE, "k1, k2 desc, k3 desc"),
];
const THREE: Columns =
    &[("int", "i % 3"), ("char(3)", "chr(97 + i % 4)"), ("numeric", "case i when 1 then 'NaN' else i / 3.0 end")];

/// For each kind of key, jobs with one slice and jobs with five slices run on copies of the same
/// table. One job increments each row in batches of at most 7 rows. A second job has a filter and
/// fills the rows that match it. A third job deletes all rows. The second and the third job work in
/// batches of at most 60 rows. Two more jobs run on partitioned tables.
#[tokio::test]
async fn keys_whose_index_mixes_directions_are_walked_row_by_row_exactly_once() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create type mood as enum ('sad', 'ok', 'it''s'); create domain positive as int check (value > 0);
        create domain day as date; create domain moment as timestamptz;
        set DateStyle = 'SQL, DMY'; set TimeZone = 'Europe/Berlin'",
    )
    .await;
    let linguistic: Option<String> = owner
        .query_opt("select quote_ident(collname) from pg_collation where collname in ('en-x-icu', 'und-x-icu', 'en_US.utf8') order by collname = 'en-x-icu' desc limit 1", &[])
        .await
        .unwrap()
        .map(|row| row.get(0));
    let collation = linguistic.as_deref().unwrap_or("\"default\"");
    for (name, columns, index) in MIXED {
        let typed: Vec<String> =
            columns.iter().enumerate().map(|(n, (kind, _))| format!("k{} {kind} not null", n + 1)).collect();
        let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
        let key: Vec<String> = (1..=columns.len()).map(|n| format!("k{n}")).collect();
        for slices in [1, 5] {
            let table = format!("{name}_{slices}");
            let script = format!(
                "create table {table} ({typed}, n int not null default 0, c int);
                 insert into {table} select {values} from generate_series(1, 600) i order by md5(i::text || 'x');
                 create unique index on {table} ({index}); create index on {table} (k1); create index on {table} (k2);
                 create table filled_{table} (like {table} including all); insert into filled_{table} select * from {table};
                 create table deleted_{table} (like {table} including all); insert into deleted_{table} select * from {table};
                 select backfill.enqueue('{table}', '{table}', 'n = n + 1', key => '{{{key}}}', options => '{{\"slices\": {slices}, \"max_batch_rows\": 7}}');
                 select backfill.enqueue('filled_{table}', 'filled_{table}', 'n = n + 1, c = 5', 'c is null', key => '{{{key}}}', options => '{{\"slices\": {slices}, \"max_batch_rows\": 60}}');
                 select backfill.enqueue_delete('deleted_{table}', 'deleted_{table}', 'n = 0', key => '{{{key}}}', options => '{{\"slices\": {slices}, \"max_batch_rows\": 60}}');",
                typed = typed.join(", "),
                values = values.join(", "),
                key = key.join(","),
            );
            run(&owner, &script.replace("\"LINGUA\"", collation)).await;
        }
    }
    run(&owner, "create table parts (a int not null, b text not null, n int not null default 0) partition by hash (a);
        create table parts_0 partition of parts for values with (modulus 2, remainder 0);
        create table parts_1 partition of parts for values with (modulus 2, remainder 1);
        create unique index on parts (a desc, b);
        insert into parts select i % 7, 'b' || i from generate_series(1, 600) i;
        select backfill.enqueue('parts', 'parts', 'n = n + 1', key => '{a,b}', options => '{\"slices\": 4, \"max_batch_rows\": 7}');
        create table own_parts (a int not null, b text not null, n int not null default 0) partition by hash (a);
        create table own_parts_0 partition of own_parts for values with (modulus 2, remainder 0);
        create table own_parts_1 partition of own_parts for values with (modulus 2, remainder 1);
        create unique index on own_parts_0 (a desc, b); create unique index on own_parts_1 (b, a);
        insert into own_parts select i % 7, 'b' || i from generate_series(1, 600) i;
        select backfill.enqueue('own_parts', 'own_parts', 'n = n + 1', key => '{a,b}', options => '{\"slices\": 4, \"max_batch_rows\": 7}')").await;
    // Rows of two tables are locked until the jobs on both tables have deferred rows. A check
    // constraint prevents the change to one row of a third table, so the job on that table
    // quarantines the row.
    let locking = cluster.owner().await;
    run(&owner, "alter table filled_three_5_1 add check (k3 <> 100 or n = 0)").await;
    run(&locking, "begin; select from down_up_1 where k2 % 97 = 0 for update; select from three_2_5 where k3 between 50 and 60 for update").await;
    let _daemon = daemon_with(&cluster, FOUR_WORKERS).await;
    let both_deferred =
        "select count(distinct s.job_id) = 2 from backfill.deferred_row a join backfill.slice s on s.id = a.slice_id
        join backfill.job j on j.id = s.job_id where j.name in ('down_up_1', 'three_2_5')";
    until_true(&owner, SOON * 2, both_deferred).await;
    run(&locking, "rollback").await;
    until_true(&owner, SOON * 4, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    let failed = owner
        .query("select name, error from backfill.jobs where (state <> 'succeeded' or verified_at is null) and name <> 'filled_three_5_1'", &[])
        .await
        .unwrap();
    let failed: Vec<String> = failed
        .iter()
        .map(|row| format!("{}: {:?}", row.get::<_, String>(0), row.get::<_, Option<String>>(1)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    for (name, ..) in MIXED {
        for slices in [1, 5] {
            for table in [format!("{name}_{slices}"), format!("filled_{name}_{slices}")] {
                let row = owner.query_one(&format!("select count(*) filter (where n = 1), count(*), (select array[rows_scanned, rows_changed] from backfill.jobs where name = '{table}'),
                    (select count(*) from backfill.slices where name = '{table}') from {table}"), &[]).await.unwrap();
                let whole = 600 - i64::from(table == "filled_three_5_1");
                assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (whole, 600), "{table}");
                assert_eq!(row.get::<_, Vec<i64>>(2), [600, whole], "{table}");
                assert!(row.get::<_, i64>(3) >= slices, "{table}");
            }
            let left: i64 = value(&owner, &format!("select count(*) from deleted_{name}_{slices}")).await;
            assert_eq!(left, 0, "deleted_{name}_{slices}");
        }
    }
    for table in ["parts", "own_parts"] {
        assert_eq!(value::<i64>(&owner, &format!("select count(*) from {table} where n = 1")).await, 600, "{table}");
    }
    let aside = "select count(*) from backfill.row_errors where name = 'filled_three_5_1' and key @> '{\"k3\": 100}'";
    assert_eq!(value::<i64>(&owner, aside).await, 1);
}

#[tokio::test]
async fn empty_tables_single_rows_sparse_filters_and_unresolved_rows_are_counted_rightly() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, "create table empty (id int primary key, a int);
        create table one (id bigint primary key, a int); insert into one values (-9223372036854775808);
        create table sparse (id int primary key, a int, b int); insert into sparse select i, case when i % 97 <> 0 then 1 end, i from generate_series(1, 5000) i;
        create table unresolved (id int primary key, a int, b int); insert into unresolved select i, null, case when i % 10 <> 0 then i end from generate_series(1, 300) i;
        create table other_key (id int primary key, code text not null, a int); insert into other_key select i, 'c' || (1000 - i), null from generate_series(1, 300) i;
        create unique index on other_key (code desc);
        create table many (id int primary key, a int, b int, c text); insert into many select generate_series(1, 300);
        select backfill.enqueue('empty', 'empty', 'a = 1', 'a is null', options => '{\"slices\": 5}');
        select backfill.enqueue('one', 'one', 'a = 1', options => '{\"slices\": 5}');
        select backfill.enqueue('sparse', 'sparse', 'a = b', 'a is null', options => '{\"max_batch_rows\": 50, \"slices\": 3}');
        select backfill.enqueue('unresolved', 'unresolved', 'a = b', 'a is null', options => '{\"max_batch_rows\": 7}');
        select backfill.enqueue('random', 'unresolved', 'a = case when random() < 2 then b end', 'a is null', options => '{\"max_batch_rows\": 7}', priority => 1);
        select backfill.enqueue('other_key', 'other_key', 'a = coalesce(a, 0) + 1', key => '{code}', options => '{\"max_batch_rows\": 7}');
        select backfill.enqueue('many', 'many', '(a, b) = (select o.id, o.id from many o where o.id = many.id), c = ''x''', 'a is null')").await;
    let _daemon = daemon_with(&cluster, "lease: {poll_ms: 50}\n").await;
    until_true(&owner, SOON, "select bool_and(state in ('succeeded', 'failed')) from backfill.jobs").await;
    let row = |name: &str| {
        format!(
            "select concat_ws(' ', state, rows_scanned, rows_changed, rows_unresolved, verified_at is not null, percent_done, error) from backfill.jobs where name = '{name}'"
        )
    };
    for (name, expected) in [
        ("empty", "succeeded 0 0 0 t 100"),
        ("one", "succeeded 1 1 0 t 100"),
        ("sparse", "succeeded 5000 51 0 t 100"),
        ("unresolved", "succeeded 300 300 30 t 100"),
        ("random", "succeeded 300 30 30 t 100"),
        ("other_key", "succeeded 300 300 0 t 100"),
        ("many", "succeeded 300 300 0 t 100"),
    ] {
        assert_eq!(value::<String>(&owner, &row(name)).await, expected, "{name}");
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from many where a = id and b = id and c = 'x'").await, 300);
    assert_eq!(value::<i64>(&owner, "select count(*) from other_key where a = 1").await, 300);
    assert!(value::<bool>(&owner, "select bool_and(a = b) from sparse where id % 97 = 0").await);
}
