-- These functions check the spec of a rollout and derive its statements. rollout_plan, the daemons
-- and the tests of the lock table use the same list of statements.

-- Truncates a name to at most this number of bytes.
create or replace function backfill._fit(name text, bytes integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select left(name, n) from generate_series(length(name), 0, -1) n where octet_length(left(name, n)) <= bytes limit 1
$$;

-- Returns the name of the trigger function of a rollout. It differs for each table and column,
-- sorts after the usual names of triggers, and leaves room for a suffix.
create or replace function backfill._sync_name(s jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%s_%s', backfill._fit(format('zzz_backfill_%s_%s', s ->> 'name', s ->> 'column'), 44), left(md5(format('%s.%s', s ->> 'target', s ->> 'column')), 8))
$$;

-- Returns the position of a stage, from 1.
create or replace function backfill._stage_number(stage text) returns integer
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array_position(array['planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted'], stage)
$$;

-- Returns the stage at a position. Returns null after the last stage.
create or replace function backfill._stage_at(number integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select (array['planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted'])[number]
$$;

-- Refuses a JSON object with an unknown key, or with a value that is not null and does not have a
-- type of its key. keys maps each known key to its type or types.
create or replace function backfill._check_keys(object jsonb, what text, keys jsonb) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  e record;
begin
  if object is null or jsonb_typeof(object) <> 'object' then
    perform backfill._refuse(format('%s is not an object', what), format('Its type is %s.', coalesce(jsonb_typeof(object), 'null')),
      format('Its keys are: %s.', (select string_agg(k, ', ' order by k) from jsonb_object_keys(keys) k)));
  end if;
  for e in select x.key, jsonb_typeof(x.value) as type from jsonb_each(object) x loop
    if not keys ? e.key then
      perform backfill._refuse(format('unknown key "%s" in %s', e.key, what), format('The keys are: %s.', (select string_agg(k, ', ' order by k) from jsonb_object_keys(keys) k)), 'Correct the key, or leave it out.');
    elsif e.type <> 'null' and e.type <> all (string_to_array(keys ->> e.key, ' ')) then
      perform backfill._refuse(format('"%s" in %s is of type %s', e.key, what, e.type), format('It must be of type %s.', replace(keys ->> e.key, ' ', ' or ')), 'Correct the value.');
    end if;
  end loop;
end $$;

-- Converts a JSON value of a spec to text without quotes. Returns null if the text is blank.
create or replace function backfill._spec_text(value jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select nullif(btrim(value #>> '{}', E' \t\n\r'), '')
$$;

-- Checks the form of a spec, and returns it in one normal form. Does not read the catalog.
create or replace function backfill._rollout_form(spec jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c jsonb;
  f record;
  v_index jsonb;
  v_references jsonb;
  v_sync text;
  v_until text;
begin
  if octet_length(spec::text) > 65536 then
    perform backfill._refuse(format('the spec has %s bytes', octet_length(spec::text)), 'The limit is 64 kB.', 'Move the logic into a function and call the function.');
  end if;
  perform backfill._check_keys(spec, 'the rollout', '{"rollout": "string", "table": "string", "add_column": "object", "sync": "string", "on_difference": "string", "backfill": "object", "until": "string"}');
  if spec ->> 'rollout' is null then
    perform backfill._refuse('the rollout has no name', 'A name has 1 to 150 characters. The allowed characters are A-Z a-z 0-9 . _ : / -', 'Add the name, for example: rollout: orders_total_cents');
  end if;
  if spec ->> 'rollout' !~ '^[A-Za-z0-9._:/-]{1,150}$' then
    perform backfill._refuse(format('name "%s" is not valid', left(spec ->> 'rollout', 170)), 'A name has 1 to 150 characters. The allowed characters are A-Z a-z 0-9 . _ : / -', 'Use a short name, for example orders_total_cents.');
  elsif spec ->> 'table' is null then
    perform backfill._refuse('the rollout names no table', 'A rollout changes one table.', 'Add the table, for example: table: public.orders');
  elsif spec -> 'add_column' is null then
    perform backfill._refuse('the rollout has no key "add_column"', 'A rollout adds one column.', 'Add the key, for example: add_column: {name: total_cents, type: bigint, using: "round(total * 100)::bigint"}');
  end if;
  c := spec -> 'add_column';
  -- In YAML, "on_error: null" without quotes is null and not a string.
  if jsonb_typeof(c -> 'on_error') = 'null' then
    c := c || '{"on_error": "null"}';
  end if;
  perform backfill._check_keys(c, 'add_column', '{"name": "string", "type": "string", "using": "string number boolean", "default": "string number boolean", "not_null": "boolean", "check": "string", "references": "string object", "index": "object boolean", "unique": "boolean", "on_error": "string"}');
  if coalesce(c ->> 'name', '') = '' or octet_length(c ->> 'name') > 63 then
    perform backfill._refuse(format('the name of the new column is %s', case when coalesce(c ->> 'name', '') = '' then 'missing' else 'longer than 63 bytes' end), 'The name of a column has 1 to 63 bytes.', 'Correct the key "name" in add_column.');
  elsif coalesce(c ->> 'type', '') = '' then
    perform backfill._refuse(format('column "%s" has no type', c ->> 'name'), 'A new column needs a data type.', 'Add the key "type" to add_column, for example: type: bigint');
  end if;
  if c ->> 'type' ~ '--|/\*|[;\n]' or length(c ->> 'type') > 200 then
    perform backfill._refuse(format('type "%s" is not valid', left(c ->> 'type', 200)), 'The type must not contain a comment, a semicolon or a line break, and has at most 200 characters.', 'Write only the type, for example: type: numeric(10, 2)');
  end if;
  c := jsonb_strip_nulls(c);
  for f in select x.key, backfill._spec_text(c -> x.key) as body from unnest(array['using', 'default', 'check']) x(key) where c ? x.key loop
    if f.body is null then
      perform backfill._refuse(format('"%s" is empty', f.key), 'It must be an SQL expression.', 'Write the expression, or leave the key out.');
    end if;
    perform backfill._lex(f.body, f.key) where f.body is not null;
    if exists (select from backfill._lex(f.body, f.key) l where f.body is not null and f.key in ('using', 'check') and l.kind = 'word' and lower(l.body) = 'select') then
      perform backfill._refuse(format('"%s" contains a subquery', f.key), 'The expression may read only its own row.', 'First fill a helper column with a job (backfill.enqueue), and let the expression read this column.');
    end if;
  end loop;
  if (c -> 'not_null')::boolean and c -> 'using' is null and coalesce(lower(backfill._spec_text(c -> 'default')), 'null') = 'null' then
    perform backfill._refuse('"not_null" is given without "using" and without "default"', 'The existing rows would have no value.', 'Add "using" or "default".');
  elsif (c -> 'not_null')::boolean and c ->> 'on_error' = 'null' then
    perform backfill._refuse('"not_null" is given, but "on_error" is "null"', 'Rows for which the expression fails would be null.', 'Leave one of them out, or let the expression return a value for all rows.');
  elsif c -> 'using' is not null and c -> 'default' is not null then
    perform backfill._refuse('both "using" and "default" are given', 'After stage switched, it would be ambiguous whether a row that is inserted without a value gets the default or the result of "using".', 'Leave one of them out. A default can be set after the rollout: alter table ... alter column ... set default ...');
  end if;
  v_index := case jsonb_typeof(c -> 'index') when 'boolean' then case when (c -> 'index')::boolean then '{}'::jsonb end when 'object' then c -> 'index' end;
  if v_index is not null then
    perform backfill._check_keys(v_index, 'index', '{"method": "string", "name": "string"}');
    if coalesce(v_index ->> 'method', 'btree') !~ '^[a-z_][a-z0-9_]*$' or octet_length(v_index ->> 'name') > 63 then
      perform backfill._refuse('the method or the name of the index is not valid', format('index is %s.', v_index), 'Write, for example: index: {method: btree}');
    elsif (c -> 'unique')::boolean and coalesce(v_index ->> 'method', 'btree') <> 'btree' then
      perform backfill._refuse(format('"unique" is given, but the method of the index is "%s"', v_index ->> 'method'), 'Only an index with the method btree can be unique.', 'Leave the method or "unique" out.');
    end if;
  end if;
  v_references := c -> 'references';
  if jsonb_typeof(v_references) = 'string' then
    v_references := (select jsonb_build_object('table', btrim(m[1]), 'column', case when btrim(m[2]) ~ '^".*"$' then replace(btrim(btrim(m[2]), '"'), '""', '"') else lower(btrim(m[2])) end) from regexp_match(v_references #>> '{}', '^([^()]+)\(([^(),]+)\)$') m where m is not null);
    if v_references is null then
      perform backfill._refuse(format('"references" is %s', c -> 'references'), 'It must name a table and one column.', 'Write, for example: references: public.customers (id)');
    end if;
  elsif jsonb_typeof(v_references) = 'object' then
    perform backfill._check_keys(v_references, 'references', '{"table": "string", "column": "string", "on_delete": "string"}');
    if v_references ->> 'table' is null or v_references ->> 'column' is null
       or lower(v_references ->> 'on_delete') <> all (array['no action', 'restrict', 'cascade', 'set null', 'set default']) then
      perform backfill._refuse(format('"references" is %s', v_references), 'It needs a table and a column. on_delete is no action, restrict, cascade, set null or set default.', 'Write, for example: references: {table: public.customers, column: id}');
    end if;
  end if;
  if (c -> 'not_null')::boolean and lower(v_references ->> 'on_delete') = 'set null' then
    perform backfill._refuse('"not_null" is given, but on_delete is "set null"', 'A delete in the referenced table would fail.', 'Leave one of them out.');
  elsif c ? 'using' and lower(v_references ->> 'on_delete') in ('set null', 'set default') then
    perform backfill._refuse(format('"using" is given, but on_delete is "%s"', lower(v_references ->> 'on_delete')), 'After a delete in the referenced table, the trigger or the next comparison would set the column to the value of "using" again, and the row would refer to a row that does not exist.',
      'Use no action, restrict or cascade. When the rollout is contracted, replace the foreign key.');
  end if;
  v_sync := coalesce(spec ->> 'sync', 'trigger');
  if v_sync not in ('trigger', 'application') then
    perform backfill._refuse(format('"sync" is "%s"', v_sync), 'Either a trigger keeps the new column in sync (trigger), or the application writes it in each statement (application).', 'Use trigger or application.');
  elsif v_sync = 'application' and c -> 'using' is null then
    perform backfill._refuse('"sync" is "application", but there is no "using"', 'Without an expression, the values that the application writes cannot be compared with anything.', 'Add "using", or leave "sync" out.');
  elsif spec ->> 'on_difference' not in ('repair', 'report') then
    perform backfill._refuse(format('"on_difference" is "%s"', spec ->> 'on_difference'), 'If the verification finds rows whose value differs from the expression, it corrects them (repair), or the rollout fails, and its hint contains a query that lists them (report).', 'Use repair or report.');
  elsif spec ->> 'on_difference' = 'report' and c -> 'using' is null then
    perform backfill._refuse('"on_difference" is given without "using"', 'Without an expression there is nothing to compare.', 'Leave "on_difference" out.');
  elsif v_sync = 'application' and c ->> 'on_error' = 'null' then
    perform backfill._refuse('"on_error" is given, but "sync" is "application"', 'No trigger evaluates the expression, so there is no error in a statement of the application.', 'Leave "on_error" out.');
  elsif coalesce(c ->> 'on_error', 'fail') not in ('fail', 'null') then
    perform backfill._refuse(format('"on_error" is "%s"', c ->> 'on_error'), 'If the expression fails on a row that the application writes, the statement of the application fails (fail), or the column becomes null (null).', 'Use fail or null.');
  end if;
  v_until := coalesce(spec ->> 'until', 'constrained');
  if backfill._stage_number(v_until) is null then
    perform backfill._refuse(format('"until" is "%s"', v_until), 'The stages are planned, expanded, syncing, backfilled, verified, constrained, switched and contracted.', 'Name one of the stages.');
  end if;
  return jsonb_strip_nulls(jsonb_build_object(
    'rollout', spec ->> 'rollout', 'table', spec ->> 'table', 'kind', 'add_column', 'column', c ->> 'name', 'type', c ->> 'type',
    'using', backfill._spec_text(c -> 'using'), 'default', backfill._spec_text(c -> 'default'), 'check', backfill._spec_text(c -> 'check'), 'not_null', coalesce((c -> 'not_null')::boolean, false),
    'unique', coalesce((c -> 'unique')::boolean, false), 'index', v_index, 'references', v_references, 'on_error', coalesce(c ->> 'on_error', 'fail'),
    'sync', v_sync, 'on_difference', coalesce(spec ->> 'on_difference', case v_sync when 'application' then 'report' else 'repair' end), 'backfill', coalesce(spec -> 'backfill', '{}'), 'until', v_until));
end $$;

-- Returns the table that a name means under a search_path.
create or replace function backfill._resolve_table(name text, settings jsonb) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_parts text[];
begin
  v_parts := parse_ident(name);
  return (select c.oid from unnest(case cardinality(v_parts) when 2 then v_parts[1:1]::name[] when 1 then backfill._schemas_of(settings) end) with ordinality u(schema, n)
            join pg_namespace s on s.nspname = u.schema join pg_class c on c.relnamespace = s.oid and c.relname = v_parts[cardinality(v_parts)]::name order by u.n limit 1);
exception when invalid_parameter_value then
  return null; -- The name has no valid syntax.
end $$;

-- Returns the type that a text means under a search_path. Returns null if the text is not a type.
create or replace function backfill._resolve_type(name text, settings jsonb) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_form text[] := regexp_match(name, '^\s*(.*?)\s*(?:\([^()]*\))?\s*((?:\[\d*\]\s*)*)$');
  v_parts text[];
  v_type oid;
begin
  -- A type of pg_catalog can also have a name that only the parser of the server knows. So this
  -- block looks up only types of other schemas, and to_regtype below resolves the remaining names.
  begin
    v_parts := parse_ident(v_form[1]);
    select case when v_form[2] <> '' then t.typarray else t.oid end into v_type
      from unnest(case cardinality(v_parts) when 2 then v_parts[1:1]::name[] when 1 then backfill._schemas_of(settings) end) with ordinality u(schema, n)
      join pg_namespace s on s.nspname = u.schema join pg_type t on t.typnamespace = s.oid and t.typname = v_parts[cardinality(v_parts)]::name
     where s.nspname <> 'pg_catalog' order by u.n limit 1;
  exception when invalid_parameter_value then
    null; -- For example "timestamp with time zone".
  end;
  return coalesce(v_type, to_regtype(name));
exception when others then
  return null;
end $$;

-- Returns whether an expression calls a function whose volatility is in `counts`. The argument
-- types of a call are not known. So a call to a built-in function counts only if every function
-- with this name in pg_catalog has a volatility in `counts`.
create or replace function backfill._calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from backfill._called_functions(fragment, 'the expression', backfill._schemas_of(settings), run_as) c join pg_proc p on p.oid = c where p.provolatile = any (counts))
      or exists (
        select from (select lower(l.body) as body, l.kind, lead(l.body) over (order by l.n) as next
                       from backfill._lex(fragment, 'the expression') with ordinality l(kind, body, depth, n) where l.kind <> 'space') t
         where t.kind in ('word', 'quoted')
           and (t.next = '(' and exists (select from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = replace(t.body, '"', ''))
                             and not exists (select from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = replace(t.body, '"', '') and p.provolatile <> all (counts))
                -- Functions that are called without parentheses.
                or 's' = any (counts) and t.kind = 'word' and t.body in ('current_timestamp', 'current_time', 'current_date', 'localtime', 'localtimestamp', 'current_user', 'session_user', 'user', 'current_role', 'current_schema', 'current_catalog')))
$$;

-- Adds data from the catalog to a spec in normal form, and refuses a spec that cannot be carried
-- out. Reads only the catalog. The argument settings contains the settings of the session that
-- starts the rollout.
create or replace function backfill._rollout_spec(spec jsonb, settings jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  s jsonb := backfill._rollout_form(spec);
  v_rel oid;
  c record;
  v_type record;
  v_name text;
  v_word text;
  v_referred oid;
  v_after text;
begin
  v_rel := backfill._resolve_table(s ->> 'table', settings);
  if v_rel is null then
    perform backfill._refuse(format('table "%s" does not exist', s ->> 'table'), 'The search_path of this session contains no table with this name.', 'Name the table with its schema, for example: table: public.orders');
  end if;
  perform backfill._check_target(v_rel);
  if exists (select from pg_class k where k.oid = v_rel and k.reloftype <> 0) then
    perform backfill._refuse(format('table "%s" is a typed table', s ->> 'table'), 'Its columns are those of a composite type, and no column can be added to the table itself.', 'Add the attribute to the type (alter type ... add attribute ... cascade), and fill the column with backfill.enqueue.');
  end if;
  select k.relkind, k.relnamespace, n.nspname, k.relname, pg_get_userbyid(k.relowner) as owner into c from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = v_rel;
  s := s || jsonb_build_object('target', format('%I.%I', c.nspname, c.relname), 'schema', c.nspname, 'name', c.relname, 'owner', c.owner, 'relation', v_rel::bigint);
  if exists (select from pg_inherits i where i.inhrelid = v_rel) then
    perform backfill._refuse(format('table %s is a partition or a child of another table', s ->> 'target'), 'A partition has the same columns as its parent.', format('Name the parent: %s', (select i.inhparent::regclass from pg_inherits i where i.inhrelid = v_rel limit 1)));
  elsif c.relkind <> 'p' and exists (select from pg_inherits i where i.inhparent = v_rel) then
    perform backfill._refuse(format('table %s has children that inherit from it', s ->> 'target'), 'A rollout changes plain and partitioned tables only.', 'Add the column by hand, and fill it with backfill.enqueue.');
  elsif (s -> 'unique')::boolean and c.relkind = 'p' then
    perform backfill._refuse(format('table %s is partitioned, so column "%s" alone cannot be unique', s ->> 'target', s ->> 'column'), 'A unique index of a partitioned table must contain the columns of its partition key.', 'Leave "unique" out. After the rollout, create a unique index that also contains the partition key.');
  elsif exists (select from backfill._partitions(v_rel) p join pg_class k on k.oid = p.part where pg_get_userbyid(k.relowner) <> c.owner) then
    perform backfill._refuse(format('partitions of table %s have another owner: %s', s ->> 'target', (select string_agg(x.name, ', ') from (select p.name from backfill._partitions(v_rel) p join pg_class k on k.oid = p.part where pg_get_userbyid(k.relowner) <> c.owner order by p.name limit 3) x)),
      format('The statements run as "%s", and only the owner of a partition may change it.', c.owner), format('As an administrator, run for each of them: alter table ... owner to %I;', c.owner));
  elsif exists (select from pg_attribute a where a.attrelid = v_rel and a.attname = s ->> 'column' and not a.attisdropped) then
    perform backfill._refuse(format('table %s already has a column "%s"', s ->> 'target', s ->> 'column'), 'A rollout adds the column itself, so that it can also remove it.', 'Use another name. If the column exists already and only has to be filled, use backfill.enqueue.');
  elsif (select count(*) from pg_attribute a where a.attrelid = v_rel and a.attnum > 0) >= 1600 then
    perform backfill._refuse(format('table %s cannot have more columns', s ->> 'target'), 'A table has at most 1600 columns. Dropped columns count.', 'Move columns to another table.');
  end if;
  select t.oid, t.typtype, t.typbasetype, t.typnotnull into v_type from pg_type t where t.oid = backfill._resolve_type(s ->> 'type', settings);
  if v_type.oid is null then
    perform backfill._refuse(format('type "%s" does not exist', s ->> 'type'), case when s ->> 'type' ~* '\mcollate\M' then 'A collation is not part of the type.' when s ->> 'type' ~* 'serial' then 'The serial types are only abbreviations, and adding such a column rewrites the table.' else 'The search_path of this session contains no type with this name.' end,
      case when s ->> 'type' ~* '\mcollate\M' then 'Leave the collation out. Create a domain with the collation, and use it as the type.' when s ->> 'type' ~* 'serial' then 'Use bigint with "using" or a default.' else 'Correct the type.' end);
  elsif exists (with recursive domain as (
                  select v_type.oid
                  union all
                  select t.typbasetype from domain d join pg_type t on t.oid = d.oid where t.typtype = 'd')
                select from domain d join pg_type t on t.oid = d.oid where t.typtype = 'd' and (t.typnotnull or exists (select from pg_constraint x where x.contypid = t.oid))) then
    perform backfill._refuse(format('type "%s" is a domain with constraints', s ->> 'type'), 'Adding a column of such a type rewrites the table under an ACCESS EXCLUSIVE lock.', 'Use the base type, and write the constraint as "check".');
  elsif v_type.typtype = 'p' then
    perform backfill._refuse(format('type "%s" is a pseudo-type', s ->> 'type'), 'No column can have this type.', 'Correct the type.');
  end if;
  s := s || jsonb_build_object('partitioned', c.relkind = 'p', 'cast', backfill._unlimited(v_type.oid, s ->> 'type'));
  if s ? 'using' then
    if backfill._calls_unstable(s ->> 'using', settings, c.owner, array['s', 'v']::"char"[]) then
      perform backfill._refuse('"using" calls a function that is not immutable', 'The trigger and the backfill compute the column at different times, and must get the same value.', 'Use immutable functions only. For a value such as now(), use "default".');
    end if;
    for v_name, v_word in select a.attname, a.attgenerated from backfill._spec_columns(v_rel, s ->> 'using') u join pg_attribute a on a.attrelid = v_rel and a.attname = u where a.attgenerated <> '' loop
      perform backfill._refuse(format('"using" reads the generated column "%s"', v_name), 'In a BEFORE trigger, generated columns are null.', 'Write the expression of the generated column instead.');
    end loop;
    if s ->> 'sync' = 'trigger' and not has_schema_privilege(c.owner, c.relnamespace, 'create') then
      perform backfill._refuse(format('role "%s", the owner of table %s, may not create functions in schema "%s"', c.owner, s ->> 'target', c.nspname), 'The trigger that keeps the column in sync needs a function.', format('As an administrator, run: grant create on schema %I to %I;', c.nspname, c.owner));
    end if;
    -- The trigger runs with the privileges of the role that writes to the table.
    select m.missing, m.writer into v_name, v_word from backfill._lacking_rights(v_rel, c.owner, s, settings) m where s ->> 'sync' = 'trigger' limit 1;
    if found then
      perform backfill._refuse(format('%s may write to table %s, but lacks %s', case v_word when 'public' then 'every role' else format('role "%s"', v_word) end, s ->> 'target', v_name), 'The trigger that keeps the column in sync runs with the privileges of the role that writes.',
        format('Run: grant %s to %s; Schemas of the search_path that the expression does not need can be left out of the search_path of this session.', v_name, case v_word when 'public' then 'public' else quote_ident(v_word) end));
    end if;
    select x.name into v_name from backfill._spec_columns(v_rel, s ->> 'using') x(name) where exists (select from backfill._columns_in_rollouts(v_rel) r(name) where r.name = x.name) limit 1;
    if found then
      perform backfill._refuse(format('"using" reads column "%s", which another rollout adds', v_name), 'The triggers of the two rollouts could fire in the wrong order.', 'Wait until the other rollout is contracted, or write the expression of that column instead of its name.');
    end if;
    if exists (select from backfill._lex(s ->> 'using', 'using') l where l.kind = 'string' and lower(btrim(l.body, ''' ')) in ('now', 'today', 'tomorrow', 'yesterday')) then
      perform backfill._refuse('"using" contains a string such as ''now'' or ''today''', 'Converted to a date or a time, such a string has a different value at different times.', 'Use a constant date, or a column. If the expression needs the word itself as text, split the string, for example: ''n'' || ''ow''.');
    end if;
    v_after := backfill._later_trigger(v_rel);
    if v_after is not null and s ->> 'sync' = 'trigger' then
      perform backfill._refuse(format('trigger "%s" would fire after the trigger of the rollout', v_after), 'It may change columns that "using" reads, and the new column would then have a wrong value.', format('Rename it so that its name sorts before "zzz_backfill", for example: alter trigger %I on %s rename to %I;', v_after,
          (select t.tgrelid::regclass from pg_trigger t where t.tgname = v_after and t.tgparentid = 0 and (t.tgrelid = v_rel or t.tgrelid in (select p.part from backfill._partitions(v_rel) p)) limit 1), 'a_' || left(v_after, 60)));
    end if;
  elsif s ->> 'on_error' = 'null' then
    perform backfill._refuse('"on_error" is given without "using"', 'Without an expression there is no error.', 'Leave "on_error" out.');
  end if;
  v_name := coalesce(s #>> '{index,name}', backfill._fit(format('%s_%s', c.relname, s ->> 'column'), 50) || case when (s -> 'unique')::boolean then '_key' else '_idx' end);
  if (s ? 'index' or (s -> 'unique')::boolean) and exists (select from pg_class k where k.relnamespace = c.relnamespace and k.relname = v_name) then
    perform backfill._refuse(format('relation "%s" already exists', v_name), 'The index of the rollout would have this name.', 'Give another name, for example: index: {name: orders_total_cents_1}');
  end if;
  s := s || jsonb_build_object('subscribed', exists (select from pg_subscription_rel x where x.srrelid = v_rel or x.srrelid in (select p.part from backfill._partitions(v_rel) p)), 'volatile_default', s ? 'default' and backfill._calls_unstable(s ->> 'default', settings, c.owner, array['v']::"char"[]));
  if (s -> 'unique')::boolean and s ? 'default' and not (s -> 'volatile_default')::boolean then
    perform backfill._refuse('"unique" is given with a default that is the same for all rows', 'Two rows with the default would violate the constraint.', 'Leave one of them out, or use "using" or a volatile default, for example gen_random_uuid().');
  end if;
  if s ? 'references' then
    v_referred := backfill._resolve_table(s #>> '{references,table}', settings);
    if v_referred is null or not exists (select from pg_attribute a where a.attrelid = v_referred and a.attname = s #>> '{references,column}' and not a.attisdropped) then
      perform backfill._refuse(format('"references" names %s (%s), which does not exist', s #>> '{references,table}', s #>> '{references,column}'), 'A foreign key must refer to an existing table and column.', 'Correct the names.');
    elsif not exists (select from pg_index i join pg_attribute a on a.attrelid = v_referred and a.attname = s #>> '{references,column}' where i.indrelid = v_referred and i.indisunique and i.indimmediate and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum) then
      perform backfill._refuse(format('column "%s" of %s is not unique', s #>> '{references,column}', v_referred::regclass), 'The column that a foreign key refers to needs a unique index that is not partial and does not belong to a deferrable constraint.', 'Create the unique index first, with create unique index concurrently.');
    elsif exists (select from pg_class k, pg_class x where k.oid = v_rel and x.oid = v_referred and (x.relpersistence = 't' or x.relpersistence = 'u' and k.relpersistence = 'p')) then
      perform backfill._refuse(format('table %s cannot refer to %s', s ->> 'target', v_referred::regclass), 'A permanent table cannot refer to an unlogged or temporary table.', format('Run: alter table %s set logged; or leave "references" out.', v_referred::regclass));
    elsif not backfill._can_refer(v_type.oid, v_referred, s #>> '{references,column}') then
      perform backfill._refuse(format('a column of type %s cannot refer to %s (%I)', s ->> 'type', v_referred::regclass, s #>> '{references,column}'), format('That column has type %s, and the two types cannot be compared.', (select format_type(a.atttypid, a.atttypmod) from pg_attribute a where a.attrelid = v_referred and a.attname = s #>> '{references,column}')), 'Use the type of the referenced column.');
    end if;
    if not has_column_privilege(c.owner, v_referred, s #>> '{references,column}', 'references') then
      perform backfill._refuse(format('role "%s", the owner of table %s, may not refer to %s', c.owner, s ->> 'target', v_referred::regclass), 'A foreign key needs the privilege REFERENCES on the column.', format('As the owner of %1$s, run: grant references (%2$I) on %1$s to %3$I;', v_referred::regclass, s #>> '{references,column}', c.owner));
    end if;
    s := jsonb_set(s, '{references,target}', to_jsonb((select format('%I.%I', n.nspname, k.relname) from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = v_referred)));
  end if;
  perform backfill._check_statement_triggers(v_rel, 'update', w.set_sql, s -> 'backfill') from backfill._rollout_work(s, settings) w;
  begin
    perform backfill._key_of(v_rel, null);
    s := s || '{"keyed": true}';
  exception when sqlstate 'BF001' then
    if exists (select from backfill._rollout_work(s, settings)) then
      perform backfill._refuse(format('table %s has no primary key that a backfill can use', s ->> 'target'), 'The daemons fill and compare the column in batches in the order of the primary key. The check of the key reported: ' || sqlerrm || '.', 'Create a primary key first. For a partitioned table, create one on each partition.');
    end if;
  end;
  select k.conname into v_name from pg_constraint k
   where (k.conrelid = v_rel or k.conrelid in (select p.part from backfill._partitions(v_rel) p))
     and k.conname in (select backfill._fit(format('%s_%s', c.relname, s ->> 'column'), 50) || x.suffix from (values ('_check', s ? 'check'), ('_not_null', (s -> 'not_null')::boolean), ('_fkey', s ? 'references')) x(suffix, wanted) where x.wanted) limit 1;
  if found then
    perform backfill._refuse(format('table %s already has a constraint "%s"', s ->> 'target', v_name), 'A constraint of the rollout would have this name.', format('Rename it first: alter table %s rename constraint %I to ...;', s ->> 'target', v_name));
  end if;
  return s;
end $$;

-- Returns a type without the maximum length. A cast to a type with a length, such as varchar(5),
-- truncates a longer value. The assignment of a longer value raises an error instead.
create or replace function backfill._unlimited(type oid, name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case type when 'varchar'::regtype then 'varchar' when 'bpchar'::regtype then 'bpchar' when 'bit'::regtype then 'varbit' when 'varbit'::regtype then 'varbit'
                   when 'varchar[]'::regtype then 'varchar[]' when 'bpchar[]'::regtype then 'bpchar[]' when 'bit[]'::regtype then 'varbit[]' when 'varbit[]'::regtype then 'varbit[]' else name end
$$;

-- Returns whether a foreign key of this type can refer to a column. The server needs an equality
-- operator for the two types, or an implicit cast to the type of the referenced column.
create or replace function backfill._can_refer(type oid, referred oid, column_name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive base(oid, next) as (
    select t.oid, nullif(t.typbasetype, 0) from pg_type t where t.oid = _can_refer.type
    union all
    select t.oid, nullif(t.typbasetype, 0) from base b join pg_type t on t.oid = b.next)
  select exists (
    select from base b join pg_attribute a on a.attrelid = referred and a.attname = column_name
      join pg_index i on i.indrelid = referred and i.indisunique and i.indimmediate and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum
      join pg_opclass o on o.oid = i.indclass[0] join pg_type p on p.oid = o.opcintype
     where b.next is null
       and (b.oid = o.opcintype or p.typtype = 'p'
            or exists (select from pg_amop m where m.amopfamily = o.opcfamily and m.amoplefttype = o.opcintype and m.amoprighttype = b.oid)
            or exists (select from pg_cast k where k.castsource = b.oid and k.casttarget = o.opcintype and k.castcontext = 'i')))
$$;

-- Returns the privileges that the trigger of a rollout needs, but that roles with write access to
-- the table lack. The statements of these roles will fire the trigger.
create or replace function backfill._lacking_rights(relation oid, owner name, s jsonb, settings jsonb) returns table (writer text, missing text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with writers as (
    select distinct a.grantee, case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee)::text end as writer
      from (select k.relacl as acl from pg_class k where k.oid = relation or k.oid in (select p.part from backfill._partitions(relation) p)
            union all select t.attacl from pg_attribute t where (t.attrelid = relation or t.attrelid in (select p.part from backfill._partitions(relation) p)) and not t.attisdropped) x cross join lateral aclexplode(x.acl) a
     where a.privilege_type in ('INSERT', 'UPDATE') and (a.grantee = 0 or exists (select from pg_roles r where r.oid = a.grantee and r.rolname <> owner))),
  schemas as (
    select n.oid, n.nspname from pg_namespace n
     where n.nspname <> 'pg_catalog' and n.nspname !~ '^pg_(temp|toast)'
       and (n.nspname = any (backfill._schemas_of(settings)) or n.oid = (select t.typnamespace from pg_type t where t.oid = backfill._resolve_type(s ->> 'type', settings))
            or n.nspname in (select case l.kind when 'word' then lower(l.body) else replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end from backfill._lex(s ->> 'using', 'using') l where l.kind in ('word', 'quoted'))))
  select w.writer, format('usage on schema %I', n.nspname) from writers w, schemas n where not has_schema_privilege(case w.grantee when 0 then 'public' else w.writer end, n.oid, 'usage')
  union all
  select w.writer, format('execute on function %s', f::regprocedure) from writers w, backfill._called_functions(s ->> 'using', 'using', backfill._schemas_of(settings), owner) f where not has_function_privilege(case w.grantee when 0 then 'public' else w.writer end, f, 'execute')
  union all
  select w.writer, format('usage on type %s', t.oid::regtype) from writers w, pg_type t where t.oid = backfill._resolve_type(s ->> 'type', settings) and not has_type_privilege(case w.grantee when 0 then 'public' else w.writer end, t.oid, 'usage')
$$;

-- Returns the partitions of a table at all levels, each with its parent. Returns no row for a plain
-- table.
create or replace function backfill._partitions(relation oid) returns table (part oid, parent oid, name text, schema name, is_leaf boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive tree(part, parent) as (
    select h.inhrelid, h.inhparent from pg_inherits h where h.inhparent = _partitions.relation and not h.inhdetachpending
    union all
    select h.inhrelid, h.inhparent from tree t join pg_inherits h on h.inhparent = t.part where not h.inhdetachpending)
  select t.part, t.parent, format('%I.%I', n.nspname, c.relname), n.nspname, c.relkind <> 'p'
    from tree t join pg_class c on c.oid = t.part join pg_namespace n on n.oid = c.relnamespace
$$;

-- Returns a trigger of a table or of its partitions that would fire after the trigger of a rollout,
-- and could change columns that the expression reads. Returns null if there is none.
create or replace function backfill._later_trigger(relation oid) returns name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select t.tgname from pg_trigger t
   where (t.tgrelid = relation or t.tgrelid in (select p.part from backfill._partitions(relation) p))
     and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0 and t.tgenabled <> 'D' and t.tgname::text collate "C" > 'zzz_backfill_' collate "C" and t.tgname not like 'zzz\_backfill\_%'
   order by t.tgname desc limit 1
$$;

-- Returns the columns that unfinished rollouts add to a table, if the login may act as the owner of
-- the table.
create or replace function backfill._columns_in_rollouts(relation oid) returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select r.spec ->> 'column' from backfill.rollout r
   where r.relation = _columns_in_rollouts.relation and r.state not in ('done', 'rolled_back') and (backfill._may_run_as(session_user, r.run_as) or backfill._is_operator(session_user))
$$;

-- Returns the columns of a table whose names occur in an expression. May also return a column that
-- the expression does not read, but never omits a column that it reads.
create or replace function backfill._spec_columns(relation oid, fragment text) returns setof name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select a.attname from pg_attribute a
   where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
     and (a.attname::text in (select case l.kind when 'word' then lower(l.body) else replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end from backfill._lex(fragment, 'using') l where l.kind in ('word', 'quoted'))
          -- A whole-row reference reads every column.
          or (select c.relname::text from pg_class c where c.oid = relation) in (select lower(replace(l.body, '"', '')) from backfill._lex(fragment, 'using') l where l.kind in ('word', 'quoted')))
   order by a.attnum
$$;

-- Returns the cast that a job applies to compare the new column with the expression. The types
-- listed below need no cast. Other types are compared as text, because different values can be
-- equal (for example 1.0 and 1.00), or because the type has no equality operator.
create or replace function backfill._comparison_cast(type oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when (select t.typtype = 'e' from pg_type t where t.oid = type)
                or type in (select unnest(array['bool', 'int2', 'int4', 'int8', 'uuid', 'date', 'time', 'timestamp', 'timestamptz', 'bytea', 'oid']::regtype[]))
              then '' else '::text collate "C"' end
$$;
