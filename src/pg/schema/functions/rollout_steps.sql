-- Returns an expression in parentheses. A line comment in the expression must not hide the closing
-- parenthesis.
create or replace function backfill._bracketed(expression text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when position('--' in expression) > 0 then format(E'(\n%s\n)', expression) else format('(%s)', expression) end
$$;

-- Returns the body of the trigger function that keeps the new column in sync. Before the stage
-- "switched", the expression determines the value of the column. From then on, a value that the
-- application writes to the column is kept, because new code no longer writes the old columns. The
-- settings are those with which the jobs compute the column. The session of the application may
-- have other settings, and some functions that count as immutable depend on them.
create or replace function backfill._sync_function(s jsonb, settings jsonb, switched boolean) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_column text := quote_ident(s ->> 'column');
  v_set text := format('new.%s := (select %s::%s from (select new.*) as %I);', v_column, backfill._bracketed(s ->> 'using'), s ->> 'cast', s ->> 'name');
begin
  if s ->> 'on_error' = 'null' then
    v_set := format('begin %s exception when others then new.%s := null; end;', v_set, v_column);
  end if;
  if switched then
    v_set := format('if tg_op operator(pg_catalog.=) ''INSERT'' and new.%1$s is null or tg_op operator(pg_catalog.=) ''UPDATE'' and not (%2$s) then %3$s end if;', v_column,
      format('row(old.%1$s)::pg_catalog.record operator(pg_catalog.*<>) row(new.%1$s)::pg_catalog.record', v_column), v_set);
  end if;
  return format(E'create %sfunction %I.%I() returns trigger language plpgsql set search_path = %s set extra_float_digits = 1 set bytea_output = hex set array_nulls = on set transform_null_equals = off set xmloption = content set quote_all_identifiers = off set standard_conforming_strings = on as %L', case when switched then 'or replace ' else '' end, s ->> 'schema', backfill._sync_name(s),
    concat_ws(', ', nullif(settings ->> 'search_path', ''), 'pg_temp'), format(E'#variable_conflict use_column\nbegin %s return new; end', v_set));
end $$;

-- Returns the name of the index on the new column of a table, without quotes.
create or replace function backfill._index_name(s jsonb, table_name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when table_name = s ->> 'name' then coalesce(s #>> '{index,name}', backfill._fit(format('%s_%s', table_name, s ->> 'column'), 50) || case when (s -> 'unique')::boolean then '_key' else '_idx' end)
              -- The names of partitions are often long and differ only at their end.
              else format('%s_%s_idx', backfill._fit(format('%s_%s', table_name, s ->> 'column'), 41), left(md5(format('%s.%s', table_name, s ->> 'column')), 8)) end
$$;

-- Returns all statements of a rollout, with the statement that undoes each of them, and the
-- strongest lock that each of them needs on a table. part is the partition that the statement
-- changes, or 0 if it changes the table of the rollout.
create or replace function backfill._rollout_steps(s jsonb, settings jsonb) returns table (stage text, ordinal integer, part oid, target text, sql text, undo_sql text, lock text, alone boolean, effect text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t constant text := s ->> 'target';
  c constant text := quote_ident(s ->> 'column');
  v_base constant text := backfill._fit(format('%s_%s', s ->> 'name', s ->> 'column'), 50);
  v_trigger constant text := backfill._sync_name(s);
  v_index constant text := quote_ident(backfill._index_name(s, s ->> 'name'));
  v_method constant text := coalesce(s #>> '{index,method}', 'btree');
  v_parted constant boolean := (s -> 'partitioned')::boolean;
  v_table constant oid := (s ->> 'relation')::bigint::oid;
  v_has_trigger constant boolean := s ? 'using' and s ->> 'sync' = 'trigger';
  v_key text;
  v_number integer := 0;
  v_when text;
  v_old text;
  v_new text;
  instant constant text := 'changes only the catalog';
  scan constant text := 'reads the whole table; reads and writes continue';
  scan_part constant text := 'reads the whole partition; reads and writes continue';
begin
  return query values
    ('expanded', 1, 0::oid, t, format('alter table %s add column %s %s%s', t, c, s ->> 'type', case when s ? 'default' and not (s -> 'volatile_default')::boolean then ' default ' || backfill._bracketed(s ->> 'default') else '' end),
      format('alter table %s drop column if exists %s', t, c), 'ACCESS EXCLUSIVE', false, instant);
  if s ? 'default' and (s -> 'volatile_default')::boolean then
    return query values ('expanded', 2, 0::oid, t, format('alter table %s alter column %s set default %s', t, c, backfill._bracketed(s ->> 'default')), null::text, 'ACCESS EXCLUSIVE', false, instant);
  end if;
  if v_has_trigger then
    -- Equal values can give different results in the expression, for example 1.0 and 1.00. So the
    -- condition of the trigger compares the binary images of the values.
    select string_agg('old.' || quote_ident(x.name), ', ' order by x.n), string_agg('new.' || quote_ident(x.name), ', ' order by x.n) into v_old, v_new
      from (select u.name, u.n from backfill._spec_columns(v_table, s ->> 'using') with ordinality u(name, n) where u.name <> s ->> 'column'
            union all select s ->> 'column', 100000) x;
    v_when := format('row(%s)::pg_catalog.record operator(pg_catalog.*<>) row(%s)::pg_catalog.record', v_old, v_new);
    return query values
      ('syncing', 1, 0::oid, t, backfill._sync_function(s, settings, false), format('drop function if exists %I.%I()', s ->> 'schema', v_trigger), 'none', false, instant),
      ('syncing', 2, 0::oid, t, format('create trigger %I before insert on %s for each row execute function %I.%I()', v_trigger || '_insert', t, s ->> 'schema', v_trigger), format('drop trigger if exists %I on %s', v_trigger || '_insert', t), 'SHARE ROW EXCLUSIVE', false, instant),
      ('syncing', 3, 0::oid, t, format('create trigger %I before update on %s for each row when (%s) execute function %I.%I()', v_trigger || '_update', t, v_when, s ->> 'schema', v_trigger), format('drop trigger if exists %I on %s', v_trigger || '_update', t), 'SHARE ROW EXCLUSIVE', false, instant);
    if coalesce((s -> 'subscribed')::boolean, false) then
      -- The table receives changes through a subscription. Only a trigger that is enabled with
      -- ENABLE ALWAYS fires for these changes.
      return query values
        ('syncing', 4, 0::oid, t, format('alter table %s enable always trigger %I', t, v_trigger || '_insert'), null::text, 'SHARE ROW EXCLUSIVE', false, instant),
        ('syncing', 5, 0::oid, t, format('alter table %s enable always trigger %I', t, v_trigger || '_update'), null::text, 'SHARE ROW EXCLUSIVE', false, instant);
    end if;
  end if;
  if v_parted and s ? 'index' then
    -- The server cannot create an index of a partitioned table concurrently. So the index of the
    -- parent is first created without the indexes of the partitions (ON ONLY). A partition that is
    -- created from now on gets an index automatically. Each existing partition gets an index
    -- concurrently, and the parent's index becomes valid when the last of these indexes is attached
    -- (P30).
    v_number := 3;
    return query values ('constrained', 1, 0::oid, t, format('create index %s on only %s using %s (%s)', v_index, t, v_method, c), format('drop index if exists %I.%s', s ->> 'schema', v_index), 'SHARE', false, instant);
    return query
      select 'constrained', case when p.is_leaf then 2 else 1 end, p.part, p.name,
             format('create index %s%I on %s%s using %s (%s)', case when p.is_leaf then 'concurrently ' else '' end, backfill._index_name(s, k.relname), case when p.is_leaf then '' else 'only ' end, p.name, v_method, c),
             case when p.is_leaf then format('drop index concurrently if exists %I.%I', p.schema, backfill._index_name(s, k.relname)) end,
             case when p.is_leaf then 'SHARE UPDATE EXCLUSIVE' else 'SHARE' end, p.is_leaf, case when p.is_leaf then scan_part || '; at the end waits for transactions with an older snapshot' else instant end
        from backfill._partitions(v_table) p join pg_class k on k.oid = p.part
       where not backfill._has_own_index(p.part, p.parent, backfill._index_name(s, k.relname), s ->> 'column')
      union all
      select 'constrained', 3, p.part, p.name, format('alter index %I.%I attach partition %I.%I', n.nspname, backfill._index_name(s, u.relname), p.schema, backfill._index_name(s, k.relname)), null, 'ACCESS EXCLUSIVE', false, instant
        from backfill._partitions(v_table) p join pg_class k on k.oid = p.part join pg_class u on u.oid = p.parent join pg_namespace n on n.oid = u.relnamespace
       where not backfill._has_own_index(p.part, p.parent, backfill._index_name(s, k.relname), s ->> 'column');
  elsif s ? 'index' or (s -> 'unique')::boolean then
    v_number := 1;
    return query values ('constrained', v_number, 0::oid, t, format('create %sindex concurrently %s on %s using %s (%s)', case when (s -> 'unique')::boolean then 'unique ' else '' end, v_index, t, v_method, c),
      format('drop index concurrently if exists %I.%s', s ->> 'schema', v_index), 'SHARE UPDATE EXCLUSIVE', true, scan || '; at the end waits for transactions with an older snapshot');
  end if;
  if (s -> 'unique')::boolean then
    v_number := v_number + 1;
    return query values ('constrained', v_number, 0::oid, t, format('alter table %s add constraint %s unique using index %s', t, v_index, v_index), format('alter table %s drop constraint if exists %s', t, v_index), 'ACCESS EXCLUSIVE', false, instant);
  end if;
  if s ? 'check' then
    return query values ('constrained', v_number + 1, 0::oid, t, format('alter table %s add constraint %I check %s not valid', t, v_base || '_check', backfill._bracketed(s ->> 'check')), format('alter table %s drop constraint if exists %I', t, v_base || '_check'), 'ACCESS EXCLUSIVE', false, instant);
    return query select * from backfill._validation(s, v_number + 2, v_base || '_check');
    v_number := v_number + 3;
  end if;
  if (s -> 'not_null')::boolean then
    v_key := v_base || '_not_null';
    return query values
      ('constrained', v_number + 1, 0::oid, t, case when current_setting('server_version_num')::integer >= 180000 then format('alter table %s add constraint %I not null %s not valid', t, v_key, c) else format('alter table %s add constraint %I check (%s is not null) not valid', t, v_key, c) end,
        format('alter table %s drop constraint if exists %I', t, v_key), 'ACCESS EXCLUSIVE', false, instant);
    return query select * from backfill._validation(s, v_number + 2, v_key);
    v_number := v_number + 3;
    if current_setting('server_version_num')::integer < 180000 then
      return query values
        ('constrained', v_number + 1, 0::oid, t, format('alter table %s alter column %s set not null', t, c), format('alter table %s alter column %s drop not null', t, c), 'ACCESS EXCLUSIVE', false, instant || ': the validated constraint proves that no row is null'),
        ('constrained', v_number + 2, 0::oid, t, format('alter table %s drop constraint %I', t, v_key), null::text, 'ACCESS EXCLUSIVE', false, instant);
      v_number := v_number + 2;
    end if;
  end if;
  if s ? 'references' then
    v_key := format('foreign key (%s) references %s (%I)%s', c, s #>> '{references,target}', s #>> '{references,column}', ' on delete ' || nullif(lower(s #>> '{references,on_delete}'), ''));
    if v_parted then
      -- Before version 18, the server refuses a NOT VALID foreign key on a partitioned table. So
      -- each partition first gets a foreign key that is then validated. After that, the foreign key
      -- of the parent needs no scan (P30).
      return query
        select 'constrained', v_number + x.n, p.part, p.name, x.sql, null::text, x.lock, false, x.effect
          from backfill._partitions(v_table) p,
               lateral (values (1, format('alter table %s add constraint %I %s not valid', p.name, v_base || '_fkey', v_key), 'SHARE ROW EXCLUSIVE', instant || '; locks both tables'),
                               (2, format('alter table %s validate constraint %I', p.name, v_base || '_fkey'), 'SHARE UPDATE EXCLUSIVE', scan_part)) x(n, sql, lock, effect)
         where p.is_leaf and not exists (select from pg_constraint k where k.conrelid = p.part and k.conparentid <> 0 and k.contype = 'f' and k.conname = v_base || '_fkey');
      return query values ('constrained', v_number + 3, 0::oid, t, format('alter table %s add constraint %I %s', t, v_base || '_fkey', v_key), format('alter table %s drop constraint if exists %I', t, v_base || '_fkey'), 'ACCESS EXCLUSIVE', false, instant || ': the foreign keys of the partitions are valid; locks both tables');
    else
      return query values
        ('constrained', v_number + 1, 0::oid, t, format('alter table %s add constraint %I %s not valid', t, v_base || '_fkey', v_key), format('alter table %s drop constraint if exists %I', t, v_base || '_fkey'), 'SHARE ROW EXCLUSIVE', false, instant || '; locks both tables'),
        ('constrained', v_number + 2, 0::oid, t, format('alter table %s validate constraint %I', t, v_base || '_fkey'), null::text, 'SHARE UPDATE EXCLUSIVE', false, scan);
    end if;
    v_number := v_number + 3;
  end if;
  return query values ('constrained', v_number + 1, 0::oid, t, format('analyze %s (%s)', t, c), null::text, 'SHARE UPDATE EXCLUSIVE', false, 'reads a sample of the table; reads and writes continue');
  if v_has_trigger then
    return query values
      ('switched', 1, 0::oid, t, backfill._sync_function(s, settings, true), replace(backfill._sync_function(s, settings, false), 'create function', 'create or replace function'), 'none', false, instant || ': from now on a value that the application writes to the column stays'),
      ('contracted', 1, 0::oid, t, format('drop trigger %I on %s', v_trigger || '_update', t), null::text, 'ACCESS EXCLUSIVE', false, instant),
      ('contracted', 2, 0::oid, t, format('drop trigger %I on %s', v_trigger || '_insert', t), null::text, 'ACCESS EXCLUSIVE', false, instant),
      ('contracted', 3, 0::oid, t, format('drop function %I.%I()', s ->> 'schema', v_trigger), null::text, 'none', false, instant);
  end if;
end $$;

-- Returns the statements that validate a constraint: one for each partition, so that no single
-- statement takes long, and then one for the table itself.
create or replace function backfill._validation(s jsonb, number integer, name text) returns table (stage text, ordinal integer, part oid, target text, sql text, undo_sql text, lock text, alone boolean, effect text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select 'constrained', number, p.part, p.name, format('alter table %s validate constraint %I', p.name, _validation.name), null, 'SHARE UPDATE EXCLUSIVE', false, 'reads the whole partition; reads and writes continue'
    from backfill._partitions((s ->> 'relation')::bigint::oid) p where p.is_leaf
  union all
  select 'constrained', number + 1, 0::oid, s ->> 'target', format('alter table %s validate constraint %I', s ->> 'target', _validation.name), null, 'SHARE UPDATE EXCLUSIVE', false,
         case when (s -> 'partitioned')::boolean then 'changes only the catalog: the partitions are valid' else 'reads the whole table; reads and writes continue' end
$$;

-- Returns whether a partition already has its part of the parent's index under another name,
-- because it was created or attached after the parent's index.
create or replace function backfill._has_own_index(part oid, parent oid, name text, column_name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_index i join pg_class k on k.oid = i.indexrelid join pg_inherits h on h.inhrelid = i.indexrelid join pg_index u on u.indexrelid = h.inhparent and u.indrelid = parent
      join pg_attribute a on a.attrelid = i.indrelid and a.attname = column_name and not a.attisdropped
     where i.indrelid = part and i.indnkeyatts = 1 and i.indkey[0] = a.attnum and k.relname <> _has_own_index.name)
$$;

-- Returns the assignment and the filter of the job that fills the new column. Returns no row if
-- there is nothing to fill.
create or replace function backfill._rollout_work(s jsonb, settings jsonb) returns table (set_sql text, filter_sql text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c constant text := quote_ident(s ->> 'column');
  v_as text := backfill._comparison_cast(backfill._resolve_type(s ->> 'type', settings));
begin
  if s ? 'using' then
    return query values (format('%s = %s::%s', c, backfill._bracketed(s ->> 'using'), s ->> 'cast'),
      format('%1$s%2$s is distinct from %3$s::%4$s%2$s', c, v_as, backfill._bracketed(s ->> 'using'), s ->> 'cast'));
  elsif (s -> 'volatile_default')::boolean then
    return query values (format('%s = %s', c, backfill._bracketed(s ->> 'default')), format('%s is null', c));
  end if;
end $$;

-- Returns a condition that is true for each row that violates a check, not-null or foreign key
-- constraint of the rollout. Returns null if the rollout adds no such constraint, or if no job can
-- walk the table. The condition contains the foreign key only if the owner of the table can read
-- all rows of the referenced table.
create or replace function backfill._violations(s jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(x.condition, ' or ' order by x.n) from (
    select 1, 'not ' || backfill._bracketed(s ->> 'check') where s ? 'check'
    union all
    select 2, format('%I is null', s ->> 'column') where (s -> 'not_null')::boolean
    union all
    select 3, format('%1$I.%2$I is not null and not exists (select from %3$s as zzz_backfill_referred where zzz_backfill_referred.%4$I = %1$I.%2$I)', s ->> 'name', s ->> 'column', s #>> '{references,target}', s #>> '{references,column}')
      from pg_class c where c.oid = backfill._resolve_table(s #>> '{references,target}', '{}') and not c.relrowsecurity
       and has_schema_privilege(s ->> 'owner', c.relnamespace, 'usage') and has_column_privilege(s ->> 'owner', c.oid, s #>> '{references,column}', 'select')) x(n, condition)
   where (s -> 'keyed')::boolean
$$;

-- Returns a description of the schema of a table, with one line for each object. Contains no OIDs
-- and no column numbers, so it is the same before a rollout and after its rollback. An object that
-- another session drops at this moment has no definition, and is left out.
create or replace function backfill._table_fingerprint(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(x.line, E'\n' order by x.line collate "C") from (
    select format('table %s: owner %s, privileges %s, replica identity %s, row security %s %s, options %s', relation::regclass, pg_get_userbyid(c.relowner), c.relacl, c.relreplident, c.relrowsecurity, c.relforcerowsecurity, c.reloptions) as line from pg_class c where c.oid = relation
    union all
    select format('column %I %s%s%s%s%s privileges %s, comment %L', a.attname, format_type(a.atttypid, a.atttypmod), ' collate ' || nullif(a.attcollation, 0)::regcollation, case when a.attnotnull then ' not null' end, ' default ' || pg_get_expr(d.adbin, d.adrelid), ' ' || nullif(concat(a.attgenerated, a.attidentity, a.attstorage), ''), a.attacl, col_description(relation, a.attnum))
      from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    union all
    select case when pg_get_constraintdef(k.oid) is not null then format('constraint %I %s, validated %s', k.conname, pg_get_constraintdef(k.oid), k.convalidated) end from pg_constraint k where k.conrelid = relation
    union all
    select case when pg_get_constraintdef(k.oid) is not null then format('referenced by %I of %s: %s', k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid)) end from pg_constraint k where k.confrelid = relation and k.conparentid = 0
    union all
    select case when pg_get_indexdef(i.indexrelid) is not null then format('index %s valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid) end from pg_index i where i.indrelid = relation
    union all
    select case when pg_get_triggerdef(g.oid) is not null then format('trigger %s enabled %s', pg_get_triggerdef(g.oid), g.tgenabled) end from pg_trigger g where g.tgrelid = relation and not g.tgisinternal
    union all
    select case when pg_get_ruledef(r.oid) is not null then format('rule %s', pg_get_ruledef(r.oid)) end from pg_rewrite r where r.ev_class = relation
    union all
    select format('policy %I for %s to %s using (%s) with check (%s)', p.polname, p.polcmd, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) from pg_policy p where p.polrelid = relation
    union all
    select case when pg_get_statisticsobjdef(e.oid) is not null then format('statistics %s', pg_get_statisticsobjdef(e.oid)) end from pg_statistic_ext e where e.stxrelid = relation
    union all
    select format('publication %I', p.pubname) from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where r.prrelid = relation) x
$$;

-- Returns the fingerprint of a table and of its partitions. The lines of a partition begin with its
-- name.
create or replace function backfill._rollout_fingerprint(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select backfill._table_fingerprint(relation) || coalesce(E'\n' || string_agg(x.line, E'\n' order by x.line collate "C"), '')
    from (select format('partition %s | %s', p.name, line) as line from backfill._partitions(relation) p, regexp_split_to_table(backfill._table_fingerprint(p.part), E'\n') line) x
$$;
