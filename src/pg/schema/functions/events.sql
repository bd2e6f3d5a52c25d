-- Records an event. The argument `redacted` is the text for readers who may not see the job's rows.
-- It is given only if it differs from the argument `message`.
create or replace function backfill._record_event(job_id bigint, kind text, message text, detail jsonb default null, actor name default null, redacted text default null) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into backfill.event (job_id, kind, message, redacted, detail, actor)
  values (_record_event.job_id, _record_event.kind, _record_event.message, _record_event.redacted, _record_event.detail, coalesce(_record_event.actor, session_user))
$$;

-- Wakes up the daemons that wait for work.
create or replace function backfill._notify_daemons() returns void
language sql set search_path = pg_catalog, pg_temp as $$ select pg_notify('backfill', '') $$;

create or replace function backfill._event_before_insert() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
-- A cached plan that was made while there were few jobs must not scan the whole table once there
-- are many jobs.
set enable_seqscan = off as $$
begin
  if new.job_id is not null then
    select j.name, j.enqueued_by into new.name, new.enqueued_by from backfill.job j where j.id = new.job_id;
  end if;
  -- An event can contain the name of a table that was renamed or attached after the enqueue. A text
  -- that cannot be converted would make the status page and each query of backfill.events fail.
  if not backfill._is_utf8(concat_ws(' ', new.message, new.redacted, new.detail, new.actor)) then
    new.message := backfill._readable(new.message);
    new.redacted := backfill._readable(new.redacted);
    new.actor := backfill._readable(new.actor);
    new.detail := case when backfill._is_utf8(new.detail::text) then new.detail end;
  end if;
  return new;
end $$;

create or replace function backfill._event_after_insert() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  -- How many events of each kind are kept. The number is higher for events without a job (for
  -- example pause_all and forget) than for the events of one job.
  kept constant integer := case when new.job_id is null then 1000 else 100 end;
begin
  if new.job_id is null then
    -- A transaction that stays open must not block the commands of other roles.
    delete from backfill.event e where e.id in (
      select y.id from backfill.event y where y.job_id is null and y.kind = new.kind
         and y.id <= (select x.id from backfill.event x where x.job_id is null and x.kind = new.kind order by x.id desc offset kept limit 1)
       for update skip locked);
  else
    delete from backfill.event e where e.job_id = new.job_id and e.kind = new.kind
       and e.id <= (select x.id from backfill.event x where x.job_id = new.job_id and x.kind = new.kind order by x.id desc offset kept limit 1);
  end if;
  return null;
end $$;
