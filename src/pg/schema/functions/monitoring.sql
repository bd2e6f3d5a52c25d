-- Daemons and commands use these functions to get the data for the gauges, the status page and
-- backfilld doctor.

-- Returns the time at which the longest-waiting queued job began to wait for a worker, as a Unix
-- time. Returns null if no job is waiting. A queued job does not count as waiting:
-- - before its run_at or its approval
-- - while its window is closed
-- - while the windows of all daemons that serve its role are closed
-- - while all work is paused
create or replace function backfill._oldest_queued() returns double precision
language sql stable set search_path = pg_catalog, pg_temp as $$
  select extract(epoch from min(greatest(j.queued_at, j.run_at, j.approved_at, j.closed_until, (select w.set_at from backfill.switch w))))::float8 from backfill.job j
   where j.state = 'queued' and j.desired_state = 'running' and j.run_at <= clock_timestamp() and (not j.needs_approval or j.approved_at is not null)
     and (j.closed_until is null or j.closed_until <= clock_timestamp())
     and not (select w.paused_all from backfill.switch w)
     and coalesce((select bool_or(x.closed_until is null or x.closed_until <= clock_timestamp()) from backfill.worker x
                    where x.expires_at > clock_timestamp() and j.run_as = any (x.run_as)), true)
$$;

-- Returns two ratios for each of at most 50 running, paused or verifying jobs. The first is the
-- current size of the job's tables divided by their size at planning. The second is the same ratio
-- for the indexes. A size is the sum over all tables in which the job has slices.
create or replace function backfill._growth() returns table (job_name text, table_ratio double precision, index_ratio double precision)
language sql volatile set search_path = pg_catalog, pg_temp as $$
  select j.name, x.table_bytes / nullif((j.plan #>> '{sizes,table_bytes}')::float8, 0), x.index_bytes / nullif((j.plan #>> '{sizes,index_bytes}')::float8, 0)
    from (select * from backfill.job j where j.state in ('running', 'paused', 'verifying') and j.plan ? 'sizes' order by j.priority, j.id limit 50) j,
         lateral (select sum(pg_table_size(r.relation))::float8 as table_bytes, sum(pg_indexes_size(r.relation))::float8 as index_bytes
                    from (select distinct coalesce(s.relation, j.relation) as relation from backfill.slice s where s.job_id = j.id and s.run = j.run and s.kind = 'walk') r) x
$$;

-- Returns the IDs of the jobs that the status page shows. These are at most 50 unfinished jobs, the
-- last 10 jobs that failed, and the last 10 jobs that succeeded or were cancelled. Of the
-- unfinished jobs, running jobs come first, then verifying, paused and queued jobs, by priority
-- within a state.
create or replace function backfill._status_jobs() returns bigint[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select j.id from backfill.job j where j.state in ('running', 'verifying', 'paused', 'queued')
                order by array_position(array['running', 'verifying', 'paused', 'queued'], j.state), j.priority, j.id limit 50)
      || array(select j.id from backfill.job j where j.state = 'failed' order by j.finished_at desc limit 10)
      || array(select j.id from backfill.job j where j.state in ('succeeded', 'cancelled') order by j.finished_at desc limit 10)
$$;

-- Returns the reason of a signal, but leaves out any message that some readers may not see. If a
-- user's own signal could not be read, its reason contains the server's message about the user's
-- query.
create or replace function backfill._redacted_reason(s backfill.signal) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when s.signal = 'signal' and s.value is null then format('signal %s could not be read; see backfill.signals for the reason', s.source) else s.reason end
$$;

-- Returns the content of the status page for one database, as one JSON object. jobs is the result
-- of _status_jobs.
create or replace function backfill._status(jobs bigint[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select json_build_object(
    'read_at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'paused_all', (select json_build_object('reason', w.reason, 'by', w.set_by, 'at', to_char(w.set_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                     from backfill.switch w where w.paused_all),
    'queue', (select coalesce(json_object_agg(q.state, q.jobs), '{}') from (
      -- The halves of the union use different indexes.
      select j.state, count(*) as jobs from backfill.job j where j.state in ('queued', 'running', 'verifying', 'paused') group by j.state
      union all
      select j.state, count(*) from backfill.job j where j.state in ('succeeded', 'failed', 'cancelled') group by j.state) q),
    'jobs', (
      select coalesce(json_agg(x order by array_position(_status.jobs, x.id)), '[]')
        from (
          select j.id, j.name, j.kind, j.state, j.desired_state, j.waiting_reason,
               -- If a user's own signal could not be read, waiting_text contains the server's
               -- message about the user's query.
               case when j.waiting_reason = 'signal' and exists (select from backfill.signal s where s.signal = 'signal' and s.value is null)
                    then (select string_agg(backfill._redacted_reason(s), '; ' order by s.source) from backfill.signal s where s.signal = 'signal' and s.reason is not null)
                    else j.waiting_text end as waiting_text,
               j.target, j.run_as, j.enqueued_by,
                 j.throttled_by, j.throttled_text, j.time_share,
                 j.rows_scanned, j.rows_changed, j.rows_unresolved, j.rows_quarantined, j.rows_estimated, j.percent_done, j.rows_per_second,
                 to_char(j.eta at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as eta,
                 extract(epoch from j.eta - clock_timestamp())::float8 as eta_seconds,
                 to_char(j.deadline at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as deadline,
                 coalesce(o.redacted ->> 'error', j.error) as error, case when o.redacted is not null then o.redacted ->> 'hint' when j.error is not null then j.hint end as hint, j.reason,
                 to_char(j.run_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as run_at,
                 to_char(j.enqueued_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as enqueued_at,
                 to_char(j.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as started_at,
                 to_char(j.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as finished_at,
                 to_char(j.verified_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as verified_at,
                 extract(epoch from coalesce(j.finished_at, clock_timestamp()) - j.started_at)::float8 as took_seconds,
                 j.options -> 'max_rows_per_second' as max_rows_per_second,
                 coalesce((select json_agg(s order by s.slice) from (
                    select s.ordinal as slice, coalesce(s.relation_name, j.target) as relation, s.state, c.rows_scanned, c.rows_changed,
                           case when s.state in ('done', 'gone') then 100.0
                                when s.rows_estimated > 0 then least(99.9, 100.0 * c.rows_scanned / s.rows_estimated) end as percent_done,
                           w.host
                      from backfill.job o
                      join backfill.slice s on s.job_id = o.id and s.run = o.run and s.kind = 'walk' and s.generation = 1
                      join backfill.checkpoint c on c.slice_id = s.id
                      left join backfill.lease l on l.slice_id = s.id and l.expires_at > clock_timestamp()
                      left join backfill.worker w on w.id = l.holder
                     where o.id = j.id and j.finished_at is null
                     -- At most 16 slices are shown: first those that a worker holds, then other
                     -- unfinished slices, then finished slices. The result lists them by number.
                     order by l.slice_id is null, s.state in ('done', 'gone'), s.ordinal limit 16) s), '[]') as slices,
                 (select count(*) from backfill.job o join backfill.slice s on s.job_id = o.id and s.run = o.run and s.kind = 'walk' and s.generation = 1
                   where o.id = j.id) as slices_total,
                 coalesce((select json_agg(e order by e.rows desc, e.sqlstate) from (
                    select e.sqlstate, count(*) as rows from backfill.row_error e
                     where e.job_id = j.id and e.resolved_at is null and j.rows_quarantined > 0
                     group by e.sqlstate order by 2 desc, 1 limit 5) e), '[]') as row_errors
            from backfill.jobs j join backfill.job o on o.id = j.id
           where j.id = any (_status.jobs)) x),
    'rollouts', (
      select coalesce(json_agg(x), '[]')
        from (select r.name, r.table_name, r.stage, r.state, r.desired_state, r.until, r.waiting_reason, r.waiting_text, r.error, r.hint,
                     to_char(r.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since
                from backfill.rollouts r where coalesce(r.finished_at > clock_timestamp() - interval '1 day', true) order by r.finished_at is not null, r.id desc limit 20) x),
    'signals', (
      select coalesce(json_agg(x), '[]')
        from (select s.signal, s.source, s.kind, s.value, s."limit", s.utilization, extract(epoch from clock_timestamp() - s.sampled_at)::float8 as age_seconds, s.holding,
                     backfill._redacted_reason(s) as reason
                from backfill.signal s order by s.holding desc, s.utilization desc nulls last, s.signal, s.source limit 40) x),
    'workers', (
      select coalesce(json_agg(x), '[]')
        from (select w.id, w.host, w.pid, w.version, w.slices, to_char(w.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as started_at,
                     extract(epoch from clock_timestamp() - w.heartbeat_at)::float8 as heartbeat_age_seconds
                from backfill.workers w where w.alive order by w.host, w.pid limit 40) x),
    'events', (
      select coalesce(json_agg(x), '[]')
        from (select to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at, e.name, e.kind, e.actor, left(coalesce(e.redacted, e.message), 500) as message
                from backfill.event e order by e.at desc, e.id desc limit 20) x)
  )::text
$$;

-- Returns at most 100 unfinished jobs, for backfilld doctor.
create or replace function backfill._unfinished_jobs() returns table (id bigint, name text, kind text, target text, relation oid, run_as name, has_executor boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select j.id, j.name, j.kind, j.target, j.relation, j.run_as, exists (select from backfill.executor e where e.run_as = j.run_as)
    from backfill.job j where j.finished_at is null order by j.id limit 100
$$;

-- Returns the key of a job's table. Raises BF001 with the reason if the table has no usable key.
create or replace function backfill._key_of_job(job bigint) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select backfill._key_of(j.relation, j.key) from backfill.job j where j.id = _key_of_job.job
$$;

-- Lists up to three sessions that have locked a table or its partitions, the oldest transaction
-- first. Sessions of backfilld itself are left out. Returns null if there are none.
create or replace function backfill._sessions_with_locks(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('process %s of role %s', x.pid, x.usename), ', ' order by x.xact_start)
    from (select distinct a.pid, a.usename, a.xact_start from pg_locks l join pg_stat_activity a on a.pid = l.pid
           where l.locktype = 'relation' and l.granted and (l.relation = _sessions_with_locks.relation or l.relation in (select v.leaf from backfill._leaves(_sessions_with_locks.relation) v))
             and l.database = (select d.oid from pg_database d where d.datname = current_database()) and coalesce(a.application_name, '') not like 'backfilld %'
           order by a.xact_start limit 3) x
$$;
