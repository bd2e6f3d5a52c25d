-- A row that no batch can change: kept with its error, for people and for a retry. failure: {"position", "key",
-- "sqlstate", "message"}; a row that a trigger left as it was has no sqlstate of its own. Raises when there are more
-- of them than the job allows: the batch is undone, and the job fails with this sentence.
create or replace function backfill._quarantine_row(job bigint, slice bigint, failure jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  v_relation text := (select coalesce(s.relation_name, x.target) from backfill.slice s join backfill.job x on x.id = s.job_id where s.id = _quarantine_row.slice);
  v_state text := coalesce(failure ->> 'sqlstate', '09000');
  v_message text := coalesce(left(failure ->> 'message', 2000), 'a BEFORE trigger of the table left the row as it was (it returned null, or the old row)');
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
    -- Of its own, so that a daemon knows that the message is about rows.
    raise exception using errcode = 'BF008',
      message = case when most = 0 then format('row %s of %s can''t be changed: %s', failure ->> 'key', v_relation, v_message)
                     else format('more than %s rows can''t be changed; the last is %s of %s: %s', most, failure ->> 'key', v_relation, v_message) end,
      detail = format('SQLSTATE %s; max_row_errors is %s.', v_state, most),
      hint = 'Mend the rows (backfill.row_errors has those before) or the expression, or raise max_row_errors with backfill.tune; then backfill.retry goes on from here.';
  elsif n = 1 and j.rows_quarantined = 0 then
    perform backfill._record_event(_quarantine_row.job, 'row_error', format('a row of %s can''t be changed: %s; the walk goes on, backfill.row_errors has it and those that follow', v_relation, v_message), null, null, 'a row can''t be changed; the walk goes on');
  end if;
end $$;

-- Those of a leaf that is gone are nobody's any more, until it comes back; those that a retry has yet to try again
-- may be sound by now.
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
