-- Runs a GRANT unless the object's access list (acl) already gives the role all of the privileges.
-- A GRANT that changes nothing would still fire the event triggers of the database, update the
-- catalog and be written to an audit log.
create or replace function backfill._grant(acl aclitem[], privileges text[], statement text, role name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from unnest(privileges) p(name) where not exists (
       select from aclexplode(acl) a where a.grantee = (select r.oid from pg_roles r where r.rolname = role) and a.privilege_type = p.name)) then
    execute format('grant %s to %I', statement, role);
  end if;
end $$;

-- Grants the role of an executor the privileges on schema backfill that its batches need. Each
-- function that a batch calls must be in this list.
create or replace function backfill._grant_executor(run_as name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  f record;
begin
  -- A grant updates a row of the catalog, so one of two concurrent grants would fail.
  lock table backfill.schema_version in share row exclusive mode;
  perform backfill._grant(n.nspacl, array['USAGE'], 'usage on schema backfill', run_as) from pg_namespace n where n.nspname = 'backfill';
  for f in select p.oid::regprocedure as signature, p.proacl from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'backfill' and p.proname = any (array['advance', 'advance_deferring', 'retry_deferred', 'unchanged', 'not_rewritten', 'same_triggers', 'suppressible', 'all_changed',
              'key_text', '_server_identity', '_fingerprint', '_other_table', '_written_since', 'rollout_begun', 'rollout_recorded', 'rollout_locked', 'rollout_unlocking']) loop
    perform backfill._grant(f.proacl, array['EXECUTE'], format('execute on function %s', f.signature), run_as);
  end loop;
end $$;

create or replace function backfill._register_executor(login name, run_as name, one_url boolean, trusts_owners boolean default false) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.executor (login, run_as, one_url, is_superuser, trusts_owners)
  values (login, run_as, one_url, (select r.rolsuper from pg_roles r where r.rolname = _register_executor.login), trusts_owners)
  on conflict on constraint executor_pkey do update
     set run_as = excluded.run_as, one_url = excluded.one_url, is_superuser = excluded.is_superuser, trusts_owners = excluded.trusts_owners, registered_at = now();
  if run_as <> current_user then
    perform backfill._grant_executor(run_as);
  end if;
  if one_url then
    -- A queued job moves to the role of the daemon's single url if it was enqueued without run_as
    -- and no executor serves its role. Its submitter must be allowed to run jobs as the new role.
    with moved as (
      update backfill.job j set run_as = _register_executor.run_as
       where j.state = 'queued' and j.run_as_asked is null and j.run_as <> _register_executor.run_as
         and not exists (select from backfill.executor e where e.run_as = j.run_as)
         and backfill._may_run_as(j.enqueued_by, _register_executor.run_as)
      returning j.id)
    update backfill.slice s set run_as = _register_executor.run_as from moved m where s.job_id = m.id;
  end if;
end $$;

create or replace function backfill._register_worker(worker uuid, host text, pid integer, version text, run_as name[], ttl interval) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform set_config('synchronous_commit', 'local', true);
  insert into backfill.worker as w (id, host, pid, version, run_as, expires_at, ttl) values (worker, host, pid, version, run_as, clock_timestamp() + _register_worker.ttl, _register_worker.ttl)
  on conflict (id) do update set heartbeat_at = clock_timestamp(), expires_at = excluded.expires_at, ttl = excluded.ttl;
  delete from backfill.worker w where w.expires_at < clock_timestamp() - interval '1 hour';
end $$;

-- Deregisters a daemon that exits cleanly, and immediately releases the slices that the daemon
-- still holds.
create or replace function backfill._deregister_worker(worker uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  l record;
begin
  for l in select x.slice_id, x.token from backfill.lease x where x.holder = _deregister_worker.worker loop
    perform backfill._release(l.slice_id, l.token);
  end loop;
  delete from backfill.worker w where w.id = _deregister_worker.worker;
end $$;

-- Renews the registration of a daemon and the leases that it still holds, in one round trip. The
-- argument named held lists the leases and what the daemon reports about them. The daemon has lost
-- each slice that is in this argument but not in the result. A lease that another transaction has
-- locked is in the result, but it is not renewed. So one job cannot delay the renewal of the leases
-- of other jobs.
create or replace function backfill._heartbeat(worker uuid, ttl interval, held jsonb) returns table (slice bigint, desired text, revision integer, live integer, renewed boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  -- The heartbeat does not wait for a synchronous standby, so that the daemon counts as running and
  -- keeps its leases while the standby is away.
  perform set_config('synchronous_commit', 'local', true);
  update backfill.worker w set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + _heartbeat.ttl, ttl = _heartbeat.ttl where w.id = _heartbeat.worker;
  return query
  with h as (select * from jsonb_to_recordset(held) as x(slice bigint, token uuid, rate double precision, steady_rate double precision, time_share double precision, reason text, text text, throttled_by text, throttled_text text)),
  -- The leases are locked in the same order as in the functions that drop the leases of a job, to
  -- avoid deadlocks with these functions.
  locked as materialized (
    select l.slice_id from backfill.lease l join h on h.slice = l.slice_id and h.token = l.token order by l.slice_id for update of l skip locked),
  renewed as (
    update backfill.lease l
       set expires_at = clock_timestamp() + _heartbeat.ttl, ttl = _heartbeat.ttl, rows_per_second = h.rate, steady_rows_per_second = h.steady_rate, time_share = h.time_share,
           -- A worker that has not reported yet sends no rate.
           waiting_reason = case when h.rate is null then l.waiting_reason else h.reason end, waiting_text = case when h.rate is null then l.waiting_text else h.text end,
           throttled_by = h.throttled_by, throttled_text = h.throttled_text
      from h, locked k where l.slice_id = h.slice and l.token = h.token and k.slice_id = l.slice_id
    returning l.slice_id, l.job_id)
  select r.slice_id, d.desired, d.revision, d.live, true from renewed r cross join lateral backfill._desired_state(r.job_id) d
  union all
  select l.slice_id, d.desired, d.revision, d.live, false
    from backfill.lease l join h on h.slice = l.slice_id and h.token = l.token cross join lateral backfill._desired_state(l.job_id) d
   where not exists (select from locked k where k.slice_id = l.slice_id);
end $$;

-- Makes due slices ready, and completes the pauses and cancellations that were requested. The
-- function is cheap, so each daemon calls it regularly.
create or replace function backfill._run_housekeeping() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  n integer := 0;
begin
  -- Housekeeping must wait neither for a synchronous standby nor for the locks of one job.
  perform set_config('synchronous_commit', 'local', true);
  perform set_config('lock_timeout', '100', true);
  -- If the clock of the server was set back, a lease or a registration would last until the clock
  -- reaches its old time again.
  update backfill.lease l set expires_at = clock_timestamp() + l.ttl
   where l.slice_id in (select x.slice_id from backfill.lease x where x.expires_at > clock_timestamp() + x.ttl + interval '1 s' for update skip locked);
  update backfill.worker w set expires_at = clock_timestamp() + w.ttl
   where w.id in (select x.id from backfill.worker x where x.expires_at > clock_timestamp() + x.ttl + interval '1 s' for update skip locked);
  for c in select j.id from backfill.job j where j.id in (select x.job_id from backfill.slice x where x.state = 'held' and x.due_at <= clock_timestamp())
            order by j.priority, j.id limit 1000 for update skip locked loop
    begin
      perform backfill._schedule_slices(c.id);
      n := n + 1;
    exception when lock_not_available then
      null; -- Another session has locked a slice. The next turn tries again.
    end;
  end loop;
  for c in select x.id from backfill.job x where x.state in ('queued', 'running', 'verifying') and x.desired_state <> 'running' order by x.id limit 1000 for update skip locked loop
    begin
      perform backfill._settle(c.id);
    exception
      when lock_not_available then null;
      when others then
      -- The other jobs must not wait because of an error in one job.
      raise warning 'could not end or pause job %: %', c.id, sqlerrm;
    end;
  end loop;
  if n > 0 then
    perform backfill._notify_daemons();
  end if;
end $$;

-- Returns whether the daemon and its executors are registered. They are not if the schema was
-- dropped and installed again.
create or replace function backfill._is_registered(worker uuid, run_as name[]) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from backfill.worker w where w.id = _is_registered.worker)
     and not exists (select from unnest(_is_registered.run_as) r(role) where not exists (select from backfill.executor e where e.run_as = r.role))
$$;

-- Stores the time until which the database's window is closed for this daemon, or null while the
-- window is open.
create or replace function backfill._set_worker_window(worker uuid, until timestamptz) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.worker w set closed_until = _set_worker_window.until where w.id = _set_worker_window.worker and w.closed_until is distinct from _set_worker_window.until
$$;

-- Stores a daemon's duty cycle, and the duty cycle that the budgets alone would allow
-- (budget_duty_cycle). Returns the mean budget_duty_cycle of the other running daemons. A daemon
-- without a slice or without budgets does not count. For a daemon whose budget_duty_cycle is null,
-- its duty_cycle is used.
create or replace function backfill._share_duty_cycle(worker uuid, duty_cycle double precision, budget_duty_cycle double precision) returns double precision
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update backfill.worker w set duty_cycle = _share_duty_cycle.duty_cycle, budget_duty_cycle = coalesce(_share_duty_cycle.budget_duty_cycle, 0)
   where w.id = _share_duty_cycle.worker
     and (w.duty_cycle, w.budget_duty_cycle) is distinct from (_share_duty_cycle.duty_cycle, coalesce(_share_duty_cycle.budget_duty_cycle, 0));
  return (select avg(case when w.budget_duty_cycle is null then w.duty_cycle else nullif(w.budget_duty_cycle, 0) end)
            from backfill.worker w where w.id <> _share_duty_cycle.worker and w.expires_at > clock_timestamp());
end $$;
