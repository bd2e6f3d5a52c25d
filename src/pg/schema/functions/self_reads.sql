-- These functions find expressions of an update that read, in other rows of the table, a column
-- that the job assigns. The result of such a job depends on the order of its batches, because a
-- later batch reads values that an earlier batch has changed. The functions read the plans that the
-- server makes. In a plan, views and simple functions in SQL are already expanded.

-- Returns all nodes of a plan. is_top is true for a node whose output contains only columns that
-- are used: the topmost node of a subquery, and each branch of a UNION or of a partitioned table.
create or replace function backfill._plan_nodes(plan jsonb) returns table (node jsonb, is_top boolean)
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with recursive nodes(node, is_top) as (
    select plan -> 0 -> 'Plan', true
    union all
    select c.child, c.child ? 'Subplan Name' or c.child ->> 'Parent Relationship' in ('Member', 'Subquery') or n.node ->> 'Node Type' in ('SetOp', 'Recursive Union')
      from nodes n cross join lateral jsonb_array_elements(n.node -> 'Plans') c(child))
  select n.node, n.is_top from nodes n
$$;

-- Returns a condition of a plan, and the parts of it that are joined with AND at its top level. A
-- long condition, such as a list of a thousand values, is not split.
create or replace function backfill._conjuncts(condition text) returns setof text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  token record;
  part text := '';
  parts text[] := '{}';
begin
  return next condition;
  if octet_length(condition) > 8000 then
    return;
  end if;
  -- The plan shows a condition in parentheses: ((a = 1) AND (b = 2)). Parameters such as $0 stand
  -- for the results of subqueries.
  for token in select * from backfill._lex(regexp_replace(condition, '\$(\d)', 'parameter_\1', 'g'), 'a condition') loop
    if token.depth = 1 and token.kind = 'word' and token.body = 'AND' then
      parts := parts || btrim(part); part := '';
    elsif token.depth > 0 or token.kind <> 'open' then
      part := part || token.body;
    end if;
  end loop;
  return query select unnest(parts || left(btrim(part), -1)) where parts <> '{}';
end $$;

-- Returns the first of the given columns that a plan reads in rows other than the row that the
-- statement changes. `relation` is the target of the job or another table, and `tables` are the
-- tables that hold its rows. With own_row, the function also returns a column that the plan reads
-- in the row that the statement changes. Returns null if there is no such column. The plan must not
-- contain index scans, because the condition of a partial index would be missing from it. The
-- columns '*' stand for the rows themselves, which a DELETE removes.
--
-- `changes` is the table that the statement changes. In the plan of an UPDATE, the ModifyTable node
-- shows which scan reads the row that is changed. In the plan of a SELECT with the filter of the
-- job, it is the scan that has the name of the target.
create or replace function backfill._column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean default false, changes oid default null) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  nodes jsonb[] := array(select x.node || jsonb_build_object('is_top', x.is_top) from backfill._plan_nodes(plan) x);
  target jsonb := coalesce((select n from unnest(nodes) n where n ->> 'Node Type' = 'ModifyTable' limit 1),
                           (select n from unnest(nodes) n where n ->> 'Alias' = (select c.relname from pg_class c where c.oid = changes) and backfill._heap_of(n) = any (tables) limit 1));
  target_heap oid := backfill._heap_of(target);
  -- Conditions that each joined row satisfies.
  conditions text[] := array(
    select c from unnest(nodes) n cross join lateral jsonb_each(n) e cross join lateral backfill._conjuncts(e.value #>> '{}') c
     where e.key = 'Filter' and n ? 'Relation Name' or e.key = any (array['Join Filter', 'Hash Cond', 'Merge Cond']) and n ->> 'Join Type' in ('Inner', 'Semi', 'Right Semi', 'Anti', 'Right Anti'));
  -- The output of a scan can contain columns that nothing uses. The topmost node of a subquery
  -- outputs only what is used.
  expressions text[] := array(
    select coalesce(i.item, e.value #>> '{}') from unnest(nodes) n cross join lateral jsonb_each(n) e
      left join lateral jsonb_array_elements_text(case jsonb_typeof(e.value) when 'array' then e.value end) i(item) on true
     where e.key <> all (array['Plans', 'Node Type', 'Relation Name', 'Schema', 'Alias', 'Parent Relationship', 'Subplan Name', 'CTE Name', 'Operation'])
       and jsonb_typeof(e.value) in ('string', 'array') and (e.key <> 'Output' or (n ->> 'is_top')::boolean or n ->> 'Node Type' !~ ' Scan$'));
  -- All expressions of the plan. Unlike the array above, this one also contains the outputs of
  -- scans that output more columns than are used.
  everything text[] := array(
    select coalesce(i.item, e.value #>> '{}') from unnest(nodes) n cross join lateral jsonb_each(n) e
      left join lateral jsonb_array_elements_text(case jsonb_typeof(e.value) when 'array' then e.value end) i(item) on true
     where e.key <> all (array['Plans', 'Node Type', 'Relation Name', 'Schema', 'Alias', 'Parent Relationship', 'Subplan Name', 'CTE Name', 'Operation']) and jsonb_typeof(e.value) in ('string', 'array'));
  is_partitioned boolean := (select c.relkind = 'p' from pg_class c where c.oid = relation);
  scan record;
  col text;
begin
  for scan in select x.alias, x.heap from (select n ->> 'Alias' as alias, backfill._heap_of(n) as heap from unnest(nodes) n where n ? 'Relation Name' and n ->> 'Node Type' <> 'ModifyTable') x
               where x.heap = any (tables) and (own_row or x.alias is distinct from target ->> 'Alias') loop
    -- With a list of column aliases, for example t x(a, b), the plan contains the aliases. It does
    -- not tell which columns they stand for, so all columns count as read.
    if exists (select from unnest(everything) e cross join lateral regexp_matches(e, format('(?:^|[^\w$".])%s\.("(?:[^"]|"")*"|[\w$]+)', regexp_replace(quote_ident(scan.alias), '(\W)', '\\\1', 'g')), 'g') m
                where m[1] not in (select quote_ident(a.attname) from pg_attribute a where a.attrelid = scan.heap)) then
      return columns[1];
    end if;
    -- A scan that is joined with the target on all columns of a unique index reads only the row
    -- that the statement changes.
    continue when not own_row and target_heap = any (tables) and exists (
      select from pg_index i
       where i.indrelid = case when target is null then null when is_partitioned then relation when scan.heap = target_heap then target_heap end
         and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
         -- If the index has a different collation from the column, or an operator class other than
         -- the default, values can be equal in the expression but different in the index.
         and not exists (select from unnest(i.indcollation::oid[], i.indclass::oid[], (i.indkey::smallint[])[0:i.indnkeyatts - 1]) k(collation_oid, class, num) join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
                          where k.collation_oid <> a.attcollation or not (select o.opcdefault from pg_opclass o where o.oid = k.class))
         and (select bool_and(exists (
                select from unnest(conditions) c
                 where c in (format('(%1$s = %2$s)', x.here, x.there), format('(%2$s = %1$s)', x.here, x.there),
                             format('((%1$s)::text = (%2$s)::text)', x.here, x.there), format('((%2$s)::text = (%1$s)::text)', x.here, x.there))))
                from (select format('%I.%I', scan.alias, a.attname) as here, format('%I.%I', target ->> 'Alias', a.attname) as there
                        from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any ((i.indkey::smallint[])[0:i.indnkeyatts - 1])) x));
    -- A deleted row is missing from each later read of the table, whatever the read outputs.
    if columns = array['*'] then
      return '*';
    end if;
    foreach col in array columns loop
      if exists (select from unnest(expressions) e
                  where e ~ format('(^|[^\w$"])%s($|[^\w$"])', regexp_replace(format('%I.%I', scan.alias, col), '(\W)', '\\\1', 'g'))
                     or position(format('%I.*', scan.alias) in e) > 0) then
        return col;
      end if;
    end loop;
  end loop;
  return null;
end $$;

-- Returns the table of a node of a plan.
create or replace function backfill._heap_of(node jsonb) returns oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = node ->> 'Relation Name' and n.nspname = node ->> 'Schema'
$$;

-- Returns the name that a quoted identifier stands for.
create or replace function backfill._identifier(quoted text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  v_inner text := replace(substring(quoted from '"(.*)"$'), '""', '"');
  v_name text;
begin
  if quoted !~* '^u&' then
    return v_inner;
  end if;
  execute format('select U&''%s''', replace(v_inner, '''', '''''')) into v_name;
  return v_name;
end $$;

-- Returns the types that a type consists of: the base type of a domain, the elements of an array,
-- the columns of a composite type. For the row type of a table, the function returns no types.
create or replace function backfill._parts_of_type(type oid) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.oid from pg_type y
    cross join lateral (select y.typbasetype union all select y.typelem
                        union all select a.atttypid from pg_attribute a join pg_class k on k.oid = a.attrelid and k.relkind = 'c' where a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped) p(oid)
   where y.oid = type and p.oid <> 0
$$;

-- Returns the functions that are called because of the columns of a table, although no expression
-- names them: the functions in the defaults (with_defaults) and domains of the assigned columns,
-- and the functions of casts to and from the types of columns that are assigned or named. A cast
-- counts only if the owner of its function may act as run_as. Functions of PostgreSQL itself and
-- functions in C are left out.
create or replace function backfill._functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive col as (
    select a.attnum, a.atttypid, a.attname = any (assigned) as is_assigned from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
       and (a.attname = any (assigned) or a.attname in (select case l.kind when 'word' then lower(l.body) else backfill._identifier(l.body) end from backfill._lex(fragments, 'the expressions') l where l.kind in ('word', 'quoted')))),
  type(oid, is_assigned) as (
    select c.atttypid, c.is_assigned from col c
    union
    select p.oid, t.is_assigned from type t cross join backfill._parts_of_type(t.oid) p(oid))
  select p.oid from (
    select d.refobjid from col c join pg_attrdef f on f.adrelid = relation and f.adnum = c.attnum and c.is_assigned join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_proc'::regclass where with_defaults
    union
    select c.castfunc from type t join pg_type y on y.oid = t.oid join pg_cast c on y.oid in (c.castsource, c.casttarget) and y.typnamespace <> 'pg_catalog'::regnamespace join pg_proc p on p.oid = c.castfunc and pg_has_role(p.proowner, run_as, 'MEMBER')
    union
    select d.refobjid from type y join pg_constraint c on c.contypid = y.oid and y.is_assigned join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = c.oid and d.refclassid = 'pg_proc'::regclass) f(oid)
    join pg_proc p on p.oid = f.oid join pg_namespace n on n.oid = p.pronamespace join pg_language g on g.oid = p.prolang
   where p.prokind = 'f' and n.nspname not in ('pg_catalog', 'information_schema', 'backfill') and g.lanname not in ('internal', 'c')
$$;

-- Returns the functions that a fragment may call, except the functions of PostgreSQL itself and
-- functions in C. If a name is overloaded, all functions of this name are returned. The names are
-- looked up in the given schemas. A keyword that cannot name a function without quotes does not
-- count as a call. The function may also be called as if it were a column (`row.function`), or it
-- may be behind another object that the fragment names: an operator, an aggregate, a cast from or
-- to a type, a domain, a view, or the default of an argument. Such an object counts only if its
-- owner may act as run_as. Otherwise any role could create an object that uses a function of
-- another role, and thereby cause jobs of other roles to be refused.
create or replace function backfill._called_functions(fragment text, what text, schemas name[], run_as name) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive token as (
    select l.n, l.kind, case when l.kind = 'word' then lower(l.body) when l.kind = 'quoted' then backfill._identifier(l.body) else l.body end as body
      from backfill._lex(fragment, what) with ordinality l(kind, body, depth, n) where l.kind <> 'space'),
  -- Some keywords stand for operators.
  operator(name) as (
    select string_agg(case t.kind when 'other' then t.body else ' ' end, '' order by t.n) from token t
    union
    select o.name from token t join (values ('like', '~~'), ('like', '!~~'), ('ilike', '~~*'), ('ilike', '!~~*'), ('similar', '~'), ('similar', '!~'), ('between', '>='), ('between', '<='), ('between', '<'), ('between', '>'),
                                            ('in', '='), ('in', '<>'), ('nullif', '='), ('distinct', '='), ('case', '='), ('using', '='), ('natural', '='), ('group', '='), ('partition', '='), ('union', '='), ('intersect', '='), ('except', '='),
                                            ('order', '<'), ('order', '>')) o(keyword, name) on t.kind = 'word' and t.body = o.keyword),
  name as (
    select body, kind, before, next, next_kind, case when before = '.' then array[schema::name] else schemas end as schemas,
           kind in ('word', 'quoted') and not (kind = 'word' and before is distinct from '.' and body in (select k.word from pg_get_keywords() k where k.catcode in ('R', 'C'))) as is_name
      from (select t.*, lead(body) over w as next, lead(kind) over w as next_kind, lag(body) over w as before, lag(body, 2) over w as schema from token t window w as (order by n)) t),
  type(oid) as (
    select y.oid from name x join pg_type y on y.typname = left(x.body, 63) join pg_namespace n on n.oid = y.typnamespace
     where x.kind in ('word', 'quoted') and n.nspname = any (x.schemas) and n.nspname <> 'pg_catalog' and pg_has_role(y.typowner, run_as, 'MEMBER')
    union
    select p.oid from type t cross join backfill._parts_of_type(t.oid) p(oid)),
  named(oid) as (
    select p.oid from name x join pg_proc p on p.proname = left(x.body, 63) join pg_namespace n on n.oid = p.pronamespace
     where x.is_name and x.next_kind = 'open' and x.next = '(' and n.nspname = any (x.schemas) and (p.prokind <> 'a' or pg_has_role(p.proowner, run_as, 'MEMBER'))
    union
    select p.oid from name x join pg_proc p on p.proname = left(x.body, 63) join pg_namespace n on n.oid = p.pronamespace join pg_type y on y.oid = p.proargtypes[0]
     where x.kind in ('word', 'quoted') and x.before = '.' and x.next is distinct from '(' and y.typtype = 'c' and p.pronargs - p.pronargdefaults <= 1
       and n.nspname = any (_called_functions.schemas) and pg_has_role(p.proowner, run_as, 'MEMBER')
    union
    -- An operator may have been split into single characters, so its name is searched for in the
    -- joined characters.
    select o.oprcode from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
     where n.nspname <> 'pg_catalog' and (n.nspname = any (schemas) or n.nspname in (select t.body from token t where t.kind in ('word', 'quoted'))) and pg_has_role(o.oprowner, run_as, 'MEMBER')
       and exists (select from operator x where position(o.oprname in x.name) > 0)
    union
    select c.castfunc from type t join pg_type y on y.oid = t.oid join pg_cast c on y.oid in (c.castsource, c.casttarget) and y.typnamespace <> 'pg_catalog'::regnamespace join pg_proc p on p.oid = c.castfunc and pg_has_role(p.proowner, run_as, 'MEMBER')
    union
    select d.refobjid from type y join pg_constraint c on c.contypid = y.oid join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = c.oid and d.refclassid = 'pg_proc'::regclass
    union
    select v.function from name x join pg_class c on c.relname = left(x.body, 63) join pg_namespace n on n.oid = c.relnamespace cross join backfill._functions_of_view(c.oid) v(function)
     where x.is_name and c.relkind = 'v' and n.nspname = any (x.schemas) and pg_has_role(c.relowner, run_as, 'MEMBER')),
  called(oid) as (
    select f.oid from named f
    union
    -- The functions that are called in the default values of arguments.
    select d.refobjid from named f join pg_proc p on p.oid = f.oid and pg_has_role(p.proowner, run_as, 'MEMBER') join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.refclassid = 'pg_proc'::regclass
    union
    select u.function from named f join pg_aggregate a on a.aggfnoid = f.oid cross join unnest(array[a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) u(function))
  select distinct p.oid from called f join pg_proc p on p.oid = f.oid join pg_namespace n on n.oid = p.pronamespace join pg_language g on g.oid = p.prolang
   where p.prokind = 'f' and n.nspname not in ('pg_catalog', 'information_schema', 'backfill') and g.lanname not in ('internal', 'c')
  union
  -- These functions run a query, or read a table, that is passed as an argument.
  select p.oid from called f join pg_proc p on p.oid = f.oid
   where p.pronamespace = 'pg_catalog'::regnamespace
     and p.proname = any (array['query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'table_to_xml', 'table_to_xml_and_xmlschema', 'schema_to_xml', 'schema_to_xml_and_xmlschema',
                                'database_to_xml', 'database_to_xml_and_xmlschema', 'ts_stat', 'ts_rewrite'])
$$;

-- Returns the functions and aggregates that a view calls, also by operators and through other
-- views.
create or replace function backfill._functions_of_view(view oid) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive views(oid) as (
    select _functions_of_view.view
    union
    select d.refobjid from views v join pg_rewrite r on r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
      join pg_class c on c.oid = d.refobjid where c.relkind = 'v')
  select case d.refclassid when 'pg_proc'::regclass then d.refobjid else (select o.oprcode from pg_operator o where o.oid = d.refobjid) end
    from views v join pg_rewrite r on r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
$$;

-- Returns the schemas of a search_path that exist, with pg_catalog first if the path does not name
-- it. Unlike current_schemas, the function also returns schemas on which its caller lacks USAGE.
create or replace function backfill._schemas_of(settings jsonb) returns name[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select u.name from (select 0 as n, 'pg_catalog'::name as name
                                   union all
                                   select m.n, coalesce(replace(m.part[1], '""', '"'), lower(m.part[2]))::name from regexp_matches(settings ->> 'search_path', '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') with ordinality m(part, n)) u
                where u.name in (select s.nspname from pg_namespace s)
                group by u.name order by case when u.name = 'pg_catalog' and count(*) > 1 then max(u.n) else min(u.n) end)
$$;

-- Returns a SELECT that runs the body of a function in SQL with unknown arguments, or null if this
-- is not possible: if the body is not a single query, or if an argument has a pseudo-type. The
-- arguments are the columns of a subquery. As in the function, a column of a table takes precedence
-- over an argument of the same name. An argument that is a row is also a subquery of its own, so
-- that the body can name its columns.
create or replace function backfill._body_as_query(function oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  f record;
  body text;
  arguments text;
  rows text;
begin
  select p.proname, p.prosrc, p.proargtypes, pg_get_function_sqlbody(p.oid) as parsed,
         -- proargnames also contains the names of output arguments.
         array(select u.name from unnest(p.proargnames, p.proargmodes) with ordinality u(name, mode, n) where coalesce(u.mode, 'i') in ('i', 'b', 'v') order by u.n) as names
    into f from pg_proc p where p.oid = function;
  body := rtrim(coalesce(substring(f.parsed from '^BEGIN ATOMIC(.*)END$'), regexp_replace(f.parsed, '^RETURN ', 'SELECT '), f.prosrc), E'; \t\n\r');
  if body ~ ';' or exists (select from unnest(f.proargtypes::oid[]) a(type) join pg_type y on y.oid = a.type where y.typtype = 'p') or body !~* '^(\s|--[^\n]*\n|\()*(select|with|values|table)\M' then
    return null;
  end if;
  select string_agg(format('null::%s as _bf_argument_%s', format_type(a.type, null), a.n) || case when f.names[a.n] <> '' then format(', null::%s as %I', format_type(a.type, null), f.names[a.n]) else '' end, ', ' order by a.n)
    into arguments from unnest(f.proargtypes::oid[]) with ordinality a(type, n);
  select string_agg(format(' cross join (select (null::%s).* offset 0) as %I', format_type(a.type, null), r.name), '' order by a.n)
    into rows from unnest(f.proargtypes::oid[]) with ordinality a(type, n) join pg_type y on y.oid = a.type and y.typtype = 'c'
    cross join lateral unnest(array['_bf_argument_' || a.n, nullif(f.names[a.n], '')]) r(name) where r.name is not null and r.name is distinct from f.proname;
  -- Without "offset 0", the planner could conclude that a comparison with null is never true, and
  -- remove scans of the query from the plan.
  return format(E'select _bf_body.* from (select %s offset 0) as %I%s cross join lateral (\n%s\n) as _bf_body',
    coalesce(arguments, '1'), f.proname, rows, regexp_replace(body, '\$(\d+)', '_bf_argument_\1', 'g'));
end $$;

-- Returns '*' for a delete (assigned is '*'), or the columns that an update changes if it assigns
-- `assigned`: also the generated columns
-- that depend on them, the system columns, and the columns that a foreign key changes through its
-- ON UPDATE action. by_action is true for the columns that such an action changes.
create or replace function backfill._changed_columns(relation oid, assigned text[]) returns table (changed oid, columns text[], by_action boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive col(relation, num, by_action) as (
    select a.attrelid, a.attnum, false from pg_attribute a where a.attrelid = _changed_columns.relation and a.attname = any (assigned)
    union
    select f.conrelid, f.conkey[array_position(f.confkey, c.num)], true
      from col c join pg_constraint f on f.confrelid = c.relation and f.contype = 'f' and f.confupdtype in ('c', 'n', 'd') and c.num = any (f.confkey)),
  dependent(relation, num, by_action) as (
    select * from col
    union
    -- In version 15 and later, pg_depend records that the expression of a generated column depends
    -- on the other columns. In version 14 and earlier, it records that the generated column itself
    -- depends on them.
    select c.relation, a.attnum, c.by_action
      from col c join pg_depend p on p.refclassid = 'pg_class'::regclass and p.refobjid = c.relation and p.refobjsubid = c.num
      left join pg_attrdef d on p.classid = 'pg_attrdef'::regclass and d.oid = p.objid
      join pg_attribute a on a.attrelid = c.relation and a.attgenerated <> '' and (a.attnum = d.adnum and d.adrelid = c.relation or p.classid = 'pg_class'::regclass and p.objid = c.relation and a.attnum = p.objsubid))
  select _changed_columns.relation, array['*'], false where assigned = array['*']
  union all
  (select d.relation, array_agg(a.attname::text order by a.attnum) || case when not d.by_action then array['ctid', 'xmin', 'xmax', 'cmin', 'cmax'] else '{}' end, d.by_action
    from dependent d join pg_attribute a on a.attrelid = d.relation and a.attnum = d.num
   group by d.relation, d.by_action order by d.by_action, d.relation::regclass::text)
$$;

-- Returns the first column that a plan reads in rows other than the row that the update changes,
-- and that an update of `relation` can change in those rows. Also returns the table of this column.
-- Returns nulls if there is no such column.
create or replace function backfill._changed_column_read(plan jsonb, relation oid, assigned text[], changes oid default null, out source regclass, out name text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c record;
begin
  for c in select * from backfill._changed_columns(relation, assigned) loop
    -- A row that a foreign key changes may be any row, also one that is processed later.
    name := backfill._column_read(plan, c.changed, array(select h.heap from backfill._heaps(c.changed) h) || c.changed, c.columns, c.by_action, changes);
    if name is not null then
      source := c.changed;
      return;
    end if;
  end loop;
end $$;

-- Finds out whether the expressions of an update read a column that the update changes in other
-- rows. Also checks the bodies of the SQL functions that the expressions call. Returns in `place`
-- the expression or function that reads such a column, in `name` the column, and in `source` its
-- table. Returns in `unknown` the functions whose bodies cannot be checked, unless they are
-- immutable.
--
-- While the server plans the body of a function, it executes immutable functions. So the body of a
-- function is checked only if the owner of the function may act as run_as anyway, and not if the
-- function is a security definer function.
create or replace function backfill._self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], out place text, out name text, out source regclass, out unknown text[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_source text;
  pending jsonb;
  seen oid[] := '{}';
  f record;
  body text;
  path jsonb;
begin
  unknown := '{}';
  -- In the plan of an UPDATE, a subquery of the filter outputs all columns, because the server
  -- reads the rows of the subquery again if another transaction has changed them in the meantime.
  -- In the plan of a SELECT, the subquery outputs only the columns that are used. So the
  -- assignments and the filter are planned separately.
  v_source := (select h.source from backfill._heaps(relation) h limit 1);
  if set_sql is not null then
    select r.source, r.name into source, name from backfill._changed_column_read(backfill._try_plan(run_as, settings, backfill._work_sql('update', v_source, set_sql, null)), relation, assigned) r;
  end if;
  if name is null and filter_sql is not null then
    select r.source, r.name into source, name from backfill._changed_column_read(backfill._try_plan(run_as, settings, format(E'select from only %s where (\n%s\n)', v_source, filter_sql)), relation, assigned, relation) r;
  end if;
  if name is not null then
    place := 'an expression';
    return;
  end if;
  -- Each entry is a function, and the settings under which its body runs.
  pending := (select coalesce(jsonb_agg(jsonb_build_object('function', x.c, 'settings', settings)), '[]')
                from (select c from backfill._called_functions(set_sql, 'set', backfill._schemas_of(settings), run_as) c where set_sql is not null
                      union select c from backfill._called_functions(filter_sql, 'filter', backfill._schemas_of(settings), run_as) c where filter_sql is not null
                      union select c from backfill._functions_of_columns(relation, assigned, concat_ws(E'\n', set_sql, filter_sql), exists (select from backfill._lex(set_sql, 'set') l where l.kind = 'word' and lower(l.body) = 'default'), run_as) c where set_sql is not null) x);
  while pending <> '[]' loop
    select p.oid, p.oid::regprocedure::text as signature, p.provolatile as volatility, g.lanname as language,
           not p.prosecdef and pg_has_role(p.proowner, _self_reads.run_as, 'member') as is_trusted,
           (select substr(c, length('search_path=') + 1) from unnest(p.proconfig) c where c like 'search_path=%') as path
      into f from pg_proc p join pg_language g on g.oid = p.prolang where p.oid = (pending #>> '{0,function}')::oid;
    path := (pending #> '{0,settings}') || jsonb_strip_nulls(jsonb_build_object('search_path', f.path));
    pending := pending - 0;
    continue when f.oid = any (seen);
    seen := seen || f.oid;
    if f.language = 'sql' and f.is_trusted and cardinality(seen) <= 100 then
      begin
        body := backfill._body_as_query(f.oid);
        select r.source, r.name into source, name from backfill._changed_column_read(backfill._try_plan(run_as, path, body), relation, assigned) r;
        if name is not null then
          place := 'function ' || f.signature;
          return;
        end if;
        pending := pending || (select coalesce(jsonb_agg(jsonb_build_object('function', c, 'settings', path)), '[]') from backfill._called_functions(body, 'set', backfill._schemas_of(path), run_as) c);
        continue when body is not null;
      exception when others then
        -- The body cannot be planned. Treat the function as volatile, so that it is added to
        -- `unknown`.
        f.volatility := 'v';
      end;
    end if;
    if f.volatility <> 'i' then
      unknown := unknown || format('%s (language %s)', f.signature, f.language);
    end if;
  end loop;
end $$;

-- Refuses an update whose expressions read a column that it changes in other rows. Returns one
-- warning for each function or trigger for which the check is not possible.
create or replace function backfill._check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  found record;
  v_triggers text;
  v_others text;
begin
  select * into found from backfill._self_reads(run_as, settings, relation, set_sql, filter_sql, assigned);
  if found.place is not null then
    perform backfill._refuse(format('%s reads column "%s" of other rows of %s, and the assignments (set) change this column', found.place, found.name, found.source),
      'The job changes the rows in batches. A later batch would read values that an earlier batch has changed, so the result would differ from the result of one UPDATE.',
      'First store the values that the expressions need in another column or table, with a separate job or statement. Then enqueue a job that reads them from there.');
  end if;
  -- A BEFORE UPDATE trigger for each row may change any column.
  select string_agg(quote_ident(t.tgname), ', ' order by t.tgname) into v_triggers
    from pg_trigger t where t.tgrelid = relation and t.tgtype & 19 = 19 and not t.tgisinternal and t.tgenabled in ('O', 'A');
  if v_triggers is not null then
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into v_others
      from pg_attribute a where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attname <> all (assigned)
       and backfill._column_read(plan, relation, array(select h.heap from backfill._heaps(relation) h) || relation, array[a.attname::text]) is not null;
  end if;
  return array(select format('an expression reads columns of other rows of %s (%s): if a trigger (%s) changes one of these columns, the result depends on the order of the batches', relation::regclass, v_others, v_triggers) where v_others is not null)
         || array(select format('backfilld cannot find out what function %s reads: if it reads an assigned column in other rows of %s, the result depends on the order of the batches', u, relation::regclass) from unnest(found.unknown[1:10]) u)
         || case when cardinality(found.unknown) > 10 then array[format('backfilld also cannot find out what %s more functions read', cardinality(found.unknown) - 10)] end;
end $$;
