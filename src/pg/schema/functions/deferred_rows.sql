-- Returns the next deferred rows of a slice, in the order in which they were deferred. `after` is
-- the ID of the last row that was retried, and `most` is the maximum number of rows.
create or replace function backfill._deferred_rows(slice bigint, token uuid, after bigint, most integer) returns table (id bigint, key text[])
language sql stable set search_path = pg_catalog, pg_temp as $$
  select a.id, a.key from backfill.deferred_row a join backfill.lease l on l.slice_id = a.slice_id and l.token = _deferred_rows.token
   where a.slice_id = _deferred_rows.slice and a.id > _deferred_rows.after order by a.id limit _deferred_rows.most
$$;

-- Records the outcome of a retry of deferred rows:
-- - The argument tried lists the rows that were tried.
-- - The argument locked lists the tried rows that stay deferred.
-- - The argument quarantined lists the tried rows that still cannot be changed: [{"id", and the
--   members that _quarantine_row needs}].
--
-- The checkpoint of the slice must be marked as done, which means that only deferred rows are left
-- in the slice.
create or replace function backfill.retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb)
returns table (new_ctid text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_job bigint;
  v_ctid tid;
  v_run_as name;
  n bigint;
  r jsonb;
begin
  perform backfill._check_outcome(null, greatest(retry_deferred.changed, retry_deferred.unresolved), least(retry_deferred.changed, retry_deferred.unresolved));
  select s.job_id, s.run_as into v_job, v_run_as from backfill.slice s where s.id = retry_deferred.slice;
  if not exists (select from backfill.executor e where e.run_as = v_run_as and e.login = session_user) then
    raise exception using errcode = 'BF006', message = format('fenced: slice %2$s does not run as login "%1$s"', session_user, retry_deferred.slice);
  end if;
  perform from backfill.job x where x.id = v_job for no key update;
  update backfill.checkpoint c
     set rows_changed = c.rows_changed + retry_deferred.changed, rows_unresolved = c.rows_unresolved + retry_deferred.unresolved, batches = c.batches + 1, moved_in = pg_current_xact_id()
   where c.slice_id = retry_deferred.slice and c.token = retry_deferred.token and c.done and c.moved_in is distinct from pg_current_xact_id()
  returning c.ctid into v_ctid;
  if v_ctid is null then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended, or the slice is not done', retry_deferred.slice);
  end if;
  update backfill.deferred_row a set attempts = a.attempts + 1 where a.slice_id = retry_deferred.slice and a.id = any (retry_deferred.locked);
  get diagnostics n = row_count;
  with gone as (
    delete from backfill.deferred_row a
     where a.slice_id = retry_deferred.slice and a.id = any (retry_deferred.tried) and a.id <> all (coalesce(retry_deferred.locked, '{}'))
    returning a.id, a.key),
  resolved as (
    update backfill.row_error e set resolved_at = clock_timestamp()
      from gone g where e.job_id = v_job and e.slice_id = retry_deferred.slice and e.position = g.key and e.resolved_at is null
       and not exists (select from jsonb_array_elements(coalesce(retry_deferred.quarantined, '[]')) f where (f.value ->> 'id')::bigint = g.id))
  select n + count(*) into n from gone;
  -- Compare and set: if a row no longer exists, an earlier call has handled the row, and the result
  -- of that call was lost.
  if n <> cardinality(retry_deferred.tried) then
    raise exception using errcode = 'BF006', message = format('fenced: deferred rows of slice %s are gone', retry_deferred.slice);
  end if;
  for r in select x.value from jsonb_array_elements(coalesce(retry_deferred.quarantined, '[]')) x loop
    perform backfill._quarantine_row(v_job, retry_deferred.slice, r);
  end loop;
  perform backfill._count_quarantined(v_job);
  if not exists (select from backfill.deferred_row a where a.slice_id = retry_deferred.slice) then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  return query
    select v_ctid::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $$;
comment on function backfill.retry_deferred(bigint, uuid, tid, bigint[], bigint, bigint, bigint[], jsonb) is 'Records the outcome of retrying deferred rows. For daemons.';

-- Defers the quarantined rows of a job. Each row is then retried in the slice in which it was
-- quarantined. Rows that are already deferred, and rows whose slice is gone, are left out. Returns
-- the number of rows that were deferred.
create or replace function backfill._defer_quarantined_rows(job_id bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n bigint;
begin
  insert into backfill.deferred_row (slice_id, key)
  select e.slice_id, e.position from backfill.row_error e join backfill.slice s on s.id = e.slice_id
   where e.job_id = _defer_quarantined_rows.job_id and e.resolved_at is null and s.state <> 'gone'
     and not exists (select from backfill.deferred_row a where a.slice_id = e.slice_id and a.key = e.position)
   order by e.slice_id, e.position;
  get diagnostics n = row_count;
  update backfill.slice s set state = 'held', not_before = null, finished_at = null
   where s.job_id = _defer_quarantined_rows.job_id and s.state = 'done' and s.kind = 'walk' and exists (select from backfill.deferred_row a where a.slice_id = s.id);
  return n;
end $$;
