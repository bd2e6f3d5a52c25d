-- Returns a text that lists the given columns of a table with all properties that determine their
-- meaning. The function is in plpgsql, which caches the plan of its query. A function in SQL would
-- be parsed and planned again in each batch.
create or replace function backfill._fingerprint(relation oid, columns smallint[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select coalesce(string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated), ', ' order by a.attnum), '')
            from pg_attribute a where a.attrelid = _fingerprint.relation and a.attnum = any (_fingerprint.columns) and not a.attisdropped);
end $$;

-- Returns null if the table with this OID has this name (schema and name, both quoted). Otherwise
-- returns a text that tells which table has the name now, and what became of the table with the
-- OID. The function reads the catalog as the owner of schema backfill, because the caller may lack
-- USAGE on the table's schema.
create or replace function backfill._other_table(name text, relation oid) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select format('The name belongs to %s. The job is for the table with OID %s, %s.',
                coalesce('the table with OID ' || (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = (parse_ident(name))[2] and n.nspname = (parse_ident(name))[1]), 'no table'),
                relation, coalesce('which is now ' || (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation), 'which was dropped'))
   where not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where c.oid = relation and c.relname = (parse_ident(name))[2] and n.nspname = (parse_ident(name))[1])
$$;

-- Refuses to continue with a job whose table was renamed, replaced or dropped.
create or replace function backfill._check_same_table(name text, relation oid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  told text := backfill._other_table(name, relation);
begin
  if told is not null then
    perform backfill._refuse(format('table %s is not the table that the job was enqueued for', name), told,
      'If the table was only renamed, rename it back. If another table took its place, delete this job with backfill.forget, and enqueue a job for the current table.');
  end if;
end $$;

-- Checks that the table, its columns and its key are as planned. The statement of each batch calls
-- the function while it already holds the lock on the table. If a table has changed, the server
-- resolves the names in a prepared statement again. Without this check, the statement could then
-- change another column, or another table, without an error (P5).
create or replace function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(name)::oid is distinct from relation then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that the job was planned for', name),
      detail = backfill._other_table(name, relation), hint = 'If the table was renamed, rename it back, then run backfill.retry. If it was dropped or replaced, delete this job with backfill.forget, and enqueue a job for the new table.';
  end if;
  if backfill._fingerprint(relation, columns) is distinct from fingerprint then
    raise exception using errcode = 'BF001', message = format('columns that the job uses in table %s have changed', name),
      -- For each column, a fingerprint contains the number, name, type, type modifier and
      -- collation, and whether and how the column is generated.
      detail = (select string_agg(format('%s: %s.', x.label, (select string_agg(m[2] || ' ' || format_type(m[3]::oid, m[4]::integer), ', ' order by m[1]::integer)
                                                              from regexp_matches(x.columns, '(\d+) ("(?:[^"]|"")*"|[^ ]+) (\d+) (-?\d+) \d+', 'g') m)), ' ' order by x.label desc)
                  from (values ('Planned', unchanged.fingerprint), ('Now', backfill._fingerprint(relation, columns))) x(label, columns)),
      hint = 'To continue with the new columns, enqueue a new job under another name, with a filter that excludes the rows that are already changed. Then delete this job with backfill.forget.';
  end if;
  if not exists (select from pg_index i where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null
                  and (i.indkey::smallint[])[0:i.indnkeyatts - 1] = key) then
    raise exception using errcode = 'BF001', message = format('table %s has no unique index on its key any more', name),
      detail = 'Without the index each batch would read the whole table.',
      hint = format('Create the index again, outside a transaction block: create unique index concurrently on %s (%s); Then run backfill.retry.', name,
        (select string_agg(quote_ident(a.attname), ', ' order by u.n) from unnest(key) with ordinality u(num, n) join pg_attribute a on a.attrelid = relation and a.attnum = u.num));
  end if;
  return true;
end $$;
comment on function backfill.unchanged(oid, text, smallint[], smallint[], text) is 'Raises BF001 unless the table, its columns and its key are as planned. For daemons.';

-- Checks a leaf in the same way as the function above checks a table. Also checks that the leaf
-- still belongs to the target (root), and that the target is still the planned table.
create or replace function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if to_regclass(root_name)::oid is distinct from root then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that the job was planned for', root_name),
      detail = backfill._other_table(root_name, root), hint = 'If the table was renamed, rename it back, then run backfill.retry. If it was dropped or replaced, delete this job with backfill.forget, and enqueue a job for the new table.';
  end if;
  if relation <> root and not exists (
    with recursive above(relid) as (
      select h.inhparent from pg_inherits h where h.inhrelid = relation and not h.inhdetachpending
      union
      select h.inhparent from above a join pg_inherits h on h.inhrelid = a.relid where not h.inhdetachpending)
    select from above a where a.relid = root) then
    raise exception using errcode = 'BF001', message = format('table %s is not a partition or child of %s any more', name, root_name),
      detail = 'It was detached while the job was active.', hint = 'No action is needed: the slice of this table is closed.';
  end if;
  return backfill.unchanged(relation, name, columns, key, fingerprint);
end $$;
comment on function backfill.unchanged(oid, text, smallint[], smallint[], text, oid, text) is 'Checks a partition or child in the same way as backfill.unchanged checks a table. For daemons.';

-- Returns a key value as text that can be converted back to the same value under any DateStyle and
-- IntervalStyle. Like every function of the schema, this function has its own values for both
-- settings (release.rs). Under the job's DateStyle, a range of timestamps could contain the
-- abbreviation of a time zone. The same abbreviation may stand for several time zones.
create or replace function backfill.key_text(value anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return value::text;
end $$;
comment on function backfill.key_text(anyelement) is 'Returns a key value as text that can be converted back to the same value under any DateStyle and IntervalStyle. For daemons.';

-- Raises an error if a table was rewritten after the batch took its snapshot. A batch at REPEATABLE
-- READ calls the function, because its snapshot may be older than its locks on the tables that it
-- reads. A table that ALTER TABLE or TRUNCATE rewrote in between appears empty in this snapshot.
-- The function reads pg_class with the same snapshot, but pg_relation_filenode returns the current
-- file of the table. If the table was rewritten, the two file numbers differ, and the batch is
-- retried.
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
    raise exception using errcode = '40001', message = format('table %s, which the job reads, was rewritten after the batch took its snapshot', v_name);
  end if;
  return true;
end $$;
comment on function backfill.not_rewritten(oid[]) is 'Raises 40001 if one of the given tables was rewritten after the batch took its snapshot. For daemons.';

-- Returns whether a BEFORE ROW trigger of the table could leave a row unchanged. The daemon reads
-- this value when it prepares the statement of its batches. Each batch checks that the value has
-- not changed (same_triggers). Without this check, if a trigger were added later, the statement
-- would not detect the rows that this trigger leaves unchanged. Constraint triggers fire after a
-- row was changed, so they do not count. The function does not check tgisinternal, because in
-- PostgreSQL 14 and earlier it is also set for a partition's copy of a trigger. Such a copy must
-- count.
create or replace function backfill.suppressible(relation oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_trigger t where t.tgrelid = relation and t.tgenabled in ('O', 'A') and t.tgtype & 3 = 3 and t.tgtype & 24 <> 0);
end $$;
comment on function backfill.suppressible(oid) is 'Returns true if a BEFORE trigger of the table can suppress a change. For daemons.';

create or replace function backfill.same_triggers(relation oid, suppressible boolean) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if backfill.suppressible(relation) <> suppressible then
    raise exception using errcode = '0A000', message = 'the triggers of the table have changed';
  end if;
  return true;
end $$;
comment on function backfill.same_triggers(oid, boolean) is 'Raises 0A000 if suppressible(relation) no longer returns the given value. For daemons.';

-- Raises an error if the batch changed fewer rows than it found. A batch calls this function if its
-- table has a trigger that may leave a row unchanged. After the error, the batch is rolled back and
-- repeated in the form that distinguishes changed from unchanged rows.
create or replace function backfill.all_changed(matched bigint, changed bigint) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if matched > changed then
    raise exception using errcode = 'BF007', message = format('%s of %s rows were not changed by the update', matched - changed, matched);
  end if;
  return true;
end $$;
comment on function backfill.all_changed(bigint, bigint) is 'Raises BF007 if the batch changed fewer rows than it found. For daemons.';

-- Refuses a reported outcome that no batch can have. A huge position or count would also affect the
-- jobs of other roles, because one statement reads the jobs of all roles.
create or replace function backfill._check_outcome(to_position text[], most bigint, least_count bigint) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if octet_length(to_position::text) > 65536 then
    raise exception using errcode = 'BF001', message = format('the key of a row has %s bytes as text', octet_length(to_position::text)), detail = 'The checkpoint of a slice contains the key. A key can have at most 64 KiB.',
      hint = 'Enqueue the job with a key whose values are shorter as text, for example a unique key on an integer or uuid column.';
  elsif least_count < 0 or most > 1000000 then
    raise exception using errcode = 'BF006', message = format('a batch cannot have %s rows', case when least_count < 0 then least_count else most end);
  end if;
end $$;

-- Moves the checkpoint in the transaction that changes the rows. Raises BF006 unless all of these
-- conditions hold:
-- - The session user is an executor login for the role of the slice.
-- - The token is current.
-- - The slice is not done.
-- - The stored position is the position at which the batch began (compare and set).
-- - The checkpoint has not been moved in this transaction. The daemon makes the first call. A
--   second call would come from the job's own code, in a deferred trigger that fires at the commit.
-- Argument checkpoint_ctid is the last known ctid of the checkpoint row. With this ctid, the
-- function finds the row without reading old versions of the row. An outdated ctid only costs time.
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
  perform backfill._check_outcome(advance.to_position, greatest(advance.scanned, advance.changed, advance.unresolved), least(advance.scanned, advance.changed, advance.unresolved));
  select s.job_id into v_job from backfill.slice s join backfill.executor e on e.run_as = s.run_as
   where s.id = advance.slice and e.login = session_user;
  if v_job is null then
    raise exception using errcode = 'BF006', message = format('fenced: slice %2$s does not run as login "%1$s"', session_user, advance.slice);
  end if;
  update backfill.checkpoint c
     set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
         rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done, moved_in = pg_current_xact_id()
   where c.ctid = advance.checkpoint_ctid and c.slice_id = advance.slice and c.token = advance.token and not c.done
     and c.position is not distinct from advance.from_position and c.moved_in is distinct from pg_current_xact_id()
  returning c.ctid into v_ctid;
  if v_ctid is null then
    update backfill.checkpoint c
       set position = advance.to_position, rows_scanned = c.rows_scanned + advance.scanned, rows_changed = c.rows_changed + advance.changed,
           rows_unresolved = c.rows_unresolved + advance.unresolved, batches = c.batches + 1, done = advance.done, moved_in = pg_current_xact_id()
     where c.slice_id = advance.slice and c.token = advance.token and not c.done
       and c.position is not distinct from advance.from_position and c.moved_in is distinct from pg_current_xact_id()
    returning c.ctid into v_ctid;
  end if;
  if v_ctid is null then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended, or its checkpoint was moved', advance.slice);
  end if;
  return query
    select v_ctid::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $$;
comment on function backfill.advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean) is 'Moves the checkpoint of a slice, in the transaction that changes the rows. Raises BF006 if the claim has ended or the checkpoint was moved. For daemons.';

-- Moves the checkpoint in the same way as function advance does, and defers or quarantines rows in
-- the same transaction. The argument `locked` is the list of rows to defer: [[value of each key
-- column, as text]]. Each element of the argument `quarantined` has the same format as the argument
-- `failure` of _quarantine_row.
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
    -- The job is locked before the checkpoint, to follow the lock order that claim.sql describes.
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
comment on function backfill.advance_deferring(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean, jsonb, jsonb) is 'Does what backfill.advance does, and also defers or quarantines rows. For daemons.';
