-- enqueue: everything is checked in the caller's own transaction, with the caller's own rights.

create function backfill._refuse(message text, detail text, hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'BF001', message = _refuse.message, detail = _refuse.detail, hint = _refuse.hint;
end $$;

-- Called before _enqueue pins settings of its own. The path is
-- the effective one: "$user" would be somebody else in the session that runs the job.
create function backfill._caller_settings() returns jsonb
language sql stable as $$
  select pg_catalog.jsonb_build_object(
    'search_path', (select pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ' order by n)
                      from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality as u(s, n)),
    'TimeZone', pg_catalog.current_setting('TimeZone'),
    'DateStyle', pg_catalog.current_setting('DateStyle'),
    'IntervalStyle', pg_catalog.current_setting('IntervalStyle'))
$$;

-- 16 and later tell the right to SET ROLE from mere membership; before, membership is all there is.
create function backfill._may_run_as(actor name, run_as name) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles where rolname = _may_run_as.run_as) then
    return false;
  end if;
  return pg_has_role(actor, run_as, case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end);
end $$;

create function backfill._is_operator(actor name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where r.rolname = 'backfill_operator' and pg_has_role(actor, r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(actor, n.nspowner, 'MEMBER'))
$$;

-- Splits a fragment of SQL into tokens with their depth of parentheses. Refuses what could reach beyond the
-- fragment: unbalanced parentheses, open quotes and comments, a semicolon.
create function backfill._lex(fragment text, what text) returns table (kind text, body text, depth integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  rest text := fragment;
  stack text := '';
  tag text;
  level integer;
  at integer;
begin
  while rest <> '' loop
    if rest ~ '^\s' then
      kind := 'space'; body := substring(rest from '^\s+');
    elsif rest ~ '^--' then
      kind := 'space'; body := substring(rest from '^--[^\n\r]*');
    elsif rest ~ '^/\*' then
      -- Block comments nest.
      kind := 'space'; level := 0; at := 1;
      loop
        if substr(rest, at, 2) = '/*' then level := level + 1; at := at + 2;
        elsif substr(rest, at, 2) = '*/' then level := level - 1; at := at + 2; exit when level = 0;
        elsif at > length(rest) then
          perform backfill._refuse(format('%s has a comment that does not end', what), format('It starts at: %s', left(rest, 40)), 'Close it with */.');
        else at := at + 1;
        end if;
      end loop;
      body := left(rest, at - 1);
    elsif rest ~ '^[eE]''' then
      kind := 'string'; body := substring(rest from '^[eE]''(?:[^''\\]|\\.|'''')*''');
    elsif rest ~ '^(?:[bBxXnN]|[uU]&)?''' then
      kind := 'string'; body := substring(rest from '^(?:[bBxXnN]|[uU]&)?''(?:[^'']|'''')*''');
    elsif rest ~ '^(?:[uU]&)?"' then
      kind := 'quoted'; body := substring(rest from '^(?:[uU]&)?"(?:[^"]|"")*"');
    elsif rest ~ '^\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$' then
      tag := substring(rest from '^\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$');
      at := position(tag in substr(rest, length(tag) + 1));
      kind := 'string'; body := case when at > 0 then left(rest, at + 2 * length(tag) - 1) end;
    elsif rest ~ '^[A-Za-z_\u0080-\uffff]' then
      kind := 'word'; body := substring(rest from '^[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*');
    elsif rest ~ '^[([]' then
      kind := 'open'; body := left(rest, 1);
    elsif rest ~ '^[])]' then
      kind := 'close'; body := left(rest, 1);
    else
      kind := 'other'; body := left(rest, 1);
      if body = ';' then
        perform backfill._refuse(format('%s holds a semicolon', what), 'A semicolon ends a statement, and each batch is one statement.', 'Leave it out, with what follows it.');
      elsif body = '$' then
        perform backfill._refuse(format('%s holds a parameter', what), 'Nobody is there to give it a value.', 'Write the value itself.');
      end if;
    end if;
    if body is null then
      perform backfill._refuse(format('%s has a quote that does not end', what), format('It starts at: %s', left(rest, 40)), 'Close the quote.');
    end if;
    if kind = 'close' then
      if right(stack, 1) is distinct from (case body when ')' then '(' else '[' end) then
        perform backfill._refuse(format('%s has a "%s" that closes nothing', what, body), format('What follows it: %s', coalesce(nullif(left(substr(rest, 2), 40), ''), '(the end)')), 'Open what is closed, or leave it out.');
      end if;
      stack := left(stack, -1);
    end if;
    depth := length(stack);
    return next;
    if kind = 'open' then
      stack := stack || body;
    end if;
    rest := substr(rest, length(body) + 1);
  end loop;
  if stack <> '' then
    perform backfill._refuse(format('%s has a "%s" that is never closed', what, right(stack, 1)), format('It was: %s', left(fragment, 200)), 'Close what is opened.');
  end if;
end $$;

-- 'a = 1, (b, c) = (select ...)' -> ({a}, '1'), ({b,c}, '(select ...)'). Column names are unquoted.
create function backfill._assignments(set_sql text) returns table (columns text[], expression text)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  token record;
  in_columns boolean := true;
  listed boolean := false;
  expects_name boolean := true;
  shape constant text := 'It has the form: column = expression, column = expression, ...';
begin
  columns := '{}'; expression := '';
  for token in select l.kind, l.body, l.depth from backfill._lex(set_sql, 'set') l loop
    if in_columns then
      if token.kind = 'space' then
        continue;
      elsif token.kind in ('word', 'quoted') and expects_name then
        columns := columns || case when token.kind = 'word' then lower(token.body)
                                   else replace(substr(token.body, 2, length(token.body) - 2), '""', '"') end;
        expects_name := false;
      elsif token.kind = 'open' and token.body = '(' and columns = '{}' and not listed then
        listed := true;
      elsif token.body = ',' and listed and not expects_name then
        expects_name := true;
      elsif token.kind = 'close' and listed and not expects_name then
        null;
      elsif token.body = '=' and token.depth = 0 and columns <> '{}' and not expects_name then
        in_columns := false;
      elsif columns <> '{}' and token.body in ('[', '.') then
        perform backfill._refuse(format('set assigns to "%s%s..."', columns[1], token.body), 'The left side of an assignment is the plain name of a column.', 'Assign the whole column, without the name of its table.');
      else
        perform backfill._refuse(format('set can''t be read at "%s"', token.body), format('It was: %s', left(set_sql, 200)), shape);
      end if;
    elsif token.body = ',' and token.depth = 0 and token.kind = 'other' then
      return next;
      columns := '{}'; expression := ''; in_columns := true; listed := false; expects_name := true;
    else
      expression := expression || token.body;
    end if;
    if not in_columns and token.body = ',' and token.depth = 0 then
      null;
    end if;
  end loop;
  if in_columns or btrim(expression, E' \t\n\r') = '' then
    perform backfill._refuse('set is incomplete', format('It was: "%s"', left(set_sql, 200)), shape);
  end if;
  return next;
end $$;

-- The statement that a batch will be at heart; the daemon builds the same shape.
create function backfill._update_sql(target text, set_sql text, filter_sql text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format(E'update only %s set %s where (%s)', target,
    (select string_agg(
       case when cardinality(a.columns) = 1 then format(E'%I = (\n%s\n)', a.columns[1], a.expression)
            else format(E'(%s) = (\n%s\n)', (select string_agg(quote_ident(c), ', ' order by n) from unnest(a.columns) with ordinality u(c, n)), a.expression)
       end, ', ') from backfill._assignments(set_sql) a),
    coalesce(E'\n' || filter_sql || E'\n', 'true'))
$$;

-- The index that the walk goes along, and the key's columns with the operators of its own operator class (P12).
-- Raises BF001 with the reason when there is none.
create function backfill._key_of(relation oid, asked name[]) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  i record;
  found_key jsonb;
  reason text;
  unusable text := null;
  missing name;
  asked_text text := (select string_agg(quote_ident(k), ', ' order by n) from unnest(asked) with ordinality u(k, n));
begin
  if cardinality(asked) = 0 then
    perform backfill._refuse('key is an empty array', 'A walk needs an order.', 'Name the columns of a unique index, or leave key out for the primary key.');
  elsif asked is not null then
    select k into missing from unnest(asked) as u(k)
     where not exists (select from pg_attribute a where a.attrelid = relation and a.attname = k and a.attnum > 0 and not a.attisdropped) limit 1;
    if found then
      perform backfill._refuse(format('table %s has no column "%s"', relation::regclass, coalesce(missing, 'null')), 'It is named in key.', 'Correct the name in key.');
    end if;
  end if;
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
           (select bool_and(coalesce(c.collisdeterministic, true)) from generate_series(0, x.indnkeyatts - 1) p(n)
              left join pg_collation c on c.oid = x.indcollation[p.n]) as deterministic,
           (select count(distinct x.indoption[p.n] & 1) from generate_series(0, x.indnkeyatts - 1) p(n)) = 1 as one_direction
      from pg_index x
      join pg_class c on c.oid = x.indexrelid
      join pg_am am on am.oid = c.relam
     where x.indrelid = relation and x.indisunique
     order by x.indisprimary desc, x.indnkeyatts, x.indexrelid
  loop
    if asked is null and not i.indisprimary then
      continue;
    end if;
    if asked is not null and (i.columns is null or not (i.columns @> asked and asked @> i.columns) or cardinality(asked) <> i.n) then
      continue;
    end if;
    reason := case
      when i.amname <> 'btree' then format('is a %s index, not a btree', i.amname)
      when not i.usable then 'is not valid'
      when i.partial then 'is partial'
      when i.expressions then 'is on an expression'
      when not i.not_null then 'has a column that may be null'
      when not i.default_opclass then 'has an operator class of its own'
      when not i.deterministic then 'has a nondeterministic collation'
      when not i.one_direction then 'mixes ascending and descending columns'
    end;
    if reason is not null then
      unusable := format('Index %s %s.', i.indexrelid::regclass, reason);
      continue;
    end if;
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
                           and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 5))
          order by p.n))
      into found_key
      from pg_index x
      cross join lateral generate_series(0, x.indnkeyatts - 1) p(n)
      join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[p.n]
      join pg_opclass oc on oc.oid = x.indclass[p.n]
     where x.indexrelid = i.indexrelid;
    return found_key;
  end loop;
  if asked is not null then
    perform backfill._refuse(format('key (%s) of %s can''t be walked', asked_text, relation::regclass),
      coalesce(unusable, 'No unique index has exactly these columns.'),
      'The key needs a unique, valid btree index on exactly these columns, each not null: create one with "create unique index concurrently", or name another key.');
  end if;
  perform backfill._refuse(format('table %s has no key that can be walked', relation::regclass),
    coalesce(unusable, 'It has no primary key.'),
    'Name the columns of a unique btree index on not-null columns with key => array[...], or create one with "create unique index concurrently".');
end $$;

-- Tables that can't be walked at all.
create function backfill._check_target(relation oid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c record;
begin
  select k.oid, k.relkind, k.relpersistence, k.relnamespace, n.nspname, k.relispartition into c
    from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = relation;
  if c.oid is null then
    perform backfill._refuse(format('table %s does not exist', relation), 'No table has this number.', 'Name an ordinary table.');
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
  elsif c.relkind = 'p' then
    perform backfill._refuse(format('%s is a partitioned table', relation::regclass), 'This release walks ordinary tables.', 'Enqueue one job for each partition.');
  elsif c.relkind <> 'r' then
    perform backfill._refuse(format('%s is not a table', relation::regclass), 'Only tables have rows to fill.', 'Name an ordinary table.');
  end if;
  if exists (select from pg_inherits h where h.inhparent = relation) then
    perform backfill._refuse(format('%s has child tables', relation::regclass), 'This release walks tables without inheritance.', 'Enqueue one job for each child table.');
  end if;
  if exists (select from pg_rewrite r where r.ev_class = relation and r.ev_type in ('2', '3', '4')) then
    perform backfill._refuse(format('%s has rewrite rules', relation::regclass), 'A rule can send the changed rows elsewhere without an error.', 'Replace the rules by triggers, or drop them.');
  end if;
end $$;

create function backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  known constant text[] := array['max_rows_per_second', 'target_batch_ms', 'max_batch_rows', 'slices', 'max_victim_wait_ms',
    'max_row_errors', 'verify', 'window', 'vacuum', 'throttle', 'walk', 'max_growth_bytes', 'deadline'];
  o record;
  least_value numeric;
  most_value numeric;
  choices text[];
  reason text;
begin
  if options is null or jsonb_typeof(options) <> 'object' then
    perform backfill._refuse('options is not a JSON object', format('It is of type %s.', coalesce(jsonb_typeof(options), 'null')), 'For example: {"slices": 2}.');
  end if;
  for o in select e.key, e.value, jsonb_typeof(e.value) as type from jsonb_each(options) e loop
    if o.key <> all (known) then
      perform backfill._refuse(format('unknown option "%s"', o.key), format('Known are: %s.', array_to_string(known, ', ')), 'Correct its name, or leave it out.');
    end if;
    if o.type = 'null' then
      continue;
    end if;
    select r.a, r.b into least_value, most_value from (values
        ('max_rows_per_second', 0.1, 1e9), ('target_batch_ms', 1, 500), ('max_batch_rows', 1, 100000), ('slices', 1, 64),
        ('max_victim_wait_ms', 1, 60000), ('max_row_errors', 0, 1000000), ('max_growth_bytes', 0, 1e18)) r(k, a, b) where r.k = o.key;
    if found then
      if o.type <> 'number' or (o.value::text)::numeric not between least_value and most_value then
        perform backfill._refuse(format('option "%s" is %s', o.key, o.value), format('It is a number from %s to %s.', least_value, most_value::numeric(30)), 'Correct the value.');
      end if;
      if o.key <> 'max_rows_per_second' and (o.value::text)::numeric % 1 <> 0 then
        perform backfill._refuse(format('option "%s" is %s', o.key, o.value), 'It is a whole number.', 'Correct the value.');
      end if;
    end if;
    select r.c into choices from (values
        ('verify', array['auto', 'filter', 'expression', 'coverage', 'none']), ('vacuum', array['wait', 'run', 'off']),
        ('throttle', array['on', 'off']), ('walk', array['auto', 'plain', 'interleaved'])) r(k, c) where r.k = o.key;
    if found and (o.type <> 'string' or (o.value #>> '{}') <> all (choices)) then
      perform backfill._refuse(format('option "%s" is %s', o.key, o.value), format('It is one of: %s.', array_to_string(choices, ', ')), 'Correct the value.');
    end if;
    if o.key = 'throttle' and o.value #>> '{}' = 'off' and not operator_ok then
      perform backfill._refuse('option "throttle" may be switched off by operators only', 'Without it replica lag and load are ignored.', 'Leave it on, or ask a member of backfill_operator.');
    end if;
    if o.key = 'verify' and o.value #>> '{}' = 'filter' and filter_sql is null then
      perform backfill._refuse('option "verify" is "filter", and the job has no filter', 'Without a filter every row would count as not done.', 'Give the job a filter, or leave verify at "auto".');
    end if;
    if o.key = 'window' then
      reason := case
        when o.type <> 'object' then 'It is not an object.'
        when o.value - array['open', 'hours', 'time_zone'] <> '{}' then 'It has other members than open, hours and time_zone.'
        when jsonb_typeof(o.value -> 'open') is distinct from 'string' or o.value ->> 'open' !~ '^\s*\S+(\s+\S+){4}\s*$' then 'Its member open is not a cron expression of five fields.'
        when jsonb_typeof(o.value -> 'hours') is distinct from 'number' then 'Its member hours is not a number.'
        when (o.value ->> 'hours')::numeric not between 0.01 and 168 then 'Its member hours is not between 0.01 and 168.'
        when o.value -> 'time_zone' is not null and not exists (select from pg_timezone_names z where lower(z.name) = lower(o.value ->> 'time_zone')) then 'Its member time_zone is not known to this server.'
      end;
      if reason is not null then
        perform backfill._refuse(format('option "window" is %s', o.value), reason, 'For example: {"open": "0 22 * * *", "hours": 6, "time_zone": "Europe/Berlin"}.');
      end if;
    end if;
    if o.key = 'deadline' then
      begin
        perform (o.value #>> '{}')::timestamptz;
      exception when others then
        perform backfill._refuse(format('option "deadline" is %s', o.value), sqlerrm, 'It is a time stamp, for example "2027-01-31 06:00+00".');
      end;
    end if;
  end loop;
end $$;

-- Options as they are stored: a deadline's meaning must not depend on the settings of whoever reads it.
create function backfill._stored_options(options jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when options ->> 'deadline' is null then options
              else jsonb_set(options, '{deadline}', to_jsonb((options ->> 'deadline')::timestamptz)) end
$$;

-- Options that every release accepts and this one can't carry out yet. What asks for nothing is not told.
create function backfill._not_in_effect(options jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s = %s', o.key, o.value), ', ' order by o.key)
    from jsonb_each(options) o
   where o.value <> 'null' and (o.key in ('window', 'max_growth_bytes', 'max_row_errors')
      or (o.key, o.value #>> '{}') in (('vacuum', 'run'), ('walk', 'interleaved'), ('verify', 'expression')))
$$;

-- Has the server parse and plan a statement under the job's settings and role, in the caller's own rights. A cursor
-- takes one statement only. Between the two changes of search_path nothing of ours may be looked up by name.
create function backfill._try_plan(run_as name, settings jsonb, statement text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c refcursor;
  line text;
  old_role text := current_setting('role');
begin
  if run_as <> current_user then
    perform set_config('role', run_as, true);
  end if;
  perform set_config('search_path', settings ->> 'search_path', true);
  open c for execute 'explain (costs off) ' operator(pg_catalog.||) statement;
  -- Until the first fetch nothing is planned, and no right is checked.
  fetch c into line;
  close c;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  perform set_config('role', old_role, true);
end $$;

create function backfill._resolve_run_as(actor name, asked name) returns name
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  own name;
begin
  if asked is not null then
    return asked;
  end if;
  if exists (select from backfill.executor e where e.run_as = actor) then
    return actor;
  end if;
  -- A registration stays when the configuration has moved on to executors: of live daemons one must serve the role.
  select e.run_as into own from backfill.executor e
   where e.one_url and backfill._may_run_as(actor, e.run_as)
     and (not exists (select from backfill.worker w where w.expires_at > clock_timestamp())
          or exists (select from backfill.worker w where w.expires_at > clock_timestamp() and e.run_as = any (w.run_as)))
   order by e.login limit 1;
  return coalesce(own, actor);
end $$;

-- What enqueue tells about executors without opening the table to submitters.
create function backfill._executor_note(run_as name, relation oid) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case
    when not exists (select from backfill.executor e where e.run_as = _executor_note.run_as)
      then format('no daemon runs jobs as role "%s" yet: the job is accepted and waits (reason "executor")', run_as)
    when exists (select from backfill.executor e join pg_class c on c.oid = relation
                  where e.run_as = _executor_note.run_as and e.is_superuser and pg_get_userbyid(c.relowner) <> e.run_as)
      then format('the daemon runs jobs as superuser "%s": triggers of table %s run with its rights', run_as, relation::regclass)
  end
$$;

-- The stored job of this name beside a new spec: its id and state, and the first difference, if any.
create function backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name)
returns table (id bigint, state text, difference text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select j.id, j.state, case
      -- Somebody else's spec is not for the caller's eyes.
      when not (backfill._is_operator(session_user) or exists (select from pg_roles r where r.rolname = j.enqueued_by and pg_has_role(session_user, r.oid, 'MEMBER')))
           and (j.kind, j.relation, j.set_sql, j.filter_sql, j.key, j.run_as_asked) is distinct from
               (_compare_spec.kind, _compare_spec.relation, _compare_spec.set_sql, _compare_spec.filter_sql, _compare_spec.key, _compare_spec.run_as_asked)
        then format('it was enqueued by "%s"', j.enqueued_by)
      when j.kind <> _compare_spec.kind then format('kind was "%s", is "%s"', j.kind, _compare_spec.kind)
      when j.relation <> _compare_spec.relation and j.target = (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = _compare_spec.relation)
        then format('target was another table named %s, which has been replaced since', j.target)
      when j.relation <> _compare_spec.relation then format('target was %s, is %s', j.target, _compare_spec.relation::regclass)
      when j.run_as_asked is distinct from _compare_spec.run_as_asked
        then format('run_as was %s, is %s', coalesce(quote_ident(j.run_as_asked), 'null'), coalesce(quote_ident(_compare_spec.run_as_asked), 'null'))
      when j.key is distinct from _compare_spec.key then format('key was %s, is %s', coalesce(j.key::text, 'the primary key'), coalesce(_compare_spec.key::text, 'the primary key'))
      when j.set_sql is distinct from _compare_spec.set_sql then format('set was <%s>, is <%s>', j.set_sql, _compare_spec.set_sql)
      when j.filter_sql is distinct from _compare_spec.filter_sql then format('filter was <%s>, is <%s>', coalesce(j.filter_sql, 'null'), coalesce(_compare_spec.filter_sql, 'null'))
    end
    from backfill.job j where j.name = job_name
$$;

create function backfill._enqueue(
  name           text,
  target         regclass,
  "set"          text,
  filter         text,
  key            name[],
  priority       integer,
  run_at         timestamptz,
  run_as         name,
  needs_approval boolean,
  options        jsonb,
  settings       jsonb
) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_name    text    := _enqueue.name;
  v_set     text    := _enqueue."set";
  v_filter  text    := nullif(btrim(_enqueue.filter, E' \t\n\r'), '');
  v_rel     oid     := _enqueue.target;
  v_run_as  name;
  v_target  text;
  v_key     jsonb;
  v_assigned text[];
  v_column  text;
  v_old     record;
  v_note    text;
  v_message text; v_detail text; v_hint text; v_state text;
  a         record;
begin
  if v_name is null or v_name !~ '^[A-Za-z0-9._:/-]{1,200}$' then
    perform backfill._refuse(case when v_name is null then 'name is null' else format('name "%s" can''t be used', left(v_name, 220)) end,
      'A name has 1 to 200 of the characters A-Z a-z 0-9 . _ : / and -.', 'Choose a short plain name, for example orders_total_cents.');
  elsif v_rel is null then
    perform backfill._refuse('target is null', 'A job needs a table to work on.', 'Name the table, for example target => ''public.orders''.');
  elsif v_set is null then
    perform backfill._refuse('set is null', 'A job needs an assignment.', 'For example: set => ''total_cents = round(total * 100)::bigint''.');
  elsif length(v_set) > 65536 or length(v_filter) > 65536 then
    perform backfill._refuse('set or filter is longer than 65536 characters', 'It is sent with each batch.', 'Put the expression into a function and call it.');
  elsif _enqueue.run_at is null or _enqueue.priority is null or _enqueue.needs_approval is null then
    perform backfill._refuse('priority, run_at and needs_approval can''t be null', 'One of them is.', 'Leave them out for their defaults.');
  end if;
  perform backfill._check_options(_enqueue.options, v_filter, backfill._is_operator(current_user));
  v_target := (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = v_rel);

  v_run_as := backfill._resolve_run_as(current_user, _enqueue.run_as);
  if not exists (select from pg_roles r where r.rolname = v_run_as) then
    perform backfill._refuse(format('role "%s" does not exist', v_run_as), 'The job would run with its rights.', 'Name an existing role in run_as, or leave it out.');
  elsif not backfill._may_run_as(current_user, v_run_as) then
    perform backfill._refuse(format('role "%s" may not run jobs as "%s"', current_user, v_run_as), 'Enqueueing gives nobody more rights than they had.', format('As an administrator: grant %I to %I; or leave run_as out.', v_run_as, current_user));
  end if;

  -- The same call again is safe, also where the table has moved on since: before all checks of the table.
  select * into v_old from backfill._compare_spec(v_name, 'update', v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as);
  if v_old.id is not null then
    return backfill._same_or_raise(v_name, v_old.id, v_old.state, v_old.difference);
  end if;

  perform backfill._check_target(v_rel);
  v_key := backfill._key_of(v_rel, _enqueue.key);
  for a in select x.columns, x.expression from backfill._assignments(v_set) x loop
    foreach v_column in array a.columns loop
      if v_column = any (v_assigned) then
        perform backfill._refuse(format('set assigns column "%s" twice', v_column), 'An update gives each column one value.', 'Assign it once.');
      end if;
      v_assigned := v_assigned || v_column;
      select at.attgenerated as generated, at.attidentity as identity into v_old
        from pg_attribute at where at.attrelid = v_rel and at.attname = v_column and at.attnum > 0 and not at.attisdropped;
      if not found then
        perform backfill._refuse(format('table %s has no column "%s"', v_target, v_column),
          format('Its columns are: %s.', (select string_agg(quote_ident(t.attname), ', ' order by t.attnum) from (select x.attname, x.attnum from pg_attribute x where x.attrelid = v_rel and x.attnum > 0 and not x.attisdropped order by x.attnum limit 40) t)), 'Add the column first, or correct its name in set.');
      elsif v_old.generated <> '' then
        perform backfill._refuse(format('column "%s" of %s is generated', v_column, v_target), 'PostgreSQL computes it from other columns.', 'Assign the columns that it is computed from, or drop its expression first.');
      elsif v_old.identity = 'a' then
        perform backfill._refuse(format('column "%s" of %s is an identity column, generated always', v_column, v_target), 'PostgreSQL numbers it by itself.', 'Leave it out of set.');
      elsif exists (select from jsonb_array_elements(v_key -> 'columns') k where k ->> 'name' = v_column) then
        perform backfill._refuse(format('set assigns column "%s", which is part of the key', v_column), 'A row whose key changes may be missed or met twice.', 'Walk another unique key with key => array[...], or leave the column out of set.');
      end if;
    end loop;
  end loop;
  if v_filter is not null then
    perform backfill._lex(v_filter, 'filter');
  end if;
  begin
    perform backfill._try_plan(v_run_as, _enqueue.settings, backfill._update_sql(v_target, v_set, v_filter));
  exception when others then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint, v_state = returned_sqlstate;
    if v_state = 'BF001' then
      raise;
    end if;
    raise exception using errcode = 'BF001',
      message = format('the server refuses this update of %s as role "%s": %s', v_target, v_run_as, v_message),
      detail = coalesce(nullif(v_detail, ''), format('SQLSTATE %s.', v_state)),
      hint = coalesce(nullif(v_hint, ''), case when v_state = '42501' then format('Grant the role what it lacks, or enqueue as the owner of the table.')
                                               else format('Correct set or filter; "explain update %s set ... where ..." in psql shows the same error, with its place.', v_target) end);
  end;
  if nullif(current_setting('transaction_read_only'), 'off') is not null then
    perform backfill._refuse('this session is read-only', 'A job is a row of a table.', 'Connect to the primary with a session that may write.');
  end if;

  insert into backfill.job (name, kind, relation, target, set_sql, filter_sql, key, priority, run_at, run_as, run_as_asked, needs_approval, options, settings)
  values (v_name, 'update', v_rel, v_target, v_set, v_filter, _enqueue.key, _enqueue.priority, _enqueue.run_at, v_run_as, _enqueue.run_as, _enqueue.needs_approval, _enqueue.options, _enqueue.settings)
  on conflict do nothing;
  if not found then
    select * into v_old from backfill._compare_spec(v_name, 'update', v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as);
    return backfill._same_or_raise(v_name, v_old.id, v_old.state, v_old.difference);
  end if;
  v_note := backfill._executor_note(v_run_as, v_rel);
  if v_note is not null then
    raise warning '%', v_note;
  end if;
  v_note := backfill._not_in_effect(_enqueue.options);
  if v_note is not null then
    raise notice 'kept with the job, and not in effect in this release: %', v_note;
  end if;
  return (select c.id from backfill._compare_spec(v_name, 'update', v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as) c);
end $$;

create function backfill._same_or_raise(job_name text, id bigint, state text, difference text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if difference is not null then
    raise exception using errcode = 'BF002', message = format('a job named "%s" exists with another spec', job_name),
      detail = difference || '.', hint = 'Choose another name, or remove the old job with backfill.forget after it has ended.';
  end if;
  if state in ('succeeded', 'failed', 'cancelled') then
    raise notice 'job "%" exists and has ended: %', job_name, state;
  end if;
  return id;
end $$;

-- The public face. It can't pin its search_path, for it passes on the caller's; so every name is qualified.
create function backfill.enqueue(
  name           text,
  target         regclass,
  "set"          text,
  filter         text        default null,
  key            name[]      default null,
  priority       integer     default 0,
  run_at         timestamptz default now(),
  run_as         name        default null,
  needs_approval boolean     default false,
  options        jsonb       default '{}'
) returns bigint
language sql volatile as $$
  select backfill._enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, backfill._caller_settings())
$$;
