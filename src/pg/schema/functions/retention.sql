-- Removes history that is older than `keep`:
-- - slices, events and row errors of finished jobs (at most 100 jobs per call)
-- - slices of earlier runs of jobs that were rerun
-- - events without a job
-- Removes at most `batch` of these rows, and returns their number. The daemon repeats the call
-- while the function returns `batch`. Also removes signals and daemons that were not updated for an
-- hour. These do not count towards `batch`.
--
-- If another session is running the function, or has locked the row of backfill.switch, this call
-- removes nothing and returns 0. A finished job is left for the next call if it has a lease, or if
-- another session has locked its row in backfill.job.
create or replace function backfill._prune_history(keep interval, batch integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  n integer;
  gone integer := 0;
  before timestamptz := clock_timestamp() - keep;
begin
  -- The function locks a row of backfill.switch. It does not use an advisory lock, because any role
  -- could hold the same advisory lock.
  perform from backfill.switch for no key update skip locked;
  if not found then
    return 0;
  end if;
  delete from backfill.signal s where s.sampled_at < clock_timestamp() - interval '1 hour';
  delete from backfill.worker w where w.expires_at < clock_timestamp() - interval '1 hour';
  delete from backfill.event e where e.id in (select x.id from backfill.event x where x.job_id is null and x.at < before order by x.id limit batch for update skip locked);
  get diagnostics gone = row_count;
  for c in select j.id, j.run, j.finished_at from backfill.job j
            where j.finished_at < before and (j.pruned_at is null or j.pruned_at < j.finished_at) and not exists (select from backfill.lease l where l.job_id = j.id)
            order by j.finished_at limit 100 for update skip locked
  loop
    exit when gone >= batch;
    delete from backfill.slice s where s.id in (select x.id from backfill.slice x where x.job_id = c.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    delete from backfill.event e where e.id in (select x.id from backfill.event x where x.job_id = c.id order by x.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    delete from backfill.row_error e where e.ctid in (select x.ctid from backfill.row_error x where x.job_id = c.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    if gone < batch then
      update backfill.job j set pruned_at = clock_timestamp() where j.id = c.id;
    end if;
  end loop;
  if gone < batch then
    delete from backfill.slice s where s.id in (
      select x.id from backfill.job j join backfill.slice x on x.job_id = j.id and x.run < j.run
       where j.run > 1 and coalesce(x.finished_at, x.started_at, j.enqueued_at) < before
         and not exists (select from backfill.lease l where l.slice_id = x.id) limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
  end if;
  return gone;
end $$;
