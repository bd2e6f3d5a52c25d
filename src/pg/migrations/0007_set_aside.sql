-- Rows that can't be changed now, or at all: set aside in the batch's own transaction, and returned to. And what
-- lets a daemon of the last release work beside one of this one.

-- The version of the protocol that a daemon must speak to work on the slice: 1 is the first release's.
alter table backfill.slice add column needs integer not null default 1;

-- A slice that waits for rows which others have locked is not offered again before.
alter table backfill.slice add column not_before timestamptz;

create or replace function backfill._arrange(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  open boolean;
begin
  select * into j from backfill.job where id = _arrange.job_id;
  open := j.state in ('queued', 'running', 'verifying') and j.desired_state = 'running'
          and (not j.needs_approval or j.approved_at is not null);
  update backfill.slice s
     set state = case when open and greatest(j.run_at, s.not_before) <= clock_timestamp() then 'ready' else 'held' end,
         due_at = case when open and greatest(j.run_at, s.not_before) > clock_timestamp() then greatest(j.run_at, s.not_before) end,
         priority = j.priority, run_as = j.run_as
   where s.job_id = _arrange.job_id and s.run = j.run and s.state in ('held', 'ready')
     -- Of an earlier passage only what is to be returned to.
     and (s.generation = j.generation or s.not_before is not null);
end $$;

-- Gives the caller's worker a slice: an expired lease first, else the first that is ready by priority and age.
-- Commits synchronously, whatever the session says: a claim that is lost in a crash could be issued twice.
create function backfill._claim(worker uuid, run_as name[], ttl interval, speaks integer) returns jsonb
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

  for c in
    select l.slice_id, l.job_id from backfill.lease l join backfill.slice x on x.id = l.slice_id
     where l.expires_at < clock_timestamp() and l.run_as = any (_claim.run_as) and x.needs <= _claim.speaks order by l.expires_at limit 20
  loop
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
         where x.run_as = u.role and x.state = 'ready' and x.needs <= _claim.speaks order by x.priority, x.job_id, x.ordinal, x.id limit 64) r
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

  update backfill.slice x set state = 'leased', due_at = null, not_before = null, attempts = x.attempts + 1, started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.id;
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
      'run_as', x.run_as, 'run', x.run, 'leaf', s.relation::bigint, 'options', x.options, 'settings', x.settings, 'revision', x.revision, 'plan', x.plan)
    into answer
    from backfill.job x, backfill.checkpoint k where x.id = s.job_id and k.slice_id = s.id;
  return answer;
end $$;

-- A daemon of the first release: it is offered what it understands.
create or replace function backfill._claim(worker uuid, run_as name[], ttl interval) returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp as $$ select backfill._claim(worker, run_as, ttl, 1) $$;
