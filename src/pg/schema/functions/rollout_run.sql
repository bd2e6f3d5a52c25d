-- Daemons call the functions of this file to carry out rollouts. _claim_rollout itself carries out
-- each step that needs no statement on the user's table. For each other step, _claim_rollout
-- returns one statement to the daemon, together with a fencing token. Executors call the functions
-- without an underscore, in the transaction of the statement, so that the statement and its record
-- commit together. A statement that cannot run in a transaction block (create index concurrently)
-- is recorded afterwards. If the daemon stops before the record is written, the catalog shows
-- whether the index is complete.

-- Marks a rollout as failed. The daemons do not continue a failed rollout until rollout_resume or
-- rollout_rollback is called.
create or replace function backfill._fail_rollout(id bigint, error text, hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update backfill.rollout r set state = 'failed', error = backfill._readable(_fail_rollout.error), hint = backfill._readable(_fail_rollout.hint), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null
   where r.id = _fail_rollout.id;
  perform backfill._record_rollout_event(id, 'rollout failed', _fail_rollout.error);
end $$;

-- Marks a failed job of a rollout as cancelled, because its failure needs no action.
create or replace function backfill._set_aside(job_id bigint, reason text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.job j set state = 'cancelled', desired_state = 'cancelled', state_reason = reason, error = null, hint = null, redacted = null where j.id = _set_aside.job_id and j.state = 'failed'
$$;

create or replace function backfill._record_rollout_event(id bigint, kind text, message text, actor name default null) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select backfill._record_event(null, _record_rollout_event.kind, (select format('rollout "%s": ', r.name) from backfill.rollout r where r.id = _record_rollout_event.id) || message, null, coalesce(_record_rollout_event.actor, session_user))
$$;

-- Makes a rollout wait, and sets the time of the next attempt.
create or replace function backfill._put_off_rollout(id bigint, reason text, told text, pause interval) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.rollout r set waiting_reason = _put_off_rollout.reason, waiting_text = backfill._readable(told), due_at = clock_timestamp() + pause, holder = null, token = null, expires_at = null where r.id = _put_off_rollout.id
$$;

-- Returns a job of a rollout: "backfill" fills the column, "verify" and "verify-again" compare it
-- with the expression, and repair or report the rows that differ, and "check" finds rows that
-- violate a constraint before the constraint is added. Returns no row if there is nothing to do.
create or replace function backfill._rollout_job(s jsonb, settings jsonb, what text) returns table (set_sql text, filter_sql text, compares text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select w.set_sql, w.filter_sql, case when what <> 'backfill' and s ->> 'on_difference' = 'report' then 'expression' end
    from backfill._rollout_work(s, settings) w
   -- Without "using" there is nothing to compare. A null in a column with a volatile default may
   -- have been written by the application.
   where what = 'backfill' or what <> 'check' and s ? 'using'
  union all
  select format('%1$I = %1$I', s ->> 'column'), v, 'constraints' from backfill._violations(s) v where what = 'check' and v is not null
$$;

-- Enqueues a job of a rollout, and returns its ID.
create or replace function backfill._enqueue_rollout_job(r backfill.rollout, what text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_job bigint;
begin
  insert into backfill.job (name, kind, relation, target, set_sql, filter_sql, run_as, run_as_asked, enqueued_by, options, settings, compares)
  select format('%s/%s-%s', r.name, what, r.id), 'update', r.relation, r.target, w.set_sql, w.filter_sql, r.run_as, r.run_as, r.started_by,
         -- With on_error = null, any number of rows may stay null.
         case r.spec ->> 'on_error' when 'null' then '{"max_row_errors": 1000000}'::jsonb else '{}' end || (r.spec -> 'backfill') || '{"verify": "filter"}'
         -- A job that only compares changes no rows, so it fires no triggers.
         || case when w.compares is null then '{}' else '{"statement_triggers": "skip"}' end::jsonb, r.settings, w.compares
    from backfill._rollout_job(r.spec, r.settings, what) w
  returning id into v_job;
  update backfill.rollout x set job_id = v_job where x.id = r.id;
  return v_job;
end $$;

-- Returns whether the job of a stage has succeeded. Enqueues the job if it does not exist. While
-- the job is unfinished, the rollout waits for it. If the job failed or was cancelled, the rollout
-- fails, too, unless on_error is null and only quarantined rows are left. Returns true if the stage
-- needs no job.
create or replace function backfill._is_rollout_job_done(r backfill.rollout, what text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_accepted constant text := 'the rollout accepts rows for which the expression fails (on_error: null)';
  j record;
begin
  if not exists (select from backfill._rollout_job(r.spec, r.settings, what)) then
    return true;
  end if;
  -- All readers see the error of a rollout, so it must not contain data of rows.
  select x.id, x.name, x.state, coalesce(x.redacted ->> 'error', x.error) as error, case when x.redacted is null then x.hint else x.redacted ->> 'hint' end as hint, x.rows_changed, x.started_at, x.state_reason, x.relation = r.relation and x.run_as = r.run_as and x.enqueued_by = r.started_by and x.set_sql = (select w.set_sql from backfill._rollout_job(r.spec, r.settings, what) w) as is_ours
    into j from backfill.job x where x.name = format('%s/%s-%s', r.name, what, r.id);
  if found and not j.is_ours then
    perform backfill._fail_rollout(r.id, format('another job has the name "%s"', j.name), format('That job does not belong to this rollout. If it is not needed any more, run: select backfill.forget(%L); Then run: select backfill.rollout_resume(%L);', j.name, r.name));
    return false;
  elsif j.id is null then
    perform backfill._enqueue_rollout_job(r, what);
    perform backfill._put_off_rollout(r.id, 'job', format('job "%s/%s-%s" has been enqueued', r.name, what, r.id), interval '0.2 s');
    return false;
  end if;
  update backfill.rollout x set job_id = j.id where x.id = r.id and x.job_id is distinct from j.id;
  if j.state = 'succeeded' then
    if what <> 'backfill' and j.rows_changed > 0 and not exists (select from backfill.event e where e.kind = 'rollout repaired' and e.message like format('%% by job "%s"', j.name) and e.at >= j.started_at) then
      perform backfill._record_rollout_event(r.id, 'rollout repaired', format('%s differed from the expression and %s corrected by job "%s"', backfill._rows_text(j.rows_changed), case j.rows_changed when 1 then 'was' else 'were' end, j.name));
    end if;
    return true;
  elsif (j.state = 'failed' or j.state = 'cancelled' and j.state_reason = v_accepted) and r.spec ->> 'on_error' = 'null' and exists (select from backfill.row_error e where e.job_id = j.id and e.resolved_at is null)
        and not exists (select from backfill.slice s join backfill.job x on x.id = s.job_id and x.run = s.run where s.job_id = j.id and s.kind = 'walk' and s.state not in ('done', 'gone')) then
    -- All rows are done except the quarantined rows. With on_error = null, the column stays null in
    -- the quarantined rows, and the stage counts as complete. The job is then not shown as failed.
    perform backfill._set_aside(j.id, v_accepted);
    if not exists (select from backfill.event e where e.kind = 'rollout unverified' and e.message like '%' || j.name || '%') then
      perform backfill._record_rollout_event(r.id, 'rollout unverified', format('the expression failed for %s rows, which stay null; backfill.row_errors lists them for job "%s"', (select count(*) from backfill.row_error e where e.job_id = j.id and e.resolved_at is null), j.name));
    end if;
    return true;
  elsif j.state in ('failed', 'cancelled') then
    perform backfill._fail_rollout(r.id, format('job "%s" %s%s', j.name, case j.state when 'failed' then 'failed' else 'was cancelled' end, ': ' || j.error),
      format('%s To retry the job and continue the rollout, run: select backfill.rollout_resume(%L); To roll the rollout back instead, run: select backfill.rollout_rollback(%L);', coalesce(j.hint, 'Fix the cause.'), r.name, r.name));
  else
    perform backfill._put_off_rollout(r.id, 'job', format('job "%s" is %s', j.name, j.state), interval '0.2 s');
  end if;
  return false;
end $$;

-- While a rollout with an expression (using) waits for the switch, all rows are compared again once
-- a day. Returns false while the job runs, and fails the rollout if the job fails.
create or replace function backfill._is_compared_again(r backfill.rollout) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j record;
begin
  select x.id, x.name, x.state, x.finished_at into j from backfill.job x where x.name = format('%s/verify-%s', r.name, r.id);
  if not found or not r.spec ? 'using' or j.state = 'succeeded' and j.finished_at > clock_timestamp() - interval '1 day' then
    return true;
  elsif j.state = 'succeeded' then
    insert into backfill.command (verb, job_name) values ('rerun', j.name);
  elsif j.state in ('failed', 'cancelled') then
    return backfill._is_rollout_job_done(r, 'verify');
  end if;
  update backfill.rollout x set job_id = j.id, due_at = clock_timestamp() + interval '0.2 s', holder = null, token = null, expires_at = null where x.id = r.id;
  return false;
end $$;

-- Leases the rollout to the daemon, and returns the statement of the step that the daemon must run.
create or replace function backfill._lease_rollout(r backfill.rollout, stage text, ordinal integer, part oid, undo boolean, sql text, undo_sql text, lock text, alone boolean, worker uuid, ttl interval) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_token uuid := gen_random_uuid();
  v_relation oid := coalesce(nullif(_lease_rollout.part, 0), r.relation);
  s record;
begin
  insert into backfill.rollout_statement as x (rollout_id, stage, ordinal, part, undo, sql, undo_sql, lock, alone)
  values (r.id, _lease_rollout.stage, _lease_rollout.ordinal, _lease_rollout.part, _lease_rollout.undo, _lease_rollout.sql, _lease_rollout.undo_sql, _lease_rollout.lock, _lease_rollout.alone)
  on conflict on constraint rollout_statement_rollout_id_stage_ordinal_part_undo_key do update set attempts = x.attempts + 1, sql = excluded.sql, done_at = null
  returning x.id, x.attempts, x.started_at into s;
  update backfill.rollout x set holder = worker, token = v_token, expires_at = clock_timestamp() + ttl, backend_pid = null, backend_start = null where x.id = r.id;
  return jsonb_build_object('rollout', r.id, 'name', r.name, 'token', v_token, 'statement', s.id, 'run_as', r.run_as, 'relation', v_relation::bigint,
    'target', case v_relation when r.relation then r.target else (select format('%I.%I', n.nspname, k.relname) from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = v_relation) end,
    -- Adding or dropping a foreign key also locks the referenced table. LOCK TABLE needs more
    -- privileges than a foreign key. If the role lacks them, only the statement itself takes the
    -- lock.
    'also', (select r.spec #>> '{references,target}'
              where (_lease_rollout.undo and _lease_rollout.stage = 'expanded'
                     or exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = _lease_rollout.stage and d.ordinal = _lease_rollout.ordinal and not d.undo and d.sql like '% foreign key (%' and d.lock in ('SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE')))
                and r.spec ? 'references' and has_table_privilege(r.run_as, backfill._resolve_table(r.spec #>> '{references,target}', '{}'), 'update, delete, truncate')),
    'undo', _lease_rollout.undo, 'sql', _lease_rollout.sql, 'lock', _lease_rollout.lock, 'alone', _lease_rollout.alone, 'stage', _lease_rollout.stage, 'attempts', s.attempts, 'settings', r.settings,
    'files', backfill._table_file(v_relation));
end $$;

-- Returns the file of a table, and the files of its partitions. If a statement rewrites the table,
-- the result changes.
create or replace function backfill._table_file(relation oid) returns text
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' ', pg_relation_filenode(relation), (select string_agg(pg_relation_filenode(p.part)::text, ' ' order by p.part) from backfill._partitions(relation) p))
$$;

-- Stores the session in which a daemon runs the current statement of a rollout.
create or replace function backfill._register_rollout_backend(id bigint, token uuid, pid integer, started timestamptz) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.rollout x set backend_pid = pid, backend_start = started where x.id = _register_rollout_backend.id and x.token = _register_rollout_backend.token
$$;

-- Terminates the session of a rollout's statement, if the control login has the privilege to do so.
-- The code of a default or of a check can ignore timeouts and cancel requests.
create or replace function backfill._end_rollout_session(id bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- See backfill._end_session.
  v_pid integer := (select a.pid from backfill.rollout r join pg_stat_activity a on a.pid = r.backend_pid and a.backend_start = r.backend_start where r.id = _end_rollout_session.id);
begin
  return coalesce(pg_terminate_backend(v_pid), false);
exception when insufficient_privilege then
  return false;
end $$;

-- Returns whether a session holds a lock that blocks writes to a table of a rollout. Returns false
-- if the session is waiting for a synchronous standby. If the control login may not see what the
-- session is waiting for, the function returns true only if synchronous_standby_names is empty.
create or replace function backfill._blocks_writes(pid integer, relation oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_locks l join pg_stat_activity a on a.pid = l.pid
     where l.pid = _blocks_writes.pid and l.locktype = 'relation' and l.granted and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       and l.database = (select d.oid from pg_database d where d.datname = current_database()) and (l.relation = _blocks_writes.relation or l.relation in (select p.part from backfill._partitions(_blocks_writes.relation) p))
       and a.wait_event is distinct from 'SyncRep' and (a.state is not null or current_setting('synchronous_standby_names') = ''))
$$;

-- Returns the transactions that hold a lock on a table of a rollout, have been running for longer
-- than "age", and do not belong to the session "pid". Unless exclusive is true, leaves out locks
-- that only readers take. Leaves out autovacuum, which the server cancels, and transactions whose
-- start the control login may not see.
create or replace function backfill._older_locks(pid integer, relation oid, also text, exclusive boolean, age interval) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select distinct format('%s %s', a.pid, a.xact_start)
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'relation' and l.granted and l.pid <> _older_locks.pid
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and (l.relation in (_older_locks.relation, backfill._resolve_table(also, '{}')) or l.relation in (select p.part from backfill._partitions(_older_locks.relation) p))
     and (exclusive or l.mode not in ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock'))
     and a.backend_type is distinct from 'autovacuum worker' and a.xact_start < clock_timestamp() - age)
$$;

-- Claims a rollout for a daemon, and advances the rollout until it needs a statement on the user's
-- table. Returns this statement, or null if there is none now. The argument held lists the tokens
-- that the daemon holds. The argument at_share lists the roles whose rollouts already use their
-- full share of the daemon.
create or replace function backfill._claim_rollout(worker uuid, run_as name[], ttl interval, held uuid[], at_share name[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r backfill.rollout;
  answer jsonb;
  v_now text;
  v_error text;
  v_hint text;
begin
  perform set_config('synchronous_commit', 'on', true);
  perform set_config('lock_timeout', '100', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;
  select * into r from backfill.rollout x
   where (x.state in ('running', 'rolling_back') or x.state = 'waiting' and x.stage = 'constrained') and x.desired_state = 'running' and x.due_at <= clock_timestamp() and x.run_as = any (_claim_rollout.run_as) and x.run_as <> all (at_share)
     and (x.expires_at is null or x.expires_at < clock_timestamp() or x.holder = worker and x.token <> all (held))
   order by x.due_at limit 1 for update skip locked;
  if not found then
    return null;
  end if;
  -- An earlier attempt to run a statement locks the row of the statement in rollout_statement until
  -- the transaction of the attempt ends. The next attempt must not begin before that.
  if (select count(*) from backfill.rollout_statement d where d.rollout_id = r.id and d.done_at is null) > (select count(*) from (select from backfill.rollout_statement d where d.rollout_id = r.id and d.done_at is null for update skip locked) f) then
    perform backfill._end_rollout_session(r.id);
    perform backfill._put_off_rollout(r.id, 'lock', format('an earlier attempt of a statement on table %s has not ended yet; its session is being terminated', r.target), interval '1 s');
    return null;
  elsif r.token is not null then
    perform backfill._end_rollout_session(r.id);
  end if;
  begin
    if not r.backwards and not backfill._may_run_as(r.started_by, r.run_as) then
      perform backfill._fail_rollout(r.id, format('role "%s" is not a member of "%s" any more', r.started_by, r.run_as),
        format('It started the rollout, and the statements of the rollout run as "%2$s". Grant the role again (grant %2$I to %1$I%4$s;), then run: select backfill.rollout_resume(%3$L); Or roll the rollout back: select backfill.rollout_rollback(%3$L);',
          r.started_by, r.run_as, r.name, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end));
      return null;
    end if;
    if r.backwards and not exists (select from pg_class c where c.oid = r.relation) then
      update backfill.rollout x set state = 'rolled_back', stage = 'planned', since = clock_timestamp(), finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, error = 'the table was dropped', holder = null, token = null, expires_at = null where x.id = r.id;
      return null;
    end if;
    if backfill._other_table(r.target, r.relation) is not null then
      perform backfill._fail_rollout(r.id, format('table %s is not the table that the rollout was started for', r.target), backfill._other_table(r.target, r.relation) || ' If the table was only renamed, rename it back, then run backfill.rollout_resume.');
      return null;
    end if;
    v_now := (select a.attname from pg_attribute a where a.attrelid = r.relation and a.attnum = r.attnum and not a.attisdropped and a.attname <> r.spec ->> 'column');
    if v_now is not null then
      perform backfill._fail_rollout(r.id, format('column "%s" of table %s was renamed to "%s"', r.spec ->> 'column', r.target, v_now),
        format('Run: alter table %s rename column %I to %I; Then run: select backfill.%s(%L);', r.target, v_now, r.spec ->> 'column', case when r.backwards then 'rollout_rollback' else 'rollout_resume' end, r.name));
      return null;
    end if;
    return case when r.backwards then backfill._next_undo(r, worker, ttl) else backfill._next_step(r, worker, ttl) end;
  exception when lock_not_available or deadlock_detected or query_canceled then
    raise;
  when others then
    get stacked diagnostics v_error = message_text, v_hint = pg_exception_hint;
  end;
  -- The error of one rollout must not stop the others.
  perform backfill._fail_rollout(r.id, v_error, coalesce(nullif(v_hint, ''), format('Fix the cause, then run: select backfill.rollout_resume(%L);', r.name)));
  return null;
end $$;

-- Returns one row, which says whether the index is valid, if a statement of a rollout has created
-- the index: an index with the name in undo_sql on the new column alone. Returns no row for an
-- index of the same name on other columns, or for an index that is already attached to the index of
-- the parent.
create or replace function backfill._rollout_index(r backfill.rollout, part oid, undo_sql text) returns table (valid boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = i.indrelid and a.attname = r.spec ->> 'column' and not a.attisdropped
   where i.indrelid = coalesce(nullif(part, 0), r.relation) and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid) and format('%I.%I', n.nspname, c.relname) = substring(undo_sql from 'if exists (.*)$') and i.indnkeyatts = 1 and i.indkey[0] = a.attnum
$$;

-- Returns the reason why the trigger of a rollout no longer keeps the column in sync. Returns null
-- if the trigger keeps the column in sync, or if the rollout needs no trigger in its current stage.
create or replace function backfill._sync_problem(r backfill.rollout) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when v.later is not null then format('trigger "%s" fires after the trigger of the rollout, and may change columns that the expression reads', v.later)
    when v.missing is not null then format('trigger "%s" of the rollout was dropped or disabled', v.missing) end
    from (select backfill._later_trigger(r.relation) as later,
                 (select x.name from unnest(array[backfill._sync_name(r.spec) || '_insert', backfill._sync_name(r.spec) || '_update']) x(name)
                   where exists (select from (select r.relation as o union all select p.part from backfill._partitions(r.relation) p) t
                                  where not exists (select from pg_trigger g where g.tgrelid = t.o and g.tgname = x.name and g.tgenabled in ('O', 'A'))) limit 1) as missing) v
   where r.spec ? 'using' and r.spec ->> 'sync' = 'trigger' and r.stage in ('syncing', 'backfilled', 'verified', 'constrained')
$$;

-- Returns a text with the publications of a table and the number of logical replication slots of
-- this database. Leaves out each publication with a column list for the table, because the list
-- does not contain the new column. Returns null if there is no such publication, or if there is no
-- such slot.
create or replace function backfill._subscribers(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('publication %s, %s', string_agg(distinct format('"%s"', p.pubname), ', '), (select count(*) || case count(*) when 1 then ' slot' else ' slots' end from pg_replication_slots x where x.slot_type = 'logical' and x.database = current_database()))
    from pg_publication_tables p join pg_class c on c.relname = p.tablename join pg_namespace n on n.oid = c.relnamespace and n.nspname = p.schemaname
   where (c.oid = relation or c.oid in (select x.part from backfill._partitions(relation) x))
     and not exists (select from pg_publication_rel k join pg_publication b on b.oid = k.prpubid where k.prrelid = c.oid and b.pubname = p.pubname and to_jsonb(k) ->> 'prattrs' is not null)
     and exists (select from pg_replication_slots x where x.slot_type = 'logical' and x.database = current_database())
  having count(*) > 0
$$;

create or replace function backfill._next_step(r backfill.rollout, worker uuid, ttl interval) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_next text;
  v_problem text;
  v_asks boolean;
  v_subscribers text := backfill._subscribers(r.relation);
  s record;
  f record;
  v_index record;
begin
  select d.* into f from backfill.rollout_statement d where d.id = r.pending_statement;
  if r.pending_error is not null and f.alone then
    -- A unique index that could not be completed can refuse rows that the application writes, so it
    -- is dropped before the rollout counts as failed.
    if exists (select from backfill._rollout_index(r, f.part, f.undo_sql)) then
      return backfill._lease_rollout(r, f.stage, f.ordinal, f.part, true, f.undo_sql, null, f.lock, true, worker, ttl);
    end if;
    delete from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = f.stage and d.ordinal = f.ordinal and d.part = f.part;
    update backfill.rollout x set pending_error = null, pending_hint = null, pending_statement = null where x.id = r.id;
    perform backfill._fail_rollout(r.id, r.pending_error, r.pending_hint);
    return null;
  elsif r.pending_error is not null then
    -- The validation of a constraint has failed. The constraint would refuse rows that the
    -- application writes, so it is dropped before the rollout counts as failed. A foreign key of a
    -- partitioned table was added to each partition, so it is dropped from each partition.
    select d.*, exists (select from backfill.rollout_statement u where u.rollout_id = r.id and u.undo and u.stage = d.stage and u.ordinal = d.ordinal and u.part = d.part and u.done_at is not null) as undone into s
      from backfill.rollout_statement d
     where d.rollout_id = r.id and d.stage = 'constrained' and not d.undo and d.done_at is not null and d.sql like '% not valid'
       and (d.part = 0 or exists (select from pg_class k where k.oid = d.part)) order by d.ordinal desc, undone, d.part desc limit 1;
    if found and not s.undone then
      return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, true, coalesce(s.undo_sql, regexp_replace(s.sql, '^alter table (.*?) add constraint (.*?) foreign key .*$', 'alter table \1 drop constraint if exists \2')), null, 'ACCESS EXCLUSIVE', false, worker, ttl);
    end if;
    -- The records of the dropped constraint and of its validations are deleted. When the rollout is
    -- resumed, it adds the constraint again and repeats the validations.
    delete from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = s.stage and d.ordinal in (s.ordinal, s.ordinal + 1);
    update backfill.rollout x set pending_error = null, pending_hint = null, pending_statement = null where x.id = r.id;
    perform backfill._fail_rollout(r.id, r.pending_error, r.pending_hint);
    return null;
  end if;
  loop
    v_next := backfill._stage_at(backfill._stage_number(r.stage) + 1);
    if v_next is null then
      update backfill.rollout x set state = 'done', finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null where x.id = r.id;
      perform backfill._record_rollout_event(r.id, 'rollout done', 'done');
      return null;
    end if;
    v_problem := backfill._sync_problem(r);
    if v_problem is not null then
      perform backfill._fail_rollout(r.id, v_problem, format('%s Then run: select backfill.rollout_resume(%L); The next comparison finds the rows that were written while the trigger did not keep the column in sync. To roll the rollout back instead, run: select backfill.rollout_rollback(%L);',
        case when backfill._later_trigger(r.relation) is not null then 'Rename the trigger so that its name sorts before "zzz_backfill".' else 'Enable the trigger, or create it again with its statement in backfill.rollout_statements.' end, r.name, r.name));
      return null;
    end if;
    v_asks := case when v_next = 'expanded' then v_subscribers is not null when v_next = 'syncing' then r.spec ->> 'sync' = 'application' else false end;
    if backfill._stage_number(v_next) > backfill._stage_number(r.until) or v_asks and backfill._stage_number(v_next) > backfill._stage_number(r.confirmed) then
      if r.stage = 'constrained' and not backfill._is_compared_again(r) then
        return null;
      end if;
      update backfill.rollout x set state = 'waiting', waiting_reason = 'advance', holder = null, token = null, expires_at = null, due_at = clock_timestamp() + interval '1 day',
             waiting_text = case v_next
               when 'expanded' then case when v_subscribers is not null then format('the table is published (%s): first add the column on all subscribers, otherwise their replication stops; then run: select backfill.rollout_advance(%L)', v_subscribers, r.name)
                                         else format('the next stage is expanded; to continue: select backfill.rollout_advance(%L)', r.name) end
               when 'syncing' then case r.spec ->> 'sync'
                 when 'application' then format('deploy code that writes column "%s" in each insert, and in each update of the columns that the expression reads; when no older code runs any more: select backfill.rollout_advance(%L)', r.spec ->> 'column', r.name)
                 else format('the next stage is syncing; to continue: select backfill.rollout_advance(%L)', r.name) end
               when 'switched' then format('deploy code that reads the new column and still writes the old ones; then run: select backfill.rollout_advance(%L)', r.name)
               when 'contracted' then format('when no code uses the old columns any more, run: select backfill.rollout_advance(%L). After that, no rollback is possible', r.name)
               else format('the next stage is %s; to continue: select backfill.rollout_advance(%L)', v_next, r.name) end
       where x.id = r.id;
      return null;
    end if;
    -- A constraint that is added as NOT VALID refuses each new version of a row that violates it.
    -- So such rows are looked for before the first constraint is added. Before reads are switched,
    -- the column is compared once more.
    if v_next in ('backfilled', 'verified', 'constrained', 'switched')
       and not backfill._is_rollout_job_done(r, case v_next when 'backfilled' then 'backfill' when 'verified' then 'verify' when 'constrained' then 'check' else 'verify-again' end) then
      return null;
    end if;
    select x.* into s from backfill._rollout_steps(r.spec, r.settings) x
     where x.stage = v_next and not exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = x.stage and d.ordinal = x.ordinal and d.part = x.part and not d.undo and d.done_at is not null)
     order by x.ordinal, x.part limit 1;
    if found then
      if s.alone then
        -- An interrupted attempt may have left an index, which is valid or invalid.
        select x.valid into v_index from backfill._rollout_index(r, s.part, s.undo_sql) x;
        if found and exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = s.stage and d.ordinal = s.ordinal and d.part = s.part and not d.undo) then
          if v_index.valid then
            update backfill.rollout_statement d set done_at = clock_timestamp() where d.rollout_id = r.id and d.stage = s.stage and d.ordinal = s.ordinal and d.part = s.part and not d.undo;
            continue;
          end if;
          s.sql := s.undo_sql;
          return backfill._lease_rollout(r, s.stage, -s.ordinal, s.part, false, s.sql, null, s.lock, true, worker, ttl);
        end if;
      end if;
      return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, false, s.sql, s.undo_sql, s.lock, s.alone, worker, ttl);
    end if;
    update backfill.rollout x set stage = v_next, since = clock_timestamp(), waiting_reason = null, waiting_text = null where x.id = r.id returning x.* into r;
    perform backfill._record_rollout_event(r.id, 'rollout stage', v_next);
  end loop;
end $$;

-- Returns at most five of the objects that depend on the new column of a rollout, except those that
-- the rollout has created. The column cannot be dropped while they exist.
create or replace function backfill._dependents(r backfill.rollout) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(x.object, ', ' order by x.object) from (
    select distinct pg_describe_object(d.classid, d.objid, d.objsubid) as object
      from pg_attribute a join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype = 'n'
     where (a.attrelid = r.relation or a.attrelid in (select p.part from backfill._partitions(r.relation) p)) and a.attname = r.spec ->> 'column' and not a.attisdropped
       and not exists (select from pg_trigger g where d.classid = 'pg_trigger'::regclass and g.oid = d.objid and g.tgname in (backfill._sync_name(r.spec) || '_insert', backfill._sync_name(r.spec) || '_update'))
       -- If the table refers to itself, leave out the foreign key that the rollout has created.
       and not exists (select from pg_constraint k where d.classid = 'pg_constraint'::regclass and k.oid = d.objid and k.conkey = array[a.attnum] and (k.conrelid = r.relation or k.conrelid in (select p.part from backfill._partitions(r.relation) p)))
     limit 5) x
$$;

create or replace function backfill._next_undo(r backfill.rollout, worker uuid, ttl interval) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j record;
  s record;
  v_now text;
  v_differs text;
begin
  for j in select x.id, x.name, x.state, x.desired_state from backfill.job x where x.name like replace(replace(r.name, '\', '\\'), '_', '\_') || '/%-' || r.id and x.relation = r.relation and x.enqueued_by = r.started_by and x.state not in ('succeeded', 'cancelled') loop
    if j.state = 'failed' then
      perform backfill._set_aside(j.id, 'the rollout is being rolled back');
    elsif j.desired_state <> 'cancelled' then
      insert into backfill.command (verb, job_name, reason) values ('cancel', j.name, 'the rollout is being rolled back');
    end if;
    if exists (select from backfill.job x where x.id = j.id and x.state <> 'cancelled') then
      perform backfill._put_off_rollout(r.id, 'job', format('job "%s" is being cancelled', j.name), interval '0.2 s');
      return null;
    end if;
  end loop;
  -- Check first that the column can be dropped. If it cannot, no statement of the rollout is
  -- undone.
  v_differs := backfill._dependents(r);
  if v_differs is not null then
    perform backfill._fail_rollout(r.id, format('column "%s" cannot be dropped, because other objects depend on it: %s', r.spec ->> 'column', v_differs),
      format('Change or drop these objects, then run: select backfill.rollout_rollback(%L);', r.name));
    return null;
  end if;
  -- The undo statement of an index also runs if an interrupted attempt has left an incomplete
  -- index.
  select d.* into s from backfill.rollout_statement d
   where d.rollout_id = r.id and not d.undo and d.undo_sql is not null
     and case when d.alone then exists (select from backfill._rollout_index(r, d.part, d.undo_sql)) else d.done_at is not null end
     and (d.undo_sql not like '% drop not null' or exists (select from pg_attribute a where a.attrelid = r.relation and a.attname = r.spec ->> 'column' and not a.attisdropped))
     and not exists (select from backfill.rollout_statement u where u.rollout_id = r.id and u.undo and u.stage = d.stage and u.ordinal = d.ordinal and u.part = d.part and u.done_at is not null)
     and (d.part = 0 or exists (select from pg_class k where k.oid = d.part))
   order by backfill._stage_number(d.stage) desc, d.ordinal desc, d.part desc limit 1;
  if found then
    return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, true, s.undo_sql, null, case when s.lock = 'none' then 'none' when s.alone then s.lock else 'ACCESS EXCLUSIVE' end, s.alone, worker, ttl);
  end if;
  v_now := backfill._rollout_fingerprint(r.relation);
  -- A difference in a line that names the column of another rollout is left out.
  select string_agg(y.line, '; ') into v_differs from (
    (select '- ' || a as line from regexp_split_to_table(r.fingerprint, E'\n') a except select '- ' || b from regexp_split_to_table(v_now, E'\n') b)
    union all
    (select '+ ' || b from regexp_split_to_table(v_now, E'\n') b except select '+ ' || a from regexp_split_to_table(r.fingerprint, E'\n') a)) y
   where not exists (select from backfill.rollout o where o.relation = r.relation and o.id <> r.id and (o.finished_at is null or o.finished_at > r.started_at)
                        and (position(backfill._sync_name(o.spec) in y.line) > 0 or y.line ~ format('(^|[^\w"])%s($|[^\w"])', regexp_replace(quote_ident(o.spec ->> 'column'), '(\W)', '\\\1', 'g'))))
     -- Partitions may be attached or detached while a rollout runs, so only partitions that are in
     -- both fingerprints are compared.
     and (substr(y.line, 3) not like 'partition % | %' or split_part(substr(y.line, 3), ' | ', 1) in (select split_part(a, ' | ', 1) from regexp_split_to_table(r.fingerprint, E'\n') a)
                                                    and split_part(substr(y.line, 3), ' | ', 1) in (select split_part(b, ' | ', 1) from regexp_split_to_table(v_now, E'\n') b));
  -- A partition that was detached during the rollout still has the column, so it could not be
  -- attached again.
  select concat_ws('; ', v_differs, string_agg(format('%s was detached and keeps column "%s"; to remove it: alter table %s drop column %I', p.name, r.spec ->> 'column', p.name, r.spec ->> 'column'), '; ')) into v_differs
    from (select distinct substring(a from '^partition (.*?) \| ') as name from regexp_split_to_table(r.fingerprint, E'\n') a) p
   where p.name is not null and not exists (select from backfill._partitions(r.relation) x where x.name = p.name)
     and exists (select from pg_attribute a where a.attrelid = backfill._resolve_table(p.name, '{}') and a.attname = r.spec ->> 'column' and not a.attisdropped);
  v_differs := nullif(v_differs, '');
  update backfill.rollout x set state = 'rolled_back', stage = 'planned', since = clock_timestamp(), finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null,
         error = case when v_differs is not null then 'the rollback is complete, but the schema of the table differs from the schema before the rollout' end,
         hint = 'If other sessions changed the table on purpose, no action is needed. The differences: ' || v_differs
   where x.id = r.id;
  perform backfill._record_rollout_event(r.id, 'rollout rolled back', 'rolled back');
  return null;
end $$;

-- Renews the lease of a rollout, and records the sessions for which its statement waits. Returns
-- false if the daemon has lost the rollout, or if the rollout was paused or is to be rolled back.
-- The daemon then cancels the statement. The creation of a unique index is not cancelled by a
-- pause, because the incomplete index could refuse rows that the application writes.
create or replace function backfill._renew_rollout(id bigint, token uuid, ttl interval, undo boolean) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r record;
begin
  perform set_config('synchronous_commit', 'local', true);
  perform set_config('lock_timeout', '100', true);
  update backfill.rollout x set expires_at = clock_timestamp() + ttl, waiting_reason = case when w.sessions is not null then 'lock' end,
         waiting_text = 'the statement waits until these sessions have ended their transactions: ' || w.sessions
    from (select string_agg(format('process %s of role %s', a.pid, a.usename), ', ' order by a.pid) as sessions
            from backfill.rollout y cross join unnest(pg_blocking_pids(y.backend_pid)) b(pid) join pg_stat_activity a on a.pid = b.pid where y.id = _renew_rollout.id) w
   where x.id = _renew_rollout.id and x.token = _renew_rollout.token returning x.desired_state, x.backwards into r;
  return found and r.backwards = undo
     and (r.desired_state = 'running'
          or exists (select from backfill.rollout_statement d where d.rollout_id = _renew_rollout.id and d.done_at is null and not d.undo and d.alone and d.sql like 'create unique index %'));
end $$;

-- Reports that a statement failed. If the failure is temporary, the daemons try the statement again
-- after a pause that doubles with each attempt, up to 30 s. If the failure is permanent, or if the
-- statement still fails after an hour, the rollout fails. If the statement validates a constraint
-- or creates a unique index, the constraint or index is dropped first.
create or replace function backfill._rollout_statement_failed(id bigint, token uuid, statement bigint, error text, hint text, is_temporary boolean, waits text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s backfill.rollout_statement;
  v_name text;
  v_error text;
  v_hint text;
begin
  select x.name into v_name from backfill.rollout x where x.id = _rollout_statement_failed.id and x.token = _rollout_statement_failed.token for update;
  if not found then
    return;
  end if;
  update backfill.rollout_statement d set error = backfill._readable(_rollout_statement_failed.error) where d.id = statement returning d.* into s;
  if is_temporary and clock_timestamp() < s.started_at + interval '1 hour' then
    perform backfill._put_off_rollout(id, 'lock', waits, least(interval '30 s', interval '0.5 s' * power(2, least(s.attempts - 1, 10))));
  else
    v_error := format('%s: %s', _rollout_statement_failed.error, s.sql);
    v_hint := coalesce(nullif(_rollout_statement_failed.hint, ''), backfill._rows_that_violate(s), 'Fix the cause.') || format(' Then run: select backfill.rollout_resume(%L); To roll the rollout back instead, run: select backfill.rollout_rollback(%L);', v_name, v_name);
    if s.sql like '% validate constraint %' or s.alone and s.sql like 'create unique index %' then
      update backfill.rollout x set pending_error = backfill._readable(v_error), pending_hint = backfill._readable(v_hint), pending_statement = s.id, due_at = clock_timestamp(), holder = null, token = null, expires_at = null where x.id = _rollout_statement_failed.id;
    else
      perform backfill._fail_rollout(id, v_error, v_hint);
    end if;
    update backfill.rollout_statement d set started_at = clock_timestamp() where d.id = statement;
  end if;
end $$;

-- Returns a hint with a query that lists the rows that make a statement fail. The statement is the
-- validation of a constraint or the creation of a unique index. Returns null for other statements.
create or replace function backfill._rows_that_violate(s backfill.rollout_statement) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select 'To list rows that violate it: ' || case
    when s.sql like 'create unique index %' then format('select %1$I, count(*) from %2$s group by 1 having count(*) > 1 limit 20;', r.spec ->> 'column', r.target)
    when s.sql ~ ' validate constraint "?[^ ]*_not_null"?$' then format('select * from %2$s where %1$I is null limit 20;', r.spec ->> 'column', r.target)
    when s.sql ~ ' validate constraint "?[^ ]*_check"?$' then format('select * from %s where not (%s) limit 20;', r.target, r.spec ->> 'check')
    when s.sql ~ ' validate constraint "?[^ ]*_fkey"?$' then format('select * from %2$s x where x.%1$I is not null and not exists (select from %3$s y where y.%4$I = x.%1$I) limit 20;', r.spec ->> 'column', r.target, r.spec #>> '{references,target}', r.spec #>> '{references,column}') end
    from backfill.rollout r where r.id = s.rollout_id
$$;

-- Releases the rollout if its statement has been recorded. Returns whether the statement has been
-- recorded.
create or replace function backfill._release_rollout(id bigint, token uuid, statement bigint) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.rollout_statement d set committed = clock_timestamp() - d.locked_at - d.held
   where d.id = _release_rollout.statement and d.done_at is not null and d.held is not null and exists (select from backfill.rollout x where x.id = _release_rollout.id and x.token = _release_rollout.token);
  update backfill.rollout x set holder = null, token = null, expires_at = null, due_at = clock_timestamp(), waiting_reason = null, waiting_text = null
   where x.id = _release_rollout.id and x.token = _release_rollout.token and exists (select from backfill.rollout_statement d where d.id = _release_rollout.statement and d.done_at is not null);
  select exists (select from backfill.rollout_statement d where d.id = _release_rollout.statement and d.done_at is not null)
$$;

-- Records the start of a statement, in the transaction of the statement. Until this transaction
-- ends, no other attempt to run the statement can start. Raises BF006 unless the session user is an
-- executor login for the role of the rollout, the token is current, the rollout is not paused, and
-- the statement is not recorded as done.
create or replace function backfill.rollout_begun(rollout bigint, token uuid, statement bigint) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  begin
    -- Lock the rollout, so that a concurrent command on the rollout ends before the statement locks
    -- the table. The exception then releases the lock on the rollout, because the statement may run
    -- user code.
    perform from backfill.rollout r join backfill.executor e on e.run_as = r.run_as
      where r.id = rollout_begun.rollout and r.token = rollout_begun.token and r.desired_state = 'running' and e.login = session_user for no key update of r;
    if found then
      raise exception using errcode = 'BF999';
    end if;
  exception when sqlstate 'BF999' then
    update backfill.rollout_statement d set begun_at = clock_timestamp()
     where d.id = rollout_begun.statement and d.rollout_id = rollout_begun.rollout and d.done_at is null;
    if found then
      return;
    end if;
  end;
  raise exception using errcode = 'BF006', message = format('fenced: rollout %s is paused, or another daemon continues it', rollout);
end $$;
comment on function backfill.rollout_begun(bigint, uuid, bigint) is 'Notes the beginning of a statement of a rollout, in the transaction of the statement. For daemons.';

-- Records that a statement is done, at the end of the transaction of the statement. Raises BF006
-- unless the session user is an executor login for the role of the rollout, the token is current,
-- the rollout is not paused, and the statement is not recorded yet. Unless the statement undoes
-- another one, the role that started the rollout must also still be allowed to run jobs as the role
-- of the rollout.
create or replace function backfill.rollout_recorded(rollout bigint, token uuid, statement bigint) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  r record;
begin
  perform set_config('synchronous_commit', 'on', true);
  select x.started_by, x.run_as, x.relation, x.spec into r from backfill.rollout x join backfill.executor e on e.run_as = x.run_as
    where x.id = rollout_recorded.rollout and x.token = rollout_recorded.token and x.desired_state = 'running' and e.login = session_user for no key update of x;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: rollout %s is paused, or another daemon continues it', rollout);
  elsif not backfill._may_run_as(r.started_by, r.run_as) and not (select d.undo from backfill.rollout_statement d where d.id = rollout_recorded.statement) then
    raise exception using errcode = 'BF006', message = format('fenced: role "%s", which started rollout %s, is not a member of "%s" any more', r.started_by, rollout, r.run_as);
  end if;
  update backfill.rollout_statement d set done_at = clock_timestamp(), begun_at = coalesce(d.begun_at, clock_timestamp()), error = null
   where d.id = rollout_recorded.statement and d.rollout_id = rollout_recorded.rollout and d.done_at is null;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the statement of rollout %s has already been recorded', rollout);
  end if;
  update backfill.rollout x set attnum = (select a.attnum from pg_attribute a where a.attrelid = r.relation and a.attname = r.spec ->> 'column' and not a.attisdropped)
    from backfill.rollout_statement d where d.id = rollout_recorded.statement and d.stage = 'expanded' and d.ordinal = 1 and not d.undo and x.id = rollout_recorded.rollout;
end $$;
comment on function backfill.rollout_recorded(bigint, uuid, bigint) is 'Records a statement of a rollout, in the transaction of the statement. For daemons.';

-- Records the time at which the statement acquired its locks. Raises BF001 if the table was
-- renamed, replaced or dropped. Does nothing unless the session user is an executor login for the
-- role of the rollout.
create or replace function backfill.rollout_locked(statement bigint) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_rollout record;
begin
  select x.target, x.relation into v_rollout from backfill.rollout_statement d join backfill.rollout x on x.id = d.rollout_id join backfill.executor e on e.run_as = x.run_as
   where d.id = rollout_locked.statement and e.login = session_user;
  if not found then
    return;
  end if;
  if backfill._other_table(v_rollout.target, v_rollout.relation) is not null then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that the rollout was started for', v_rollout.target), detail = backfill._other_table(v_rollout.target, v_rollout.relation);
  end if;
  update backfill.rollout_statement d set locked_at = clock_timestamp() where d.id = rollout_locked.statement;
end $$;
comment on function backfill.rollout_locked(bigint) is 'Notes the time at which a statement of a rollout has its locks. For daemons.';

-- Records how long the statement has held its locks, and raises an error if the statement has
-- rewritten the table. The transaction is then rolled back. Does nothing unless the session user is
-- an executor login for the role of the rollout.
create or replace function backfill.rollout_unlocking(statement bigint, relation oid, files text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from backfill.rollout_statement d join backfill.rollout r on r.id = d.rollout_id join backfill.executor e on e.run_as = r.run_as where d.id = rollout_unlocking.statement and e.login = session_user) then
    return;
  end if;
  if backfill._table_file(relation) is distinct from files then
    raise exception using errcode = 'BF001', message = 'the statement would rewrite the table', hint = 'Leave the default out, and fill the column with "using".';
  end if;
  update backfill.rollout_statement d set waited = d.locked_at - d.begun_at, held = clock_timestamp() - d.locked_at
   where d.id = rollout_unlocking.statement;
end $$;
comment on function backfill.rollout_unlocking(bigint, oid, text) is 'Notes how long a statement of a rollout has held its locks. Raises BF001 if the table was rewritten. For daemons.';
