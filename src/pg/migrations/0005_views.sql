-- The public views. They run with the owner's rights and show each reader what is theirs to see: readers and
-- operators all, a submitter the jobs of roles that they are members of. Rows' own data (row_errors) only to
-- operators and to those roles.

create function backfill._sees_all() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where r.rolname in ('backfill_reader', 'backfill_operator', 'pg_monitor') and pg_has_role(r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(n.nspowner, 'MEMBER'))
$$;

create view backfill._visible with (security_barrier) as
select j.* from backfill.job j
 where (select backfill._sees_all()) or j.enqueued_by in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'));

create view backfill.jobs with (security_barrier) as
select j.id, j.name, j.kind, j.state, j.desired_state,
       case
         when j.state in ('succeeded', 'failed', 'cancelled', 'paused') then null
         when j.needs_approval and j.approved_at is null then 'approval'
         when j.state = 'queued' and j.run_at > pg_catalog.clock_timestamp() then 'run_at'
         when w.paused_all then 'paused_all'
         when l.reason is not null then l.reason
         when l.live > 0 then null
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp())
           then case when exists (select from backfill.executor e where e.run_as = j.run_as) then 'daemon' else 'executor' end
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and j.run_as = any (x.run_as)) then 'executor'
       end as waiting_reason,
       l.waiting_text,
       j.target, j.run_as, j.enqueued_by,
       coalesce(j.rows_scanned, p.scanned, 0) as rows_scanned,
       coalesce(j.rows_changed, p.changed, 0) as rows_changed,
       case when j.finished_at is not null then j.rows_unresolved else coalesce(p.unresolved, 0) end as rows_unresolved,
       j.rows_quarantined,
       j.rows_estimated,
       case when j.state = 'succeeded' then 100.0::float8
            when p.slices > 0 and p.slices = p.finished then 100.0::float8
            when j.rows_estimated > 0 then least(99.9::float8, 100.0 * coalesce(p.scanned, 0) / j.rows_estimated)
            else 0.0::float8 end as percent_done,
       l.rows_per_second,
       case when j.state = 'running' and l.rows_per_second > 0 and j.rows_estimated > 0
            then pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => greatest(0, j.rows_estimated - coalesce(p.scanned, 0)) / l.rows_per_second) end as eta,
       (j.options ->> 'deadline')::timestamptz as deadline,
       j.error, j.hint, j.enqueued_at, j.started_at, j.finished_at, j.verified_at,
       j.set_sql as set, j.filter_sql as filter, j.options, j.priority, j.run_at, j.state_reason as reason
  from backfill._visible j
  cross join backfill.switch w
  left join lateral (
    select pg_catalog.count(*) filter (where s.generation = 1) as slices, pg_catalog.count(*) filter (where s.generation = 1 and s.state in ('done', 'gone')) as finished,
           (pg_catalog.sum(c.rows_scanned) filter (where s.generation = 1))::bigint as scanned, pg_catalog.sum(c.rows_changed)::bigint as changed, pg_catalog.sum(c.rows_unresolved)::bigint as unresolved
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and j.plan is not null) p on true
  left join lateral (
    select pg_catalog.count(*) as live, pg_catalog.sum(x.rows_per_second) as rows_per_second,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_reason) end as reason,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_text) end as waiting_text
      from backfill.lease x where x.job_id = j.id and x.expires_at > pg_catalog.clock_timestamp()) l on true;

create view backfill.slices with (security_barrier) as
select s.job_id, j.name, s.ordinal as slice, s.relation_name as relation, s.state, s.lower, s.upper, c.position,
       c.rows_scanned, c.rows_changed, l.holder, l.expires_at as lease_expires_at, s.generation, c.batches, s.started_at, s.finished_at
  from backfill.slice s
  join backfill._visible j on j.id = s.job_id and j.run = s.run
  join backfill.checkpoint c on c.slice_id = s.id
  left join backfill.lease l on l.slice_id = s.id
 where s.kind = 'walk';

create view backfill.events with (security_barrier) as
select e.at, e.job_id, j.name, e.kind, e.actor, e.message, e.detail
  from backfill.event e left join backfill._visible j on j.id = e.job_id
 where j.id is not null or (e.job_id is null and (select backfill._sees_all()));

create view backfill.row_errors with (security_barrier) as
select e.job_id, j.name, e.relation, e.key, e.sqlstate, e.message, e.attempts, e.first_at, e.last_at, e.resolved_at
  from backfill.row_error e join backfill.job j on j.id = e.job_id
 where (select backfill._is_operator(current_user)) or j.run_as in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'));

create view backfill.workers as
select w.id, w.host, w.pid, w.version, w.started_at, w.heartbeat_at,
       (select pg_catalog.count(*) from backfill.lease l where l.holder = w.id and l.expires_at > pg_catalog.clock_timestamp()) as slices,
       w.expires_at > pg_catalog.clock_timestamp() as alive, w.run_as
  from backfill.worker w;

create view backfill.signals as
select s.signal, s.source, s.kind, s.value, s."limit", s.utilization, pg_catalog.clock_timestamp() - s.sampled_at as age, s.holding, s.reason
  from backfill.signal s;
