-- Stores the readings of a daemon, each with the time at which it was sampled. Removes the readings
-- that are marked as gone.
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

-- Records an event when a signal begins or stops holding jobs, and when a load reaches its limit or
-- falls well below its limit again. If several daemons report the change at the same moment, only
-- one event is recorded, because the first daemon locks the row of the signal.
create or replace function backfill._signal_changed() returns trigger
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
    perform backfill._record_event(null, case when holds then 'hold' else 'go' end,
      case when holds then coalesce(r.reason, format('%s of %s is at its limit: work is held', r.signal, r.source))
           else format('%s of %s is under its limit again: work resumes', r.signal, r.source) end, detail, null,
      case when holds then backfill._redacted_reason(r) end);
  end if;
  if was_over <> is_over then
    perform backfill._record_event(null, case when is_over then 'shed' else 'grow' end,
      case when is_over then format('%s of %s is over its limit: work slows down', r.signal, r.source)
           else format('%s of %s is well below its limit again', r.signal, r.source) end, detail);
  end if;
  return null;
end $$;
