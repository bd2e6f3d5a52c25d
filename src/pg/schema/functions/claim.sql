-- Daemons call the functions of this file with the control login, which owns the schema. Executors
-- can call only _server_identity (see _grant_executor).
--
-- Lock order: job, then slice or lease, then checkpoint. _claim cannot follow this order, so it
-- skips locked rows.

-- Claims a slice for a daemon (worker): a slice with an abandoned lease if one exists, otherwise
-- the first ready slice. A lease is abandoned if it has expired, or if it belongs to this daemon
-- and its token is not in held. The daemon then did not receive the answer to the claim, or could
-- not release the slice. Ready slices are ordered by priority, age of the job and ordinal. Slices
-- of the roles in at_share follow all others, because these roles already use their full share of
-- the daemon's workers. Returns null if no slice can be claimed, or if the function has marked a
-- job as failed because the daemon could not read the job. The claim commits synchronously,
-- whatever the session's setting is. Otherwise a crash of the server could lose the claim, and
-- another worker could claim the slice while its first holder continues.
create or replace function backfill._claim(worker uuid, run_as name[], ttl interval, protocol integer default 1, at_share name[] default '{}', held uuid[] default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  j backfill.job;
  s backfill.slice;
  abandoned backfill.lease;
  old backfill.lease;
  v_token uuid := gen_random_uuid();
  answer jsonb;
  v_size integer;
  v_takeover boolean;
begin
  perform set_config('synchronous_commit', 'on', true);
  -- The server cannot interrupt some functions that a job's code can call. A batch that calls such
  -- a function keeps its locks until the function ends. A claim must not wait for these locks.
  perform set_config('lock_timeout', '100', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;
  -- The schema may have been dropped and installed again. Until the daemon has registered its
  -- executors again, its batches would be fenced.
  if exists (select from backfill.worker w where w.id = _claim.worker) and not backfill._is_registered(_claim.worker, _claim.run_as) then
    return null;
  end if;

  for c in
    select l.slice_id, l.job_id from backfill.lease l join backfill.slice x on x.id = l.slice_id
     where backfill._is_abandoned(l, worker, held) and l.run_as = any (_claim.run_as) and x.protocol <= _claim.protocol order by l.expires_at
  loop
    select * into j from backfill.job x where x.id = c.job_id for update skip locked;
    continue when not found;
    select * into abandoned from backfill.lease l where l.slice_id = c.slice_id and backfill._is_abandoned(l, worker, held) for update skip locked;
    continue when not found;
    -- The server may not have detected that the old holder has stopped. Terminate the session of
    -- the old holder, so that this session no longer holds locks that block the new holder (P6). Do
    -- not terminate a session that another lease refers to: its worker has ended the old claim and
    -- already uses the session for another slice.
    begin
      perform pg_terminate_backend(a.pid) from pg_stat_activity a
       where a.pid = abandoned.backend_pid and a.backend_start = abandoned.backend_start
         and not exists (select from backfill.lease l where l.slice_id <> c.slice_id and l.backend_pid = abandoned.backend_pid and l.backend_start = abandoned.backend_start);
    exception when insufficient_privilege then
      null; -- The session belongs to an executor's login. Its statement_timeout usually ends a batch within 2 s.
    end;
    -- The batch of the old holder may still be running, and the server may be unable to interrupt
    -- it.
    perform 1 from backfill.checkpoint k where k.slice_id = c.slice_id for update skip locked;
    if not found and exists (select from backfill.checkpoint k where k.slice_id = c.slice_id) then
      continue;
    end if;
    if j.state in ('succeeded', 'failed', 'cancelled') or j.desired_state <> 'running' then
      begin
        perform backfill._drop_lease(c.slice_id);
        perform backfill._settle(c.job_id);
      exception when others then
        -- The other jobs must not wait because of an error in one job.
        raise warning 'could not end or pause job %: %', c.job_id, sqlerrm;
      end;
      continue;
    end if;
    select * into s from backfill.slice x where x.id = c.slice_id;
    old := abandoned;
    exit;
  end loop;

  if s.id is null then
    for c in
      select r.* from unnest(_claim.run_as) as u(role)
      cross join lateral (
        select x.id, x.job_id, x.kind, x.run_as, x.priority, x.ordinal from backfill.slice x
         where x.run_as = u.role and x.state = 'ready' and x.protocol <= _claim.protocol order by x.priority, x.job_id, x.ordinal, x.id limit 64) r
      order by r.run_as = any (_claim.at_share), r.priority, r.job_id, r.ordinal, r.id
    loop
      if c.kind = 'plan' then
        select * into j from backfill.job x where x.id = c.job_id for update skip locked;
        continue when not found;
      end if;
      continue when exists (select from backfill.checkpoint k where k.slice_id = c.id)
                and not exists (select from backfill._lock_checkpoint(c.id));
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

  update backfill.slice x set state = 'leased', due_at = null, not_before = null, waiting_reason = null, waiting_text = null, attempts = x.attempts + 1, started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.id;
  insert into backfill.lease as l (slice_id, job_id, token, holder, run_as, claimed_at, expires_at, ttl, waiting_reason, waiting_text)
  -- Keep the waiting reason of the slice until its first batch commits.
  values (s.id, s.job_id, v_token, worker, s.run_as, clock_timestamp(), clock_timestamp() + _claim.ttl, _claim.ttl, s.waiting_reason, s.waiting_text)
  on conflict (slice_id) do update set token = excluded.token, holder = excluded.holder, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at, ttl = excluded.ttl,
     backend_pid = null, backend_start = null, rows_per_second = null, steady_rows_per_second = null, time_share = null, throttled_by = null, throttled_text = null,
     waiting_reason = excluded.waiting_reason, waiting_text = excluded.waiting_text;
  insert into backfill.checkpoint as k (slice_id, token, position) values (s.id, v_token, s.lower)
  on conflict (slice_id) do update set token = excluded.token;
  v_takeover := coalesce(old.expires_at < clock_timestamp(), false);
  if v_takeover then
    perform backfill._record_event(s.job_id, 'takeover', format('lease of slice %s expired: taken over', s.ordinal), jsonb_build_object('slice', s.id, 'from', old.holder, 'to', worker));
  end if;

  select jsonb_build_object(
      'slice', s.id, 'job', x.id, 'kind', s.kind, 'ordinal', s.ordinal, 'generation', s.generation, 'token', v_token, 'takeover', v_takeover, 'attempts', s.attempts + 1,
      'lower', to_jsonb(s.lower), 'upper', to_jsonb(s.upper), 'position', to_jsonb(k.position), 'done', k.done, 'checkpoint_ctid', k.ctid::text,
      'rows_scanned', k.rows_scanned, 'rows_changed', k.rows_changed, 'deferred', (select count(*) from backfill.deferred_row a where a.slice_id = s.id),
      'name', x.name, 'relation', x.relation::bigint, 'target', x.target, 'set', x.set_sql, 'filter', x.filter_sql, 'key', to_jsonb(x.key),
      'run_as', x.run_as, 'run', x.run, 'leaf', s.relation::bigint, 'options', x.options, 'settings', x.settings, 'revision', x.revision, 'plan', x.plan)
    into answer
    from backfill.job x, backfill.checkpoint k where x.id = s.job_id and k.slice_id = s.id;
  v_size := octet_length(answer::text);
  if v_size < 4194304 and backfill._is_utf8(answer::text) then
    return answer;
  end if;
  -- The answer is too large, or cannot be converted to UTF-8, so the daemon could not read it. If
  -- the function returned it, the job could neither run nor fail, and workers would try to claim it
  -- before all other jobs.
  perform backfill._drop_lease(s.id);
  perform 1 from backfill.job x where x.id = s.job_id for update skip locked;
  if found then
    perform backfill._end_job(s.job_id, 'failed', false,
      case when v_size < 4194304 then format('the definition of job %s cannot be converted to UTF-8', s.job_id) else format('the definition of job %s has %s bytes', s.job_id, v_size) end,
      'The job was not inserted by backfill.enqueue. Delete it with backfill.forget, then enqueue it again.');
  else
    update backfill.slice x set due_at = clock_timestamp() + interval '1 second', not_before = clock_timestamp() + interval '1 second' where x.id = s.id;
  end if;
  return null;
end $$;

-- Returns whether a lease has expired, or belongs to this daemon (worker) although its token is not
-- in held.
create or replace function backfill._is_abandoned(lease backfill.lease, worker uuid, held uuid[]) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select coalesce(lease.expires_at < clock_timestamp() or lease.holder = worker and lease.token <> all (held), false)
$$;

-- Locks the checkpoint of a slice. Returns no row if another session has locked it.
create or replace function backfill._lock_checkpoint(slice bigint) returns setof bigint
language sql set search_path = pg_catalog, pg_temp as $$
  select k.slice_id from backfill.checkpoint k where k.slice_id = _lock_checkpoint.slice for update skip locked
$$;

-- Returns whether a slice whose job runs as one of these roles can be claimed now.
create or replace function backfill._has_ready(run_as name[], protocol integer) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (select from backfill.switch w where w.paused_all)
     and exists (select from backfill.slice x where x.run_as = any (_has_ready.run_as) and x.state = 'ready' and x.protocol <= _has_ready.protocol)
$$;

-- Raises BF006 unless the slice has a lease with this token. Locks the job and the lease. Returns
-- the job.
create or replace function backfill._fence(slice bigint, token uuid) returns backfill.job
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.slice s on s.job_id = x.id where s.id = _fence.slice for update of x;
  perform 1 from backfill.lease l where l.slice_id = _fence.slice and l.token = _fence.token for update;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended', slice), hint = 'No action is needed: the worker that claims the slice next continues from its checkpoint.';
  end if;
  return j;
end $$;

-- Stores in the lease which server process runs the executor's session, so that a takeover can
-- terminate the session. The sessions of the executor and of the control login must be on the same
-- server (P1). For a while after a failover, the two logins may reach different servers.
create or replace function backfill._register_backend(slice bigint, token uuid, backend_pid integer, backend_start timestamptz, server text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if server is distinct from backfill._server_identity() then
    raise exception using errcode = '08006', message = format('the executor login is not connected to the server of the queue: %s instead of %s', server, backfill._server_identity()),
      hint = 'Set the url of the executor to the server that has the queue. During a failover the daemon retries until both logins reach the same server.';
  end if;
  update backfill.lease l
     set backend_pid = _register_backend.backend_pid,
         backend_start = coalesce(_register_backend.backend_start, (select a.backend_start from pg_stat_activity a where a.pid = _register_backend.backend_pid))
   where l.slice_id = _register_backend.slice and l.token = _register_backend.token;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended', slice);
  end if;
end $$;

-- Returns the identity of the server: its cluster, timeline and start time. A promotion changes the
-- timeline, and copies of a cluster differ in the start time. For a standby, the result contains
-- only the cluster, and says that the server is a standby.
create or replace function backfill._server_identity() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if pg_is_in_recovery() then
    return 'a standby of cluster ' || (select c.system_identifier from pg_control_system() c);
  end if;
  return format('cluster %s, timeline %s, started at %s UTC', (select c.system_identifier from pg_control_system() c),
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), to_json(pg_postmaster_start_time() at time zone 'UTC') #>> '{}');
end $$;

-- Terminates the session of a claim, if the control login has the privilege to do so. The daemon
-- calls this function if it cannot terminate the session with the session's own login. For example,
-- the job's code may have changed the password of that login.
create or replace function backfill._end_session(slice bigint, token uuid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- The process ID is looked up first. If pg_terminate_backend were part of the query's condition,
  -- the server could evaluate it for other sessions, too.
  v_pid integer := (select a.pid from backfill.lease l join pg_stat_activity a on a.pid = l.backend_pid and a.backend_start = l.backend_start
                     where l.slice_id = _end_session.slice and l.token = _end_session.token);
begin
  return coalesce(pg_terminate_backend(v_pid), false);
exception when insufficient_privilege then
  return false;
end $$;

-- Returns the desired state and revision of a job, and the number of its slices that are leased
-- now. The desired state is cancelled if the job has ended, and paused_all if the job should run
-- but all work is paused. These slices share the job's rate.
create or replace function backfill._desired_state(job bigint) returns table (desired text, revision integer, live integer)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
              when j.desired_state <> 'running' then j.desired_state
              when w.paused_all then 'paused_all' else 'running' end,
         j.revision,
         (select count(*)::integer from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp())
    from backfill.job j, backfill.switch w where j.id = _desired_state.job
$$;

-- Returns the result of _desired_state for the job of a claimed slice. Returns no row if the slice
-- has no lease with this token.
create or replace function backfill._poll_claim(slice bigint, token uuid) returns table (desired text, revision integer, live integer)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select d.* from backfill.lease l cross join lateral backfill._desired_state(l.job_id) d where l.slice_id = _poll_claim.slice and l.token = _poll_claim.token
$$;

-- Returns the ctid of a slice's checkpoint. Returns null if the slice has no lease with this token.
create or replace function backfill._checkpoint_ctid(slice bigint, token uuid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.ctid::text from backfill.lease l join backfill.checkpoint c on c.slice_id = l.slice_id
   where l.slice_id = _checkpoint_ctid.slice and l.token = _checkpoint_ctid.token
$$;

-- Returns the options of a job, for a worker that continues after backfill.tune has changed them.
create or replace function backfill._options(job bigint) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$ select options from backfill.job where id = _options.job $$;

-- Ends the claim of a slice that is done. Makes the caller's transaction commit synchronously.
create or replace function backfill._end_slice(slice bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s backfill.slice;
begin
  perform set_config('synchronous_commit', 'on', true);
  delete from backfill.lease l where l.slice_id = _end_slice.slice;
  update backfill.slice x set state = 'done', finished_at = clock_timestamp() where x.id = _end_slice.slice returning x.* into s;
  if s.kind = 'walk' then
    perform backfill._add_new_leaves(s.job_id);
  end if;
end $$;

-- Finishes a slice that was walked to its end. Raises BF006 if the slice's checkpoint is not marked
-- as done. A slice that still has deferred rows is only released.
create or replace function backfill._finish(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform 1 from backfill.checkpoint c where c.slice_id = _finish.slice and c.token = _finish.token and c.done;
  if not found then
    raise exception using errcode = 'BF006', message = format('slice %s has not reached its upper bound', slice);
  end if;
  if exists (select from backfill.deferred_row a where a.slice_id = _finish.slice) then
    -- Other sessions still hold locks on some rows. The slice can be claimed again after 1 s, or
    -- after 5 s if its oldest deferred row was deferred at least 1 minute ago. Until then the
    -- worker that held the slice can claim another slice.
    perform backfill._drop_lease(slice);
    update backfill.slice s
       set not_before = clock_timestamp() + case when (select min(a.first_at) from backfill.deferred_row a where a.slice_id = s.id) > clock_timestamp() - interval '1 minute'
                                                 then interval '1 second' else interval '5 seconds' end
     where s.id = _finish.slice;
    perform backfill._schedule_slices(j.id);
    perform backfill._settle(j.id);
    return backfill._state_of(j.name);
  end if;
  perform backfill._end_slice(slice);
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

create or replace function backfill._release(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform backfill._drop_lease(slice);
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Releases a slice after a temporary failure. The slice cannot be claimed again before `pause` has
-- passed, so workers claim other slices in the meantime. If the parameter `counts` is false, the
-- claim is not counted as an attempt.
create or replace function backfill._release_for_retry(slice bigint, token uuid, reason text, message text, pause interval, counts boolean default true) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._fence(slice, token);
  update backfill.slice s
     set attempts = s.attempts - case when _release_for_retry.counts then 0 else 1 end,
         waiting_reason = _release_for_retry.reason, waiting_text = left(_release_for_retry.message, 1000), not_before = clock_timestamp() + nullif(_release_for_retry.pause, '0')
   where s.id = _release_for_retry.slice;
  return backfill._release(slice, token);
end $$;

-- Releases a slice because the job's window is closed. No unclaimed slice of the job can be claimed
-- until the window opens.
create or replace function backfill._close_window(slice bigint, token uuid, until timestamptz) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  if j.closed_until is distinct from _close_window.until then
    update backfill.job x
       set closed_until = _close_window.until,
           -- If the job has no plan, the slice was claimed for planning, which has not begun.
           state = case when x.plan is null and x.state = 'running' then 'queued' else x.state end, queued_at = clock_timestamp(),
           started_at = case when x.plan is null then null else x.started_at end
     where x.id = j.id;
    perform backfill._record_event(j.id, 'window', format('the window of the job is closed and opens at %s', _close_window.until));
  end if;
  return backfill._release(slice, token);
end $$;

-- Ends the job as failed. The argument `redacted` is described at _end_job.
create or replace function backfill._fail(slice bigint, token uuid, error text, hint text, redacted jsonb default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  if j.state in ('succeeded', 'failed', 'cancelled') then
    -- The job has already ended, for example because another slice failed. The totals must include
    -- the last batches of this slice.
    perform backfill._store_totals(j.id);
  else
    perform backfill._end_job(j.id, 'failed', false, _fail.error, _fail.hint, _fail.redacted);
  end if;
  return backfill._state_of(j.name);
end $$;
