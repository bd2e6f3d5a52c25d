-- Nobody may do anything but through these roles. They belong to the cluster, so a database that finds them takes
-- them as they are, and a login that may not create them leaves that to a DBA (backfilld doctor prints the SQL).

create function backfill._grant_all() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r text;
  missing text[] := '{}';
  f record;
begin
  foreach r in array array['backfill_reader', 'backfill_submitter', 'backfill_operator'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin', r);
      exception
        when duplicate_object or unique_violation then null; -- Another database's migration was faster.
        when insufficient_privilege then missing := missing || r; continue;
      end;
    end if;
    execute format('grant usage on schema backfill to %I', r);
    execute format('grant select on backfill.jobs, backfill.slices, backfill.events, backfill.row_errors, backfill.workers, backfill.signals to %I', r);
    execute format('grant execute on function backfill.assert_complete(text, boolean), backfill._refuse(text, text, text), backfill._sees_all(), backfill._is_operator(name), backfill._state_of(text) to %I', r);
    execute format('grant execute on procedure backfill.wait(text, interval) to %I', r);
  end loop;
  foreach r in array array['backfill_submitter', 'backfill_operator'] loop
    continue when r = any (missing);
    for f in select p.oid::regprocedure as signature, p.prokind from pg_proc p join pg_namespace n on n.oid = p.pronamespace
              where n.nspname = 'backfill' and p.proname = any (array['enqueue', '_enqueue', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'forget', 'pause_all', 'resume_all',
                '_caller_settings', '_may_run_as', '_lex', '_assignments', '_update_sql', '_key_of', '_check_target', '_check_options', '_stored_options', '_try_plan', '_resolve_run_as', '_executor_note',
                '_compare_spec', '_same_or_raise']) loop
      execute format('grant execute on function %s to %I', f.signature, r);
    end loop;
    execute format('grant insert (name, kind, relation, target, set_sql, filter_sql, key, priority, run_at, run_as, run_as_asked, needs_approval, options, settings) on backfill.job to %I', r);
    execute format('grant insert (verb, job_name, reason, options) on backfill.command to %I', r);
  end loop;
  return missing;
end $$;

revoke all on all tables in schema backfill from public;
revoke all on all routines in schema backfill from public;

alter table backfill.job enable row level security;
create policy job_insert on backfill.job for insert with check (enqueued_by = current_user and backfill._may_run_as(current_user, run_as));
alter table backfill.command enable row level security;
create policy command_insert on backfill.command for insert with check (actor = current_user);

do $$ begin perform backfill._grant_all(); end $$;
