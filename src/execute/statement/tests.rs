use super::batch::{BatchKind, batch};
use super::table::Table;
use crate::job::batch::BatchMode;
use crate::job::plan::{Assignment, Isolation, KeyColumn, Kind, Leaf, Plan, Volatile};
use crate::key::Key;

const TABLE: Table = Table { suppressible: false, returns_old: false, keys_change: false, lenient: false };

fn plan() -> Plan {
    Plan {
        version: 1,
        kind: Kind::Update,
        target: "public.orders".into(),
        relation: 16384,
        key: vec![KeyColumn {
            name: "id".into(),
            attnum: 1,
            sql_type: "bigint".into(),
            collation: None,
            operators: "pg_catalog".into(),
            descending: false,
            is_domain: false,
        }],
        assignments: vec![Assignment {
            columns: vec!["c".into()],
            expression: "total * 100 -- cents".into(),
            types: vec!["bigint".into()],
        }],
        filter: Some("c is null".into()),
        isolation: Isolation::ReadCommitted,
        columns: vec![1, 2],
        reads: vec![],
        fingerprint: "1 id 20".into(),
        comparable: true,
        self_reading: false,
        filter_varies: false,
        volatile: Volatile::default(),
        rows_as_text: false,
        upper: Some(Key(vec!["9".into()])),
        sizes: None,
        defaults: serde_json::Value::Null,
        unseen: None,
        spread: false,
        alias: None,
        root: None,
    }
}

#[test]
fn a_leaf_is_changed_by_itself_under_the_name_of_its_parent() {
    let leaf = Leaf {
        relation: 16390,
        target: "public.orders_2026".into(),
        key: plan().key,
        columns: vec![3, 4],
        fingerprint: "3 id 20".into(),
        upper: None,
    };
    let sql = batch(
        &Plan { alias: Some("orders".into()), ..plan() }.at(leaf),
        &BatchKind::Change,
        TABLE,
        BatchMode::Fast,
        true,
    );
    assert!(sql.contains("update only public.orders_2026 as orders set"));
    assert!(sql.contains("from only public.orders_2026 as orders where"));
    assert!(sql.contains("unchanged(16390::pg_catalog.oid, 'public.orders_2026', array[3, 4]::pg_catalog.int2[]"));
    assert!(sql.contains(", 16384::pg_catalog.oid, 'public.orders')"));
}

#[test]
fn a_comment_in_an_expression_ends_with_its_line() {
    assert!(
        batch(&plan(), &BatchKind::Change, TABLE, BatchMode::Fast, false)
            .contains("\"c\" = (\ntotal * 100 -- cents\n)")
    );
}

#[test]
fn the_first_batch_has_no_lower_bound() {
    let first = batch(&plan(), &BatchKind::Change, TABLE, BatchMode::Fast, true);
    assert!(!first.contains("operator(pg_catalog.>)"));
    assert!(batch(&plan(), &BatchKind::Change, TABLE, BatchMode::Fast, false).contains("operator(pg_catalog.>)"));
}

#[test]
fn a_repeatable_read_batch_checks_the_tables_that_it_reads() {
    let reads = Plan { isolation: Isolation::RepeatableRead, reads: vec![7, 9], ..plan() };
    assert!(
        batch(&reads, &BatchKind::Change, TABLE, BatchMode::Fast, false).contains("backfill.not_rewritten(array[7, 9]")
    );
    assert!(!batch(&plan(), &BatchKind::Change, TABLE, BatchMode::Fast, false).contains("not_rewritten"));
}

#[test]
fn a_delete_takes_the_rows_that_match_and_assigns_nothing() {
    let plan = Plan { kind: Kind::Delete, assignments: vec![], ..plan() };
    let sql = batch(&plan, &BatchKind::Change, TABLE, BatchMode::Fast, false);
    assert!(sql.contains("delete from only public.orders\n  where ") && sql.contains("case when (\nc is null\n)"));
    assert!(!sql.contains("update") && !sql.contains(" set "));
}

#[test]
fn a_verification_changes_nothing() {
    let kind = BatchKind::Count { condition: "c is null".into(), since: Some("3:3:".into()) };
    let sql = batch(&plan(), &kind, TABLE, BatchMode::Fast, false);
    assert!(
        sql.contains("case when backfill._written_since(public.orders.xmin, '3:3:'::pg_catalog.pg_snapshot) then null")
    );
    assert!(!sql.contains("update"));
    assert!(sql.contains("case when c is null then"));
}
