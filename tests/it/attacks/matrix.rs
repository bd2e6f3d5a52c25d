//! Tests the privileges in schema backfill. The table in SECURITY.md has a row for each object that
//! is not internal, and a column for each role. If a cell is empty, the role has no privilege on
//! the object. Otherwise the role has at least one. PUBLIC has no privileges.

use std::collections::{BTreeMap, BTreeSet};

use backfilld::pg::schema::release::PINS;

use super::Scene;

/// The roles that have a column in the table, in the order of the columns.
const ROLES: [&str; 5] = ["backfill_reader", "backfill_submitter", "backfill_operator", "pg_monitor", "e"];

const GRANTED: &str = "
select o.name, r.role
from unnest($1::text[]) r(role)
cross join lateral (
  select p.proname::text as name from pg_proc p where p.pronamespace = 'backfill'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')
  union
  select c.relname::text from pg_class c where c.relnamespace = 'backfill'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
     and (has_table_privilege(r.role, c.oid, 'select, insert, update, delete, truncate, references, trigger')
          or has_any_column_privilege(r.role, c.oid, 'select, insert, update, references'))
  union
  select c.relname::text from pg_class c where c.relnamespace = 'backfill'::regnamespace and c.relkind = 'S' and has_sequence_privilege(r.role, c.oid, 'usage, select, update')) o";

#[tokio::test]
async fn the_table_of_rights_in_the_document_matches_the_catalog() {
    let scene = Scene::set().await;
    scene.cluster.sql("ctl", "app", "select backfill._register_executor('x_e', 'e', false)").await;
    let rows = scene.client("ctl").await.query(GRANTED, &[&ROLES.to_vec()]).await.unwrap();
    let mut catalog: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        catalog.entry(row.get(0)).or_default().insert(row.get(1));
    }

    let document = include_str!("../../../SECURITY.md");
    let table = document.split("## Who may use what").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut written: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 1 + ROLES.len(), "{line}");
        let may = ROLES.iter().zip(&cells[1..]).filter(|(_, cell)| !cell.is_empty());
        written.insert(cells[0].trim_matches('`').to_owned(), may.map(|(role, _)| (*role).to_owned()).collect());
    }
    // The names of internal objects begin with an underscore. The table does not list these
    // objects.
    let public: BTreeMap<String, BTreeSet<String>> = catalog
        .iter()
        .filter(|(name, _)| !name.starts_with('_'))
        .map(|(name, roles)| (name.clone(), roles.clone()))
        .collect();
    assert_eq!(written, public);

    // Readers may call only these internal functions: `_state_of`, and the functions that the views
    // and `assert_complete` call. The role of a job may call only the internal functions that the
    // executor's sessions call.
    let of = |role: &str| -> Vec<&str> {
        catalog
            .iter()
            .filter(|(name, roles)| name.starts_with('_') && roles.contains(role))
            .map(|(name, _)| name.as_str())
            .collect()
    };
    for reader in ["backfill_reader", "pg_monitor"] {
        assert_eq!(
            of(reader),
            [
                "_is_operator",
                "_is_utf8",
                "_name_job",
                "_next_step",
                "_provable",
                "_readable",
                "_refuse",
                "_replaced",
                "_replaced_column",
                "_replaced_leaf",
                "_sees_all",
                "_state_of"
            ],
            "{reader}"
        );
    }
    assert_eq!(of("e"), ["_fingerprint", "_other_table", "_server_identity", "_written_since"]);
    assert_eq!(of("backfill_submitter"), of("backfill_operator"));
}

#[tokio::test]
async fn public_has_no_right_on_the_schema_and_every_function_pins_its_settings() {
    let scene = Scene::set().await;
    scene.cluster.sql("postgres", "app", "create role nobody_here").await;
    let count = async |sql: &str| scene.cluster.value::<i64>("postgres", "app", sql).await;
    assert_eq!(count("select has_schema_privilege('nobody_here', 'backfill', 'usage, create')::int::bigint").await, 0);
    assert_eq!(count("select count(*) from pg_proc where pronamespace = 'backfill'::regnamespace and has_function_privilege('nobody_here', oid, 'execute')").await, 0);
    assert_eq!(count("select count(*) from pg_class where relnamespace = 'backfill'::regnamespace and relkind in ('r', 'v') and has_table_privilege('nobody_here', oid, 'select, insert, update, delete')").await, 0);
    // Each function that lacks some of the settings, with the missing settings. The catalog spells
    // names and values in its own way, so the test creates a function with all the settings and
    // reads the expected texts from it.
    let pins = PINS.map(|(name, value)| format!("set {name} = {value}")).join(" ");
    scene
        .cluster
        .sql("ctl", "app", &format!("create function vault.pinned() returns int language sql {pins} as 'select 1'"))
        .await;
    let loose = "select coalesce(string_agg(p.proname || ' lacks ' || lacking.settings, E'\\n' order by p.proname), '')
      from pg_proc p, lateral (select string_agg(c, ' ') as settings from unnest((select x.proconfig from pg_proc x where x.oid = 'vault.pinned()'::regprocedure)) c where c <> all (coalesce(p.proconfig, '{}'))) lacking
     where p.pronamespace = 'backfill'::regnamespace and lacking.settings is not null and p.proname <> all (array['_caller_settings', 'enqueue', 'enqueue_delete', 'preview', 'wait', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'rollout_plan', 'rollout_start', 'rollout_advance', 'rollout_rollback', 'rollout_pause', 'rollout_resume'])";
    // These functions have no SET clauses. `_caller_settings`, `enqueue`, `enqueue_delete`,
    // `preview`, `rollout_plan` and `rollout_start` read the caller's settings. `wait` commits, and
    // a procedure that commits cannot have SET clauses. Each of the others only calls one other
    // function.
    assert_eq!(scene.cluster.value::<String>("postgres", "app", loose).await, "");
    assert_eq!(
        count("select count(*) from pg_proc where pronamespace = 'backfill'::regnamespace and proconfig is null").await,
        18
    );
    // None of these roles has UPDATE, DELETE, TRUNCATE or TRIGGER on a table. INSERT, and UPDATE of
    // single columns, are granted only on tables with row-level security. Any other direct write
    // would bypass the checks of the functions.
    let writable = "select count(*) from pg_class c, pg_roles r where c.relnamespace = 'backfill'::regnamespace and c.relkind = 'r' and r.rolname in ('backfill_reader', 'backfill_submitter', 'backfill_operator', 'pg_monitor', 'e')
      and (has_table_privilege(r.oid, c.oid, 'update, delete, truncate, trigger') or has_any_column_privilege(r.oid, c.oid, 'insert, update') and not c.relrowsecurity)";
    assert_eq!(count(writable).await, 0);
}
