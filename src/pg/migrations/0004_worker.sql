-- What daemons call. Functions with an underscore are for the control login, which owns the schema. advance and
-- unchanged are called by executors, inside the statement that changes the rows.
--
-- Lock order: job, then slice or lease, then checkpoint. Where a claim can't keep it, it skips what is locked.

-- Raises unless this (slice, token) is a live claim; locks the job and the lease. Returns the job.
create function backfill._fence(slice bigint, token uuid) returns backfill.job
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.slice s on s.job_id = x.id where s.id = _fence.slice for update of x;
  perform 1 from backfill.lease l where l.slice_id = _fence.slice and l.token = _fence.token for update;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: slice %s has another holder', slice), hint = 'Nothing is to be done: the other holder goes on.';
  end if;
  return j;
end $$;

create function backfill._register_executor(login name, run_as name, one_url boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.executor as e (login, run_as, one_url, is_superuser)
  values (login, run_as, one_url, (select r.rolsuper from pg_roles r where r.rolname = _register_executor.login))
  on conflict on constraint executor_pkey do update set run_as = excluded.run_as, one_url = excluded.one_url, is_superuser = excluded.is_superuser, registered_at = now()
   where (e.run_as, e.one_url, e.is_superuser) is distinct from (excluded.run_as, excluded.one_url, excluded.is_superuser);
  if run_as <> current_user then
    execute format('grant usage on schema backfill to %I', run_as);
    execute format('grant execute on function backfill.advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean), backfill.unchanged(oid, text, smallint[], smallint[], text), backfill.not_rewritten(oid[]), backfill.key_text(anyelement), backfill._server(), backfill._fingerprint(oid, smallint[]) to %I', run_as);
  end if;
  if one_url then
    -- Jobs that were enqueued before any daemon came and left run_as open: they run as the one login where their
    -- submitters may use it.
    with moved as (
      update backfill.job j set run_as = _register_executor.run_as
       where j.state = 'queued' and j.run_as_asked is null and j.run_as <> _register_executor.run_as
         and not exists (select from backfill.executor e where e.run_as = j.run_as)
         and backfill._may_run_as(j.enqueued_by, _register_executor.run_as)
      returning j.id)
    update backfill.slice s set run_as = _register_executor.run_as from moved m where s.job_id = m.id;
  end if;
end $$;

create function backfill._hello(worker uuid, host text, pid integer, version text, run_as name[], ttl interval) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.worker as w (id, host, pid, version, run_as, expires_at) values (worker, host, pid, version, run_as, clock_timestamp() + ttl)
  on conflict (id) do update set heartbeat_at = clock_timestamp(), expires_at = excluded.expires_at;
  delete from backfill.worker w where w.expires_at < clock_timestamp() - interval '1 hour';
end $$;

-- A clean end: what is still held becomes free at once.
create function backfill._bye(worker uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  l record;
begin
  for l in select x.slice_id, x.token from backfill.lease x where x.holder = _bye.worker loop
    perform backfill._release(l.slice_id, l.token);
  end loop;
  delete from backfill.worker w where w.id = _bye.worker;
end $$;

-- Renews the leases that are still this worker's, in one round trip. held: [{"slice", "token", "rate", "reason",
-- "text"}]. A slice that is not in the answer is lost.
create function backfill._heartbeat(worker uuid, ttl interval, held jsonb) returns table (slice bigint, desired text, revision integer, live integer)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  update backfill.worker w set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + ttl where w.id = _heartbeat.worker;
  return query
  with h as (select * from jsonb_to_recordset(held) as x(slice bigint, token uuid, rate double precision, reason text, text text)),
  -- In one order, as those do who drop the leases of a job.
  locked as materialized (
    select l.slice_id from backfill.lease l join h on h.slice = l.slice_id and h.token = l.token order by l.slice_id for update of l),
  renewed as (
    update backfill.lease l
       set expires_at = clock_timestamp() + ttl, rows_per_second = h.rate, waiting_reason = h.reason, waiting_text = h.text
      from h, locked k where l.slice_id = h.slice and l.token = h.token and k.slice_id = l.slice_id
    returning l.slice_id, l.job_id)
  select r.slice_id, d.desired, d.revision, d.live from renewed r cross join lateral backfill._desired(r.job_id) d;
end $$;

-- What is wanted of a job now, and among how many live slices its rate is shared.
create function backfill._desired(job bigint) returns table (desired text, revision integer, live integer)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
              when j.desired_state <> 'running' then j.desired_state
              when w.paused_all then 'paused_all' else 'running' end,
         j.revision,
         (select count(*)::integer from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp())
    from backfill.job j, backfill.switch w where j.id = _desired.job
$$;

-- For a walker that holds: am I still the holder, and what is wanted?
create function backfill._look(slice bigint, token uuid) returns table (desired text, revision integer, live integer)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select d.* from backfill.lease l cross join lateral backfill._desired(l.job_id) d where l.slice_id = _look.slice and l.token = _look.token
$$;

-- The options after a tune.
create function backfill._options(job bigint) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$ select options from backfill.job where id = _options.job $$;

-- Gives the caller's worker a slice: an expired lease first, else the first that is ready by priority and age.
-- Commits synchronously, whatever the session says: a claim that is lost in a crash could be issued twice.
create function backfill._claim(worker uuid, run_as name[], ttl interval) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  j backfill.job;
  s backfill.slice;
  old backfill.lease;
  v_token uuid := gen_random_uuid();
  answer jsonb;
begin
  perform set_config('synchronous_commit', 'on', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;

  for c in select l.slice_id, l.job_id from backfill.lease l where l.expires_at < clock_timestamp() and l.run_as = any (_claim.run_as) order by l.expires_at limit 20 loop
    select * into j from backfill.job x where x.id = c.job_id for update skip locked;
    continue when not found;
    select * into old from backfill.lease l where l.slice_id = c.slice_id and l.expires_at < clock_timestamp() for update skip locked;
    continue when not found;
    -- A stopped client is not seen by the server: end its session, so that it holds no lock of ours any longer (P6).
    begin
      perform pg_terminate_backend(a.pid) from pg_stat_activity a where a.pid = old.backend_pid and a.backend_start = old.backend_start;
    exception when insufficient_privilege then
      null; -- An executor's session: its own statement_timeout ends it within a second.
    end;
    if j.state in ('succeeded', 'failed', 'cancelled') or j.desired_state <> 'running' then
      perform backfill._drop_lease(c.slice_id);
      perform backfill._settle(c.job_id);
      continue;
    end if;
    select * into s from backfill.slice x where x.id = c.slice_id;
    exit;
  end loop;

  if s.id is null then
    for c in
      select r.* from unnest(_claim.run_as) as u(role)
      cross join lateral (
        select x.id, x.job_id, x.kind, x.priority, x.ordinal from backfill.slice x
         where x.run_as = u.role and x.state = 'ready' order by x.priority, x.job_id, x.ordinal, x.id limit 64) r
      order by r.priority, r.job_id, r.ordinal, r.id
    loop
      if c.kind = 'plan' then
        select * into j from backfill.job x where x.id = c.job_id for update skip locked;
        continue when not found;
      end if;
      select * into s from backfill.slice x where x.id = c.id and x.state = 'ready' for update skip locked;
      exit when found;
    end loop;
    if s.id is null then
      return null;
    end if;
    if s.kind = 'plan' then
      update backfill.job x set state = 'running', started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.job_id and x.state = 'queued';
    end if;
  end if;

  update backfill.slice x set state = 'leased', due_at = null, attempts = x.attempts + 1, started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.id;
  insert into backfill.lease as l (slice_id, job_id, token, holder, run_as, claimed_at, expires_at)
  values (s.id, s.job_id, v_token, worker, s.run_as, clock_timestamp(), clock_timestamp() + ttl)
  on conflict (slice_id) do update set token = excluded.token, holder = excluded.holder, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at,
     backend_pid = null, backend_start = null, rows_per_second = null, waiting_reason = null, waiting_text = null;
  insert into backfill.checkpoint as k (slice_id, token, position) values (s.id, v_token, s.lower)
  on conflict (slice_id) do update set token = excluded.token;
  if old.slice_id is not null then
    perform backfill._note(s.job_id, 'takeover', format('lease of slice %s expired: taken over', s.ordinal), jsonb_build_object('slice', s.id, 'from', old.holder, 'to', worker));
  end if;

  select jsonb_build_object(
      'slice', s.id, 'job', x.id, 'kind', s.kind, 'ordinal', s.ordinal, 'generation', s.generation, 'token', v_token, 'takeover', old.slice_id is not null, 'attempts', s.attempts + 1,
      'lower', to_jsonb(s.lower), 'upper', to_jsonb(s.upper), 'position', to_jsonb(k.position), 'done', k.done, 'tid', k.ctid::text,
      'rows_scanned', k.rows_scanned, 'rows_changed', k.rows_changed,
      'name', x.name, 'relation', x.relation::bigint, 'target', x.target, 'set', x.set_sql, 'filter', x.filter_sql, 'key', to_jsonb(x.key),
      'run_as', x.run_as, 'options', x.options, 'settings', x.settings, 'revision', x.revision, 'plan', x.plan)
    into answer
    from backfill.job x, backfill.checkpoint k where x.id = s.job_id and k.slice_id = s.id;
  return answer;
end $$;

-- Which server this is: the cluster, its timeline, which a promotion changes, and since when it runs, which tells
-- copies apart; or that it is a standby.
create function backfill._server() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if pg_is_in_recovery() then
    return 'a standby of cluster ' || (select c.system_identifier from pg_control_system() c);
  end if;
  return format('cluster %s, timeline %s, up since %s', (select c.system_identifier from pg_control_system() c),
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), to_json(pg_postmaster_start_time() at time zone 'UTC') #>> '{}');
end $$;

-- Remembers the executor's session, so that a takeover can end it. Executor and queue must be on one server (P1):
-- after a failover two logins may for a while reach two.
create function backfill._seat(slice bigint, token uuid, backend_pid integer, backend_start timestamptz, server text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if server is distinct from backfill._server() then
    raise exception using errcode = '08006', message = format('the executor is connected to another server than the queue: %s, not %s', server, backfill._server()),
      hint = 'Give the executor a url of the same server; during a failover this passes by itself.';
  end if;
  update backfill.lease l
     set backend_pid = _seat.backend_pid,
         backend_start = coalesce(_seat.backend_start, (select a.backend_start from pg_stat_activity a where a.pid = _seat.backend_pid))
   where l.slice_id = _seat.slice and l.token = _seat.token;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: slice %s has another holder', slice);
  end if;
end $$;

-- Ends a claim; the slice is done. In the caller's transaction, so: synchronous.
create function backfill._done(slice bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('synchronous_commit', 'on', true);
  delete from backfill.lease l where l.slice_id = _done.slice;
  update backfill.slice s set state = 'done', finished_at = clock_timestamp() where s.id = _done.slice;
end $$;

-- slices: [{"ordinal", "lower", "upper"}], bounds as arrays of text or null. None: the table was empty.
create function backfill._save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  update backfill.job x set plan = _save_plan.plan, rows_estimated = _save_plan.rows_estimated, planned_snapshot = snapshot::pg_snapshot where x.id = j.id;
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, run_as, priority)
    select j.id, 'walk', j.run, j.generation, r.ordinal, j.relation, j.target, r.lower, r.upper, j.run_as, j.priority
      from jsonb_to_recordset(slices) as r(ordinal integer, lower text[], upper text[])
    returning id, lower)
  insert into backfill.checkpoint (slice_id, token, position) select id, gen_random_uuid(), lower from made;
  perform backfill._done(slice);
  perform backfill._note(j.id, 'planned', format('about %s rows in %s slice(s)', rows_estimated, jsonb_array_length(slices)), plan);
  perform backfill._arrange(j.id);
  perform backfill._settle(j.id);
  perform backfill._wake();
  return backfill._state_of(j.name);
end $$;

-- The slice was passed to its end: true only if its checkpoint says so.
create function backfill._finish(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform 1 from backfill.checkpoint c where c.slice_id = _finish.slice and c.token = _finish.token and c.done;
  if not found then
    raise exception using errcode = 'BF006', message = format('slice %s is not at its end', slice);
  end if;
  perform backfill._done(slice);
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

create function backfill._release(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform backfill._drop_lease(slice);
  perform backfill._arrange(j.id);
  perform backfill._settle(j.id);
  perform backfill._wake();
  return backfill._state_of(j.name);
end $$;

create function backfill._fail(slice bigint, token uuid, error text, hint text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  if j.state in ('succeeded', 'failed', 'cancelled') then
    -- Another slice's failure was first; this one's last batches count all the same.
    perform backfill._total(j.id);
  else
    perform backfill._end(j.id, 'failed', false, _fail.error, _fail.hint);
  end if;
  return backfill._state_of(j.name);
end $$;

-- Housekeeping, cheap, by every daemon now and then: what is due becomes ready, what was stopped settles.
create function backfill._tick() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  n integer := 0;
begin
  for c in select distinct s.job_id from (select x.job_id from backfill.slice x where x.state = 'held' and x.due_at <= clock_timestamp() order by x.due_at limit 1000) s loop
    perform 1 from backfill.job x where x.id = c.job_id for update skip locked;
    continue when not found;
    perform backfill._arrange(c.job_id);
    n := n + 1;
  end loop;
  for c in select x.id from backfill.job x where x.state in ('queued', 'running', 'verifying') and x.desired_state <> 'running' order by x.id limit 1000 loop
    perform 1 from backfill.job x where x.id = c.id for update skip locked;
    continue when not found;
    perform backfill._settle(c.id);
  end loop;
  if n > 0 then
    perform backfill._wake();
  end if;
end $$;

create function backfill._publish_signals(readings jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into backfill.signal as s (signal, source, kind, value, "limit", utilization, holding, reason, sampled_at)
  select r.signal, r.source, r.kind, r.value, r."limit", r.utilization, coalesce(r.holding, false), r.reason, clock_timestamp()
    from jsonb_to_recordset(readings) as r(signal text, source text, kind text, value double precision, "limit" double precision, utilization double precision, holding boolean, reason text)
  on conflict (signal, source) do update set kind = excluded.kind, value = excluded.value, "limit" = excluded."limit",
    utilization = excluded.utilization, holding = excluded.holding, reason = excluded.reason, sampled_at = excluded.sampled_at
$$;

-- What a job rests on: the columns that it names, with everything that gives them their meaning.
-- In plpgsql, which keeps its plan: a function in SQL is parsed and planned in each batch anew.
create function backfill._fingerprint(relation oid, columns smallint[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select coalesce(string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated), ', ' order by a.attnum), '')
            from pg_attribute a where a.attrelid = _fingerprint.relation and a.attnum = any (_fingerprint.columns) and not a.attisdropped);
end $$;

-- Checked inside each batch's own statement, which already holds its lock on the table: a prepared statement binds
-- by name again after a change, and would fill another column, or another table, without an error (P5).
create function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(name)::oid is distinct from relation then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that was planned', name),
      detail = 'It was renamed, dropped or replaced during the job.', hint = 'Check what happened to the table; then backfill.rerun, or cancel the job.';
  end if;
  if backfill._fingerprint(relation, columns) is distinct from fingerprint then
    raise exception using errcode = 'BF001', message = format('the columns of table %s that this job rests on have changed', name),
      detail = format('Planned: %s. Now: %s (number, name, type, modifier, collation, generated).', fingerprint, backfill._fingerprint(relation, columns)),
      hint = 'Undo the change, or enqueue a new job for the table as it is now.';
  end if;
  if not exists (select from pg_index i where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null
                  and (i.indkey::smallint[])[0:i.indnkeyatts - 1] = key) then
    raise exception using errcode = 'BF001', message = format('the unique index on the key of table %s is gone', name),
      detail = 'Without it each batch would read the whole table.', hint = 'Create the index again (concurrently), then backfill.retry.';
  end if;
  return true;
end $$;

-- A part of a key as text that reads back as the same value under any DateStyle and IntervalStyle: a range of times
-- in the style of the job may show a zone's abbreviation, which other zones have too.
create function backfill.key_text(value anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set datestyle = 'ISO' set intervalstyle = 'postgres' as $$
begin
  return value::text;
end $$;

-- For a batch that is REPEATABLE READ: its snapshot may be older than the locks on the tables that it reads, and an
-- ALTER TABLE or TRUNCATE that came between shows them empty to it. Its snapshot of the catalog is as old, so a file
-- other than the one it sees there tells; then the batch is to be tried again.
create function backfill.not_rewritten(relations oid[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_name text;
begin
  with recursive tree(relid) as (
    select unnest(relations)
    union
    select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.relid)
  select c.oid::regclass::text into v_name from tree t join pg_class c on c.oid = t.relid
   where c.relfilenode <> 0 and c.relfilenode is distinct from pg_relation_filenode(c.oid) limit 1;
  if found then
    raise exception using errcode = '40001', message = format('table %s, which the job reads, was rewritten meanwhile', v_name);
  end if;
  return true;
end $$;

-- The checkpoint. Called in the transaction that changes the rows; raises BF006 unless the caller's login may run
-- this slice, the token is the current one, and the position is where the batch began (compare and set).
-- place: where the row was last seen, which spares the way over its old versions; a wrong one costs time only.
create function backfill.advance(slice bigint, token uuid, place tid, from_position text[], to_position text[],
                                 scanned bigint, changed bigint, unresolved bigint, done boolean)
returns table (at_place text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_place tid;
  v_job bigint;
begin
  if advance.done then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  select s.job_id into v_job from backfill.slice s join backfill.executor e on e.run_as = s.run_as
   where s.id = advance.slice and e.login = session_user;
  if v_job is null then
    raise exception using errcode = 'BF006', message = format('fenced: login "%s" does not run slice %s', session_user, advance.slice);
  end if;
  update backfill.checkpoint c
     set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
         rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done
   where c.ctid = advance.place and c.slice_id = advance.slice and c.token = advance.token and not c.done
     and c.position is not distinct from advance.from_position
  returning c.ctid into v_place;
  if v_place is null then
    update backfill.checkpoint c
       set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
           rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done
     where c.slice_id = advance.slice and c.token = advance.token and not c.done
       and c.position is not distinct from advance.from_position
    returning c.ctid into v_place;
  end if;
  if v_place is null then
    raise exception using errcode = 'BF006', message = format('fenced: slice %s has another holder, or its checkpoint has moved', advance.slice);
  end if;
  return query
    select v_place::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $$;
