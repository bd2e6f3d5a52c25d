//! Tests that a job has the effect of one plain statement, or is refused: jobs whose expressions
//! read other rows, expressions with side effects, and statement-level triggers.

use backfilld_testbed::cluster::{Cluster, Options};
use tokio_postgres::Client;

use crate::enqueue::notices;
use crate::support::{SOON, daemon, installed, refused, run, sql, until_state, until_true, value};

/// A table, with views and functions. The expressions in the tests read other rows of this table.
const SHELF: &str = "
create table cu (id int primary key, grp int, perm text, note text);
insert into cu select g, g % 100, case when g < 100 then 'rw' else 'r' end from generate_series(0, 399) g;
create index on cu (grp) where perm = 'rw';
create table other (grp int, perm text);
create view v as select * from cu;
create view counts as select grp, count(*) filter (where perm = 'rw') as rw, count(*) as all_rows from cu group by grp;
create function in_text(g int) returns bigint language sql stable as 'select count(*) from cu where grp = g and perm = ''rw''';
create function in_number(int) returns bigint language sql stable as 'select count(*) from cu where grp = $1 and perm = ''rw'';';
create function parsed(g int) returns bigint language sql stable begin atomic select count(*) from cu where grp = g and perm = 'rw'; end;
create function returned(g int) returns bigint language sql stable return (select count(*) from cu where grp = g and perm = 'rw');
create function outer_function(g int) returns bigint language sql stable as 'select in_text(g) + 0';
create function with_output(out found bigint, g int) language sql stable as 'select count(*) from cu where grp = g and perm = ''rw''';
create schema apart;
create function apart.inner_function(g int) returns bigint language sql stable as 'select count(*) from public.cu where grp = g and perm = ''rw''';
create function apart.caller(g int) returns bigint language sql stable set search_path = apart as 'select inner_function(g) + 0';
create function harmless(g int) returns bigint language sql stable as 'select count(*) from cu where grp = g';
create function perm_of_other(grp int) returns bigint language sql stable as 'select count(*) from other x where x.perm = perm_of_other.grp::text';
create schema hidden;
create function hidden.f(g int) returns bigint language sql stable set search_path = public as 'select count(*) from cu where grp = g and perm = ''rw''';
create function procedural(g int) returns bigint language plpgsql stable as 'begin return (select count(*) from cu where grp = g and perm = ''rw''); end';
create function agg_step(s bigint, g int) returns bigint language sql stable as 'select s + count(*) from cu where grp = g and perm = ''rw''';
create operator ### (rightarg = int, function = in_text);
create aggregate agg(int) (sfunc = agg_step, stype = bigint, initcond = '0');
create type level as enum ('1', '2');
create function of_level(l level) returns bigint language sql stable as 'select count(*) from cu where grp::text = l::text and perm = ''rw''';
create cast (level as bigint) with function of_level(level);
create function with_default(g int, k bigint default in_text(3)) returns bigint language plpgsql immutable as 'begin return k; end';
create function checks(g int) returns boolean language sql stable as 'select count(*) > 0 from cu where grp = g and perm = ''rw''';
create domain checked as int check (checks(value));
create view behind as select id, in_text(id) as rw from generate_series(1, 400) id;
create view behind_two as select id, rw + 0 as rw from behind;
create view behind_operator as select id, ### id as rw from generate_series(1, 400) id;
create function fixed(g int) returns int language plpgsql immutable as 'begin return g; end';
create table pa (id int primary key, grp int, perm text) partition by range (id);
create table pa1 partition of pa for values from (0) to (200);
create table pa2 partition of pa for values from (200) to (1000);
insert into pa select id, grp, perm from cu;
create function \"odd name\"(g int) returns bigint language sql stable as 'select count(*) from cu where grp = g and perm = ''rw''';
create function of_like(g int, p text) returns boolean language sql stable as 'select exists (select from cu where grp = g and perm = p)';
create operator ~~ (leftarg = int, rightarg = text, function = of_like);
create function of_pa(g int) returns bigint language sql immutable as 'select count(*) from pa where grp = g and perm = ''rw''';
create type wrapped as (x bigint);
create function wrap(g int) returns wrapped language sql stable as 'select row(count(*))::wrapped from cu where grp = g and perm = ''rw''';
create cast (int as wrapped) with function wrap(int) as assignment;
create domain based as checked;
create type moods as enum ('low', 'high');
create function of_mood(m moods) returns text language sql stable as 'select repeat(''x'', count(*)::int) from cu where perm = ''rw''';
create cast (moods as text) with function of_mood(moods) as implicit;
alter table cu add mood moods;
create table tcp (id int primary key, parent int, tc tid);
create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table nd (id int primary key, code text collate blind, perm text);
create unique index on nd (code collate \"C\");
create domain checked_too as int check (value is null or checks(value));
alter table cu add computed bigint default in_text(3), add in_wrap wrapped, add in_domain checked_too;
create table two (a int, b int, n int, primary key (a, b)); insert into two select g, g, 0 from generate_series(1, 100) g";

/// The expressions read `perm` of other rows, and the job assigns `perm`. The result would depend
/// on the order of the batches.
#[tokio::test]
async fn a_job_that_reads_what_it_assigns_in_other_rows_is_refused() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, SHELF).await;
    let set = "perm = ''admin''";
    let cases = [
        ("cu", set, "(select count(*) from cu x where x.grp = cu.grp and x.perm = ''rw'') = 1"),
        ("cu", set, "exists (select from cu x where x.grp = cu.grp and x.id <> cu.id and x.perm = ''rw'')"),
        ("cu", set, "grp in (select grp from cu where perm = ''rw'')"),
        ("cu", set, "not exists (select from cu x where x.grp = cu.grp and x.perm = ''r'')"),
        (
            "cu",
            set,
            "(with w as (select grp, perm from cu) select count(*) from w where w.grp = cu.grp and w.perm = ''rw'') = 1",
        ),
        ("cu", set, "(select count(x) from cu x where x.grp = cu.grp) = 1"),
        ("cu", set, "(select x.perm from cu x order by x.id limit 1) = ''rw''"),
        (
            "cu",
            set,
            "(select y.p from (select max(perm) as p, grp from cu group by grp) y where y.grp = cu.grp) = ''rw''",
        ),
        ("cu", set, "(select count(*) from v x where x.grp = cu.grp and x.perm = ''rw'') = 1"),
        ("cu", set, "(select rw from counts x where x.grp = cu.grp) = 1"),
        ("cu", set, "(select count(*) from cu x where x.perm = ''rw'' and (x.id = cu.id or x.grp = 3)) = 1"),
        ("two", "n = (select max(x.n) from two x where x.a = two.a)", "true"),
        ("tcp", "tc = (select x.ctid from tcp x where x.id = tcp.parent)", "true"),
        (
            "cu",
            "perm = (select max(s.p) from (select x.perm as p from other x union all select perm from cu) s)",
            "true",
        ),
        ("cu", "perm = (select max(s.p) from (select x.perm as p, random() as r from cu x) s where s.r < 2)", "true"),
        ("cu", "perm = (select max(o.perm) from cu o left join other i on i.grp = o.grp and o.id = cu.id)", "true"),
        ("cu", set, "with_output(grp) = 1"),
        ("cu", set, "apart.caller(grp) = 1"),
        ("cu", set, "in_text(grp) = 1"),
        ("cu", set, "in_number(grp) = 1"),
        ("cu", set, "parsed(grp) = 1"),
        ("cu", set, "returned(grp) = 1"),
        ("cu", set, "outer_function(grp) = 1"),
        ("cu", set, "public.in_text (grp) = 1"),
        ("cu", set, "hidden.f(grp) = 1"),
        // The function is called by an operator, an aggregate, a cast, a view, a default or a
        // domain.
        ("cu", set, "### grp = 1"),
        ("cu", set, "(operator(public.###) grp) = 1"),
        ("cu", set, "(select agg(o.grp) from other o) = 1"),
        ("cu", set, "grp < 9 and (''1''::level)::bigint = 1"),
        ("cu", set, "cast(level ''1'' as bigint) = 1"),
        ("cu", set, "(select b.rw from behind b where b.id = cu.id) = 1"),
        ("cu", set, "with_default(grp) = 1"),
        ("cu", set, "grp::checked = 1"),
        ("cu", set, "(select b.rw from public.behind_two b where b.id = cu.id) = 1"),
        ("cu", set, "(select b.rw from behind_operator b where b.id = cu.id) = 1"),
        ("cu", "perm = (select max(x.perm) from cu x where x.grp = cu.grp)", "true"),
        ("cu", "(note, perm) = (select ''n'', max(x.perm) from cu x where x.grp = cu.grp)", "true"),
        // The key is compared only in a part of the condition, or the comparison is only text in a
        // string constant. The subquery therefore still reads other rows.
        (
            "cu",
            set,
            "exists (select from cu x where x.id <> cu.id and ((x.id = cu.id and x.note = ''a'')::int) = 0 and x.perm = ''rw'')",
        ),
        ("cu", set, "exists (select from cu x where x.id <> cu.id and x.perm <> ''(x.id = cu.id) AND '')"),
        (
            "cu",
            set,
            "exists (select from cu x where x.id <> cu.id and ((x.id = cu.id and x.note = ''a'') <> (x.note = ''a'')) and x.perm = ''rw'')",
        ),
        (
            "cu",
            set,
            "exists (select from cu x where true = all (array[x.note = ''a'', (x.id = cu.id and x.note = ''a'')]) and x.perm = ''rw'')",
        ),
        // The name of the function is written in another way, or the function is called indirectly:
        // by an operator keyword such as LIKE, by a default, or by the type of a column.
        ("cu", set, "U&\"odd\\0020name\"(grp) = 4"),
        ("cu", set, "grp like perm"),
        ("cu", "computed = default, perm = ''admin''", "true"),
        ("cu", "in_wrap = grp, perm = ''admin''", "true"),
        ("cu", "in_domain = grp, perm = ''admin''", "true"),
        ("cu", "in_domain = 1::based, perm = ''admin''", "true"),
        ("cu", set, "length(mood) > 0"),
        ("nd", "perm = (select max(x.perm) from nd x where x.code = nd.code)", "true"),
        ("pa", set, "of_pa(grp) = 1"),
        ("pa", set, "(select count(*) from pa x where x.grp = pa.grp and x.perm = ''rw'') = 1"),
        ("pa", set, "exists (select from pa2 x where x.grp = pa.grp and x.perm = ''rw'')"),
        ("pa1", set, "(select count(*) from pa x where x.grp = pa1.grp and x.perm = ''rw'') = 1"),
    ];
    for (table, set, filter) in cases {
        for function in ["enqueue('j', ", "preview("] {
            let refusal = refused(&owner, &format!("select backfill.{function}'{table}', '{set}', '{filter}')")).await;
            assert_eq!(refusal.sqlstate, "BF001", "{function} {set} {filter}: {refusal:?}");
            let reads = if table == "tcp" {
                "reads column \"ctid\" of other rows"
            } else if table == "two" {
                "reads column \"n\" of other rows"
            } else {
                "reads column \"perm\" of other rows"
            };
            assert!(refusal.message.contains(reads), "{set} {filter}: {refusal:?}");
            assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("another column or table")), "{refusal:?}");
        }
    }
    assert_eq!(value::<i64>(&owner, "select count(*) from backfill.jobs").await, 0);
}

/// None of these expressions reads `perm` of another row.
#[tokio::test]
async fn a_job_that_reads_other_columns_or_other_tables_is_accepted() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(&owner, SHELF).await;
    heard.lock().unwrap().clear();
    let set = "perm = ''admin''";
    let cases = [
        ("cu", set, "perm = ''rw''"),
        ("cu", set, "(select count(*) from cu x where x.grp = cu.grp) = 4 and perm = ''rw''"),
        ("cu", set, "(select max(x.id) from cu x where x.grp = cu.grp) = id"),
        ("cu", set, "exists (select from other x where x.grp = cu.grp and x.perm = ''rw'')"),
        ("cu", set, "grp in (select grp from v)"),
        ("cu", set, "(select all_rows from counts x where x.grp = cu.grp) = 4"),
        ("cu", set, "(with w as (select grp, perm from cu) select count(*) from w where w.grp = cu.grp) = 4"),
        // The subquery lists columns that the statement does not use.
        (
            "cu",
            set,
            "id in (select id from (select *, row_number() over (partition by grp order by id) as rn from cu) z where rn > 1)",
        ),
        ("cu", set, "id in (select a.id from (select * from cu order by id limit 100) a)"),
        // These expressions read the row that they change.
        ("cu", set, "(select x.perm from cu x where x.id = cu.id) = ''rw''"),
        ("cu", set, "exists (select from cu x where x.perm = ''rw'' and cu.id = x.id)"),
        ("cu", set, "id in (select id from cu where perm = ''rw'')"),
        ("cu", "perm = (select x.perm || ''!'' from cu x where x.id = cu.id)", "true"),
        ("pa", set, "(select x.perm from pa x where x.id = pa.id) = ''rw''"),
        ("cu", set, "exists (select from cu x where x.id = cu.id and (x.perm = ''rw'' or x.note is null))"),
        ("cu", "note = default, perm = ''admin''", "true"),
        ("two", "n = (select x.n + 1 from two x where x.a = two.a and x.b = two.b)", "true"),
        ("pa1", set, "(select max(x.perm) from pa x where x.id = pa1.id) = ''rw''"),
        // The job does not change this partition.
        ("pa1", set, "exists (select from pa2 x where x.grp = pa1.grp and x.perm = ''rw'')"),
        ("cu", set, "harmless(grp) = 4"),
        ("cu", set, "perm_of_other(grp) = 0"),
        ("cu", set, "fixed(grp) = 4 and now() > ''2020-01-01''"),
        ("cu", "note = (select string_agg(x.perm, '','') from cu x where x.grp = cu.grp)", "note is null"),
        ("pa", set, "(select count(*) from pa x where x.grp = pa.grp) = 4"),
        ("pa", set, "exists (select from cu x where x.grp = pa.grp and x.perm = ''rw'')"),
    ];
    for (n, (table, set, filter)) in cases.iter().enumerate() {
        run(&owner, &format!("select backfill.enqueue('j{n}', '{table}', '{set}', '{filter}')")).await;
    }
    run(&owner, "select backfill.enqueue_delete('d', 'cu', 'id not in (select min(id) from cu group by perm)')").await;
    let heard = heard.lock().unwrap().clone();
    assert!(!heard.iter().any(|line| line.contains("find out")), "{heard:?}");
}

/// A delete whose filter reads other rows of the table gives a warning, because a later batch does
/// not find the rows that an earlier batch has deleted.
#[tokio::test]
async fn a_delete_that_reads_other_rows_of_its_table_gives_a_warning() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(&owner, SHELF).await;
    run(&owner, "create function others(int) returns bigint language sql stable as 'select count(*) from cu where grp = $1'; create function limited(int) returns int language sql stable as 'select id from cu where grp = $1 order by id limit 1'").await;
    let cases = [
        ("cu", "(select count(*) from cu x where x.grp = cu.grp) > 1", true),
        ("cu", "id not in (select min(id) from cu group by perm)", true),
        ("cu", "exists (select from cu x where x.grp = cu.grp and x.id < cu.id)", true),
        ("cu", "others(grp) > 1", true),
        ("cu", "limited(grp) <> id", true),
        ("pa", "(select count(*) from pa x where x.grp = pa.grp) > 1", true),
        ("cu", "perm = ''rw''", false),
        ("cu", "exists (select from cu x where x.id = cu.id and x.perm = ''rw'')", false),
        ("pa", "exists (select from cu x where x.grp = pa.grp)", false),
    ];
    for (n, (table, filter, warns)) in cases.iter().enumerate() {
        heard.lock().unwrap().clear();
        run(&owner, &format!("select backfill.enqueue_delete('d{n}', '{table}', '{filter}')")).await;
        let warned = heard.lock().unwrap().iter().any(|line| line.contains("a later batch no longer finds"));
        assert_eq!(warned, *warns, "{filter}: {heard:?}");
        let shown = format!(
            "select count(*) from backfill.preview('{table}', null, '{filter}') where item = 'warning' and value like '%a later batch no longer finds%'"
        );
        assert_eq!(value::<i64>(&owner, &shown).await, i64::from(*warns), "{filter}");
    }
}

/// backfilld cannot determine which rows a function reads if the function is not written in SQL.
#[tokio::test]
async fn a_function_that_cannot_be_followed_is_named_in_a_warning() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(&owner, SHELF).await;
    run(&owner, "select backfill.enqueue('j', 'cu', 'perm = ''admin''', 'procedural(grp) = 1')").await;
    let said = "cannot find out what function public.procedural(integer) (language plpgsql) reads";
    assert!(heard.lock().unwrap().iter().any(|line| line.contains(said)), "{heard:?}");
    let warned = format!(
        "select count(*) from backfill.preview('cu', 'perm = ''admin''', 'procedural(grp) = 1') where item = 'warning' and value like '%{said}%'"
    );
    assert_eq!(value::<i64>(&owner, &warned).await, 1);
}

/// An update also changes generated columns, system columns and columns of referring tables. An
/// expression can also reach other rows through a function that takes a row.
#[tokio::test]
async fn a_job_that_reads_what_it_changes_indirectly_is_refused() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(
        &owner,
        "create table ge (id int primary key, grp int, perm text, is_rw boolean generated always as (perm = 'rw') stored, twice int generated always as (grp * 2) stored);
         create table article (id int primary key, code int unique, parent int references article (code) on update cascade, note text);
         create table line (id int primary key, code int references article (code) on update cascade, other int references article (code), part int, note text);
         create unique index on line (code, part);
         create table sub_line (id int primary key, code int, part int, note text, foreign key (code, part) references line (code, part) on update set null);
         create function of_row(r ge) returns text language sql stable as 'select max(x.perm) from ge x where x.grp = r.grp';
         create function of_number(ge) returns text language sql stable as 'select max(x.perm) from ge x where x.grp = $1.grp';
         create function of_whole_row(r ge) returns bigint language sql stable as 'select count(*) from ge x where x.perm = (r).perm';
         create view renamed as select * from ge x(a, b, c);
         create function of_renamed(int) returns bigint language sql stable as 'select count(*) from ge x(a, b, c) where b = $1 and c = ''rw''';
         create function own_row(r ge) returns text language sql stable as 'select r.perm || r.grp'",
    )
    .await;
    let set = "perm = ''x''";
    let code = "code = code + 1000";
    let cases = [
        (
            "ge",
            set,
            "(select count(*) from ge x where x.grp = ge.grp and x.is_rw) = 1",
            "\"is_rw\" of other rows of public.ge",
        ),
        // The plan contains the aliases of the columns.
        (
            "ge",
            set,
            "(select count(*) from ge x(a, b, c) where x.b = ge.grp and x.c = ''rw'') = 1",
            "\"perm\" of other rows of public.ge",
        ),
        (
            "ge",
            set,
            "exists (select from ge x(perm, b, c) where x.b = ge.grp and x.c = ''rw'')",
            "\"perm\" of other rows of public.ge",
        ),
        (
            "ge",
            set,
            "(select count(*) from renamed x where x.b = ge.grp and x.c = ''rw'') = 1",
            "\"perm\" of other rows of public.ge",
        ),
        ("ge", set, "of_renamed(grp) = 1", "\"perm\" of other rows of public.ge"),
        ("ge", set, "of_row(ge) = ''rw''", "\"perm\" of other rows of public.ge"),
        ("ge", set, "of_number(ge) = ''rw''", "\"perm\" of other rows of public.ge"),
        ("ge", set, "of_whole_row(ge) = 1", "\"perm\" of other rows of public.ge"),
        ("ge", "perm = ge.of_row", "true", "\"perm\" of other rows of public.ge"),
        ("ge", "perm = (ge).of_row", "true", "\"perm\" of other rows of public.ge"),
        (
            "ge",
            set,
            "exists (select from ge x where x.grp = ge.grp and x.ctid < ge.ctid)",
            "\"ctid\" of other rows of public.ge",
        ),
        (
            "ge",
            set,
            "(select max(x.ctid) from ge x where x.grp = ge.grp) is not null",
            "\"ctid\" of other rows of public.ge",
        ),
        (
            "ge",
            set,
            "(select count(distinct x.xmin::text) from ge x where x.grp = ge.grp) = 1",
            "\"xmin\" of other rows of public.ge",
        ),
        ("article", code, "(select max(x.code) from line x) < 1000", "\"code\" of other rows of public.line"),
        (
            "article",
            code,
            "exists (select from line x where x.code = article.code)",
            "\"code\" of other rows of public.line",
        ),
        ("article", code, "(select count(x.code) from sub_line x) > 0", "\"code\" of other rows of public.sub_line"),
        (
            "article",
            code,
            "exists (select from article x where x.id = article.id + 1 and x.parent < 1000)",
            "\"parent\" of other rows of public.article",
        ),
        ("article", code, "parent < 1000", "\"parent\" of other rows of public.article"),
    ];
    for (table, set, filter, reads) in cases {
        for function in ["enqueue('j', ", "preview("] {
            let refusal = refused(&owner, &format!("select backfill.{function}'{table}', '{set}', '{filter}')")).await;
            assert_eq!(refusal.sqlstate, "BF001", "{set} {filter}: {refusal:?}");
            assert!(refusal.message.contains(reads), "{set} {filter}: {refusal:?}");
        }
    }
    heard.lock().unwrap().clear();
    let accepted = [
        ("ge", set, "(select count(*) from ge x where x.grp = ge.grp and x.twice = 2) = 1"),
        ("ge", set, "own_row(ge) = ''rw1''"),
        ("ge", set, "ge.own_row = ''rw1''"),
        ("ge", set, "exists (select from ge x where x.id = ge.id and x.is_rw)"),
        ("ge", set, "ge.ctid > ''(0,1)'' and is_rw"),
        ("ge", set, "exists (select from ge x where x.grp = ge.grp and x.id > ge.id)"),
        ("ge", set, "grp in (select x.grp from ge x where x.id > 7)"),
        ("article", "note = ''x''", "(select max(x.code) from line x) < 1000"),
        ("article", code, "exists (select from line x where x.other = article.id and x.note is null)"),
        ("line", "code = 7", "(select max(x.code) from article x) = 7"),
    ];
    for (n, (table, set, filter)) in accepted.iter().enumerate() {
        run(&owner, &format!("select backfill.enqueue('j{n}', '{table}', '{set}', '{filter}')")).await;
    }
    let warned = heard.lock().unwrap().clone();
    assert!(!warned.iter().any(|line| line.contains("find out") || line.contains("other rows")), "{warned:?}");
}

/// backfilld cannot determine which columns a trigger changes, or what a query in a string constant
/// reads.
#[tokio::test]
async fn a_read_that_may_depend_on_the_batches_is_named_in_a_warning() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(
        &owner,
        "create table tr (id int primary key, grp int, perm text, is_rw boolean);
         create function fill() returns trigger language plpgsql as $$ begin new.is_rw := new.perm = 'rw'; return new; end $$;
         create trigger fill before update on tr for each row execute function fill()",
    )
    .await;
    let cases = [
        (
            "(select count(*) from tr x where x.grp = tr.grp and x.is_rw) = 1",
            "an expression reads columns of other rows of public.tr (grp, is_rw): if a trigger (fill) changes one of these columns",
        ),
        (
            "query_to_xml(''select 1'', true, false, '''')::text <> ''''",
            "cannot find out what function query_to_xml(text,boolean,boolean,text) (language internal) reads",
        ),
    ];
    for (n, (filter, expected)) in cases.into_iter().enumerate() {
        heard.lock().unwrap().clear();
        run(&owner, &format!("select backfill.enqueue('j{n}', 'tr', 'perm = ''x''', '{filter}')")).await;
        let warned = heard.lock().unwrap().clone();
        assert!(warned.iter().any(|line| line.contains(expected)), "{filter}: {warned:?}");
    }
    heard.lock().unwrap().clear();
    run(&owner, "select backfill.enqueue('own', 'tr', 'perm = ''x''', 'is_rw')").await;
    let warned = heard.lock().unwrap().clone();
    assert!(!warned.iter().any(|line| line.contains("other rows")), "{warned:?}");
}

/// Each function writes a row into `log` each time it is called.
const LOGGING: &str = "
create table log (job text, id int);
create function cp(job text, i int, p text) returns text language plpgsql as $$ begin insert into log values (job, i); return p; end $$;
create function yes(job text, i int) returns boolean language plpgsql as $$ begin insert into log values (job, i); return i % 2 = 0; end $$;
create function touch() returns trigger language plpgsql as $$ begin new.at := now(); return new; end $$;
create function keep() returns trigger language plpgsql as $$ begin if new.id % 10 = 0 then return old; end if; return new; end $$;
create function drop_some() returns trigger language plpgsql as $$ begin if new.id % 10 = 0 then return null; end if; return new; end $$";

async fn source(owner: &Client, table: &str, trigger: Option<&str>) {
    run(owner, &format!("create table {table} (id int primary key, p text, at timestamptz); insert into {table} select g, 'x' from generate_series(1, 100) g")).await;
    if let Some(trigger) = trigger {
        run(owner, &format!("create trigger t before update on {table} for each row execute function {trigger}()"))
            .await;
    }
}

/// If no rows are locked, no rows are bad and no batch fails, a job calls the functions in its
/// expressions as often as one plain statement does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expression_with_side_effects_is_evaluated_as_often_as_in_one_statement() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, LOGGING).await;
    let _daemon = daemon(&cluster).await;
    let mut cases = Vec::new();
    for (n, trigger) in [None, Some("touch"), Some("keep")].into_iter().enumerate() {
        for (m, (set, filter)) in [
            ("p = cp('NAME', id, p)", "p is not null"),
            ("p = cp('NAME', id, p)", "true"),
            ("p = cp('NAME', id, p || 'y')", "p = 'x'"),
            ("p = 'y'", "yes('NAME', id)"),
            ("p = cp('NAME', id, 'z')", "yes('NAME', id) and p = 'x'"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("s{n}{m}");
            source(&owner, &format!("plain_{name}"), trigger).await;
            source(&owner, &name, trigger).await;
            cases.push((name, set, filter, trigger));
        }
    }
    for (name, set, filter, trigger) in &cases {
        let (set, filter) = (set.replace("NAME", name), filter.replace("NAME", name));
        let plain = format!("update plain_{name} set {set} where {filter}")
            .replace(&format!("'{name}'"), &format!("'plain_{name}'"));
        run(&owner, &plain).await;
        let enqueue = "select backfill.enqueue($1, $1::text::regclass, $2, $3, options => '{\"max_batch_rows\": 30}')";
        owner.query_one(enqueue, &[name, &set, &filter]).await.unwrap();
        until_ended(&cluster, name).await;
        let calls =
            "select (select count(*) from log where job = $1), (select count(*) from log where job = 'plain_' || $1)";
        let row = owner.query_one(calls, &[name]).await.unwrap();
        let (job, plain): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(job, plain, "set {set}, filter {filter}, trigger {trigger:?}");
        assert!(plain > 0, "{set} {filter}");
    }
}

/// Waits until the job has succeeded or failed. Some of the jobs fail, because the trigger `keep`
/// leaves rows unchanged.
async fn until_ended(cluster: &Cluster, name: &str) {
    let owner = cluster.owner().await;
    crate::support::until_true(
        &owner,
        SOON,
        &format!("select state in ('succeeded', 'failed') from backfill.jobs where name = '{name}'"),
    )
    .await;
}

/// A filter with side effects is evaluated once for each row, even if a trigger suppresses some of
/// the changes. The daemon still finds these rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suppressed_change_is_found_if_the_filter_has_side_effects() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(&owner, LOGGING).await;
    source(&owner, "s", Some("drop_some")).await;
    let _daemon = daemon(&cluster).await;
    run(&owner, "select backfill.enqueue('s', 's', 'p = ''y''', 'yes(''s'', id)')").await;
    until_ended(&cluster, "s").await;
    let ended = "select state || ' ' || rows_changed || ' ' || rows_quarantined from backfill.jobs";
    assert_eq!(value::<String>(&owner, ended).await, "failed 40 10");
    assert_eq!(value::<i64>(&owner, "select count(*) from s where p = 'y'").await, 40);
}

/// One plain statement on the table fires the trigger once, with all rows in its transition table.
/// The batches of a job change the partitions and children directly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_trigger_that_would_not_fire_is_refused_or_skipped() {
    let cluster = installed(Options::default()).await;
    let (owner, _) = notices(&cluster.owner_url()).await;
    run(
        &owner,
        "create table pa (id int primary key, n int, m int) partition by range (id);
         create table pa1 partition of pa for values from (0) to (1000);
         insert into pa select generate_series(1, 500);
         create table pt (id int primary key, n int, m int); create table child (primary key (id)) inherits (pt);
         insert into child select generate_series(1, 500);
         create table whole (id int primary key, n int, m int); insert into whole select generate_series(1, 500);
         create table aud (name text, rows bigint);
         create function au() returns trigger language plpgsql as $$ begin insert into aud select tg_table_name, count(*) from nt; return null; end $$;
         create function no() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger st after update on whole referencing new table as nt for each statement execute function au()",
    )
    .await;
    for table in ["pa", "pt"] {
        run(&owner, &format!("create trigger st after update on {table} referencing new table as nt for each statement execute function au();
            create trigger of_m before update of m on {table} for each statement execute function no();
            create trigger gone before delete on {table} for each statement execute function no()")).await;
        let calls = [
            (format!("enqueue('u', '{table}', 'n = 1', 'n is null')"), "st (function public.au)"),
            (
                format!("enqueue('m', '{table}', 'm = 1', 'm is null')"),
                "of_m (function public.no), st (function public.au)",
            ),
            (format!("enqueue_delete('d', '{table}', 'n is null')"), "gone (function public.no)"),
            (format!("preview('{table}', 'n = 1', 'n is null')"), "st (function public.au)"),
        ];
        for (call, triggers) in calls {
            let refusal = refused(&owner, &format!("select backfill.{call}")).await;
            assert_eq!(refusal.sqlstate, "BF001", "{refusal:?}");
            assert!(refusal.message.ends_with(&format!("would not fire: {triggers}")), "{call}: {refusal:?}");
            assert!(refusal.hint.is_some_and(|hint| hint.contains("statement_triggers")), "{call}");
        }
        let skip = r#"options => '{"statement_triggers": "skip"}'"#;
        let named = format!(
            "select count(*) from backfill.preview('{table}', 'n = 1', 'n is null', {skip}) where item = 'warning' and value like 'trigger st (function public.au) of the table does not fire%'"
        );
        assert_eq!(value::<i64>(&owner, &named).await, 1);
        run(&owner, &format!("select backfill.enqueue('{table}', '{table}', 'n = 1', 'n is null', {skip})")).await;
    }
    // This table has no partitions or children, so its trigger fires for each batch.
    run(&owner, "select backfill.enqueue('whole', 'whole', 'n = 1', 'n is null')").await;
    let _daemon = daemon(&cluster).await;
    for name in ["pa", "pt", "whole"] {
        until_state(&cluster, name, "succeeded", SOON).await;
    }
    assert_eq!(value::<i64>(&owner, "select sum(rows)::bigint from aud where name = 'whole'").await, 500);
    assert_eq!(value::<i64>(&owner, "select count(*) from aud where name <> 'whole'").await, 0);

    // The trigger is created after the job was enqueued.
    run(
        &owner,
        "drop trigger st on pa; select backfill.enqueue('late', 'pa', 'n = 2', 'n = 1', needs_approval => true)",
    )
    .await;
    sql(&cluster, "create trigger st after update on pa for each statement execute function no(); select backfill.approve('late')").await;
    until_ended(&cluster, "late").await;
    let error: String = value(&owner, "select error from backfill.jobs where name = 'late'").await;
    assert!(error.contains("would not fire: st (function public.no)"), "{error}");

    // The trigger is created during the walk.
    run(&owner, "drop trigger st on pa").await;
    run(
        &owner,
        r#"select backfill.enqueue('during', 'pa', 'n = 3', 'n = 1', options => '{"max_rows_per_second": 100}')"#,
    )
    .await;
    until_true(&owner, SOON, "select coalesce(rows_changed > 0, false) from backfill.jobs where name = 'during'").await;
    let create = "create trigger st after update on pa for each statement execute function no(); select backfill.tune('during', '{\"max_rows_per_second\": null}')";
    run(&owner, create).await;
    until_state(&cluster, "during", "succeeded", SOON).await;
    let told = "select count(*) from backfill.events where name = 'during' and kind = 'trigger_skipped' and message like '%did not fire for this job: st (function public.no)'";
    assert_eq!(value::<i64>(&owner, told).await, 1);
}

/// Another role creates functions named `in`, `any` and `lower`, so that parts of the owner's
/// expressions look like calls of these functions. None of these functions runs while a job is
/// enqueued or previewed.
#[tokio::test]
async fn no_code_of_another_role_runs_while_a_function_is_followed() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    cluster.sql("postgres", "app", "create role mallory login; grant create on schema public to mallory; create table seen (who text); grant insert on seen to public").await;
    let planted = r#"create function leave() returns int language plpgsql as $$ begin insert into public.seen values (current_user); return 1; end $$;
        create function now_and_then() returns int language plpgsql immutable as $$ begin return (select public.leave()); end $$;
        create function "in"() returns int language sql as 'select public.now_and_then()';
        create function "any"(int) returns int language sql as 'select public.now_and_then()';
        create function lower(int) returns int language sql as 'select public.now_and_then()'"#;
    cluster.sql("mallory", "app", planted).await;
    run(&owner, "create table t (id int primary key, a int, b text); insert into t values (1, 1, 'x')").await;
    for (n, filter) in ["id in (1, 2)", "id = any (array[1])", "lower(b) = ''x''"].into_iter().enumerate() {
        run(&owner, &format!("select backfill.enqueue('j{n}', 't', 'a = 2', '{filter}'); select * from backfill.preview('t', 'a = 2', '{filter}')")).await;
    }
    assert_eq!(cluster.value::<i64>("postgres", "app", "select count(*) from seen").await, 0);
}

/// One UPDATE evaluates the filter on the old row only. On the new row, these filters raise an
/// error.
#[tokio::test]
async fn a_filter_that_fails_on_the_changed_row_fails_no_job() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table words (id int primary key, v text); insert into words select g, g from generate_series(1, 300) g;
        create table ratio (id int primary key, v int default 0); insert into ratio select generate_series(1, 300);
        create table bad (id int primary key, v text); insert into bad select g, case g when 77 then 'x' else g::text end from generate_series(1, 300) g;
        create table picky (id int primary key, v int default 0); insert into picky select generate_series(1, 300);
        create function zero(v int) returns boolean language plpgsql stable as $$ begin
          if v <> 0 then raise exception using errcode = '40001', message = 'not zero'; end if; return true; end $$",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    for verify in ["auto", "filter", "coverage", "none"] {
        for (table, set, filter) in [
            ("words", "v = ''n/a''", "v::int > 100"),
            ("ratio", "v = 1", "10 / (1 - v) > 0"),
            ("picky", "v = 1", "zero(v)"),
        ] {
            let name = format!("{table}_{verify}");
            let copied =
                format!("create table {name} (like {table} including all); insert into {name} select * from {table}");
            run(&owner, &copied).await;
            let options = format!(r#"{{"verify": "{verify}"}}"#);
            let enqueue =
                format!("select backfill.enqueue('{name}', '{name}', '{set}', '{filter}', options => '{options}')");
            run(&owner, &enqueue).await;
            until_state(&cluster, &name, "succeeded", SOON).await;
            let (changed, expected) = if table == "words" { ("v = 'n/a'", 200) } else { ("v = 1", 300) };
            let count = format!("select count(*) from {name} where {changed}");
            assert_eq!(value::<i64>(&owner, &count).await, expected, "{name}");
        }
    }
    // A row on which the filter itself fails is still found and quarantined.
    run(&owner, "select backfill.enqueue('bad', 'bad', 'v = ''n/a''', 'v::int > 100 or v::int < 90')").await;
    let failed = "select state = 'failed' from backfill.jobs where name = 'bad'";
    until_true(&owner, SOON, failed).await;
    assert_eq!(value::<String>(&owner, "select string_agg(key ->> 'id', ',') from backfill.row_errors").await, "77");
    assert_eq!(value::<i64>(&owner, "select count(*) from bad where v = 'n/a'").await, 288);
}

/// The function in the constraint of the domain logs each value that it checks.
#[tokio::test]
async fn the_constraint_of_a_domain_is_evaluated_as_often_as_in_one_statement() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    run(
        &owner,
        "create table seen (v int);
        create function log_value(v int) returns boolean language plpgsql volatile as $$ begin insert into public.seen values (v); return true; end $$;
        create domain logged as int check (log_value(value));
        create table d (id int primary key, v logged); insert into d select generate_series(1, 150); truncate seen;
        select backfill.enqueue('d', 'd', 'v = id')",
    )
    .await;
    let _daemon = daemon(&cluster).await;
    until_state(&cluster, "d", "succeeded", SOON).await;
    assert_eq!(value::<i64>(&owner, "select count(*) from seen where v is not null").await, 150);
}

/// Another role creates operators, domains, an aggregate and a view, some of which call functions
/// of the owner. The expressions of the owner's job use none of these objects.
#[tokio::test]
async fn objects_of_other_roles_change_no_answer() {
    let cluster = installed(Options::default()).await;
    let (owner, heard) = notices(&cluster.owner_url()).await;
    run(&owner, SHELF).await;
    cluster.sql("postgres", "app", "create role mallory login; create schema mal authorization mallory; grant usage on schema public to mallory").await;
    let plant = "
        create operator mal.+ (function = public.in_text, rightarg = int);
        create operator mal.= (function = public.procedural, rightarg = int);
        create domain mal.grp as int check (public.checks(value));
        create domain mal.perm as text;
        create aggregate mal.max(int) (sfunc = public.agg_step, stype = bigint, initcond = '0');
        create view mal.cu as select public.in_text(3)";
    cluster.sql("mallory", "app", plant).await;
    heard.lock().unwrap().clear();
    for (n, filter) in ["grp + 5 > 3", "grp = any (array[1, 2])", "mal.perm is null"].into_iter().enumerate() {
        let table = if n == 2 { "mal" } else { "cu" };
        if n == 2 {
            run(&owner, "create table mal as select id, perm from cu; alter table mal add primary key (id)").await;
        }
        run(&owner, &format!("select backfill.enqueue('j{n}', '{table}', 'perm = ''x''', '{filter}')")).await;
    }
    let heard = heard.lock().unwrap().clone();
    assert!(heard.iter().all(|text| text.starts_with("WARNING: no daemon is running")), "{heard:?}");
}

/// While the job runs, the function that the filter calls is replaced, so more rows match the
/// filter. The verification finds these rows. The sweep changes them, and does not evaluate the
/// filter on rows that the job has already changed.
#[tokio::test]
async fn a_sweep_does_not_quarantine_changed_rows_on_which_the_filter_fails() {
    let cluster = installed(Options::default()).await;
    let owner = cluster.owner().await;
    let todo = |result: &str| {
        format!(
            "create or replace function todo(id int, v text) returns boolean language plpgsql immutable as $$ begin
               if v = 'n/a' then raise exception 'already changed'; end if; return {result}; end $$"
        )
    };
    run(&owner, &todo("id % 100 <> 7")).await;
    let _daemon = daemon(&cluster).await;
    for verify in ["filter", "expression"] {
        run(&owner, &todo("id % 100 <> 7")).await;
        let enqueue = format!(
            "create table by_{verify} (id int primary key, v text); insert into by_{verify} select g, g from generate_series(1, 1000) g;
             select backfill.enqueue('{verify}', 'by_{verify}', 'v = ''n/a''', 'todo(id, v)', options => '{{\"verify\": \"{verify}\", \"max_rows_per_second\": 500, \"max_batch_rows\": 50}}')"
        );
        run(&owner, &enqueue).await;
        let passed = format!("select rows_scanned between 400 and 900 from backfill.jobs where name = '{verify}'");
        until_true(&owner, SOON, &passed).await;
        run(&owner, &todo("true")).await;
        run(&owner, &format!(r#"select backfill.tune('{verify}', '{{"max_rows_per_second": 1000000}}')"#)).await;
        until_state(&cluster, verify, "succeeded", SOON).await;
        let left = format!("select count(*) from by_{verify} where v <> 'n/a'");
        assert_eq!(value::<i64>(&owner, &left).await, 0, "{verify}");
        let sweeps = format!("select count(*) from backfill.events where name = '{verify}' and kind = 'sweep'");
        assert_eq!(value::<i64>(&owner, &sweeps).await, 1, "{verify}");
        assert_eq!(value::<i64>(&owner, "select count(*) from backfill.row_errors").await, 0, "{verify}");
    }
}
