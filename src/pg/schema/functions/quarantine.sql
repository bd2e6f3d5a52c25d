-- Stores a row that a batch could not change, with its error, for operators and for a retry. The
-- argument "failure" has the fields position and key. Unless a trigger left the row unchanged, it
-- also has sqlstate and message. Raises BF008 if the job then has more quarantined rows than
-- max_row_errors. The batch is then rolled back, and the job fails with the message of this error.
create or replace function backfill._quarantine_row(job bigint, slice bigint, failure jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  v_relation text := (select coalesce(s.relation_name, x.target) from backfill.slice s join backfill.job x on x.id = s.job_id where s.id = _quarantine_row.slice);
  v_state text := coalesce(failure ->> 'sqlstate', '09000');
  v_message text := coalesce(left(failure ->> 'message', 2000), 'a BEFORE trigger of the table suppressed the change (it returned null or the old row)');
  most bigint;
  n bigint;
begin
  select * into j from backfill.job x where x.id = _quarantine_row.job;
  insert into backfill.row_error as e (job_id, relation, key, sqlstate, message, slice_id, position)
  values (_quarantine_row.job, v_relation, failure -> 'key', v_state, v_message, _quarantine_row.slice, array(select jsonb_array_elements_text(failure -> 'position')))
  on conflict (job_id, relation, md5(key::text)) do update
     set attempts = e.attempts + 1, last_at = clock_timestamp(), sqlstate = excluded.sqlstate, message = excluded.message, resolved_at = null,
         slice_id = excluded.slice_id, position = excluded.position;
  n := backfill._count_quarantined(_quarantine_row.job);
  most := coalesce(j.options ->> 'max_row_errors', j.plan #>> '{defaults,max_row_errors}', '100')::numeric::bigint;
  if n > most then
    -- This error has its own SQLSTATE, so that the daemon knows that the message contains data from
    -- rows of the table.
    raise exception using errcode = 'BF008',
      message = case when most = 0 then format('row %s of %s could not be changed: %s', failure ->> 'key', v_relation, v_message)
                     else format('more than %s rows could not be changed; the last is row %s of %s: %s', most, failure ->> 'key', v_relation, v_message) end,
      detail = format('SQLSTATE is %s; option max_row_errors is %s.', v_state, most),
      hint = format('To list the rows, run: select relation, key, message from backfill.row_errors where name = %L and resolved_at is null; If the rows are wrong, fix them, or allow more such rows: backfill.tune(name, ''{"max_row_errors": %s}''). Then run backfill.retry. If you allow more such rows, the job changes all other rows, and then fails if any of these rows still cannot be changed. The assignments (set) of a job cannot be changed: if they are wrong, enqueue a corrected job under another name, with a filter that excludes the rows that are already changed.', j.name, greatest(1000, 10 * most));
  elsif n = 1 and j.rows_quarantined = 0 then
    perform backfill._record_event(_quarantine_row.job, 'row_error', format('a row of %s could not be changed: %s; the job continues, and backfill.row_errors lists each such row', v_relation, v_message), null, null, 'a row could not be changed; the job continues');
  end if;
end $$;

-- Counts the quarantined rows of a job, and stores the number in the job. Rows of a leaf that is
-- gone do not count until the leaf is attached again. Rows that a retry has not tried yet do not
-- count either, because it may be possible to change them by now.
create or replace function backfill._count_quarantined(job bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n bigint := (select count(*) from backfill.row_error e left join backfill.slice s on s.id = e.slice_id
                where e.job_id = _count_quarantined.job and e.resolved_at is null and s.state is distinct from 'gone'
                  and not exists (select from backfill.deferred_row a where a.slice_id = e.slice_id and a.key = e.position));
begin
  update backfill.job x set rows_quarantined = n where x.id = _count_quarantined.job and x.rows_quarantined <> n;
  return n;
end $$;
