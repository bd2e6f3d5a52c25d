-- backfill.preview shows what a job would do. It uses the caller's own privileges, and changes
-- nothing. It works in a read-only transaction and on a standby.

-- Returns the average rate of the latest jobs of this database (at most 20), in rows per second,
-- and the number of these jobs. A job counts only if it ended in the last 30 days, it scanned at
-- least 1,000 rows, and the session user may see it. If any of these jobs were on the given table,
-- only the jobs on this table count. The function runs with the privileges of the schema's owner,
-- because its callers cannot read table job.
create or replace function backfill._recent_rate(relation oid) returns table (rows_per_second double precision, jobs bigint, same_table boolean)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select sum(x.rows_scanned) / sum(extract(epoch from x.finished_at - x.started_at)), count(*), x.same
    from (select j.rows_scanned, j.started_at, j.finished_at, j.relation = _recent_rate.relation as same from backfill.job j
           where backfill._may_see(j.enqueued_by) and j.state in ('succeeded', 'cancelled', 'failed') and j.finished_at > now() - interval '30 days' and j.finished_at > j.started_at and j.rows_scanned >= 1000
             -- Leave out jobs whose working time is not known: jobs that were paused or retried,
             -- and jobs that ran while all work was paused.
             and not exists (select from backfill.event e where e.at between j.started_at and j.finished_at
                               and (e.job_id = j.id and e.kind in ('pause', 'retry') or e.kind = 'pause_all'))
           order by j.finished_at desc limit 20) x
   group by x.same order by x.same desc limit 1
$$;

-- Evaluates the user's expressions on a sample of rows. Returns the number of matching rows, the
-- plan of a batch, and at most five rows, each as it is before and after the change. The evaluation
-- runs in a subtransaction that is read-only and rolled back, so that no effect of the expressions
-- remains. The sample is limited to about 100 pages, 20,000 rows and 5 seconds, and the evaluation
-- of the five rows to another 5 seconds.
create or replace function backfill._sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  heap record;
  v_pages float8;
  v_percent numeric;
  v_from text;
  v_matches text := format(E'case when (\n%s\n) then true else false end', coalesce(filter_sql, 'true'));
  v_columns text;
  v_row text;
  v_keys text;
  v_bound text;
  v_after text;
  deadline timestamptz := clock_timestamp() + interval '5 s';
  seen bigint := 0;
  matched bigint := 0;
  cut boolean := false;
  places jsonb := '[]';
  rows jsonb := '[]';
  one jsonb;
  more jsonb;
  plan text;
  failure text;
  began timestamptz := clock_timestamp();
  filter_ms float8;
  row_ms float8;
  slowest_ms float8;
  c refcursor;
  r record;
begin
  select h.heap, h.source into heap from backfill._heaps(relation) h limit 1;
  select greatest(1, sum(pg_relation_size(h.heap)) / current_setting('block_size')::int8) into v_pages from backfill._heaps(relation) h;
  v_percent := least(100, 100 * 100 / v_pages)::numeric(12, 8);
  v_from := case when (select k.relkind from pg_class k where k.oid = relation) = 'p' or (select count(*) from backfill._heaps(relation)) > 1
                 then (select format('%I.%I', n.nspname, k.relname) from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = relation)
                 else 'only ' || heap.source end;
  select string_agg(format('%s', x.item), ', ' order by x.n) into v_keys
    from (select e.n, quote_ident(e.c ->> 'name') || case when (e.c ->> 'is_domain')::boolean then '::' || (e.c ->> 'type') else '' end || coalesce(' collate ' || (e.c ->> 'collation'), '') as item from jsonb_array_elements(key -> 'columns') with ordinality e(c, n)) x;
  select string_agg(format('%L, %I', e.c ->> 'name', e.c ->> 'name'), ', ' order by e.n) into v_columns from jsonb_array_elements(key -> 'columns') with ordinality e(c, n);
  begin
    perform set_config(s.name, s.value, true) from (values ('transaction_read_only', 'on'), ('row_security', 'off'), ('lock_timeout', '2s'), ('jit', 'off'), ('TimeZone', settings ->> 'TimeZone'), ('DateStyle', settings ->> 'DateStyle'), ('IntervalStyle', settings ->> 'IntervalStyle'),
                                                              ('search_path', settings ->> 'search_path')) s(name, value) where s.value is not null;
    open c for execute pg_catalog.format('select ctid::pg_catalog.text as place, tableoid as heap, %s as matches from %s tablesample system (%s)', v_matches, v_from, v_percent);
    loop
      fetch c into r;
      exit when not found;
      -- The search_path of the job is in effect here.
      seen := seen operator(pg_catalog.+) 1;
      if r.matches then
        matched := matched operator(pg_catalog.+) 1;
        if matched operator(pg_catalog.<=) 5 then
          places := places operator(pg_catalog.||) pg_catalog.jsonb_build_object('place', r.place, 'heap', r.heap);
        end if;
      end if;
      cut := seen operator(pg_catalog.>=) 20000 or pg_catalog.clock_timestamp() operator(pg_catalog.>) deadline;
      exit when cut;
    end loop;
    close c;
    filter_ms := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() operator(pg_catalog.-) began) operator(pg_catalog.*) 1000 operator(pg_catalog./) greatest(seen, 1);
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    -- Row by row, evaluate the values before and after the change. If the expression fails on a
    -- row, the preview shows the error and continues with the next row. If the expression is slow,
    -- the preview evaluates fewer rows.
    select string_agg(format('%L, %I', a.col, a.col), ', ') into v_row
      from (select unnest(x.columns) as col from backfill._assignments(set_sql) x where set_sql is not null) a;
    select string_agg(backfill._row_after(relation, x.columns, x.expression), ' operator(pg_catalog.||) ') into v_after from backfill._assignments(set_sql) x where set_sql is not null;
    deadline := clock_timestamp() + interval '5 s';
    for r in select h.source, p.p ->> 'place' as place from jsonb_array_elements(places) p(p) join backfill._heaps(relation) h on h.heap = (p.p ->> 'heap')::oid loop
      exit when clock_timestamp() > deadline;
      began := clock_timestamp();
      begin
        execute format('select pg_catalog.jsonb_build_object(''key'', pg_catalog.jsonb_build_object(%s), ''before'', %s) from only %s where ctid operator(pg_catalog.=) %L::pg_catalog.tid',
          v_columns, case when v_row is null then format('pg_catalog.to_jsonb(%s.*)', quote_ident((select k.relname from pg_class k where k.oid = relation))) else format('pg_catalog.jsonb_build_object(%s)', v_row) end, r.source, r.place) into one;
        if v_after is not null then
          begin
            perform set_config('search_path', settings ->> 'search_path', true);
            execute pg_catalog.format('select pg_catalog.jsonb_build_object(''after'', %s) from only %s where ctid operator(pg_catalog.=) %L::pg_catalog.tid', v_after, r.source, r.place) into more;
            one := one operator(pg_catalog.||) more;
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
          exception when others then
            one := one || jsonb_build_object('error', sqlerrm);
          end;
        end if;
        rows := rows || coalesce(one, '{}');
        slowest_ms := greatest(slowest_ms, date_part('epoch', clock_timestamp() - began) * 1000);
        row_ms := coalesce(row_ms, 0) + date_part('epoch', clock_timestamp() - began) * 1000;
      exception when others then
        rows := rows || jsonb_build_object('error', sqlerrm);
      end;
    end loop;

    -- Plan a batch that follows the index of the key and ends at the thousandth key.
    perform set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true);
    execute format('select string_agg(%s, '', '') from (select %s from only %s order by %s offset 999 limit 1) k',
      (select string_agg(format('quote_literal(k.%I::text) || %L', e.c ->> 'name', '::' || (e.c ->> 'type')), ' || '', '' || ' order by e.n) from jsonb_array_elements(key -> 'columns') with ordinality e(c, n)),
      (select string_agg(quote_ident(e.c ->> 'name'), ', ' order by e.n) from jsonb_array_elements(key -> 'columns') with ordinality e(c, n)), heap.source, v_keys) into v_bound;
    v_bound := case when v_bound is null then 'true' else format('(%s) operator(%s.<=) (%s)', v_keys, key #>> '{columns,0,operators}', v_bound) end;
    plan := '';
    perform set_config('search_path', settings ->> 'search_path', true);
    for r in execute 'explain (costs off) ' operator(pg_catalog.||) backfill._work_sql(kind, heap.source, set_sql, pg_catalog.format(E'%s and %s', v_bound, v_matches)) loop
      plan := plan operator(pg_catalog.||) r."QUERY PLAN" operator(pg_catalog.||) E'\n';
    end loop;
    raise exception using errcode = 'BF0RB', message = 'rolled back';
  exception
    when sqlstate 'BF0RB' then null;
    when others then failure := sqlerrm;
  end;
  return jsonb_build_object('sampled', seen, 'matched', matched, 'cut', cut, 'pages', v_pages, 'percent', v_percent, 'rows', rows, 'plan', nullif(rtrim(plan, E'\n'), ''), 'trouble', failure,
    'filter_ms', filter_ms, 'row_ms', row_ms / nullif(jsonb_array_length(rows), 0), 'slowest_ms', slowest_ms);
end $$;

-- Returns an SQL expression that yields the new values of the columns of one assignment, as a jsonb
-- object.
create or replace function backfill._row_after(relation oid, columns text[], expression text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    -- The cast leaves out the type modifier, so that a value that is too long for the column is
    -- shown in full.
    when cardinality(columns) = 1 then format(E'pg_catalog.jsonb_build_object(%L, (\n%s\n)::%s)', columns[1],
      case when expression ~* '^\s*default\s*$' then coalesce((select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum where a.attrelid = relation and a.attname = columns[1]), 'null') else expression end,
      (select backfill._type_name(a.atttypid, -1) from pg_attribute a where a.attrelid = relation and a.attname = columns[1]))
    else format(E'(select pg_catalog.jsonb_build_object(%s) from %s as backfill_after(%s))',
      (select string_agg(format('%L, backfill_after.%I', c, c), ', ' order by n) from unnest(columns) with ordinality u(c, n)),
      case when expression ~* '^\s*\(\s*(select|with)\M' then E'\n' || expression || E'\n' else format(E'(values \n%s\n)', regexp_replace(expression, '^\s*row\s*', '', 'i')) end,
      (select string_agg(quote_ident(c), ', ' order by n) from unnest(columns) with ordinality u(c, n)))
    end
$$;

-- Returns the properties of the table that determine the cost of the work, for example sizes, the
-- indexes on assigned columns, the triggers that fire, and the publications. Reads only the catalog
-- and the sizes of the files.
create or replace function backfill._estimate_cost(kind text, relation oid, assigned text[]) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  with heap as (select h.heap as oid, c.relname, c.reloptions, c.reltuples, c.relreplident, pg_relation_size(h.heap) as bytes, pg_indexes_size(h.heap) as index_bytes
                  from backfill._heaps(relation) h join pg_class c on c.oid = h.heap),
  touched as (select distinct i.indexrelid::regclass::text as name
                from heap join pg_index i on i.indrelid = heap.oid join pg_class x on x.oid = i.indexrelid join pg_am am on am.oid = x.relam
                join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid and d.refclassid = 'pg_class'::regclass and d.refobjid = heap.oid
                join pg_attribute a on a.attrelid = heap.oid and a.attnum = d.refobjsubid
               where kind = 'update' and a.attname = any (assigned) and not (am.amname = 'brin' and current_setting('server_version_num')::int >= 160000)),
  fires as (select distinct t.tgname, case when t.tgtype::int & 66 = 2 then 'before' when t.tgtype::int & 64 <> 0 then 'instead of' else 'after' end
                   || case when t.tgtype::int & 1 = 1 then ' each row' else ' each statement' end as at, t.tgfoid::regproc::text as function
              from heap join pg_trigger t on t.tgrelid = heap.oid
             -- Triggers that implement a constraint, such as a foreign key, are left out.
             -- tgisinternal does not identify these triggers, because in PostgreSQL 14 and earlier
             -- it is also set for a partition's copy of a trigger.
             where not exists (select from pg_constraint c where c.oid = t.tgconstraint and c.contype <> 't') and t.tgenabled in ('O', 'A') and t.tgtype::int & (case kind when 'delete' then 8 else 16 end) <> 0
               and (kind = 'delete' or t.tgattr = '' or exists (select from pg_attribute a where a.attrelid = t.tgrelid and a.attname = any (assigned) and a.attnum = any (t.tgattr::smallint[]))))
  select jsonb_build_object(
    'bytes', (select sum(bytes) from heap), 'index_bytes', (select sum(index_bytes) from heap),
    'indexes', (select max(n) from (select count(*) as n from heap join pg_index i on i.indrelid = heap.oid group by heap.oid) x),
    'known_rows', (select sum(greatest(reltuples, 0)) from heap), 'never_analyzed', (select bool_and(reltuples < 0) from heap),
    'fillfactor', (select min(coalesce((select o.option_value::int from pg_options_to_table(heap.reloptions) o where o.option_name = 'fillfactor'), 100)) from heap),
    'identity_full', (select bool_or(relreplident = 'f') from heap),
    'autovacuum_off', (select bool_or(exists (select from pg_options_to_table(heap.reloptions) o where o.option_name = 'autovacuum_enabled' and o.option_value in ('false', 'off', '0', 'no'))) from heap),
    'touched', (select coalesce(jsonb_agg(name order by name), '[]') from touched),
    'fires', (select coalesce(jsonb_agg(format('%s (%s), function %s', tgname, at, function) order by tgname), '[]') from fires),
    'before_row', (select exists (select from fires where at = 'before each row')),
    'publications', (select string_agg(quote_ident(p.pubname), ', ' order by p.pubname) from pg_publication p
       where (p.puballtables or exists (select from pg_publication_rel r where r.prpubid = p.oid and (r.prrelid = relation or r.prrelid in (select oid from heap)
                                                                                          or r.prrelid in (select a.relid from pg_partition_ancestors(relation) a)))
              or (to_regclass('pg_catalog.pg_publication_namespace') is not null and exists (select from pg_publication_tables t where t.pubname = p.pubname and (t.schemaname, t.tablename) in (select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation))))
         and case kind when 'delete' then p.pubdelete else p.pubupdate end))
$$;

-- Returns the whole preview as JSON, for `backfilld preview --json`. backfill.preview converts
-- the JSON to text. kind is 'update' or 'delete'. name may be null.
create or replace function backfill._preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_filter text := backfill._filter_of(kind, filter_sql);
  v_id bigint;
  v_state text;
  v_difference text;
  v_run_as name;
  k jsonb;
  s jsonb;
  p jsonb;
  v_rows float8;
  v_match float8;
  v_row float8;
  v_entry float8;
  v_hot boolean;
  v_max float8 := (options ->> 'max_rows_per_second')::float8;
  r record;
  v_rate float8;
  v_assumption text;
  v_seconds float8;
  v_measured float8;
  v_max_row_ms float8 := coalesce((options ->> 'max_row_ms')::float8, 2000);
  v_wal float8;
  v_images float8;
  w text[] := '{}';
  note text;
begin
  if set_sql is null and v_filter is null then
    perform backfill._refuse('the parameters set and filter are both null', 'A preview of an update needs assignments (set). A preview of a delete needs set => null and a filter.', 'Write, for example, set => ''total_cents = round(total * 100)::bigint'', or for a delete: set => null, filter => ''archived_at is not null''.');
  end if;
  perform backfill._check_arguments(kind, target, set_sql, v_filter, options, backfill._is_operator(current_user));
  v_run_as := backfill._check_run_as(run_as);
  perform backfill._check_planner();
  if name is not null then
    perform backfill._check_name(name);
    select c.id, c.state, c.difference into v_id, v_state, v_difference from backfill._compare_spec(name, kind, target, set_sql, v_filter, key, run_as) c;
    if v_difference is not null then
      perform backfill._same_or_raise(name, v_id, v_state, v_difference);
    end if;
  end if;
  k := backfill._check_spec(kind, target, set_sql, v_filter, key, v_run_as, settings);
  perform backfill._check_statement_triggers(target, kind, set_sql, options);
  perform backfill._check_proof_rights(target, v_filter, options, v_run_as);
  s := backfill._sample(kind, target, set_sql, v_filter, k, settings);
  p := backfill._estimate_cost(kind, target, array(select jsonb_array_elements_text(k -> 'assigned')));

  -- The planner of the daemon makes the same choice. Use the statistics in these cases:
  -- - The sample was cut short.
  -- - The sample covers only a part of the table and roughly agrees with the statistics. The
  --   statistics are then more precise.
  --
  -- Otherwise use the sample, because it is current.
  v_rows := (s ->> 'sampled')::float8 * 100 / (s ->> 'percent')::float8;
  if (s ->> 'cut')::boolean or ((s ->> 'percent')::float8 < 100 and (p ->> 'known_rows')::float8 > 0 and v_rows / (p ->> 'known_rows')::float8 between 0.5 and 2) then
    v_rows := greatest((p ->> 'known_rows')::float8, case when (s ->> 'cut')::boolean then (s ->> 'sampled')::float8 else 0 end);
  end if;
  v_match := case when v_filter is null then v_rows when (s ->> 'sampled')::float8 > 0 then v_rows * (s ->> 'matched')::float8 / (s ->> 'sampled')::float8 else 0 end;

  select x.rows_per_second, x.jobs, x.same_table into r from backfill._recent_rate(target) x;
  if r.rows_per_second > 0 then
    v_rate := r.rows_per_second;
    v_assumption := format('the rate of the last %s on %s', case r.jobs when 1 then 'job' else r.jobs || ' jobs' end, case when r.same_table then 'this table' else 'other tables of this database' end);
  else
    v_rate := 20000;
    v_assumption := 'assumed, because no job that you may see has finished recently';
  end if;
  v_seconds := v_rows / v_rate;
  -- A fast expression takes less time than the sample can measure.
  v_measured := (case when (s ->> 'filter_ms')::float8 > 1 then v_rows * (s ->> 'filter_ms')::float8 else 0 end
                 + case when (s ->> 'row_ms')::float8 > 5 then v_match * (s ->> 'row_ms')::float8 else 0 end) / 1000;
  if v_measured > v_seconds then
    v_seconds := v_measured;
    v_rate := v_rows / v_seconds;
    v_assumption := 'from the time that the expressions took in the sample';
  end if;
  if (s ->> 'slowest_ms')::float8 > v_max_row_ms / 2 then
    w := w || format('the expressions took %s ms for a row of the sample; a row that takes longer than max_row_ms (%s ms) is quarantined', round((s ->> 'slowest_ms')::numeric), v_max_row_ms);
  end if;
  if v_max is not null and v_match / v_max > v_seconds then
    v_seconds := v_match / v_max;
    v_rate := v_max;
    v_assumption := 'max_rows_per_second';
  end if;

  v_row := greatest(32, (p ->> 'bytes')::float8 / greatest(v_rows, 1));
  v_entry := case when (p ->> 'indexes')::float8 > 0 then (p ->> 'index_bytes')::float8 / greatest(v_rows, 1) / (p ->> 'indexes')::float8 else 0 end;
  if v_rows < 1000 then
    v_row := least(v_row, 200); v_entry := least(v_entry, 40); -- In sparsely filled pages, the bytes per row are much more than the size of a row.
  end if;
  v_hot := kind = 'update' and p -> 'touched' = '[]' and (p ->> 'fillfactor')::int < 100;
  v_wal := v_match * (case kind when 'delete' then 60 else 80 + v_row end + case when (p ->> 'identity_full')::boolean then v_row else 0 end
                      + case when kind = 'update' and not v_hot then (p ->> 'indexes')::float8 * (v_entry + 60) else 0 end);
  v_images := case when current_setting('full_page_writes') = 'on' then
    least((p ->> 'bytes')::float8, v_match * 8192) + case when kind = 'update' and not v_hot then least((p ->> 'index_bytes')::float8, v_match * 8192) else 0 end else 0 end;

  note := backfill._executor_note(v_run_as, target);
  if note is not null then w := w || note; end if;
  if p -> 'touched' <> '[]' then
    w := w || format('no update will be HOT: %s an assigned column, so every index of the table gets an entry for each changed row', (select string_agg(x, ', ') from jsonb_array_elements_text(p -> 'touched') x) || case when jsonb_array_length(p -> 'touched') = 1 then ' is on' else ' are on' end);
  elsif kind = 'update' and (p ->> 'fillfactor')::int >= 100 and v_match > 1000 then
    w := w || 'few updates will be HOT: the pages are full (fillfactor 100), so most changed rows move to other pages and every index gets an entry for them'::text;
  end if;
  if (p ->> 'before_row')::boolean then
    w := w || 'a BEFORE ROW trigger fires for each row: it can alter or suppress the change, and its run time makes each batch longer'::text;
  end if;
  if exists (select from backfill._lex(concat_ws(' ', set_sql, v_filter), 'set') l where l.kind = 'word' and lower(l.body) = 'select')
     or exists (select from backfill._lex(concat_ws(' ', set_sql, v_filter), 'set') l join pg_proc f on f.proname = lower(l.body) and l.kind = 'word'
                 where f.provolatile <> 'i' and f.pronamespace <> 'pg_catalog'::regnamespace and f.pronamespace <> 'backfill'::regnamespace) then
    w := w || 'the expressions can read other rows: batches run at REPEATABLE READ and are retried if another session changed the same rows'::text;
  end if;
  if p ->> 'publications' is not null then
    w := w || format('the table is published by %s: every change is sent to the subscribers', p ->> 'publications');
  end if;
  if (p ->> 'identity_full')::boolean and current_setting('wal_level') = 'logical' then
    w := w || 'the replica identity is FULL: each change is sent with the whole old row'::text;
  end if;
  for r in select * from backfill._referring(target) x loop
    if kind = 'delete' and r.index = 'part' then
      w := w || format('the index of %s covers only some of the columns of constraint %I: each deleted row can cause many rows of that table to be read', r.referring, r.constraint_name);
    elsif kind = 'delete' and r.action in ('a', 'r') then
      w := w || format('rows to which %s still refers cannot be deleted (constraint %I)', r.referring, r.constraint_name);
    elsif kind = 'update' and r.referred = target and r.index = 'none' and exists (select from pg_attribute a where a.attrelid = target and a.attnum = any (r.referred_columns) and k -> 'assigned' ? a.attname) then
      w := w || format('%s refers to an assigned column and has no index for this foreign key, so the server reads the whole referring table for each changed row; create the index first: %s', r.referring, r.remedy);
    end if;
  end loop;
  w := w || array(select jsonb_array_elements_text(k -> 'notes'))
         || array(select format('trigger %s of the table does not fire, because batches change its partitions or children directly', t) from backfill._skipped_triggers(target, kind, set_sql) t);
  if kind = 'delete' then
    w := w || array(select * from backfill._cascades(target));
  end if;
  if (p ->> 'never_analyzed')::boolean and v_rows > 0 then
    w := w || 'the table was never analyzed: the estimates come from a sample of its pages'::text;
  elsif (s ->> 'cut')::boolean then
    w := w || format('the sample was cut short after %s rows: the estimates are rough', s ->> 'sampled');
  end if;
  if (p ->> 'autovacuum_off')::boolean then
    w := w || 'autovacuum is off for the table: old row versions stay until it is vacuumed manually'::text;
  end if;
  note := backfill._not_in_effect(options);
  if note is not null then w := w || format('options stored with the job but ignored in this release: %s', note); end if;

  return jsonb_build_object(
    'kind', kind, 'target', target::text, 'set', set_sql, 'filter', v_filter, 'run_as', v_run_as,
    'job', case when name is not null then jsonb_build_object('name', name, 'id', v_id, 'state', v_state) end,
    'key', (select jsonb_agg(c ->> 'name') from jsonb_array_elements(k -> 'columns') c), 'index', (k ->> 'index')::oid::regclass::text,
    'table_bytes', p -> 'bytes', 'index_bytes', p -> 'index_bytes', 'indexes', p -> 'indexes', 'fillfactor', p -> 'fillfactor',
    'rows_total', round(v_rows), 'rows_matching', round(v_match), 'rows_sampled', s -> 'sampled',
    'seconds', round(v_seconds::numeric, 1), 'rows_per_second', backfill._fixed(v_rate::numeric, 1)::numeric, 'rate_is', v_assumption,
    'wal_bytes', round(v_wal), 'wal_full_page_bytes', round(v_images),
    'hot', v_hot, 'table_growth_bytes', case kind when 'delete' then 0 else round(v_match * v_row * case when v_hot then 0.2 else 1 end) end,
    'index_growth_bytes', case when kind = 'delete' or v_hot then 0 else round(v_match * v_entry * (p ->> 'indexes')::float8) end,
    'triggers', p -> 'fires', 'warnings', to_jsonb(w), 'rows', s -> 'rows', 'trouble', s -> 'trouble', 'plan', s -> 'plan');
end $$;

-- Converts a jsonb object of values to text, for example "a = 1, b = null". The text is cut after
-- 400 characters.
create or replace function backfill._values_text(vals jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select left(string_agg(format('%s = %s', e.key, e.value), ', '), 400) from jsonb_each(vals) e
$$;

-- Rounds a number for display. A number other than 0 that would become 0 keeps two significant
-- digits.
create or replace function backfill._fixed(value numeric, digits integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select round(value, case when value <> 0 and round(value, digits) = 0 then 1 - floor(log(abs(value)))::int else digits end)::text
$$;

create or replace function backfill._preview_text(x jsonb) returns table (item text, value text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  is_delete boolean := x ->> 'kind' = 'delete';
  total float8 := (x ->> 'rows_total')::float8;
  seconds float8 := (x ->> 'seconds')::float8;
  n text := 'FM999,999,999,999,999,990';
begin
  return query select t.item, t.value from (values
    ('job', case when x #>> '{job,id}' is not null then format('"%s" already exists with the same definition (%s); enqueueing it again changes nothing', x #>> '{job,name}', x #>> '{job,state}')
                 when x #>> '{job,name}' is not null then format('"%s" does not exist yet', x #>> '{job,name}') end),
    ('would do', case when is_delete then format('delete from %s where %s', x ->> 'target', x ->> 'filter')
                      else format('update %s set %s%s', x ->> 'target', x ->> 'set', coalesce(' where ' || (x ->> 'filter'), '')) end),
    ('run as', x ->> 'run_as'),
    ('walks', format('%s, by index %s', (select string_agg(c, ', ') from jsonb_array_elements_text(x -> 'key') c), x ->> 'index')),
    ('table', format('about %s rows, %s, %s index%s with %s', to_char(total, n), pg_size_pretty((x ->> 'table_bytes')::numeric), coalesce(x ->> 'indexes', '0'), case when x ->> 'indexes' = '1' then '' else 'es' end, pg_size_pretty((x ->> 'index_bytes')::numeric))),
    ('rows to ' || (x ->> 'kind'), case when x ->> 'filter' is null then 'all of them' when (x ->> 'rows_matching')::float8 = 0 then format('none in a sample of %s', to_char((x ->> 'rows_sampled')::float8, n)) else format('about %s (%s%% of a sample of %s)', to_char((x ->> 'rows_matching')::float8, n),
        backfill._fixed((100 * (x ->> 'rows_matching')::float8 / greatest(total, 1))::numeric, 1), to_char((x ->> 'rows_sampled')::float8, n)) end),
    ('time', format('about %s at %s rows a second (%s)', case when seconds >= 5400 then round((seconds / 3600)::numeric, 1) || ' hours' when seconds >= 90 then round(seconds / 60) || ' minutes' else ceil(seconds) || ' s' end,
        case when (x ->> 'rows_per_second')::float8 < 10 then backfill._fixed((x ->> 'rows_per_second')::numeric, 1) else to_char((x ->> 'rows_per_second')::float8, n) end, x ->> 'rate_is')),
    ('WAL', format('about %s, and up to %s of full-page images in each checkpoint interval', pg_size_pretty((x ->> 'wal_bytes')::numeric), pg_size_pretty((x ->> 'wal_full_page_bytes')::numeric))),
    ('growth', case when is_delete then 'none; after a vacuum the space of deleted rows is reused'
                    else format('table up to %s, indexes up to %s; less if vacuum runs during the job (%s)', pg_size_pretty((x ->> 'table_growth_bytes')::numeric), pg_size_pretty((x ->> 'index_growth_bytes')::numeric),
                      case when (x ->> 'hot')::boolean then format('HOT, with fillfactor %s', x ->> 'fillfactor') else 'assumed: not HOT' end) end),
    ('triggers', nullif((select string_agg(t, E'\n') from jsonb_array_elements_text(x -> 'triggers') t), ''))) t(item, value)
   where t.value is not null;
  return query select 'warning'::text, w from jsonb_array_elements_text(x -> 'warnings') w;
  return query select 'warning'::text, format('the expressions fail on a sample of rows: %s', x ->> 'trouble') where x ->> 'trouble' is not null;
  return query select format('row %s', r.n), case
      when r.r ->> 'key' is null then format('could not be shown: %s', r.r ->> 'error')
      when is_delete then format('%s: %s', backfill._values_text(r.r -> 'key'), backfill._values_text((r.r -> 'before') - array(select jsonb_object_keys(r.r -> 'key'))))
      else format(E'%s: %s\n-> %s', backfill._values_text(r.r -> 'key'), backfill._values_text(r.r -> 'before'), coalesce(backfill._values_text(r.r -> 'after'), 'fails: ' || (r.r ->> 'error'))) end
    from jsonb_array_elements(x -> 'rows') with ordinality r(r, n);
  return query select 'plan of a batch'::text, x ->> 'plan' where x ->> 'plan' is not null;
end $$;

-- Shows what a job would do. set => null previews a delete. The function cannot pin its
-- search_path, because it passes on the search_path of the caller. So every name is qualified,
-- including the names of types.
create or replace function backfill.preview(
  target  regclass,
  "set"   text,
  filter  text   default null,
  key     name[] default null,
  options jsonb  default '{}'
) returns table (item text, value text)
language plpgsql volatile as $$
declare
  v_message pg_catalog.text;
  v_detail  pg_catalog.text;
  v_hint    pg_catalog.text;
begin
  return query select t.item, t.value from backfill._preview_text(backfill._preview(case when $2 is null then 'delete' else 'update' end, null, $1, $2, $3, $4, null, $5, backfill._caller_settings())) t;
-- The error is raised again here, so that it does not have a CONTEXT line for each inner function.
exception when sqlstate 'BF001' then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;
comment on function backfill.preview(regclass, text, text, name[], jsonb) is 'Shows what a job would do: rows, time, WAL, growth, triggers, warnings, and up to five rows before and after the change. Changes nothing. set => null previews a delete.';
