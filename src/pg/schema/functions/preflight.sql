-- These functions check a job when it is enqueued. They run in the caller's own transaction with
-- the caller's own privileges. The security definer functions of this file read only the catalog.

-- Raises BF001, the error of a refused job or call. A name in the message that cannot be converted
-- to UTF-8 is escaped. Otherwise the server could report a conversion error instead of BF001.
create or replace function backfill._refuse(message text, detail text, hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'BF001', message = backfill._readable(_refuse.message), detail = backfill._readable(_refuse.detail), hint = backfill._readable(_refuse.hint);
end $$;

create or replace function backfill._check_name(name text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if name is null or name !~ '^[A-Za-z0-9._:/-]{1,200}$' then
    perform backfill._refuse(case when name is null then 'name is null' else format('name "%s" is not valid', left(name, 220)) end,
      'A name has 1 to 200 characters. The allowed characters are A-Z a-z 0-9 . _ : / -', 'Use a short name, for example orders_total_cents.');
  end if;
end $$;

-- Refuses targets that a job cannot change. The function runs with its owner's privileges, so roles
-- that enqueue jobs need no privileges on the functions that it calls.
create or replace function backfill._check_target(relation oid) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  l record;
begin
  select k.oid, k.relkind, k.relpersistence, k.relnamespace, n.nspname, k.relispartition into c
    from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = relation;
  if c.oid is null then
    perform backfill._refuse(format('table %s does not exist', relation), 'No table has this OID.', 'Name a regular or partitioned table.');
  elsif c.nspname = 'backfill' then
    perform backfill._refuse(format('%s belongs to backfilld', relation::regclass), 'A job that changes this table would change its own queue.', 'Name a table of your application.');
  elsif c.nspname in ('pg_catalog', 'information_schema', 'pg_toast') then
    perform backfill._refuse(format('%s is a system catalog', relation::regclass), 'System catalogs are maintained by PostgreSQL.', 'Name a table of your application.');
  elsif c.relpersistence = 't' then
    perform backfill._refuse(format('%s is a temporary table', relation::regclass), 'A temporary table is visible only to the session that created it.', 'Update it in that session, or use a regular table.');
  elsif c.relkind = 'm' then
    perform backfill._refuse(format('%s is a materialized view', relation::regclass), 'The rows of a materialized view are the result of its query.', 'Change the table that the materialized view reads, then refresh the view.');
  elsif c.relkind = 'v' then
    perform backfill._refuse(format('%s is a view', relation::regclass), 'A view has no rows of its own.', 'Name the table that the view selects from.');
  elsif c.relkind = 'f' then
    perform backfill._refuse(format('%s is a foreign table', relation::regclass), 'Changes to a foreign table cannot be committed in the same local transaction as the checkpoint.', 'Enqueue the job in the database that holds the remote table.');
  elsif c.relkind not in ('r', 'p') then
    perform backfill._refuse(format('%s is not a table', relation::regclass), 'A job can change regular and partitioned tables only.', 'Name a regular or partitioned table.');
  end if;
  if exists (select from pg_rewrite r where r.ev_class = relation and r.ev_type in ('2', '3', '4')) then
    perform backfill._refuse(format('%s has rewrite rules: %s', relation::regclass, (select string_agg(quote_ident(r.rulename), ', ') from pg_rewrite r where r.ev_class = relation and r.ev_type in ('2', '3', '4'))),
      'A rule can redirect the changes to another table without an error.', 'Replace each rule with a trigger, or drop the rule if the application does not need it.');
  end if;
  if not backfill._is_spread(relation) then
    return;
  end if;
  for l in select * from backfill._leaves(relation) loop
    if l.relkind = 'f' then
      perform backfill._refuse(format('%s has a foreign table as a partition or child: %s', relation::regclass, l.name), 'Changes to a foreign table cannot be committed in the same local transaction as the checkpoint.',
        'Enqueue one job for each of the other partitions or children, and another job in the database that holds the remote table.');
    elsif exists (select from pg_rewrite r where r.ev_class = l.leaf and r.ev_type in ('2', '3', '4')) then
      perform backfill._refuse(format('%s, a partition or child of %s, has rewrite rules: %s', l.name, relation::regclass, (select string_agg(quote_ident(r.rulename), ', ') from pg_rewrite r where r.ev_class = l.leaf and r.ev_type in ('2', '3', '4'))),
        'A rule can redirect the changes to another table without an error.', 'Replace each rule with a trigger, or drop the rule if the application does not need it.');
    end if;
  end loop;
end $$;

create or replace function backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  known constant text[] := array['max_rows_per_second', 'target_batch_ms', 'max_batch_rows', 'slices', 'max_victim_wait_ms', 'max_row_ms',
    'max_row_errors', 'verify', 'window', 'vacuum', 'throttle', 'walk', 'statement_triggers', 'max_growth_bytes', 'deadline'];
  o record;
  least_value numeric;
  most_value numeric;
  choices text[];
  reason text;
begin
  if options is null or jsonb_typeof(options) <> 'object' then
    perform backfill._refuse('options is not a JSON object', format('Its type is %s.', coalesce(jsonb_typeof(options), 'null')), 'Write the options as an object, for example {"slices": 2}.');
  end if;
  for o in select e.key, e.value, jsonb_typeof(e.value) as type from jsonb_each(options) e loop
    if o.key <> all (known) then
      perform backfill._refuse(format('unknown option "%s"', o.key), format('The options are: %s.', array_to_string(known, ', ')), 'Correct the name, or leave the option out.');
    end if;
    if o.type = 'null' then
      continue;
    end if;
    select r.a, r.b into least_value, most_value from (values
        ('max_rows_per_second', 0.1, 1e9), ('target_batch_ms', 1, 500), ('max_batch_rows', 1, 100000), ('slices', 1, 64),
        ('max_victim_wait_ms', 1, 60000), ('max_row_ms', 100, 3600000), ('max_row_errors', 0, 1000000), ('max_growth_bytes', 0, 1e18)) r(k, a, b) where r.k = o.key;
    if found then
      if o.type <> 'number' or (o.value::text)::numeric not between least_value and most_value then
        perform backfill._refuse(format('option "%s" is %s', o.key, o.value), format('The value must be a number from %s to %s.', least_value, most_value::numeric(30)), 'Correct the value.');
      end if;
      if o.key <> 'max_rows_per_second' and (o.value::text)::numeric % 1 <> 0 then
        perform backfill._refuse(format('option "%s" is %s', o.key, o.value), 'The value must be an integer.', 'Correct the value.');
      end if;
    end if;
    select r.c into choices from (values
        ('verify', array['auto', 'filter', 'expression', 'coverage', 'none']), ('vacuum', array['wait', 'run', 'off']),
        ('throttle', array['on', 'off']), ('walk', array['auto', 'plain', 'interleaved']), ('statement_triggers', array['refuse', 'skip'])) r(k, c) where r.k = o.key;
    if found and (o.type <> 'string' or (o.value #>> '{}') <> all (choices)) then
      perform backfill._refuse(format('option "%s" is %s', o.key, o.value), format('The value must be one of: %s.', array_to_string(choices, ', ')), 'Correct the value.');
    end if;
    if o.key = 'throttle' and o.value #>> '{}' = 'off' and not operator_ok then
      perform backfill._refuse('only operators can switch option "throttle" off', 'Without the throttle, the job ignores replica lag and load.', 'Leave the option out, or ask a member of backfill_operator to set it.');
    end if;
    if o.key = 'verify' and o.value #>> '{}' = 'filter' and filter_sql is null then
      perform backfill._refuse('option "verify" is "filter", but the job has no filter', 'This check needs a filter that selects the rows that are not done yet.', 'Add a filter, or use verify = auto.');
    end if;
    if o.key = 'window' then
      reason := case
        when o.type <> 'object' then 'The value must be a JSON object.'
        when o.value - array['open', 'hours', 'time_zone'] <> '{}' then 'The only allowed keys are open, hours and time_zone.'
        when jsonb_typeof(o.value -> 'open') is distinct from 'string' or o.value ->> 'open' !~ '^\s*\S+(\s+\S+){4}\s*$' then 'The value of the key open must be a cron expression with five fields.'
        when jsonb_typeof(o.value -> 'hours') is distinct from 'number' then 'hours must be a number.'
        when (o.value ->> 'hours')::numeric not between 0.01 and 168 then 'hours must be between 0.01 and 168.'
        when o.value -> 'time_zone' is not null and not exists (select from pg_timezone_names z where lower(z.name) = lower(o.value ->> 'time_zone')) then 'The value of time_zone is not known to this server.'
      end;
      if reason is not null then
        perform backfill._refuse(format('option "window" is %s', o.value), reason, 'Correct the value, for example: {"open": "0 22 * * *", "hours": 6, "time_zone": "Europe/Berlin"}.');
      end if;
    end if;
    if o.key = 'deadline' then
      if o.value #>> '{}' ~ '(^|[^0-9])[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]' then
        perform backfill._refuse(format('option "deadline" is %s', o.value), 'The order of day, month and year is ambiguous.', 'Write the year first, for example "2027-01-31 06:00+00".');
      end if;
      begin
        perform (o.value #>> '{}')::timestamptz;
      exception when others then
        perform backfill._refuse(format('option "deadline" is %s', o.value), format('The server reports: %s.', sqlerrm), 'Write a timestamp, for example "2027-01-31 06:00+00".');
      end;
    end if;
  end loop;
end $$;

-- Returns options in their stored form. A deadline is stored with its UTC offset, so that its
-- meaning does not depend on the settings of the session that reads it.
create or replace function backfill._stored_options(options jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when options ->> 'deadline' is null then options
              else jsonb_set(options, '{deadline}', to_jsonb((options ->> 'deadline')::timestamptz)) end
$$;

-- Returns the options that this release accepts but does not implement yet, with their values.
-- Values that request nothing (null, walk = auto or plain) are left out.
create or replace function backfill._not_in_effect(options jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s = %s', o.key, o.value), ', ' order by o.key)
    from jsonb_each(options) o
   where o.value <> 'null' and (o.key = 'max_growth_bytes'
      or o.key = 'walk' and o.value #>> '{}' = 'interleaved')
$$;

-- Makes the server parse and plan a statement under the job's search_path, as the role run_as.
-- Returns the plan, without index scans and bitmap scans (see self_reads.sql). The caller must be
-- able to SET ROLE to run_as. The statement is opened as a cursor, because a cursor accepts only
-- one statement. While the job's search_path is set, the function names each function and operator
-- with its schema. Otherwise the server could find an object of the user first.
create or replace function backfill._try_plan(run_as name, settings jsonb, statement text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
set enable_indexscan = off set enable_indexonlyscan = off set enable_bitmapscan = off as $$
declare
  c refcursor;
  plan json;
  old_role text := current_setting('role');
  old_elimination text := current_setting('enable_self_join_elimination', true);
begin
  if run_as <> current_user then
    perform set_config('role', run_as, true);
  end if;
  -- Use the settings that the daemon's sessions will have. For the settings that this function
  -- pins, the server restores the old values when the function returns.
  perform set_config(s.name, settings ->> s.name, true) from unnest(array['TimeZone', 'DateStyle', 'IntervalStyle']) s(name) where settings ->> s.name is not null;
  -- Since version 18, the planner can remove a join of a table with itself. The plan would then not
  -- show which scan reads the row that a job changes.
  perform set_config('enable_self_join_elimination', 'off', true) where old_elimination is not null;
  perform set_config('search_path', settings ->> 'search_path', true);
  open c for execute 'explain (verbose, costs off, format json) ' operator(pg_catalog.||) statement;
  -- The server plans the statement and checks privileges only at the first fetch.
  fetch c into plan;
  close c;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  perform set_config('role', old_role, true);
  perform set_config('enable_self_join_elimination', old_elimination, true) where old_elimination is not null;
  return plan;
end $$;

create or replace function backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_reason text;
begin
  if relation is null then
    perform backfill._refuse('target is null', 'A job needs a table.', 'Name the table, for example target => ''public.orders''.');
  elsif kind = 'update' and set_sql is null then
    perform backfill._refuse('set is null', 'A job needs an assignment.', 'Name the columns and their new values, for example set => ''total_cents = round(total * 100)::bigint''.');
  elsif kind = 'delete' and filter_sql is null then
    perform backfill._refuse('a delete needs a filter', format('Without a filter the job would delete every row of %s.', relation::regclass),
      'Add a filter, for example filter => ''archived_at is not null''. To delete every row, use filter => ''true''.');
  elsif length(set_sql) > 65536 or length(filter_sql) > 65536 then
    perform backfill._refuse(format('%s is longer than 65536 characters', case when length(set_sql) > 65536 then 'set' else 'filter' end), 'The text is sent with each batch.', 'Move the expression into a function and call the function.');
  end if;
  perform backfill._check_options(options, filter_sql, operator_ok);
  if kind = 'delete' and options ->> 'verify' = 'expression' then
    perform backfill._refuse('verify = expression is not possible for a job that deletes rows', 'A deleted row cannot be compared with the result of an expression.', 'Use verify = auto: it verifies that no row matches the filter any more.');
  end if;
  if kind = 'update' and options ->> 'verify' = 'expression' then
    v_reason := backfill._incomparable(set_sql);
    if v_reason is not null then
      perform backfill._refuse('verify = expression is not possible for these expressions', v_reason,
        'Use verify = auto. It verifies that every row was processed. If the job has a filter, and the expressions do not read columns that they assign, it also verifies that no row matches the filter any more.');
    end if;
  end if;
end $$;

-- Returns the enforced foreign keys that refer to the given table, or to another table from which a
-- cascade deletes rows. For each deleted row, the server searches the referring tables. Without an
-- index on the foreign key, each search reads the whole referring table (P10). The result column
-- `index` is 'full' if an index begins with all columns of the foreign key, 'part' if an index
-- begins with one of these columns, and otherwise 'none'. Only valid btree and hash indexes count.
-- A partial index counts only if its condition is that the first column of the foreign key is not
-- null.
create or replace function backfill._referring(relation oid) returns table (referring regclass, constraint_name name, referred regclass, action "char", columns text[], referred_columns smallint[], index text, remedy text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive fk as (
    select c.oid, c.conrelid, c.confrelid, c.conname, c.confdeltype, c.conkey, c.confkey from pg_constraint c
     where c.contype = 'f' and c.confrelid = relation and to_jsonb(c) ->> 'conenforced' is distinct from 'false'
       and not exists (select from pg_constraint p where p.oid = c.conparentid and p.confrelid = c.confrelid)
    union
    select c.oid, c.conrelid, c.confrelid, c.conname, c.confdeltype, c.conkey, c.confkey from fk join pg_constraint c on c.confrelid = fk.conrelid
     where fk.confdeltype = 'c' and c.contype = 'f' and to_jsonb(c) ->> 'conenforced' is distinct from 'false'
       and not exists (select from pg_constraint p where p.oid = c.conparentid and p.confrelid = c.confrelid))
  select f.conrelid, f.conname, f.confrelid, f.confdeltype, k.names, f.confkey,
         (select coalesce(case max(case when (i.indkey::smallint[])[0:cardinality(f.conkey) - 1] @> f.conkey then 2 when f.conkey @> array[i.indkey[0]] then 1 end)
                            when 2 then 'full' when 1 then 'part' end, 'none')
            from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am am on am.oid = x.relam
           where i.indrelid = f.conrelid and i.indisvalid and am.amname in ('btree', 'hash')
             and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', k.names[1]))),
         case when c.relkind = 'p' then format('create index on only %2$s (%1$s); then for each partition P: create index concurrently on P (%1$s); alter index INDEX_OF_TABLE attach partition INDEX_OF_P;', k.list, f.conrelid::regclass)
              else format('create index concurrently on %s (%s);', f.conrelid::regclass, k.list) end
    from fk f join pg_class c on c.oid = f.conrelid
    cross join lateral (select array_agg(a.attname::text order by u.n) as names, string_agg(quote_ident(a.attname), ', ' order by u.n) as list
                          from unnest(f.conkey) with ordinality u(num, n) join pg_attribute a on a.attrelid = f.conrelid and a.attnum = u.num) k
   order by f.conrelid::regclass::text, f.conname
$$;

-- Returns one text for each effect of a delete on the rows of referring tables.
create or replace function backfill._cascades(relation oid) returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case r.action when 'c' then format('rows of %s are deleted together with the rows of %s that they refer to (constraint %I, on delete cascade)', r.referring, r.referred, r.constraint_name)
                       else format('rows of %s that refer to deleted rows of %s are changed (constraint %I, on delete set %s)', r.referring, r.referred, r.constraint_name, case r.action when 'n' then 'null' else 'default' end) end
    from backfill._referring(relation) r where r.action in ('c', 'n', 'd')
$$;

-- Returns a hint for correcting a spec whose statement the server rejects with this SQLSTATE and
-- message. The refusal of the spec contains no error position, because the line breaks of the
-- statement differ from those of the spec. The parameter name is the target. The parameter source
-- is the table of the rejected statement, with the table's alias.
create or replace function backfill._rejection_hint(kind text, name text, source text, state text, message text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when state = '42601' and message ~* 'at or near "where"' then 'Put the condition into the filter, without the keyword WHERE.'
    when state = '42601' and message ~* 'at or near "from"' then 'Read another table in a subquery: set => ''column = (select ... from ... where ...)''.'
    when state = '42601' and message ~ 'at or near "\)"|at end of input' then format('An expression in %s is incomplete.', case when kind = 'delete' then 'filter' else 'set or filter' end)
    when state = '42803' then format('Compute the aggregate in a subquery: (select sum(...) from %s ...).', name)
    when state = '42804' and message ~ '^argument of WHERE ' then 'The filter must be a condition, for example: column is null.'
    when kind = 'delete' then format('Correct filter. To see the position of the error, run in psql: explain delete from only %s where ...', source)
    else format('Correct set or filter. To see the position of the error, run in psql: explain update only %s set ... where ...', source)
  end
$$;

-- Checks a spec against the table and the server. Returns the key (in the same form as _key_of),
-- the assigned columns, and the warnings (notes).
create or replace function backfill._check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_target text := (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
  v_key     jsonb;
  v_assigned text[] := '{}';
  v_column  text;
  v_at      record;
  v_message text; v_detail text; v_hint text; v_state text;
  v_plan    jsonb;
  v_notes   text[] := '{}';
  a         record;
begin
  perform backfill._check_target(relation);
  v_key := backfill._key_of(relation, _check_spec.key);
  for a in select x.columns from backfill._assignments(set_sql) x where set_sql is not null loop
    foreach v_column in array a.columns loop
      if v_column = any (v_assigned) then
        perform backfill._refuse(format('the assignments (set) assign column "%s" twice', v_column), 'An UPDATE can assign each column only once.', 'Remove one of the assignments.');
      end if;
      v_assigned := v_assigned || v_column;
      select at.attgenerated as generated, at.attidentity as identity into v_at
        from pg_attribute at where at.attrelid = relation and at.attname = v_column and at.attnum > 0 and not at.attisdropped;
      if not found and exists (select from pg_attribute x where x.attrelid = relation and x.attname = v_column and x.attnum < 0) then
        perform backfill._refuse(format('column "%s" of %s is a system column', v_column, v_target), 'PostgreSQL assigns its values.', 'Leave the column out of the assignments (set).');
      elsif not found then
        perform backfill._refuse(format('table %s has no column "%s"', v_target, v_column),
          format('Its columns are: %s.', (select string_agg(quote_ident(t.attname), ', ' order by t.attnum) from (select x.attname, x.attnum from pg_attribute x where x.attrelid = relation and x.attnum > 0 and not x.attisdropped order by x.attnum limit 40) t)), 'Add the column to the table first, or correct its name in the assignments (set).');
      elsif v_at.generated <> '' then
        perform backfill._refuse(format('column "%s" of %s is a generated column', v_column, v_target), 'PostgreSQL computes its value from other columns.', case when v_at.generated = 's' then 'Assign the columns from which the value is computed, or drop the generation expression first.' else 'Assign the columns from which the value is computed.' end);
      elsif v_at.identity = 'a' then
        perform backfill._refuse(format('column "%s" of %s is an identity column (generated always)', v_column, v_target), 'PostgreSQL assigns its values.', 'Leave the column out of the assignments (set).');
      elsif exists (select from jsonb_array_elements(v_key -> 'columns') k where k ->> 'name' = v_column) then
        perform backfill._refuse(format('the assignments (set) contain column "%s", which is part of the key of %s', v_column, v_target), 'If the key of a row changes, the row can be missed or changed twice.', 'Use another unique key with key => array[...], or leave the column out of the assignments (set).');
      end if;
    end loop;
  end loop;
  perform backfill._lex(filter_sql, 'filter') where filter_sql is not null;
  perform backfill._check_job(relation, kind, set_sql, _check_spec.key, run_as);
  -- The batches name the leaves directly. The privileges and columns of a leaf may differ from
  -- those of its parent table.
  for a in select h.name, h.source from backfill._heaps(relation) h limit 100 loop
    begin
      v_plan := backfill._try_plan(run_as, settings, backfill._work_sql(kind, a.source, set_sql, filter_sql));
    exception when others then
      get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint, v_state = returned_sqlstate;
      if v_state = 'BF001' then
        raise;
      end if;
      raise exception using errcode = 'BF001',
        message = backfill._readable(format('the server rejects this %s of %s by role "%s": %s', kind, a.name, run_as, v_message)),
        detail = backfill._readable(coalesce(nullif(v_detail, ''), format('SQLSTATE %s.', v_state))),
        hint = backfill._readable(case when v_state = '42P01' and a.source like '% as %' and v_message like '%FROM-clause%'
                                                   then format('The rows of %s are in several tables. In a batch, the alias of each of these tables is the name of the target without its schema: write %s.column, or only the column.', v_target, substring(a.source from ' as (.*)$'))
                                                 when coalesce(v_hint, '') <> '' then v_hint
                                                 when v_state = '42501' then backfill._right_hint(kind, a.name, run_as)
                                                 else backfill._rejection_hint(kind, v_target, a.source, v_state, v_message) end);
    end;
  end loop;
  perform backfill._check_fragments(set_sql, filter_sql);
  if kind = 'update' then
    v_notes := backfill._check_self_reads(run_as, settings, relation, v_plan, set_sql, filter_sql, v_assigned);
  end if;
  if kind = 'delete' then
    select format('%s reads other rows of %s, from which the job deletes rows in batches: a later batch no longer finds the rows that an earlier batch has deleted. If this changes the result, first enqueue a job that marks the rows in a new column, and then delete the marked rows', case r.place when 'an expression' then 'the filter' else r.place end, v_target)
      into v_column from backfill._self_reads(run_as, settings, relation, null, filter_sql, array['*']) r where r.place is not null;
    v_notes := v_notes || case when v_column is not null then array[v_column] else '{}' end;
    select string_agg(format('%I of %s', r.constraint_name, r.referring), ', ') as keys, string_agg(distinct format('%s for each row deleted from %s', r.referring, r.referred), '; ') as reads, string_agg(distinct r.remedy, ' ') as remedies
      into a from backfill._referring(relation) r where r.index = 'none';
    if a.keys is not null then
      perform backfill._refuse(format('foreign key without an index: %s', a.keys),
        format('The server would read the whole table %s.', a.reads),
        format('Create the index first, outside a transaction block: %s', a.remedies));
    end if;
  end if;
  return v_key || jsonb_build_object('assigned', to_jsonb(v_assigned), 'notes', to_jsonb(v_notes));
end $$;

-- Refuses a job whose verification would fail because the role may not read the system column xmin.
-- The verification compares xmin with the snapshot that was taken at planning, to distinguish rows
-- that the walk missed from rows that were written later. A grant on all columns of a table does
-- not include its system columns.
create or replace function backfill._check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  proof text := coalesce(options ->> 'verify', 'auto');
  lacking text[];
begin
  if proof in ('none', 'coverage') or proof = 'auto' and filter_sql is null then
    return;
  end if;
  lacking := array(select h.name from backfill._heaps(relation) h where not has_column_privilege(run_as, h.heap, 'xmin', 'select'));
  if lacking <> '{}' then
    perform backfill._refuse(format('role "%s" may not read system column "xmin" of %s', run_as, array_to_string(lacking[1:5], ', ')),
      'The verification of the job reads this column. Privileges on the other columns do not include it.',
      format('As the owner of the table, run: grant select (xmin) on %s to %I; Or set the option verify to coverage.', array_to_string(lacking[1:100], ', '), run_as));
  end if;
end $$;

-- Returns the statement-level triggers that one plain statement on the table would fire, but that a
-- job does not fire, because its batches name the partitions or children of the table.
create or replace function backfill._skipped_triggers(relation oid, kind text, set_sql text) returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select format('%I (function %s)', t.tgname, t.tgfoid::regproc) from pg_trigger t
   where t.tgrelid = relation and not t.tgisinternal and t.tgtype::integer & 1 = 0 and t.tgenabled in ('O', 'A') and t.tgtype::integer & (case kind when 'delete' then 8 else 16 end) <> 0
     and (kind = 'delete' or t.tgattr = '' or exists (
       select from pg_attribute a where a.attrelid = relation and a.attnum = any (t.tgattr::smallint[]) and a.attname = any (array(select unnest(x.columns) from backfill._assignments(set_sql) x where set_sql is not null))))
     and backfill._is_spread(relation)
   order by t.tgname
$$;

create or replace function backfill._check_statement_triggers(relation oid, kind text, set_sql text, options jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  skipped text := (select string_agg(s, ', ') from backfill._skipped_triggers(relation, kind, set_sql) s);
begin
  if skipped is not null and options ->> 'statement_triggers' is distinct from 'skip' then
    perform backfill._refuse(format('statement-level triggers of %s would not fire: %s', relation::regclass, skipped),
      'The rows of the table are in partitions or children. A batch changes these tables directly, so the statement-level triggers of the table itself do not fire.',
      'If the job does not need these triggers, set the option statement_triggers to skip. Otherwise replace them with row-level triggers first.');
  end if;
end $$;

-- Refuses a job that assigns a column of a partition key, because the change could move rows to
-- another partition. Refuses a job if row-level security hides rows from its role, if its role may
-- update but not read an assigned column, or if its role lacks privileges on a leaf. A grant on the
-- parent does not give privileges on the leaves. Also makes the check of _check_owners.
create or replace function backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  assigned text[] := (select array_agg(distinct c) from backfill._assignments(set_sql) a, unnest(a.columns) c where set_sql is not null);
  spread boolean := backfill._is_spread(relation);
  verb text := case when kind = 'delete' then 'delete' else 'update' end;
  wanted name[];
  moving text;
  hidden text;
  unread record;
  lacking text[];
begin
  perform backfill._check_owners(relation, run_as);
  -- Find an assigned column that is part of a partition key. For each such column, the server
  -- records an internal dependency of the column on its table, so that the column cannot be
  -- dropped.
  select d.attname into moving
    from (select t.relid from pg_partition_tree(coalesce(pg_partition_root(relation), relation)) t) p
    join pg_depend x on x.classid = 'pg_class'::regclass and x.objid = p.relid and x.refclassid = 'pg_class'::regclass
                    and x.refobjid = p.relid and x.objsubid > 0 and x.refobjsubid = 0 and x.deptype = 'i'
    join pg_attribute d on d.attrelid = p.relid and d.attnum = x.objsubid
    join pg_partitioned_table k on k.partrelid = p.relid
   where d.attname = any (assigned) limit 1;
  if found then
    perform backfill._refuse(format('the assignments (set) contain column "%s", which is part of the partition key of %s', moving, coalesce(pg_partition_root(relation), relation)::regclass),
      'If the partition key of a row changes, the row can move to another partition. It can then be missed or changed twice.', 'Leave the column out of the assignments (set).');
  end if;
  select l.name into hidden from backfill._leaves(relation) l where backfill._row_security_hides(l.leaf, run_as) limit 1;
  hidden := coalesce(hidden, case when backfill._row_security_hides(relation, run_as) then relation::regclass::text end);
  if hidden is not null then
    perform backfill._refuse(format('row-level security of %s hides rows from role "%s"', hidden, run_as),
      'The daemon runs jobs with row_security = off, so the server would refuse each batch instead of silently skipping the hidden rows.', (select case when c.relforcerowsecurity then 'Row-level security is forced for this table. Run the job as a role with BYPASSRLS (run_as). The jobs of a rollout run as the owner of the table, which then needs BYPASSRLS.'
        else format('Run the job as the owner of the table: run_as => %L.', pg_get_userbyid(c.relowner)) end from pg_class c where c.oid = to_regclass(hidden)));
  end if;
  -- A batch compares the old value of an assigned column with the new value.
  select h.name, a.attname as column_name into unread from backfill._heaps(relation) h join pg_attribute a on a.attrelid = h.heap and a.attname = any (assigned) and a.attnum > 0 and not a.attisdropped
   where has_column_privilege(run_as, h.heap, a.attnum, 'update') and not has_column_privilege(run_as, h.heap, a.attnum, 'select') order by h.name, a.attnum limit 1;
  if found then
    perform backfill._refuse(format('role "%s" may not read column "%s" of %s', run_as, unread.column_name, unread.name), 'The job assigns this column, and compares its old value with the new value.', format('As the owner of the table, run: grant select (%I) on %s to %I;', unread.column_name, unread.name, run_as));
  end if;
  if spread then
    wanted := backfill._key_columns(relation, key);
    lacking := array(
      select l.name from backfill._leaves(relation) l
       where not ((has_table_privilege(run_as, l.leaf, verb)
                   or verb = 'update' and (select bool_and(has_column_privilege(run_as, l.leaf, c, 'update')) from unnest(assigned) c))
              and (has_table_privilege(run_as, l.leaf, 'select')
                   or (select bool_and(has_column_privilege(run_as, l.leaf, c::text, 'select'))
                         from unnest(coalesce(wanted, backfill._key_columns(l.leaf, null))) c))));
    if lacking <> '{}' then
      perform backfill._refuse(format('role "%s" lacks SELECT or %s on %s of the tables that hold the rows of %s', run_as, upper(verb), cardinality(lacking), relation::regclass),
        format('A batch accesses partitions and children directly, so privileges on the parent are not enough. The role lacks privileges on: %s%s.', array_to_string(lacking[1:5], ', '), case when cardinality(lacking) > 5 then format(' and %s more tables', cardinality(lacking) - 5) else '' end),
        format('As the owner of the tables, run: grant select, %s on table %s to %I; Or run the job as the owner (run_as).', verb, array_to_string(lacking, ', '), run_as));
    end if;
  end if;
end $$;
