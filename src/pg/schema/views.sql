-- The jobs that the current role may see. An upgrade that changes a table also creates this view
-- again, because `j.*` includes only the columns that backfill.job had when the view was created.
create or replace view backfill._visible with (security_barrier) as
select j.* from backfill.job j
 where (select backfill._sees_all()) or j.enqueued_by in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'));

-- Returns one row with two texts: the jobs that occupy the workers (the names of at most three
-- visible jobs, and the number of the other jobs), and a message if a commit of backfilld has
-- waited for a synchronous standby for more than 2 s. The view backfill.jobs reads this view once
-- for all jobs.
create or replace view backfill._busy as
select (select pg_catalog.concat_ws(', ', (select pg_catalog.string_agg(pg_catalog.format('"%s"', v.name), ', ' order by v.id) from (select x.id, x.name from backfill._visible x where x.id = any (o.jobs) order by x.id limit 3) v),
                                    case when o.jobs is not null and pg_catalog.cardinality(o.jobs) > (select pg_catalog.count(*) from (select from backfill._visible x where x.id = any (o.jobs) limit 3) v)
                                         then pg_catalog.cardinality(o.jobs) - (select pg_catalog.count(*) from (select from backfill._visible x where x.id = any (o.jobs) limit 3) v) || ' other jobs' end)
          from (select pg_catalog.array_agg(distinct l.job_id) as jobs from backfill.lease l where l.expires_at > pg_catalog.clock_timestamp()) o where o.jobs is not null) as jobs,
       (select pg_catalog.format('a commit of backfilld waits for a synchronous standby (synchronous_standby_names is %L); start the standby, or change the setting', pg_catalog.current_setting('synchronous_standby_names'))
          from pg_catalog.pg_stat_activity a
         where a.application_name like 'backfilld %' and a.wait_event = 'SyncRep' and a.state_change < pg_catalog.clock_timestamp() - interval '2 s'
           and (a.usename in (select e.login from backfill.executor e) or a.usename = (select pg_catalog.pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace n where n.nspname = 'backfill')) limit 1) as commit;

create or replace view backfill.jobs with (security_barrier) as
select j.id, j.name, case when j.compares is not null then 'compare' else j.kind end as kind, j.state, j.desired_state,
       w.reason as waiting_reason,
       case w.reason
         when 'approval' then pg_catalog.format('a member of backfill_operator must approve the job: select backfill.approve(%L)', j.name)
         when 'run_at' then pg_catalog.format('the job starts at %s; to start it earlier, cancel it, delete it with backfill.forget, and enqueue it again without run_at', j.run_at)
         when 'window' then coalesce(pg_catalog.format('the window of the job opens at %s; to change it: backfill.tune(%L, ''{"window": ...}'')', j.closed_until, j.name),
                                     pg_catalog.format('the window in the configuration of the daemon opens at %s', (select pg_catalog.min(x.closed_until) from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp())), l.waiting_text)
         when 'paused_all' then 'all jobs are paused; a member of backfill_operator can resume them: select backfill.resume_all()'
         when 'daemon' then 'no daemon is running on this database; start one: backfilld run'
         when 'executor' then pg_catalog.format('no running daemon runs jobs as role "%s"; add an executor for this role to the configuration of a daemon', j.run_as)
         when 'worker' then pg_catalog.format('no worker is free; running now: %s. To start this job earlier, pause one of them, or raise "workers" in the configuration of the daemon', (select y.jobs from backfill._busy y))
         when 'commit' then (select y.commit from backfill._busy y)
         when 'locked_rows' then coalesce(l.waiting_text, t.text, pg_catalog.format('the walk is complete, except for rows that other sessions have locked; the job changes them when these transactions end. Sessions that use the table: %s',
             coalesce((select pg_catalog.string_agg(pg_catalog.format('process %s of role %s', y.pid, y.usename), ', ' order by y.pid)
                         from (select distinct b.pid, b.usename from pg_catalog.pg_locks k join pg_catalog.pg_stat_activity b on b.pid = k.pid
                                where k.locktype = 'relation' and k.granted and k.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()) and k.mode in ('RowShareLock', 'RowExclusiveLock')
                                  and coalesce(b.application_name, '') not like 'backfilld %'
                                  and k.relation in (select coalesce(s.relation, j.relation) from backfill.slice s where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.state not in ('done', 'gone')) limit 3) y), 'none at this moment')))
         else coalesce(l.waiting_text, t.text)
       end as waiting_text,
       j.target, j.run_as, j.enqueued_by,
       coalesce(j.rows_scanned, p.scanned, 0) as rows_scanned,
       coalesce(j.rows_changed, p.changed, 0) as rows_changed,
       coalesce(p.unresolved, 0)::bigint as rows_unresolved,
       j.rows_quarantined,
       j.rows_estimated,
       case when p.slices > 0 and p.slices = p.finished then 100.0::float8
            when j.rows_estimated > 0 then least(99.9::float8, 100.0 * coalesce(p.scanned, 0) / j.rows_estimated)
            else 0.0::float8 end as percent_done,
       l.rows_per_second,
       -- An eta more than about ten years ahead is not shown, because no useful prediction can be
       -- made from a rate that is almost zero.
       case when j.rows_estimated > 0 and e.rows_left < e.rate * 3e8
            then pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => e.rows_left / e.rate) end as eta,
       (j.options ->> 'deadline')::timestamptz as deadline,
       j.error, j.hint, j.enqueued_at, j.started_at, j.finished_at, j.verified_at,
       j.set_sql as set, j.filter_sql as filter, j.options, j.priority, j.run_at, j.state_reason as reason,
       case when w.reason is null then l.throttled_by end as throttled_by,
       case when w.reason is null then l.throttled_text end as throttled_text,
       l.time_share
  from backfill._visible j
  left join lateral (
    select pg_catalog.count(*) filter (where s.generation = 1) as slices, pg_catalog.count(*) filter (where s.generation = 1 and s.state in ('done', 'gone')) as finished,
           (pg_catalog.sum(c.rows_scanned) filter (where s.generation = 1))::bigint as scanned, pg_catalog.sum(c.rows_changed)::bigint as changed, pg_catalog.sum(c.rows_unresolved)::bigint as unresolved
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and j.plan is not null) p on true
  left join lateral (
    select pg_catalog.count(*) as live, pg_catalog.sum(x.rows_per_second) as rows_per_second, pg_catalog.avg(x.steady_rows_per_second) * pg_catalog.count(*) as steady_rows_per_second,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_reason) end as reason,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_text) end as waiting_text,
           pg_catalog.min(x.throttled_by) as throttled_by, pg_catalog.min(x.throttled_text) as throttled_text, pg_catalog.avg(x.time_share) as time_share
      from backfill.lease x where x.job_id = j.id and x.expires_at > pg_catalog.clock_timestamp()) l on true
  -- The waiting reasons of unclaimed slices. The last holder of a slice stored its reason when it
  -- released the slice.
  left join lateral (
    select pg_catalog.min(s.waiting_reason) as reason, pg_catalog.min(s.waiting_text) as text
      from backfill.slice s where s.job_id = j.id and s.run = j.run and s.state in ('ready', 'held') and s.waiting_reason is not null) t on true
  -- Whether the walk has only deferred rows left. Usually other sessions have locked these rows.
  left join lateral (
    select pg_catalog.bool_and(c.done and exists (select from backfill.deferred_row y where y.slice_id = s.id)) as waits
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.state not in ('done', 'gone') and j.state = 'running') a on true
  -- The rows that the walk, or the verification, still has to scan, and its rate. If no slice has a
  -- steady rate yet, the rate is the average since the first slice was claimed. The average is used
  -- only from 5 s after that claim, and only while rows are processed; otherwise the rate is null.
  left join lateral (
    select greatest(0, j.rows_estimated - d.scanned) as rows_left,
           coalesce(l.steady_rows_per_second, case when l.rows_per_second > 0 and d.seconds > 5 then d.scanned / d.seconds end) as rate
      from (select coalesce(pg_catalog.sum(c.rows_scanned), 0)::float8 as scanned, extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.min(s.started_at))::float8 as seconds
              from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
             where s.job_id = j.id and s.run = j.run
               and case j.state when 'running' then s.kind = 'walk' and s.generation = 1
                                when 'verifying' then s.kind = 'verify' and s.generation = j.generation end) d) e on true
  left join lateral (
    select case
         when j.state = 'paused' then null
         when j.needs_approval and j.approved_at is null then 'approval'
         when j.state = 'queued' and j.run_at > pg_catalog.clock_timestamp() then 'run_at'
         when j.closed_until > pg_catalog.clock_timestamp() then 'window'
         when (select s.paused_all from backfill.switch s) then 'paused_all'
         when l.reason is not null then l.reason
         when j.state = 'running' and a.waits then 'locked_rows'
         when l.live > 0 and l.rows_per_second > 0 then null
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp())
           then 'daemon'
         when (select y.commit is not null from backfill._busy y) then 'commit'
         when l.live > 0 then null
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and j.run_as = any (x.run_as)) then 'executor'
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and j.run_as = any (x.run_as)
                             and (x.closed_until is null or x.closed_until <= pg_catalog.clock_timestamp())) then 'window'
         when t.reason is not null then t.reason
         when (select y.jobs is not null from backfill._busy y) then 'worker'
       end as reason) w on true
 where j.state in ('queued', 'running', 'paused', 'verifying')
union all
select j.id, j.name, case when j.compares is not null then 'compare' else j.kind end, j.state, j.desired_state, null, null, j.target, j.run_as, j.enqueued_by,
       coalesce(j.rows_scanned, 0), coalesce(j.rows_changed, 0), j.rows_unresolved, j.rows_quarantined, j.rows_estimated,
       case when j.state = 'succeeded' then 100.0::float8
            when j.rows_estimated > 0 then least(99.9::float8, 100.0 * coalesce(j.rows_scanned, 0) / j.rows_estimated)
            else 0.0::float8 end,
       null, null, (j.options ->> 'deadline')::timestamptz,
       j.error,
       coalesce(j.hint, case when j.state = 'succeeded' and j.rows_unresolved > 0 then pg_catalog.format(
         '%s row%s still match%s the filter after the update. Each was updated once; the filter cannot distinguish updated rows from other rows. Inspect: select * from %s where (%s) limit 20;',
         j.rows_unresolved, case when j.rows_unresolved <> 1 then 's' end, case when j.rows_unresolved = 1 then 'es' end, j.target, j.filter_sql) end),
       j.enqueued_at, j.started_at, j.finished_at, j.verified_at,
       j.set_sql, j.filter_sql, j.options, j.priority, j.run_at, j.state_reason, null, null, null
  from backfill._visible j where j.state in ('succeeded', 'failed', 'cancelled');

create or replace view backfill.slices with (security_barrier) as
select s.job_id, j.name, s.ordinal as slice, s.relation_name as relation, s.state, s.lower, s.upper, c.position,
       c.rows_scanned, c.rows_changed, l.holder, l.expires_at as lease_expires_at, s.generation, c.batches, s.started_at, s.finished_at
  from backfill.slice s
  join backfill._visible j on j.id = s.job_id and j.run = s.run
  join backfill.checkpoint c on c.slice_id = s.id
  left join backfill.lease l on l.slice_id = s.id
 where s.kind = 'walk';

-- The newest events come first. Because the view is a security barrier, the planner does not merge
-- it into a query that has `order by` and `limit`. If the view had no order of its own, such a
-- query would sort all events instead of reading the newest ones from an index.
create or replace view backfill.events with (security_barrier) as
select e.at, e.job_id, e.name, e.kind, e.actor, e.message, e.detail
  from backfill.event e
 where (select backfill._sees_all()) or e.enqueued_by in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'))
 order by e.at desc, e.id desc;

create or replace view backfill.row_errors with (security_barrier) as
select e.job_id, j.name, e.relation, e.key, e.sqlstate, e.message, e.attempts, e.first_at, e.last_at, e.resolved_at
  from backfill.row_error e join backfill.job j on j.id = e.job_id
 where (select backfill._is_operator(current_user)) or j.run_as in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'));

create or replace view backfill.workers as
select w.id, w.host, w.pid, w.version, w.started_at, w.heartbeat_at,
       (select pg_catalog.count(*) from backfill.lease l where l.holder = w.id and l.expires_at > pg_catalog.clock_timestamp()) as slices,
       w.expires_at > pg_catalog.clock_timestamp() as alive, w.run_as, w.duty_cycle, w.closed_until
  from backfill.worker w;

create or replace view backfill.signals as
select s.signal, s.source, s.kind, s.value, s."limit", s.utilization, pg_catalog.clock_timestamp() - s.sampled_at as age, s.holding, s.reason
  from backfill.signal s;

-- The number of jobs in each state. The halves of the union use different indexes, one for
-- unfinished jobs and one for finished jobs.
create or replace view backfill._queue as
select j.state, pg_catalog.count(*) as jobs from backfill.job j where j.state in ('queued', 'running', 'verifying', 'paused') group by j.state
union all
select j.state, pg_catalog.count(*) from backfill.job j where j.state in ('succeeded', 'failed', 'cancelled') group by j.state;

-- The jobs that have gauges:
-- - running, verifying and paused jobs
-- - the first 50 queued jobs (each daemon reads this view twice a second, so the limit bounds the
--   cost of a long queue)
-- - jobs that finished in the last two minutes
-- - jobs that failed in the last 15 minutes (for the alert BackfilldJobFailed) The view returns at
--   most 1,000 jobs: running and verifying jobs first, then failed jobs, then other unfinished
--   jobs, then other finished jobs. Each of these groups is ordered by priority.
create or replace view backfill._gauges as
select j.name, j.state, j.waiting_reason, j.percent_done / 100 as progress, (j.rows_estimated - j.rows_scanned)::float8 as remaining_rows,
       extract(epoch from j.eta)::float8 as eta,
       case when j.finished_at is null then extract(epoch from j.deadline)::float8 end as deadline, coalesce(j.rows_scanned, 0)::int8 as rows_scanned,
       (select coalesce(pg_catalog.sum(c.rows_scanned + c.rows_changed), 0)::int8
          from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id join backfill.job b on b.id = s.job_id and b.run = s.run where s.job_id = j.id) as work
  from (select * from backfill.jobs where state in ('running', 'verifying', 'paused')
        union all
        select * from backfill.jobs
         where id = any (array(select q.id from backfill.job q where q.state = 'queued' order by q.priority, q.id limit 50)) and state = 'queued'
        union all
        select * from backfill.jobs where state in ('succeeded', 'failed', 'cancelled') and finished_at > pg_catalog.now() - interval '15 minutes'
           and (state = 'failed' or finished_at > pg_catalog.now() - interval '2 minutes')) j
 order by j.state in ('running', 'verifying') desc, j.state = 'failed' desc, j.finished_at is not null, j.priority, j.id limit 1000;

comment on view backfill.jobs is 'One row per job: its state, why it waits, its progress, rate, error and hint.';
comment on column backfill.jobs.id is 'Numeric id of the job.';
comment on column backfill.jobs.name is 'Name of the job, unique.';
comment on column backfill.jobs.kind is 'update, delete or compare (a job of a rollout that changes no rows).';
comment on column backfill.jobs.state is 'queued, running, paused, verifying, succeeded, failed or cancelled.';
comment on column backfill.jobs.desired_state is 'The requested state: running, paused or cancelled. It takes effect after the batch in flight.';
comment on column backfill.jobs.waiting_reason is 'Reason why no batch runs; null while rows move, and if the job is paused or finished.';
comment on column backfill.jobs.target is 'Table that the job changes.';
comment on column backfill.jobs.run_as is 'Role that the job runs as.';
comment on column backfill.jobs.enqueued_by is 'Role that enqueued the job.';
comment on column backfill.jobs.rows_scanned is 'Rows processed by the walk, changed or not. Rows that a sweep processes again do not count.';
comment on column backfill.jobs.rows_changed is 'Rows that the walk and its sweeps have changed or deleted.';
comment on column backfill.jobs.rows_unresolved is 'Rows that still matched the filter right after the job had updated them.';
comment on column backfill.jobs.rows_quarantined is 'Rows that are quarantined, because they could not be changed; see row_errors.';
comment on column backfill.jobs.rows_estimated is 'Estimated number of rows of the table at planning, plus the rows of partitions and children that were attached later; null if the job has not been planned.';
comment on column backfill.jobs.percent_done is 'Progress of the walk, 0 to 100.';
comment on column backfill.jobs.rows_per_second is 'Rows processed per second now, over all slices; null while no worker reports a rate.';
comment on column backfill.jobs.eta is 'Time at which the walk or, in state verifying, the verification is expected to finish; null in other states, or if the time cannot be estimated.';
comment on column backfill.jobs.deadline is 'Deadline of the job (option deadline); null if it has none.';
comment on column backfill.jobs.error is 'Error that made the job fail; null if it has not failed.';
comment on column backfill.jobs.hint is 'Hint that says how to fix the error. For a job that succeeded with rows_unresolved above 0, it says how to inspect these rows.';
comment on column backfill.jobs.throttled_by is 'What slows the job down: replica_lag, lock_waits, load, signal or rate; null while the job is held or runs at full speed.';
comment on column backfill.jobs.throttled_text is 'A sentence that explains throttled_by.';
comment on column backfill.jobs.time_share is 'Share of the last few seconds during which batches of the job ran, 0 to 1; null while no worker holds a slice.';
comment on column backfill.jobs.enqueued_at is 'Time at which the job was enqueued.';
comment on column backfill.jobs.started_at is 'Time at which a worker first claimed the job in its current run; null if no worker has claimed it.';
comment on column backfill.jobs.finished_at is 'Time at which the job succeeded, failed or was cancelled; null if it has not finished.';
comment on column backfill.jobs.verified_at is 'Time at which the job was verified; null if it has not been verified.';
comment on column backfill.jobs.waiting_text is 'Explanation of waiting_reason, for example with the measured values; null for a reason that needs none, such as approval.';
comment on column backfill.jobs.set is 'SQL assignments of the job; null if it deletes rows.';
comment on column backfill.jobs.filter is 'SQL condition that selects the rows; null if the job changes every row.';
comment on column backfill.jobs.options is 'Options of the job.';
comment on column backfill.jobs.priority is 'Priority of the job; jobs with lower values are claimed first.';
comment on column backfill.jobs.run_at is 'Time before which no worker claims the job.';
comment on column backfill.jobs.reason is 'Reason given with pause or cancel; null if none was given.';

comment on view backfill.slices is 'One row per slice of the current run of each job. A slice is the range (lower, upper] of the keys of a table. The slices of one table and generation do not overlap.';
comment on column backfill.slices.job_id is 'Numeric id of the job.';
comment on column backfill.slices.name is 'Name of the job.';
comment on column backfill.slices.slice is 'Number of the slice within its generation, from 0.';
comment on column backfill.slices.relation is 'Table that holds the rows of the slice: the target itself, or one of its partitions or children.';
comment on column backfill.slices.state is 'held (cannot be claimed now), ready (can be claimed), leased (claimed), done, or gone (its table is no longer part of the target, or is skipped).';
comment on column backfill.slices.lower is 'Exclusive lower bound: the value of each key column, as text; null if the slice begins at the lowest key.';
comment on column backfill.slices.upper is 'Inclusive upper bound: the value of each key column, as text; null if the partition or child was empty at planning, is skipped, or was attached later and is not planned yet.';
comment on column backfill.slices.position is 'Checkpoint: the last key that was processed, with the value of each key column as text. Before the first batch, it is the same as lower.';
comment on column backfill.slices.rows_scanned is 'Rows processed in the slice, changed or not.';
comment on column backfill.slices.rows_changed is 'Rows changed or deleted in the slice.';
comment on column backfill.slices.holder is 'Worker that holds the lease, see workers.id; null if there is no lease.';
comment on column backfill.slices.lease_expires_at is 'Time at which the lease expires, unless its holder renews it. After this time another worker can take over the slice.';
comment on column backfill.slices.generation is '1 for the walk, above 1 for a sweep.';
comment on column backfill.slices.batches is 'Number of committed batches.';
comment on column backfill.slices.started_at is 'Time at which the slice was first claimed; null if it has not been claimed yet.';
comment on column backfill.slices.finished_at is 'Time at which the slice was finished or closed; null until then.';

comment on view backfill.events is 'Events, newest first. The latest 100 events of each kind are kept for each job, and the latest 1000 of each kind for events without a job.';
comment on column backfill.events.at is 'Time of the event.';
comment on column backfill.events.job_id is 'Numeric id of the job; null if the event does not belong to a job.';
comment on column backfill.events.name is 'Name of the job; null if the event does not belong to a job.';
comment on column backfill.events.kind is 'Kind of event.';
comment on column backfill.events.actor is 'Role that caused the event.';
comment on column backfill.events.message is 'Description of the event.';
comment on column backfill.events.detail is 'Details of the event, as JSON; null if there are none.';

comment on view backfill.row_errors is 'Rows that could not be changed, with their error. A row is quarantined until resolved_at is set.';
comment on column backfill.row_errors.job_id is 'Numeric id of the job.';
comment on column backfill.row_errors.name is 'Name of the job.';
comment on column backfill.row_errors.relation is 'Table that holds the row.';
comment on column backfill.row_errors.key is 'Key of the row: a JSON object with the value of each key column.';
comment on column backfill.row_errors.sqlstate is 'SQLSTATE of the last error; 09000 if a BEFORE trigger suppressed the change.';
comment on column backfill.row_errors.message is 'Message of the last error.';
comment on column backfill.row_errors.attempts is 'How often the row was quarantined: once in the walk, and once for each retry that failed.';
comment on column backfill.row_errors.first_at is 'Time of the first failure.';
comment on column backfill.row_errors.last_at is 'Time of the last failure.';
comment on column backfill.row_errors.resolved_at is 'Time at which a retry changed the row, or found that it needs no change any more; null while the row is quarantined.';

comment on view backfill.workers is 'One row per daemon that serves this database. The row of a daemon that did not exit cleanly remains for about an hour.';
comment on column backfill.workers.id is 'Id of the daemon, new at each start.';
comment on column backfill.workers.host is 'Host name.';
comment on column backfill.workers.pid is 'Process id.';
comment on column backfill.workers.version is 'Version of backfilld.';
comment on column backfill.workers.started_at is 'Time at which the daemon registered.';
comment on column backfill.workers.heartbeat_at is 'Time of the last heartbeat.';
comment on column backfill.workers.slices is 'Number of slices for which the daemon holds a valid lease.';
comment on column backfill.workers.alive is 'True while the registration of the daemon has not expired. Each heartbeat renews it.';
comment on column backfill.workers.run_as is 'Roles whose jobs the daemon runs.';
comment on column backfill.workers.duty_cycle is 'Duty cycle: share of the time in which batches of a slice may run, 0 to 1; null while the daemon has no slice.';
comment on column backfill.workers.closed_until is 'Time at which the window of the database opens again for this daemon; null if the window is open.';

comment on view backfill.signals is 'The last reading of each signal that the throttle samples.';
comment on column backfill.signals.signal is 'Name of the signal.';
comment on column backfill.signals.source is 'Source of the reading, for example a replica, a replication slot or the server.';
comment on column backfill.signals.kind is 'budget (holds jobs once the value reaches the limit), load (slows jobs down) or shown (has no effect on jobs).';
comment on column backfill.signals.value is 'The reading, in the unit of the signal; null if the signal could not be read.';
comment on column backfill.signals."limit" is 'Limit of the signal; null if it has none.';
comment on column backfill.signals.utilization is 'value / limit; null if value is null, or if the signal is only shown.';
comment on column backfill.signals.age is 'Age of the reading (interval).';
comment on column backfill.signals.holding is 'True while the signal holds jobs.';
comment on column backfill.signals.reason is 'Reason why the signal holds jobs, or why it could not be read; null otherwise.';

-- The rollouts that the current role may see.
create or replace view backfill._visible_rollouts with (security_barrier) as
select r.* from backfill.rollout r
 where (select backfill._sees_all()) or r.started_by in (select x.rolname from pg_catalog.pg_roles x where pg_catalog.pg_has_role(x.oid, 'MEMBER'));

create or replace view backfill.rollouts with (security_barrier) as
select r.id, r.name, r.kind, r.target as table_name, r.stage, r.state, r.desired_state,
       w.reason as waiting_reason,
       case w.reason
         when 'paused_all' then 'all jobs and rollouts are paused; a member of backfill_operator can resume them: select backfill.resume_all()'
         when 'daemon' then 'no daemon is running on this database; start one: backfilld run'
         when 'executor' then pg_catalog.format('no running daemon runs statements as role "%s"; add an executor for this role to the configuration of a daemon', r.run_as)
         when 'worker' then 'the daemons carry out other rollouts: '
           || coalesce((select pg_catalog.string_agg(pg_catalog.format('"%s"', x.name), ', ' order by x.id) from (select o.id, o.name from backfill._visible_rollouts o where o.expires_at > pg_catalog.clock_timestamp() order by o.id limit 3) x), 'those of other roles')
           || '. A daemon carries out three rollouts at a time, and at most two of the same role'
         when 'job' then coalesce((select pg_catalog.format('job "%s" is %s%s%s', j.name, j.state, ', ' || pg_catalog.round(j.percent_done::pg_catalog.numeric, 1) || ' %', ', waiting: ' || j.waiting_text) from backfill.jobs j where j.id = r.job_id and j.finished_at is null), r.waiting_text)
         else case when w.reason is not null then r.waiting_text end end as waiting_text,
       r.since, (select j.name from backfill._visible j where j.id = r.job_id) as job, r.error, r.hint,
       r.until, r.started_by, r.run_as, r.state_reason as reason, r.started_at, r.finished_at,
       case when r.spec ->> 'on_error' = 'null' and r.job_id is not null then (select pg_catalog.count(*) from backfill.row_error e where e.job_id = r.job_id and e.resolved_at is null) end as rows_unverified
  from backfill._visible_rollouts r
  left join lateral (
    select case
      when r.state not in ('running', 'waiting', 'rolling_back') or r.desired_state = 'paused' then null
      when r.state = 'waiting' then r.waiting_reason
      when (select s.paused_all from backfill.switch s) then 'paused_all'
      when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp()) then 'daemon'
      when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and r.run_as = any (x.run_as)) then 'executor'
      when r.token is null and r.due_at < pg_catalog.clock_timestamp() - interval '3 s' then 'worker'
      else r.waiting_reason end as reason) w on true;
comment on view backfill.rollouts is 'The rollouts that the current role may see.';
comment on column backfill.rollouts.id is 'Number of the rollout; its jobs have it at the end of their names.';
comment on column backfill.rollouts.name is 'Name of the rollout.';
comment on column backfill.rollouts.kind is 'add_column.';
comment on column backfill.rollouts.table_name is 'Schema and name of the table.';
comment on column backfill.rollouts.desired_state is 'running or paused.';
comment on column backfill.rollouts.waiting_text is 'What the rollout waits for, and what an operator can do.';
comment on column backfill.rollouts.error is 'Error that made the rollout fail; after a rollback, a note if the schema of the table differs from the schema before the rollout.';
comment on column backfill.rollouts.hint is 'What to do about the error.';
comment on column backfill.rollouts.rows_unverified is 'Rows in which the column stays null because the expression failed in the last job of the rollout (on_error: null); backfill.row_errors lists them.';
comment on column backfill.rollouts.until is 'The last stage that the daemons reach without backfill.rollout_advance.';
comment on column backfill.rollouts.started_by is 'Role that started the rollout.';
comment on column backfill.rollouts.run_as is 'Role that runs the statements: the owner of the table.';
comment on column backfill.rollouts.reason is 'Reason given with backfill.rollout_pause.';
comment on column backfill.rollouts.started_at is 'Time at which the rollout was started.';
comment on column backfill.rollouts.finished_at is 'Time at which the rollout was done or rolled back; null if it is unfinished.';
comment on column backfill.rollouts.stage is 'The last stage that is complete: planned, expanded, syncing, backfilled, verified, constrained, switched or contracted.';
comment on column backfill.rollouts.state is 'running, waiting (for backfill.rollout_advance), failed, rolling_back, rolled_back or done.';
comment on column backfill.rollouts.waiting_reason is 'What the rollout waits for: advance, job, lock, worker, daemon, executor or paused_all; null while a statement runs.';
comment on column backfill.rollouts.since is 'Time at which the stage was reached.';
comment on column backfill.rollouts.job is 'The job that works for the next stage.';

create or replace view backfill.rollout_statements with (security_barrier) as
select r.name, d.stage, d.sql, d.lock, d.started_at, d.waited, d.held, d.attempts, d.error, d.undo, d.done_at, d.committed
  from backfill._visible_rollouts r join backfill.rollout_statement d on d.rollout_id = r.id order by d.id;
comment on view backfill.rollout_statements is 'The statements that rollouts have begun.';
comment on column backfill.rollout_statements.name is 'Name of the rollout.';
comment on column backfill.rollout_statements.stage is 'The stage to which the statement belongs.';
comment on column backfill.rollout_statements.sql is 'The statement.';
comment on column backfill.rollout_statements.started_at is 'Time of the first attempt.';
comment on column backfill.rollout_statements.error is 'Error of the last attempt; null if it succeeded.';
comment on column backfill.rollout_statements.lock is 'The strongest lock on a table that the statement needs.';
comment on column backfill.rollout_statements.waited is 'How long the last attempt waited for the lock that blocks the application.';
comment on column backfill.rollout_statements.held is 'How long the statement held its locks, until its commit began.';
comment on column backfill.rollout_statements.committed is 'How long the commit took, until the daemon had the answer. The locks are held until the commit, also while it waits for a synchronous standby.';
comment on column backfill.rollout_statements.attempts is 'Number of attempts so far.';
comment on column backfill.rollout_statements.undo is 'True if the statement undoes an earlier one.';
comment on column backfill.rollout_statements.done_at is 'Time at which the statement was complete; null if it is not.';
