-- Creates the roles of backfilld if the login may create roles, and grants each role its
-- privileges. pg_monitor gets read access. Returns the roles that are missing because the login may
-- not create them.
create or replace function backfill._grant_all() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r text;
  missing text[] := '{}';
  f record;
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
    execute format('grant usage on schema backfill to %I', r);
    execute format('grant select on backfill.jobs, backfill.slices, backfill.events, backfill.row_errors, backfill.workers, backfill.signals, backfill.quota to %I', r);
    execute format('grant execute on function backfill.assert_complete(text, boolean), backfill._refuse(text, text, text), backfill._readable(text), backfill._is_utf8(text), backfill._next_step(text, text, text), backfill._name_job(text, text), backfill._sees_all(), backfill._is_operator(name), backfill._state_of(text), backfill._replaced(text), backfill._provable(text) to %I', r);
    execute format('grant execute on procedure backfill.wait(text, interval) to %I', r);
  end loop;
  foreach r in array array['backfill_submitter', 'backfill_operator'] loop
    continue when r = any (missing);
    for f in select p.oid::regprocedure as signature, p.prokind from pg_proc p join pg_namespace n on n.oid = p.pronamespace
              where n.nspname = 'backfill' and p.proname = any (array['enqueue', 'enqueue_delete', '_enqueue', 'preview', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'forget', 'pause_all', 'resume_all', '_command',
                '_caller_settings', '_may_run_as', '_lex', '_check_fragments', '_assignments', '_update_sql', '_key_of', '_check_target', '_check_options', '_not_in_effect', '_stored_options', '_try_plan', '_resolve_run_as', '_executor_note',
                '_compare_spec', '_is_taken', '_same_sql', '_tokens', '_same_or_raise', '_incomparable', '_right_hint',
                '_check_name', '_check_utf8', '_filter_of', '_check_arguments', '_check_run_as', '_check_planner', '_has_executors', '_check_spec', '_check_job', '_rejection_hint', '_work_sql', '_heaps', '_referring', '_cascades',
                '_preview', '_preview_text', '_values_text', '_sample', '_row_after', '_type_name', '_estimate_cost', '_recent_rate']) loop
      execute format('grant execute on function %s to %I', f.signature, r);
    end loop;
    execute format('grant select (id, name, kind, state, relation, target, set_sql, filter_sql, key, run_as_asked) on backfill._visible to %I', r);
    execute format('grant insert (name, kind, relation, target, set_sql, filter_sql, key, priority, run_at, run_as, run_as_asked, needs_approval, options, settings) on backfill.job to %I', r);
    execute format('grant insert (verb, job_name, reason, options) on backfill.command to %I', r);
  end loop;
  if to_regrole('backfill_operator') is not null then
    grant update (live_jobs, jobs_per_minute, max_row_errors) on backfill.quota to backfill_operator;
  end if;
  return missing;
end $$;
