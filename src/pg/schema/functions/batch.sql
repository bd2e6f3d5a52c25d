-- What a job rests on: the columns that it names, with everything that gives them their meaning.
-- In plpgsql, which keeps its plan: a function in SQL is parsed and planned in each batch anew.
create or replace function backfill._fingerprint(relation oid, columns smallint[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select coalesce(string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated), ', ' order by a.attnum), '')
            from pg_attribute a where a.attrelid = _fingerprint.relation and a.attnum = any (_fingerprint.columns) and not a.attisdropped);
end $$;

-- Checked inside each batch's own statement, which already holds its lock on the table: a prepared statement binds
-- by name again after a change, and would fill another column, or another table, without an error (P5).
create or replace function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(name)::oid is distinct from relation then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that was planned', name),
      detail = 'It was renamed, dropped or replaced during the job.', hint = 'Check what happened to the table; then backfill.rerun, or cancel the job.';
  end if;
  if backfill._fingerprint(relation, columns) is distinct from fingerprint then
    raise exception using errcode = 'BF001', message = format('the columns of table %s that this job rests on have changed', name),
      detail = format('Planned: %s. Now: %s (number, name, type, modifier, collation, generated).', fingerprint, backfill._fingerprint(relation, columns)),
      hint = 'Undo the change, or enqueue a new job for the table as it is now.';
  end if;
  if not exists (select from pg_index i where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null
                  and (i.indkey::smallint[])[0:i.indnkeyatts - 1] = key) then
    raise exception using errcode = 'BF001', message = format('the unique index on the key of table %s is gone', name),
      detail = 'Without it each batch would read the whole table.', hint = 'Create the index again (concurrently), then backfill.retry.';
  end if;
  return true;
end $$;
comment on function backfill.unchanged(oid, text, smallint[], smallint[], text) is 'Raises BF001 unless the table, its columns and its key are as planned. For daemons.';

-- As unchanged(), for a leaf: that it still belongs to the target, and that the target is the one that was planned.
create or replace function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(root_name)::oid is distinct from root then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that was planned', root_name),
      detail = 'It was renamed, dropped or replaced during the job.', hint = 'Check what happened to the table; then backfill.rerun, or cancel the job.';
  end if;
  if relation <> root and not exists (
    with recursive above(relid) as (
      select h.inhparent from pg_inherits h where h.inhrelid = relation and not h.inhdetachpending
      union
      select h.inhparent from above a join pg_inherits h on h.inhrelid = a.relid where not h.inhdetachpending)
    select from above a where a.relid = root) then
    raise exception using errcode = 'BF001', message = format('table %s is no part of %s any longer', name, root_name),
      detail = 'It was detached during the job.', hint = 'Its slice ends with it.';
  end if;
  return backfill.unchanged(relation, name, columns, key, fingerprint);
end $$;
comment on function backfill.unchanged(oid, text, smallint[], smallint[], text, oid, text) is 'Like unchanged, for a partition or child of the table. For daemons.';

-- A part of a key as text that reads back as the same value under any DateStyle and IntervalStyle: a range of times
-- in the style of the job may show a zone's abbreviation, which other zones have too.
create or replace function backfill.key_text(value anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set datestyle = 'ISO' set intervalstyle = 'postgres' as $$
begin
  return value::text;
end $$;
comment on function backfill.key_text(anyelement) is 'A key column as text that reads back as the same value under any DateStyle. For daemons.';

-- For a batch that is REPEATABLE READ: its snapshot may be older than the locks on the tables that it reads, and an
-- ALTER TABLE or TRUNCATE that came between shows them empty to it. Its snapshot of the catalog is as old, so a file
-- other than the one it sees there tells; then the batch is to be tried again.
create or replace function backfill.not_rewritten(relations oid[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_name text;
begin
  with recursive tree(relid) as (
    select unnest(relations)
    union
    select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.relid)
  select c.oid::regclass::text into v_name from tree t join pg_class c on c.oid = t.relid
   where c.relfilenode <> 0 and c.relfilenode is distinct from pg_relation_filenode(c.oid) limit 1;
  if found then
    raise exception using errcode = '40001', message = format('table %s, which the job reads, was rewritten meanwhile', v_name);
  end if;
  return true;
end $$;
comment on function backfill.not_rewritten(oid[]) is 'Raises 40001 if one of the tables was rewritten since the snapshot. For daemons.';

-- Whether a row trigger of the table may leave a row as it is. Asked when a batch is prepared, and held against the
-- answer then in each batch: a trigger that came meanwhile would hide its rows. Triggers of constraints fire after the
-- row; a partition's copy of a trigger counts as internal until 14, and is as good as the trigger itself.
create or replace function backfill.suppressible(relation oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_trigger t where t.tgrelid = relation and t.tgenabled in ('O', 'A') and t.tgtype & 3 = 3 and t.tgtype & 24 <> 0);
end $$;
comment on function backfill.suppressible(oid) is 'Whether a BEFORE trigger of the table could suppress a change. For daemons.';

create or replace function backfill.same_triggers(relation oid, suppressible boolean) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if backfill.suppressible(relation) <> suppressible then
    raise exception using errcode = '0A000', message = 'the triggers of the table have changed';
  end if;
  return true;
end $$;
comment on function backfill.same_triggers(oid, boolean) is 'Raises unless the table still is, or is not, suppressible. For daemons.';

-- Where a trigger may leave a row as it is, a batch counts what it found against what it changed. Fewer: it is undone,
-- and done again in the form that tells the rows apart.
create or replace function backfill.all_changed(matched bigint, changed bigint) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if matched > changed then
    raise exception using errcode = 'BF007', message = format('%s of %s rows were left as they were', matched - changed, matched);
  end if;
  return true;
end $$;
comment on function backfill.all_changed(bigint, bigint) is 'Raises unless as many rows were changed as matched. For daemons.';

-- The checkpoint. Called in the transaction that changes the rows; raises BF006 unless the caller's login may run
-- this slice, the token is the current one, and the position is where the batch began (compare and set). It moves a
-- checkpoint once in a transaction: our call comes first, and a second one would be the job's own code, in a trigger
-- that waits for the commit.
-- checkpoint_ctid: where the row was last seen, which spares reading its old versions; a wrong one costs time only.
create or replace function backfill.advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[],
                                 scanned bigint, changed bigint, unresolved bigint, done boolean)
returns table (new_ctid text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_ctid tid;
  v_job bigint;
begin
  if advance.done then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  select s.job_id into v_job from backfill.slice s join backfill.executor e on e.run_as = s.run_as
   where s.id = advance.slice and e.login = session_user;
  if v_job is null then
    raise exception using errcode = 'BF006', message = format('fenced: login "%s" does not run slice %s', session_user, advance.slice);
  end if;
  update backfill.checkpoint c
     set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
         rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done
   where c.ctid = advance.checkpoint_ctid and c.slice_id = advance.slice and c.token = advance.token and not c.done
     and c.position is not distinct from advance.from_position and c.xmin <> pg_current_xact_id()::xid
  returning c.ctid into v_ctid;
  if v_ctid is null then
    update backfill.checkpoint c
       set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
           rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done
     where c.slice_id = advance.slice and c.token = advance.token and not c.done
       and c.position is not distinct from advance.from_position and c.xmin <> pg_current_xact_id()::xid
    returning c.ctid into v_ctid;
  end if;
  if v_ctid is null then
    raise exception using errcode = 'BF006', message = format('fenced: slice %s has another holder, or its checkpoint has moved', advance.slice);
  end if;
  return query
    select v_ctid::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $$;
comment on function backfill.advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean) is 'Moves the checkpoint of a slice, in the transaction that changes the rows; raises BF006 if fenced. For daemons.';

-- As advance, and rows are deferred or quarantined in the same transaction. locked: [[text of each key column]], to be returned
-- to; quarantined: see _quarantine_row.
create or replace function backfill.advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[],
                                       scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb)
returns table (new_ctid text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_job bigint;
  r jsonb;
begin
  if jsonb_array_length(coalesce(advance_deferring.quarantined, '[]')) > 0 then
    -- Before the checkpoint: that is the order in which everybody locks.
    select s.job_id into v_job from backfill.slice s where s.id = advance_deferring.slice;
    perform from backfill.job x where x.id = v_job for no key update;
  end if;
  return query select a.new_ctid, a.desired, a.revision
    from backfill.advance(advance_deferring.slice, advance_deferring.token, advance_deferring.checkpoint_ctid, advance_deferring.from_position, advance_deferring.to_position,
                          advance_deferring.scanned, advance_deferring.changed, advance_deferring.unresolved, advance_deferring.done) a;
  insert into backfill.deferred_row (slice_id, key)
  select advance_deferring.slice, array(select jsonb_array_elements_text(l.value)) from jsonb_array_elements(coalesce(advance_deferring.locked, '[]')) l;
  for r in select x.value from jsonb_array_elements(coalesce(advance_deferring.quarantined, '[]')) x loop
    perform backfill._quarantine_row(v_job, advance_deferring.slice, r);
  end loop;
end $$;
comment on function backfill.advance_deferring(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean, jsonb, jsonb) is 'Like advance, and defers or quarantines rows. For daemons.';
