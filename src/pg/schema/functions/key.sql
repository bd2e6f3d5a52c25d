-- Returns the tables that hold the rows of a target: the leaf partitions of a partitioned table, or
-- the target itself and its inheritance children. Partitions that are being detached are left out.
-- Temporary children are left out, too, because other sessions cannot read their rows.
create or replace function backfill._leaves(relation oid) returns table (leaf oid, name text, relkind "char")
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive tree(relid) as (
    select _leaves.relation
    union
    select h.inhrelid from tree t join pg_inherits h on h.inhparent = t.relid where not h.inhdetachpending)
  select c.oid, format('%I.%I', n.nspname, c.relname), c.relkind
    from tree t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'f') and (c.relpersistence <> 't' or c.oid = _leaves.relation)
   order by n.nspname, c.relname
$$;

-- Returns whether the target is partitioned or has inheritance children that are not temporary. In
-- both cases its rows may be in tables other than the target itself. The function is called for
-- each slice, so it is in plpgsql, which caches the plan of its query.
create or replace function backfill._is_spread(relation oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select c.relkind = 'p' or exists (select from pg_inherits h join pg_class k on k.oid = h.inhrelid
                                             where h.inhparent = c.oid and (c.relkind = 'p' or k.relpersistence <> 't'))
            from pg_class c where c.oid = _is_spread.relation);
end $$;

-- Returns the heaps in which a job on this table changes rows, the largest first. These are the
-- table itself or its leaves. The result column named source contains the heap's name as a
-- statement uses it. For a leaf, this name includes an alias, because expressions refer to a leaf
-- by the name of the target. The function runs with its owner's privileges, but reads only the
-- catalog and the sizes of the heaps.
create or replace function backfill._heaps(relation oid) returns table (heap oid, name text, source text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select l.leaf, l.name, case when l.leaf = _heaps.relation then l.name else format('%s as %I', l.name, (select c.relname from pg_class c where c.oid = _heaps.relation)) end
    from (select x.leaf, x.name from backfill._leaves(_heaps.relation) x
          -- For a partitioned table without partitions, the result is the table itself.
          union all select c.oid, format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where c.oid = _heaps.relation and not exists (select from backfill._leaves(_heaps.relation))) l
   order by pg_relation_size(l.leaf) desc, l.leaf
$$;

-- Returns whether a type is or contains a range type or composite type that uses a nondeterministic
-- collation. The collation of any other type is not checked here. A domain contains its base type,
-- an array its elements, a range its bounds, a composite type its columns.
create or replace function backfill._nondeterministic_within(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
-- If the caller has set enable_seqscan = off, the estimated cost is so high that the server would
-- compile the query (JIT), which takes half a second.
set jit = off as $$
  with recursive t(oid) as (
    select _nondeterministic_within.type
    union
    select p.oid from t join pg_type y on y.oid = t.oid
    cross join lateral (select y.typbasetype union all select y.typelem
                        union all select r.rngsubtype from pg_range r where r.rngtypid = y.oid
                        union all select a.atttypid from pg_attribute a where a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped) p(oid)
     where p.oid <> 0)
  select exists (select from t join pg_type y on y.oid = t.oid
                   join pg_collation c on not c.collisdeterministic
                        and (exists (select from pg_range r where r.rngtypid = y.oid and r.rngcollation = c.oid)
                             or exists (select from pg_attribute a where a.attrelid = y.typrelid and y.typrelid <> 0 and a.attnum > 0 and not a.attisdropped and a.attcollation = c.oid)))
$$;

-- Returns the key of one table from its own indexes, as {"index", "columns"}. This is the primary
-- key, or a unique index on exactly the columns in `asked`. If the table has no usable key, `key`
-- is null. If an index on these columns exists but cannot be used, `reason` says why. Otherwise
-- `reason` is null.
create or replace function backfill._own_key(relation oid, asked name[], out key jsonb, out reason text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  i record;
  why text;
begin
  for i in
    select x.indexrelid, x.indisprimary, x.indisvalid and x.indisready as usable, x.indpred is not null as partial,
           x.indexprs is not null as expressions, am.amname, x.indnkeyatts as n,
           (select array_agg(a.attname order by p.n) from generate_series(0, x.indnkeyatts - 1) p(n)
              join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]) as columns,
           -- In PostgreSQL 18 and later, a column can have a NOT NULL constraint that was not
           -- validated for existing rows.
           (select bool_and(a.attnotnull and not exists (select from pg_constraint t where t.conrelid = a.attrelid and t.contype = 'n' and a.attnum = any (t.conkey) and not t.convalidated))
              from generate_series(0, x.indnkeyatts - 1) p(n)
              join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]) as not_null,
           (select bool_and(o.opcdefault) from generate_series(0, x.indnkeyatts - 1) p(n)
              join pg_opclass o on o.oid = x.indclass[p.n]) as default_opclass,
           -- The statements of batches refer to operators by the names <, <=, =, >= and >.
           (select bool_and((select count(*) from pg_amop ao join pg_operator op on op.oid = ao.amopopr
                              where ao.amopfamily = o.opcfamily and ao.amoplefttype = o.opcintype and ao.amoprighttype = o.opcintype
                                and op.oprname = (array['<', '<=', '=', '>=', '>'])[ao.amopstrategy]) = 5)
              from generate_series(0, x.indnkeyatts - 1) p(n) join pg_opclass o on o.oid = x.indclass[p.n]) as usual_operators,
           (select bool_and(coalesce(c.collisdeterministic, true) and not backfill._nondeterministic_within(a.atttypid)) from generate_series(0, x.indnkeyatts - 1) p(n)
              left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]
              left join pg_collation c on c.oid = x.indcollation[p.n]) as deterministic,
           (select count(distinct x.indoption[p.n] & 1) from generate_series(0, x.indnkeyatts - 1) p(n)) > 1 as mixed
      from pg_index x
      join pg_class c on c.oid = x.indexrelid
      join pg_am am on am.oid = c.relam
     where x.indrelid = relation and x.indisunique
     order by x.indisprimary desc, x.indnkeyatts, mixed, x.indexrelid
  loop
    if asked is null and not i.indisprimary then
      continue;
    end if;
    if asked is not null and (i.columns is null or not (i.columns @> asked and asked @> i.columns) or cardinality(asked) <> i.n) then
      continue;
    end if;
    why := case
      when i.amname <> 'btree' then format('is a %s index, not a btree', i.amname)
      when not i.usable then 'is not valid'
      when i.partial then 'is partial'
      when i.expressions then 'is an expression index'
      when not i.not_null then 'has a nullable column'
      when not i.default_opclass then 'has a column with a non-default operator class'
      when not i.usual_operators then 'uses comparison operators with names other than < <= = >= >'
      when not i.deterministic then 'has a nondeterministic collation'
    end;
    if why is not null then
      reason := format('Index %s %s.', i.indexrelid::regclass, why);
      continue;
    end if;
    reason := null;
    select jsonb_build_object(
        'index', i.indexrelid::bigint,
        'columns', jsonb_agg(jsonb_build_object(
          'name', a.attname,
          'attnum', a.attnum,
          -- For a domain this is the base type. Bounds are compared with the operators of the base
          -- type, and written in a form that depends on no setting.
          'type', (with recursive d(typ, typmod) as (
                     select a.atttypid, a.atttypmod
                     union all
                     select t.typbasetype, t.typtypmod from d join pg_type t on t.oid = d.typ where t.typtype = 'd')
                   select backfill._type_name(d.typ, d.typmod) from d join pg_type t on t.oid = d.typ where t.typtype <> 'd'),
          'collation', case when x.indcollation[p.n] <> 0 then (
             select quote_ident(ns.nspname) || '.' || quote_ident(cl.collname)
               from pg_collation cl join pg_namespace ns on ns.oid = cl.collnamespace where cl.oid = x.indcollation[p.n]) end,
          'operators', (select quote_ident(min(ns.nspname)) from pg_amop ao join pg_operator op on op.oid = ao.amopopr
                          join pg_namespace ns on ns.oid = op.oprnamespace
                         where ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype
                           and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 5),
          -- An index that is descending in all columns is walked backwards, so that its keys come
          -- in ascending order.
          'descending', i.mixed and x.indoption[p.n] & 1 = 1,
          'is_domain', exists (select from pg_type t where t.oid = a.atttypid and t.typtype = 'd'))
          order by p.n))
      into key
      from pg_index x
      cross join lateral generate_series(0, x.indnkeyatts - 1) p(n)
      join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]
      join pg_opclass oc on oc.oid = x.indclass[p.n]
     where x.indexrelid = i.indexrelid;
    return;
  end loop;
end $$;

-- Returns the name of a type in a form that has the same meaning under any search_path. format_type
-- returns the names of built-in types without their schema. Of these names, only the ones that are
-- keywords (for example integer) always mean the built-in type.
create or replace function backfill._type_name(type oid, modifier integer) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when t.typnamespace = 'pg_catalog'::regnamespace
                and n.name !~ '^(smallint|integer|bigint|real|double precision|numeric|boolean|character|bit|time|timestamp|interval)\M'
              then 'pg_catalog.' || n.name else n.name end
    from pg_type t cross join lateral format_type(t.oid, _type_name.modifier) n(name) where t.oid = _type_name.type
$$;

-- Returns the columns by which the leaves of a target are walked: the requested columns, or the
-- primary key of the target. Null means that each leaf is walked by its own primary key.
create or replace function backfill._key_columns(relation oid, asked name[]) returns name[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(asked, (select array_agg((k.value ->> 'name')::name order by k.ordinality)
                            from backfill._own_key(relation, null) o, jsonb_array_elements(o.key -> 'columns') with ordinality k))
$$;

-- Returns the key of a leaf. Raises BF001 with the reason if the leaf has no usable key.
create or replace function backfill._leaf_key(relation oid, leaf oid, columns name[]) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k record;
begin
  select * into k from backfill._own_key(leaf, columns);
  if k.key is null then
    perform backfill._refuse(
      case when columns is null then format('table %s, a partition or child of %s, has no usable primary key', leaf::regclass, relation::regclass)
           else format('key (%3$s) cannot be used for table %1$s, a partition or child of %2$s', leaf::regclass, relation::regclass, (select string_agg(quote_ident(c), ', ' order by n) from unnest(columns) with ordinality u(c, n))) end,
      coalesce(k.reason, case when columns is null then format('Table %s has no usable primary key either.', relation::regclass) else 'The table has no unique index on exactly these columns.' end),
      case when columns is null then 'Each partition or child table needs its own unique btree index on the same NOT NULL columns. Create the missing index (create unique index concurrently), and name the columns with key => array[...].'
           else format('Each partition or child table needs its own unique btree index on the same NOT NULL columns. Create it, outside a transaction block: create unique index concurrently on %s (%s);', leaf::regclass, (select string_agg(quote_ident(c), ', ' order by n) from unnest(columns) with ordinality u(c, n))) end);
  end if;
  return k.key;
end $$;

-- Returns two things: the index that the walk follows, and the columns of the key, as {"index",
-- "columns"}. Each element of columns names the schema that contains the operators of the index's
-- operator class (P12). If the key exists only in the leaves, the function returns the key of the
-- first leaf. Raises BF001 with the reason if no index can be used.
create or replace function backfill._key_of(relation oid, asked name[]) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  k record;
  l record;
  wanted name[];
  first_key jsonb;
  missing name;
  asked_text text := (select string_agg(quote_ident(u.k), ', ' order by u.n) from unnest(asked) with ordinality u(k, n));
begin
  if cardinality(asked) = 0 then
    perform backfill._refuse('key is an empty array', 'The key needs at least one column.', 'Name the columns of a unique index, or leave out the argument "key" to use the primary key.');
  elsif asked is not null then
    select u.k into missing from unnest(asked) as u(k)
     where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = u.k and a.attnum > 0 and not a.attisdropped) limit 1;
    if found then
      perform backfill._refuse(format('table %s has no column "%s"', relation::regclass, coalesce(missing, 'null')), 'The argument "key" names this column.', 'Correct the name: key => array[...].');
    end if;
  end if;
  select * into k from backfill._own_key(relation, asked);
  if backfill._is_spread(relation) then
    -- If an index of a partitioned table is valid, each partition has a valid index that is
    -- attached to it.
    if k.key is not null and (select c.relkind = 'p' from pg_class c where c.oid = relation) then
      return k.key;
    end if;
    wanted := backfill._key_columns(relation, asked);
    for l in select * from backfill._leaves(relation) loop
      first_key := coalesce(first_key, backfill._leaf_key(relation, l.leaf, wanted));
      perform backfill._leaf_key(relation, l.leaf, wanted);
    end loop;
    k.key := coalesce(k.key, first_key);
  end if;
  if k.key is not null then
    return k.key;
  elsif asked is not null then
    perform backfill._refuse(format('key (%s) of table %s cannot be used', asked_text, relation::regclass),
      coalesce(k.reason, 'The table has no unique index on exactly these columns.'),
      case when k.reason like '%nullable%' then format('Make the column NOT NULL first (alter table %1$s add constraint ... check (... is not null) not valid; alter table %1$s validate constraint ...; alter table %1$s alter column ... set not null;), or name another key.', relation::regclass)
           when k.reason like '%invalid%' or k.reason like '%not valid%' then 'Build the index again (reindex index concurrently ...), or name another key.'
           else 'The key needs a valid, unique btree index on exactly these NOT NULL columns, without WHERE, expressions, non-default operator classes or nondeterministic collations. Create such an index, outside a transaction block (create unique index concurrently), or name another key.' end);
  end if;
  perform backfill._refuse(format('table %s has no usable key', relation::regclass),
    coalesce(k.reason, 'The table has no primary key.'),
    'With key => array[...], name the columns of a unique btree index on NOT NULL columns. If there is no such index, create it first (for a partitioned table, create one on each partition), outside a transaction block: create unique index concurrently on ... (...);');
end $$;

-- Returns the data that the walk of each leaf needs: OID, name, key, column numbers, fingerprint,
-- and size in pages. `columns` has the numbers that the job's columns have in the target. attnums
-- has the numbers that the same columns and the key columns have in the leaf. only_leaf restricts
-- the result to one leaf.
create or replace function backfill._leaf_plans(relation oid, asked name[], columns smallint[], only_leaf oid default null)
returns table (leaf oid, name text, key jsonb, attnums smallint[], fingerprint text, pages bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  wanted name[] := backfill._key_columns(relation, asked);
  l record;
begin
  for l in select x.* from backfill._leaves(_leaf_plans.relation) x where only_leaf is null or x.leaf = only_leaf loop
    leaf := l.leaf;
    name := l.name;
    key := backfill._leaf_key(_leaf_plans.relation, l.leaf, wanted) -> 'columns';
    attnums := array(
      select b.attnum from pg_attribute a join pg_attribute b on b.attrelid = l.leaf and b.attname = a.attname and b.attnum > 0
       where a.attrelid = _leaf_plans.relation and a.attnum = any (_leaf_plans.columns) and not a.attisdropped
      union
      select (p.value ->> 'attnum')::smallint from jsonb_array_elements(_leaf_plans.key) p
      order by 1);
    fingerprint := backfill._fingerprint(l.leaf, attnums);
    pages := pg_relation_size(l.leaf) / current_setting('block_size')::bigint;
    return next;
  end loop;
end $$;
