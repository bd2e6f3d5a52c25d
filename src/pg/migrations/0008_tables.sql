-- Tables of more than one heap: partitions, children. Each heap that holds rows is a leaf, walked through its own
-- index by slices of its own, always with "only".

-- What a slice of such a job needs beyond the job's plan: its leaf's name, key and fingerprint (Leaf in job/plan.rs).
-- With the slice and not with the job: a claim would carry the leaves of a thousand partitions otherwise.
alter table backfill.slice add column leaf jsonb;

-- About how many rows it has, for whoever looks for the largest remaining slice.
alter table backfill.slice add column rows_estimated bigint;

-- The tables that hold the rows of a target: itself, or its partitions and children, those that are being detached
-- left out. Temporary children are other sessions' own.
create function backfill._leaves(relation oid) returns table (leaf oid, name text, relkind "char")
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

-- Whether the rows lie in more tables than the one that is named.
-- In plpgsql, which keeps its plan: it is asked for each slice.
create function backfill._is_spread(relation oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select c.relkind = 'p' or exists (select from pg_inherits h join pg_class k on k.oid = h.inhrelid
                                             where h.inhparent = c.oid and (c.relkind = 'p' or k.relpersistence <> 't'))
            from pg_class c where c.oid = _is_spread.relation);
end $$;

-- Tables that can't be walked at all. It reads the catalog and nothing else, so it may have its owner's rights: those
-- who enqueue need none on the functions that it calls.
create or replace function backfill._check_target(relation oid) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  l record;
begin
  select k.oid, k.relkind, k.relpersistence, k.relnamespace, n.nspname, k.relispartition into c
    from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = relation;
  if c.oid is null then
    perform backfill._refuse(format('table %s does not exist', relation), 'No table has this number.', 'Name an ordinary or a partitioned table.');
  elsif c.nspname = 'backfill' then
    perform backfill._refuse(format('%s belongs to backfilld itself', relation::regclass), 'A job that changed it would change the queue under itself.', 'Name a table of yours.');
  elsif c.nspname in ('pg_catalog', 'information_schema', 'pg_toast') then
    perform backfill._refuse(format('%s is a system catalog', relation::regclass), 'PostgreSQL keeps it in order by itself.', 'Name a table of yours.');
  elsif c.relpersistence = 't' then
    perform backfill._refuse(format('%s is a temporary table', relation::regclass), 'Only the session that made it can see it.', 'Update it in that session, or use an ordinary table.');
  elsif c.relkind = 'v' or c.relkind = 'm' then
    perform backfill._refuse(format('%s is a view', relation::regclass), 'It has no rows of its own.', 'Name the table under it.');
  elsif c.relkind = 'f' then
    perform backfill._refuse(format('%s is a foreign table', relation::regclass), 'Its rows and this queue can''t commit in one local transaction.', 'Run the job in the database that holds the table.');
  elsif c.relkind not in ('r', 'p') then
    perform backfill._refuse(format('%s is not a table', relation::regclass), 'Only tables have rows to fill.', 'Name an ordinary or a partitioned table.');
  end if;
  if exists (select from pg_rewrite r where r.ev_class = relation and r.ev_type in ('2', '3', '4')) then
    perform backfill._refuse(format('%s has rewrite rules', relation::regclass), 'A rule can send the changed rows elsewhere without an error.', 'Replace the rules by triggers, or drop them.');
  end if;
  if not backfill._is_spread(relation) then
    return;
  end if;
  for l in select * from backfill._leaves(relation) loop
    if l.relkind = 'f' then
      perform backfill._refuse(format('%s has a part that is a foreign table: %s', relation::regclass, l.name), 'Its rows and this queue can''t commit in one local transaction.',
        'Enqueue a job for each of the other partitions or children, and run one in the database that holds the foreign one; or detach it.');
    elsif exists (select from pg_rewrite r where r.ev_class = l.leaf and r.ev_type in ('2', '3', '4')) then
      perform backfill._refuse(format('%s, a part of %s, has rewrite rules', l.name, relation::regclass), 'A rule can send the changed rows elsewhere without an error.', 'Replace the rules by triggers, or drop them.');
    end if;
  end loop;
end $$;

-- Whether values of a type are compared by a nondeterministic collation somewhere inside.
create function backfill._nondeterministic_within(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
-- Called under another's enable_seqscan = off it looks dear enough to be compiled, for half a second.
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

-- The key of one table by its own indexes: {"index", "columns"}; or null, and why there is none.
create function backfill._own_key(relation oid, asked name[], out key jsonb, out reason text)
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
           -- 18 knows columns that are not null by a constraint that old rows were not checked for.
           (select bool_and(a.attnotnull and not exists (select from pg_constraint t where t.conrelid = a.attrelid and t.contype = 'n' and a.attnum = any (t.conkey) and not t.convalidated))
              from generate_series(0, x.indnkeyatts - 1) p(n)
              join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]) as not_null,
           (select bool_and(o.opcdefault) from generate_series(0, x.indnkeyatts - 1) p(n)
              join pg_opclass o on o.oid = x.indclass[p.n]) as default_opclass,
           -- Batches name them.
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
      when i.expressions then 'is on an expression'
      when not i.not_null then 'has a column that may be null'
      when not i.default_opclass then 'has an operator class of its own'
      when not i.usual_operators then 'is ordered by operators of other names than < <= = >= >'
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
          -- A domain's own type: bounds are compared by its operators, and written in a form that depends on no setting.
          'type', (with recursive d(typ, typmod) as (
                     select a.atttypid, a.atttypmod
                     union all
                     select t.typbasetype, t.typtypmod from d join pg_type t on t.oid = d.typ where t.typtype = 'd')
                   select format_type(d.typ, d.typmod) from d join pg_type t on t.oid = d.typ where t.typtype <> 'd'),
          'collation', case when x.indcollation[p.n] <> 0 then (
             select quote_ident(ns.nspname) || '.' || quote_ident(cl.collname)
               from pg_collation cl join pg_namespace ns on ns.oid = cl.collnamespace where cl.oid = x.indcollation[p.n]) end,
          'operators', (select quote_ident(min(ns.nspname)) from pg_amop ao join pg_operator op on op.oid = ao.amopopr
                          join pg_namespace ns on ns.oid = op.oprnamespace
                         where ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype
                           and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 5),
          -- An index that descends in all columns is walked backwards, in ascending order.
          'descending', i.mixed and x.indoption[p.n] & 1 = 1)
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

-- The columns by which the leaves of a target are walked: those asked for, else its primary key's; null: each leaf's
-- own primary key.
create function backfill._key_columns(relation oid, asked name[]) returns name[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(asked, (select array_agg((k.value ->> 'name')::name order by k.ordinality)
                            from backfill._own_key(relation, null) o, jsonb_array_elements(o.key -> 'columns') with ordinality k))
$$;

-- The key of a leaf. Raises BF001 with the reason when there is none.
create function backfill._leaf_key(relation oid, leaf oid, columns name[]) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k record;
begin
  select * into k from backfill._own_key(leaf, columns);
  if k.key is null then
    perform backfill._refuse(
      case when columns is null then format('table %s, a part of %s, has no primary key', leaf::regclass, relation::regclass)
           else format('table %s, a part of %s, can''t be walked by (%s)', leaf::regclass, relation::regclass, (select string_agg(quote_ident(c), ', ' order by n) from unnest(columns) with ordinality u(c, n))) end,
      coalesce(k.reason, case when columns is null then 'Nor has the table that is named.' else 'It has no unique index on exactly these columns.' end),
      'Each part is walked through an index of its own: create a unique btree index on not-null columns there ("create unique index concurrently"), or name the columns of another with key => array[...].');
  end if;
  return k.key;
end $$;

-- The index that the walk goes along, and the key's columns with the operators of its own operator class (P12).
-- Raises BF001 with the reason when there is none.
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
    perform backfill._refuse('key is an empty array', 'A walk needs an order.', 'Name the columns of a unique index, or leave key out for the primary key.');
  elsif asked is not null then
    select u.k into missing from unnest(asked) as u(k)
     where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = u.k and a.attnum > 0 and not a.attisdropped) limit 1;
    if found then
      perform backfill._refuse(format('table %s has no column "%s"', relation::regclass, coalesce(missing, 'null')), 'It is named in key.', 'Correct the name in key.');
    end if;
  end if;
  select * into k from backfill._own_key(relation, asked);
  if backfill._is_spread(relation) then
    -- A valid index of a partitioned table has a valid part in each partition.
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
    perform backfill._refuse(format('key (%s) of %s can''t be walked', asked_text, relation::regclass),
      coalesce(k.reason, 'No unique index has exactly these columns.'),
      'The key needs a unique, valid btree index on exactly these columns, each not null: create one with "create unique index concurrently", or name another key.');
  end if;
  perform backfill._refuse(format('table %s has no key that can be walked', relation::regclass),
    coalesce(k.reason, 'It has no primary key.'),
    'Name the columns of a unique btree index on not-null columns with key => array[...], or create one with "create unique index concurrently".');
end $$;

-- What the walk of each leaf needs: its name and size, its key, and by their own numbers the columns that the job
-- names (columns: by the target's numbers). only_leaf: just this one.
create function backfill._leaf_plans(relation oid, asked name[], columns smallint[], only_leaf oid default null)
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

-- Whether row security hides rows of a table from a role.
create function backfill._row_security_hides(relation oid, role name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
         and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'USAGE'))
    from pg_class c, pg_roles r where c.oid = relation and r.rolname = role
$$;

-- What only the whole of a job tells: the rights of its role on each leaf, which a grant on the parent does not give,
-- and columns whose change would move a row to another partition.
create function backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  assigned text[] := (select array_agg(distinct c) from backfill._assignments(set_sql) a, unnest(a.columns) c where set_sql is not null);
  spread boolean := backfill._is_spread(relation);
  verb text := case when kind = 'delete' then 'delete' else 'update' end;
  wanted name[];
  moving text;
  hidden text;
  lacking text[];
begin
  -- The server keeps these columns from being dropped by a dependency on their own table.
  select d.attname into moving
    from (select t.relid from pg_partition_tree(coalesce(pg_partition_root(relation), relation)) t) p
    join pg_depend x on x.classid = 'pg_class'::regclass and x.objid = p.relid and x.refclassid = 'pg_class'::regclass
                    and x.refobjid = p.relid and x.objsubid > 0 and x.refobjsubid = 0 and x.deptype = 'i'
    join pg_attribute d on d.attrelid = p.relid and d.attnum = x.objsubid
    join pg_partitioned_table k on k.partrelid = p.relid
   where d.attname = any (assigned) limit 1;
  if found then
    perform backfill._refuse(format('set assigns column "%s", by which %s is partitioned', moving, coalesce(pg_partition_root(relation), relation)::regclass),
      'A row whose partition key changes moves to another partition, where it may be missed or met twice.', 'Leave the column out of set.');
  end if;
  select l.name into hidden from backfill._leaves(relation) l where backfill._row_security_hides(l.leaf, run_as) limit 1;
  hidden := coalesce(hidden, case when backfill._row_security_hides(relation, run_as) then relation::regclass::text end);
  if hidden is not null then
    perform backfill._refuse(format('row level security of %s hides rows from role "%s"', hidden, run_as),
      'The job would pass over them without a word.', 'Choose with run_as a role that its policies don''t bind: the owner (unless row security is forced), or one with bypassrls.');
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
      perform backfill._refuse(format('role "%s" may not %s %s of the tables that hold the rows of %s', run_as, verb, cardinality(lacking), relation::regclass),
        format('A right on the parent does not reach a partition or child that is changed by itself: %s%s.', array_to_string(lacking[1:5], ', '), case when cardinality(lacking) > 5 then ', ...' else '' end),
        format('grant select, %s on table %s%s to %I; or run the job as the owner of the tables.', verb, array_to_string(lacking[1:5], ', '), case when cardinality(lacking) > 5 then ', ...' else '' end, run_as));
    end if;
  end if;
end $$;

create or replace function backfill._job_before_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- A submitter may insert without enqueue; what it could not choose there it can't choose here.
  perform backfill._check_target(new.relation);
  new.target := (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = new.relation);
  if not exists (select from pg_roles r where r.rolname = new.run_as) then
    perform backfill._refuse(format('role "%s" does not exist', new.run_as), 'The job would run with its rights.', 'Name an existing role in run_as.');
  end if;
  if jsonb_typeof(new.settings) is distinct from 'object'
     or exists (select from jsonb_each(case jsonb_typeof(new.settings) when 'object' then new.settings end) s
                 where s.key <> all (array['search_path', 'TimeZone', 'DateStyle', 'IntervalStyle']) or jsonb_typeof(s.value) not in ('string', 'null')) then
    perform backfill._refuse('settings can''t be read', 'They are search_path, TimeZone, DateStyle and IntervalStyle, each a text.', 'Use backfill.enqueue, which takes them from the session.');
  elsif array_ndims(new.key) > 1 or array_position(new.key, null) is not null then
    perform backfill._refuse('the key has a column without a name', 'It is a list of the names of columns.', 'Use backfill.enqueue, for example with key => array[''id''].');
  end if;
  perform backfill._check_options(new.options, new.filter_sql, backfill._is_operator(new.enqueued_by));
  new.options := backfill._stored_options(new.options);
  perform backfill._assignments(new.set_sql) where new.set_sql is not null;
  perform backfill._lex(new.filter_sql, 'filter') where new.filter_sql is not null;
  perform backfill._check_job(new.relation, new.kind, new.set_sql, new.key, new.run_as);
  return new;
end $$;

-- A slice of a job whose rows lie in several tables is not for a daemon of the first release, which would look for
-- them in the table that is named; nor is a delete, of which it would make an update; nor a key that descends in some
-- columns, which it would walk in ascending order and past the bounds.
create function backfill._slice_before_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- A plan from when the queue was short must not read all of it once it is long.
set enable_seqscan = off as $$
begin
  -- A plan says it; before there is one, the catalog is asked.
  if new.leaf is not null or exists (
    select from backfill.job j
     where j.id = new.job_id
       and (j.kind = 'delete'
            or case when j.plan is not null then coalesce((j.plan ->> 'spread')::boolean, false) or exists (select from jsonb_array_elements(j.plan -> 'key') p where p.value @> '{"descending": true}')
                    else backfill._is_spread(j.relation)
                         or exists (select from backfill._own_key(j.relation, j.key) o, jsonb_array_elements(o.key -> 'columns') p where p.value @> '{"descending": true}') end)) then
    new.needs := greatest(new.needs, 2);
  end if;
  return new;
end $$;
create trigger slice_before_insert before insert on backfill.slice for each row execute function backfill._slice_before_insert();

-- slices: [{"ordinal", "lower", "upper", "rows"}], bounds as arrays of text or null; of a leaf also {"relation",
-- "relation_name", "leaf"}, and no upper if it was empty. None: the table was empty.
create or replace function backfill._save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  update backfill.job x set plan = _save_plan.plan, rows_estimated = _save_plan.rows_estimated, planned_snapshot = snapshot::pg_snapshot where x.id = j.id;
  perform backfill._add_ranges(j, slices, 0);
  perform backfill._done(slice);
  perform backfill._note(j.id, 'planned', format('about %s rows in %s slice(s)', rows_estimated, jsonb_array_length(slices)), plan);
  perform backfill._arrange(j.id);
  perform backfill._settle(j.id);
  perform backfill._wake();
  return backfill._state_of(j.name);
end $$;

create function backfill._add_ranges(j backfill.job, slices jsonb, ordinal_from integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, run_as, priority, state, finished_at)
    select j.id, 'walk', j.run, j.generation, ordinal_from + r.ordinal, coalesce(r.relation, j.relation::bigint)::oid, coalesce(r.relation_name, j.target),
           r.lower, r.upper, r.leaf, r.rows, j.run_as, j.priority,
           case when r.upper is null then 'done' else 'held' end, case when r.upper is null then clock_timestamp() end
      from jsonb_to_recordset(slices) as r(ordinal integer, relation bigint, relation_name text, lower text[], upper text[], leaf jsonb, rows bigint)
    returning id, lower, upper)
  insert into backfill.checkpoint (slice_id, token, position, done) select id, gen_random_uuid(), lower, upper is null from made;
end $$;

-- Ends a claim; the slice is done. In the caller's transaction, so: synchronous.
create or replace function backfill._done(slice bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s backfill.slice;
begin
  perform set_config('synchronous_commit', 'on', true);
  delete from backfill.lease l where l.slice_id = _done.slice;
  update backfill.slice x set state = 'done', finished_at = clock_timestamp() where x.id = _done.slice returning x.* into s;
  if s.kind = 'walk' then
    perform backfill._adopt(s.job_id);
  end if;
end $$;

-- With the last slice of a walk: looks for leaves that were attached since planning. Their rows are outside of what is
-- promised, for they were not there; they are walked all the same, for whoever attaches a table to one that is being
-- filled wants it filled. But for expressions that read what they assign: such a table may hold rows that were passed
-- in another leaf and moved, and they would be changed twice. What was detached and is back goes on where it stopped.
create function backfill._adopt(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  l record;
  n integer;
  s bigint;
begin
  select * into j from backfill.job x where x.id = _adopt.job_id;
  if not coalesce((j.plan ->> 'spread')::boolean, false)
     or exists (select from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk' and x.state not in ('done', 'gone')) then
    return;
  end if;
  for l in update backfill.slice x set state = 'held', finished_at = null
             from backfill._leaves(j.relation) v
            where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk' and x.state = 'gone' and x.upper is not null and v.leaf = x.relation
           returning x.relation_name, x.ordinal loop
    perform backfill._note(j.id, 'leaf_attached', format('%s is attached again: slice %s goes on where it stopped', l.relation_name, l.ordinal));
  end loop;
  select coalesce(max(x.ordinal), -1) into n from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk';
  for l in select v.*, v.relkind = 'f' as is_foreign, coalesce((j.plan ->> 'self_reading')::boolean, false) as self_reading
             from backfill._leaves(j.relation) v
            where not exists (select from backfill.slice x where x.job_id = j.id and x.run = j.run and x.kind = 'walk' and x.relation = v.leaf) loop
    n := n + 1;
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, run_as, priority, state, needs)
    values (j.id, 'walk', j.run, j.generation, n, l.leaf, l.name, j.run_as, j.priority, case when l.is_foreign or l.self_reading then 'gone' else 'held' end, 2)
    returning id into s;
    insert into backfill.checkpoint (slice_id, token) values (s, gen_random_uuid());
    perform backfill._note(j.id, 'leaf_attached', case
      when l.is_foreign then format('%s was attached since planning and is a foreign table: it is not walked', l.name)
      when l.self_reading then format('%s was attached since planning and is not walked: set reads what it assigns, and rows that moved there may have been changed already. A job of its own fills it', l.name)
      else format('%s was attached since planning: it is walked too', l.name) end);
  end loop;
  perform backfill._arrange(j.id);
  perform backfill._wake();
end $$;

-- The leaf of a slice, for who holds it.
create function backfill._leaf(slice bigint, token uuid) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select s.leaf from backfill.slice s join backfill.lease l on l.slice_id = s.id where s.id = _leaf.slice and l.token = _leaf.token
$$;

-- The ranges of a leaf that was attached since planning; the claim by which they were found ends with it. The first
-- takes the claimed slice's place.
create function backfill._save_leaf(slice bigint, token uuid, slices jsonb, rows_estimated bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  n integer := (select max(x.ordinal) from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk');
begin
  perform backfill._drop_lease(slice);
  update backfill.slice s set upper = r.upper, leaf = r.leaf, rows_estimated = r.rows
    from jsonb_to_recordset(slices) as r(ordinal integer, upper text[], leaf jsonb, rows bigint) where r.ordinal = 0 and s.id = _save_leaf.slice;
  if (select s.upper is null from backfill.slice s where s.id = _save_leaf.slice) then
    update backfill.checkpoint c set done = true where c.slice_id = _save_leaf.slice;
    perform backfill._done(slice);
  end if;
  perform backfill._add_ranges(j, (select coalesce(jsonb_agg(e), '[]') from jsonb_array_elements(slices) e where (e ->> 'ordinal')::integer > 0), n);
  update backfill.job x set rows_estimated = x.rows_estimated + _save_leaf.rows_estimated where x.id = j.id;
  perform backfill._arrange(j.id);
  perform backfill._settle(j.id);
  perform backfill._wake();
  return backfill._state_of(j.name);
end $$;

-- Ends a claim whose leaf is no longer part of the target. Null if it still is, or if the target itself is gone.
create function backfill._gone(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  s backfill.slice;
begin
  select * into s from backfill.slice x where x.id = _gone.slice;
  if not coalesce((j.plan ->> 'spread')::boolean, false) or s.relation is null
     or to_regclass(j.target)::oid is distinct from j.relation
     or exists (select from backfill._leaves(j.relation) l where l.leaf = s.relation) then
    return null;
  end if;
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  update backfill.slice x set state = 'gone', finished_at = clock_timestamp() where x.id = _gone.slice;
  perform backfill._note(j.id, 'leaf_gone', format('%s was detached or dropped: slice %s ends with it', s.relation_name, s.ordinal), jsonb_build_object('slice', s.id));
  if s.kind = 'walk' then
    perform backfill._adopt(j.id);
  end if;
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

-- As unchanged(), for a leaf: that it still belongs to the target, and that the target is the one that was planned.
create function backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) returns boolean
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

-- The closing proof of the walk itself: the ranges of a run's slices follow one another without a gap from the
-- start to the planned upper bound of their table, and each was passed to its end. Null, or what is wrong.
create or replace function backfill._coverage_gap(job_id bigint) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  u record;
  t record;
  -- Of one table: where each slice ends, by where it starts; for the first that is '{}', which no other starts with.
  ends jsonb;
  here text;
  passed integer;
begin
  for t in
    select s.relation, min(s.ordinal) as ordinal, min(s.relation_name) as relation_name, count(*)::integer as slices,
           jsonb_object_agg(coalesce(s.lower, '{}')::text, s.upper::text) as ends,
           array_agg(distinct array(select jsonb_array_elements_text(case when s.leaf is null then j.plan -> 'upper' else s.leaf -> 'upper' end))::text) as planned,
           min(s.ordinal) filter (where c.done is not true or c.position is distinct from s.upper) as unfinished
      from backfill.slice s join backfill.job j on j.id = s.job_id and j.run = s.run and j.generation = s.generation
      left join backfill.checkpoint c on c.slice_id = s.id
     -- A leaf without an upper bound was empty.
     where s.job_id = _coverage_gap.job_id and s.kind = 'walk' and s.upper is not null
     group by s.relation
    having not bool_or(s.state = 'gone')
     order by 2
  loop
    if t.unfinished is not null then
      select x.ordinal, c.position, x.upper into u from backfill.slice x join backfill.job j on j.id = x.job_id and j.run = x.run and j.generation = x.generation left join backfill.checkpoint c on c.slice_id = x.id
       where x.job_id = _coverage_gap.job_id and x.kind = 'walk' and x.ordinal = t.unfinished;
      return format('slice %s stopped at %s, before its end %s', u.ordinal, coalesce(u.position::text, 'its start'), u.upper::text);
    end if;
    -- Two that start at one place have one entry.
    if (select count(*) from jsonb_object_keys(t.ends)) < t.slices then
      return format('slices of %s overlap', t.relation_name);
    end if;
    -- From the first to the one that starts where it ends, and so on: in a circle nothing would start with '{}'.
    here := '{}'; passed := 0;
    while t.ends ? here and passed < t.slices loop
      here := t.ends ->> here; passed := passed + 1;
    end loop;
    if passed < t.slices then
      return format('a slice of %s starts where no other ends: after %s comes none', t.relation_name, here);
    elsif array[here] is distinct from t.planned then
      return format('the slices of %s end at %s, and not at the planned end %s', t.relation_name, here, array_to_string(t.planned, ', '));
    end if;
  end loop;
  return null;
end $$;

-- Copies the walked ranges of the current generation for another passage (a verification, or a sweep).
create or replace function backfill._add_slices(job_id bigint, kind text, generation integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n integer;
begin
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, needs, run_as, priority)
    select s.job_id, _add_slices.kind, s.run, _add_slices.generation, s.ordinal, s.relation, s.relation_name, s.lower, s.upper, s.leaf, s.rows_estimated, s.needs, s.run_as, s.priority
      from backfill.slice s join backfill.job j on j.id = s.job_id and j.run = s.run and j.generation = s.generation
     where s.job_id = _add_slices.job_id and s.kind = 'walk' and s.state <> 'gone' and s.upper is not null
    returning id, lower)
  insert into backfill.checkpoint (slice_id, token, position) select id, gen_random_uuid(), lower from made;
  get diagnostics n = row_count;
  return n;
end $$;

-- Whether the holder of a slice should cut it in two: the job has fewer slices under way than it asks for and none that
-- waits for a worker, and no other of them has more rows before it. A few thousand rows are not worth the bother.
create function backfill._may_split(slice bigint, token uuid, wanted integer) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.lease l on l.job_id = x.id where l.slice_id = _may_split.slice and l.token = _may_split.token;
  return j.state = 'running' and j.desired_state = 'running'
    and wanted > (select count(*) from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp())
    and not exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state in ('ready', 'held'))
    -- Nearly the largest will do: of two that go on in step each finds itself behind the other when it asks.
    and coalesce((select max(r.remaining) filter (where r.id = _may_split.slice) >= greatest(5000, 0.8 * max(r.remaining))
                    from (select s.id, s.rows_estimated - c.rows_scanned as remaining
                            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                           where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state = 'leased'
                             and s.rows_estimated is not null and not c.done) r), false);
end $$;

-- Cuts a slice at a key that its holder found between its position and its end, with about so many rows on either side.
-- The claim ends with it, and the checkpoint gets a new token: a holder whose answer was lost goes on under the old
-- end, and would pass rows that are another slice's now; the fence stops its next batch.
create function backfill._split(slice bigint, token uuid, at text[], rows bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  s backfill.slice;
  c backfill.checkpoint;
  n integer;
  made bigint;
begin
  perform set_config('synchronous_commit', 'on', true);
  select * into c from backfill.checkpoint x where x.slice_id = _split.slice and x.token = _split.token for update;
  select * into s from backfill.slice x where x.id = _split.slice;
  if c.done is not false or s.kind <> 'walk' or _split.at is null or _split.at = s.upper or _split.at is not distinct from c.position then
    raise exception using errcode = 'BF006', message = format('slice %s can''t be cut at %s', slice, _split.at);
  end if;
  perform backfill._drop_lease(slice);
  select max(x.ordinal) + 1 into n from backfill.slice x where x.job_id = j.id and x.run = s.run and x.generation = s.generation and x.kind = s.kind;
  insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, needs, run_as, priority)
  values (s.job_id, s.kind, s.run, s.generation, n, s.relation, s.relation_name, _split.at, s.upper, s.leaf, _split.rows, s.needs, s.run_as, s.priority)
  returning id into made;
  insert into backfill.checkpoint (slice_id, token, position) values (made, gen_random_uuid(), _split.at);
  update backfill.slice x set upper = _split.at, rows_estimated = c.rows_scanned + _split.rows where x.id = s.id;
  perform backfill._note(j.id, 'split', format('slice %s was cut in two: slice %s is its second half', s.ordinal, n), jsonb_build_object('slice', s.ordinal, 'new', n, 'at', _split.at, 'rows', _split.rows));
  perform backfill._arrange(j.id);
  perform backfill._wake();
  return backfill._state_of(j.name);
end $$;

revoke all on all routines in schema backfill from public;
