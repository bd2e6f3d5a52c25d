-- What the status page shows of one database, as one JSON object. $1: the jobs' ids.
select json_build_object(
  'read_at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
  'paused_all', (select json_build_object('reason', w.reason, 'by', w.set_by, 'at', to_char(w.set_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                   from backfill.switch w where w.paused_all),
  'queue', (select coalesce(json_object_agg(q.state, q.jobs), '{}') from (
    -- Each half by its own index.
    select j.state, count(*) as jobs from backfill.job j where j.state in ('queued', 'running', 'verifying', 'paused') group by j.state
    union all
    select j.state, count(*) from backfill.job j where j.state in ('succeeded', 'failed', 'cancelled') group by j.state) q),
  'jobs', (
    select coalesce(json_agg(x order by array_position($1::int8[], x.id)), '[]')
      from (
        select j.id, j.name, j.kind, j.state, j.desired_state, j.waiting_reason, j.waiting_text, j.target, j.run_as, j.enqueued_by,
               j.rows_scanned, j.rows_changed, j.rows_unresolved, j.rows_quarantined, j.rows_estimated, j.percent_done, j.rows_per_second,
               to_char(j.eta at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as eta,
               extract(epoch from j.eta - clock_timestamp())::float8 as eta_seconds,
               to_char(j.deadline at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as deadline,
               j.error, case when j.error is not null then j.hint end as hint, j.reason,
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
                   -- Those that somebody works on, then those that are still to be done.
                   order by l.slice_id is null, s.state in ('done', 'gone'), s.ordinal limit 16) s), '[]') as slices,
               (select count(*) from backfill.job o join backfill.slice s on s.job_id = o.id and s.run = o.run and s.kind = 'walk' and s.generation = 1
                 where o.id = j.id) as slices_total,
               coalesce((select json_agg(e order by e.rows desc, e.sqlstate) from (
                  select e.sqlstate, count(*) as rows from backfill.row_error e
                   where e.job_id = j.id and e.resolved_at is null and j.rows_quarantined > 0
                   group by e.sqlstate order by 2 desc, 1 limit 5) e), '[]') as row_errors
          from backfill.jobs j
         where j.id = any ($1::int8[])) x),
  'signals', (
    select coalesce(json_agg(x), '[]')
      from (select s.signal, s.source, s.kind, s.value, s."limit", s.utilization, extract(epoch from s.age)::float8 as age_seconds, s.holding, s.reason
              from backfill.signals s order by s.holding desc, s.utilization desc nulls last, s.signal, s.source limit 40) x),
  'workers', (
    select coalesce(json_agg(x), '[]')
      from (select w.id, w.host, w.pid, w.version, w.slices, to_char(w.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as started_at,
                   extract(epoch from clock_timestamp() - w.heartbeat_at)::float8 as heartbeat_age_seconds
              from backfill.workers w where w.alive order by w.host, w.pid limit 40) x),
  'events', (
    select coalesce(json_agg(x), '[]')
      from (select to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at, e.name, e.kind, e.actor, left(e.message, 500) as message
              from backfill.events e limit 20) x)
)::text
