-- The last events among thousands of jobs: found by an index, and not by joining all of them with all jobs. So an event
-- keeps what its view tells and asks of the job, of which neither ever changes.

alter table backfill.event add column name text, add column enqueued_by name;
update backfill.event e set name = j.name, enqueued_by = j.enqueued_by from backfill.job j where j.id = e.job_id;
create index event_at on backfill.event (at, id);
create index event_name on backfill.event (name, at, id);

create function backfill._event_before_insert() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
-- A plan from when there were few jobs must not read all of them once they are many.
set enable_seqscan = off as $$
begin
  if new.job_id is not null then
    select j.name, j.enqueued_by into new.name, new.enqueued_by from backfill.job j where j.id = new.job_id;
  end if;
  return new;
end $$;
create trigger event_before_insert before insert on backfill.event for each row execute function backfill._event_before_insert();

-- Newest first. The order is part of the view because the server sorts all of a view that is a security barrier before
-- it takes the first hundred, unless the view comes in that order already.
create or replace view backfill.events with (security_barrier) as
select e.at, e.job_id, e.name, e.kind, e.actor, e.message, e.detail
  from backfill.event e
 where (select backfill._sees_all()) or e.enqueued_by in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'))
 order by e.at desc, e.id desc;

-- What is at work, and what ended lately, among all that ever was.
create index slice_open on backfill.slice (job_id) where state in ('held', 'ready', 'leased');
create index job_ended on backfill.job (finished_at) include (state) where state in ('succeeded', 'failed', 'cancelled');
-- A slice that is removed is looked for in here.
create index row_error_slice on backfill.row_error (slice_id);
