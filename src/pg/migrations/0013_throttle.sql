-- Daemons that share a database come to the same pace, and what holds the work, and since when, is an event.

-- The share of the time in which each of the daemon's slices works, and how many it has; nothing while it is idle.
alter table backfill.worker add column duty double precision;

-- Tells a daemon's duty, and answers with the mean of the others that are at work.
create function backfill._share_pace(worker uuid, duty double precision) returns double precision
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update backfill.worker w set duty = _share_pace.duty where w.id = _share_pace.worker and w.duty is distinct from _share_pace.duty;
  return (select avg(w.duty) from backfill.worker w where w.id <> _share_pace.worker and w.expires_at > clock_timestamp());
end $$;

create or replace view backfill.workers as
select w.id, w.host, w.pid, w.version, w.started_at, w.heartbeat_at,
       (select pg_catalog.count(*) from backfill.lease l where l.holder = w.id and l.expires_at > pg_catalog.clock_timestamp()) as slices,
       w.expires_at > pg_catalog.clock_timestamp() as alive, w.run_as, w.duty, w.closed_until
  from backfill.worker w;

-- Whether a gauge of load is over its limit; one that was over it stays so until it is well below.
alter table backfill.signal add column over boolean not null default false;

-- As in 0004, with the time at which a signal was read, and not only told; and what is no more is no longer shown.
create or replace function backfill._publish_signals(readings jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from backfill.signal s
   using jsonb_to_recordset(readings) as r(signal text, source text, gone boolean)
   where r.gone and s.signal = r.signal and s.source = r.source;
  insert into backfill.signal as s (signal, source, kind, value, "limit", utilization, holding, reason, over, sampled_at)
  select r.signal, r.source, r.kind, r.value, r."limit", r.utilization, coalesce(r.holding, false), r.reason, coalesce(r.over, false),
         clock_timestamp() - make_interval(secs => coalesce(r.age_seconds, 0))
    from jsonb_to_recordset(readings) as r(signal text, source text, kind text, value double precision, "limit" double precision, utilization double precision, holding boolean, reason text,
                                           over boolean, age_seconds double precision, gone boolean)
   where r.gone is not true
  on conflict (signal, source) do update set kind = excluded.kind, value = excluded.value, "limit" = excluded."limit",
    utilization = excluded.utilization, holding = excluded.holding, reason = excluded.reason, over = excluded.over, sampled_at = excluded.sampled_at
$$;

-- A signal begins to hold the work, or holds it no longer; a gauge is over its limit, or is no longer. Daemons that see it at
-- the same moment tell it once: the row of the signal is locked by the first.
create function backfill._signal_changed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r backfill.signal := case when tg_op = 'DELETE' then old else new end;
  held boolean := tg_op <> 'INSERT' and old.holding;
  holds boolean := tg_op <> 'DELETE' and new.holding;
  was_over boolean := tg_op <> 'INSERT' and old.over;
  is_over boolean := tg_op <> 'DELETE' and new.over;
  detail jsonb := jsonb_build_object('signal', r.signal, 'source', r.source, 'value', r.value, 'limit', r."limit");
begin
  if held <> holds then
    perform backfill._note(null, case when holds then 'hold' else 'go' end,
      case when holds then coalesce(r.reason, format('%s of %s holds the work', r.signal, r.source))
           else format('%s of %s holds the work no longer', r.signal, r.source) end, detail);
  end if;
  if was_over <> is_over then
    perform backfill._note(null, case when is_over then 'shed' else 'grow' end,
      case when is_over then format('%s of %s is over its limit: the work slows down', r.signal, r.source)
           else format('%s of %s is well below its limit again', r.signal, r.source) end, detail);
  end if;
  return null;
end $$;
create trigger signal_held after update on backfill.signal for each row
  when (old.holding <> new.holding or old.over <> new.over) execute function backfill._signal_changed();
create trigger signal_holds after insert on backfill.signal for each row when (new.holding or new.over) execute function backfill._signal_changed();
create trigger signal_is_gone after delete on backfill.signal for each row when (old.holding or old.over) execute function backfill._signal_changed();

-- Gives a slice back because the job's window is closed, and has all its other slices wait until it opens.
create function backfill._close(slice bigint, token uuid, until timestamptz) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  if j.closed_until is distinct from _close.until then
    update backfill.job x
       set closed_until = _close.until,
           -- Claimed for its plan, and not begun.
           state = case when x.plan is null and x.state = 'running' then 'queued' else x.state end,
           started_at = case when x.plan is null then null else x.started_at end
     where x.id = j.id;
    perform backfill._note(j.id, 'window', format('its window is closed, and opens at %s', _close.until));
  end if;
  return backfill._release(slice, token);
end $$;

-- Called again when the window has opened.
create function backfill._rest(worker uuid, until timestamptz) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.worker w set closed_until = _rest.until where w.id = _rest.worker and w.closed_until is distinct from _rest.until
$$;

-- As in 0004, and once in a transaction: ours is the first, and what comes after it, in a trigger that waits for the commit,
-- would be the job's own code.
create or replace function backfill.advance(slice bigint, token uuid, place tid, from_position text[], to_position text[],
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
     and c.position is not distinct from advance.from_position and c.xmin <> pg_current_xact_id()::xid
  returning c.ctid into v_place;
  if v_place is null then
    update backfill.checkpoint c
       set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
           rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done
     where c.slice_id = advance.slice and c.token = advance.token and not c.done
       and c.position is not distinct from advance.from_position and c.xmin <> pg_current_xact_id()::xid
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
