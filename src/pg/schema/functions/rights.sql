-- Grants a privilege on each of the given columns of a table or view on which the role lacks it.
create or replace function backfill._grant_columns(relation regclass, privilege text, columns text[], role name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._grant(a.attacl, array[upper(privilege)], format('%s (%I) on %s', privilege, a.attname, relation), role)
     from pg_attribute a where a.attrelid = relation and a.attname = any (columns) order by a.attnum;
end $$;

-- Creates the roles of backfilld if the login may create roles, and grants each role its
-- privileges. pg_monitor gets read access. Returns the roles that are missing because the login may
-- not create them.
create or replace function backfill._grant_all() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r text;
  missing text[] := '{}';
begin
  lock table backfill.schema_version in share row exclusive mode;
  -- PUBLIC can execute each new function until this statement has run. The statement runs only if
  -- needed, because it writes a catalog row for each function, and one of two concurrent revokes
  -- would fail.
  if exists (select from pg_proc p where p.pronamespace = 'backfill'::regnamespace and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0))) then
    revoke all on all routines in schema backfill from public;
  end if;
  foreach r in array array['backfill_reader', 'backfill_submitter', 'backfill_operator', 'pg_monitor'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin', r);
      exception
        when duplicate_object or unique_violation then null; -- A migration of another database has just created the role.
        when insufficient_privilege then missing := missing || r; continue;
      end;
    end if;
    perform backfill._grant(n.nspacl, array['USAGE'], 'usage on schema backfill', r) from pg_namespace n where n.nspname = 'backfill';
    perform backfill._grant(c.relacl, array['SELECT'], format('select on backfill.%I', c.relname), r) from pg_class c
      where c.relnamespace = 'backfill'::regnamespace and c.relname = any (array['jobs', 'slices', 'events', 'row_errors', 'workers', 'signals', 'quota', 'rollouts', 'rollout_statements']);
    perform backfill._grant(p.proacl, array['EXECUTE'], format('execute on routine %s', p.oid::regprocedure), r) from pg_proc p
      where p.pronamespace = 'backfill'::regnamespace and p.proname = any (array['assert_complete', '_refuse', '_readable', '_is_utf8', '_next_step', '_name_job', '_sees_all', '_is_operator', '_state_of', '_replaced', '_replaced_leaf', '_replaced_column', '_provable', 'wait']);
  end loop;
  foreach r in array array['backfill_submitter', 'backfill_operator'] loop
    continue when r = any (missing);
    perform backfill._grant(p.proacl, array['EXECUTE'], format('execute on function %s', p.oid::regprocedure), r) from pg_proc p
      where p.pronamespace = 'backfill'::regnamespace and p.proname = any (array['enqueue', 'enqueue_delete', '_enqueue', 'preview', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'forget', 'pause_all', 'resume_all', '_command',
                '_caller_settings', '_may_run_as', '_lex', '_check_fragments', '_assignments', '_update_sql', '_key_of', '_check_target', '_check_options', '_not_in_effect', '_stored_options', '_try_plan', '_resolve_run_as', '_executor_note',
                '_compare_spec', '_is_taken', '_same_sql', '_tokens', '_same_or_raise', '_incomparable', '_right_hint',
                '_check_name', '_check_utf8', '_filter_of', '_check_arguments', '_check_run_as', '_check_planner', '_has_executors', '_check_spec', '_check_job', '_check_self_reads', '_self_reads', '_changed_columns', '_changed_column_read', '_column_read', '_heap_of', '_plan_nodes', '_conjuncts', '_identifier', '_functions_of_columns', '_parts_of_type', '_called_functions', '_functions_of_view', '_schemas_of', '_body_as_query', '_skipped_triggers', '_check_statement_triggers', '_check_proof_rights', '_rejection_hint', '_work_sql', '_heaps', '_referring', '_cascades',
                '_preview', '_preview_text', '_values_text', '_fixed', '_sample', '_row_after', '_type_name', '_estimate_cost', '_recent_rate',
                'rollout_plan', 'rollout_start', 'rollout_advance', 'rollout_rollback', 'rollout_pause', 'rollout_resume', '_plan_rollout', '_start_rollout', '_rollout_command', '_rollout_form', '_rollout_spec', '_rollout_steps', '_rollout_work', '_violations', '_sync_function',
                '_try_expressions', '_stage_number', '_stage_at', '_check_keys', '_spec_text', '_resolve_table', '_resolve_type', '_calls_unstable', '_spec_columns', '_comparison_cast', '_unlimited', '_can_refer', '_bracketed', '_fit', '_sync_name', '_lacking_rights', '_columns_in_rollouts',
                '_statements_with_all_columns', '_leaves', '_partitions', '_later_trigger', '_index_name', '_validation', '_has_own_index', '_subscribers']);
    perform backfill._grant_columns('backfill._visible', 'select', array['id', 'name', 'kind', 'state', 'relation', 'target', 'set_sql', 'filter_sql', 'key', 'run_as_asked'], r);
    perform backfill._grant_columns('backfill.job', 'insert', array['name', 'kind', 'relation', 'target', 'set_sql', 'filter_sql', 'key', 'priority', 'run_at', 'run_as', 'run_as_asked', 'needs_approval', 'options', 'settings'], r);
    perform backfill._grant_columns('backfill.command', 'insert', array['verb', 'job_name', 'reason', 'options'], r);
    perform backfill._grant_columns('backfill.rollout', 'insert', array['spec', 'settings'], r);
    perform backfill._grant_columns('backfill.rollout_command', 'insert', array['verb', 'rollout_name', 'reason'], r);
    perform backfill._grant_columns('backfill._visible_rollouts', 'select', array['id', 'name', 'state', 'error', 'spec'], r);
  end loop;
  if to_regrole('backfill_operator') is not null then
    perform backfill._grant_columns('backfill.quota', 'update', array['live_jobs', 'jobs_per_minute', 'max_row_errors'], 'backfill_operator');
  end if;
  return missing;
end $$;
