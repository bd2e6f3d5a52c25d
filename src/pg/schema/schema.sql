-- The whole of schema backfill, written by pg_dump: for reading and searching, not for editing.
-- BACKFILLD_WRITE_SCHEMA=1 cargo test --test it the_dump_of_the_schema_is_current writes it anew.
-- Of the settings of each function (PINS in release.rs), only search_path is shown.
-- Name: backfill; Type: SCHEMA; Schema: -; Owner: -

CREATE SCHEMA backfill;

-- Name: _add_new_leaves(bigint); Type: FUNCTION

CREATE FUNCTION backfill._add_new_leaves(job_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  l record;
  n integer;
  s bigint;
begin
  select * into j from backfill.job x where x.id = _add_new_leaves.job_id;
  if not coalesce((j.plan ->> 'spread')::boolean, false)
     or exists (select from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk' and x.state not in ('done', 'gone')) then
    return;
  end if;
  for l in update backfill.slice x set state = 'held', finished_at = null
             from backfill._leaves(j.relation) v
            where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk' and x.state = 'gone' and x.upper is not null and v.leaf = x.relation
           returning x.relation_name, x.ordinal loop
    perform backfill._record_event(j.id, 'leaf_attached', format('%s is attached again: slice %s continues where it stopped', l.relation_name, l.ordinal));
  end loop;
  select coalesce(max(x.ordinal), -1) into n from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk';
  for l in select v.*, v.relkind = 'f' as is_foreign, coalesce((j.plan ->> 'self_reading')::boolean, false) as self_reading
             from backfill._leaves(j.relation) v
            where not exists (select from backfill.slice x where x.job_id = j.id and x.run = j.run and x.kind = 'walk' and x.relation = v.leaf) loop
    n := n + 1;
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, run_as, priority, state)
    values (j.id, 'walk', j.run, j.generation, n, l.leaf, backfill._readable(l.name), j.run_as, j.priority, case when l.is_foreign or l.self_reading or j.compares is not null then 'gone' else 'held' end)
    returning id into s;
    insert into backfill.checkpoint (slice_id, token) values (s, gen_random_uuid());
    perform backfill._record_event(j.id, 'leaf_attached', case
      when l.is_foreign then format('%s was attached after planning and is a foreign table: its rows are not changed', l.name)
      when j.compares is not null then format('%s was attached after planning: its rows are not compared', l.name)
      when l.self_reading then format('%s was attached after planning and is skipped: the assignments (set) read columns that they assign, so rows that moved to this table would be changed twice. Enqueue a separate job for it', l.name)
      else format('%s was attached after planning: its rows are changed too', l.name) end);
  end loop;
  perform backfill._schedule_slices(j.id);
  perform backfill._notify_daemons();
end $$;

-- Name: job; Type: TABLE

CREATE TABLE backfill.job (
    id bigint NOT NULL,
    name text NOT NULL,
    kind text DEFAULT 'update'::text NOT NULL,
    relation oid NOT NULL,
    target text NOT NULL,
    set_sql text,
    filter_sql text,
    key name[],
    priority integer DEFAULT 0 NOT NULL,
    run_at timestamp with time zone DEFAULT now() NOT NULL,
    run_as name NOT NULL,
    run_as_asked name,
    enqueued_by name DEFAULT CURRENT_USER NOT NULL,
    needs_approval boolean DEFAULT false NOT NULL,
    approved_at timestamp with time zone,
    approved_by name,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    state text DEFAULT 'queued'::text NOT NULL,
    desired_state text DEFAULT 'running'::text NOT NULL,
    state_reason text,
    revision integer DEFAULT 0 NOT NULL,
    run integer DEFAULT 1 NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    plan jsonb,
    planned_snapshot pg_snapshot,
    rows_estimated bigint,
    rows_scanned bigint,
    rows_changed bigint,
    rows_unresolved bigint DEFAULT 0 NOT NULL,
    rows_quarantined bigint DEFAULT 0 NOT NULL,
    error text,
    hint text,
    redacted jsonb,
    enqueued_at timestamp with time zone DEFAULT now() NOT NULL,
    queued_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    verified_at timestamp with time zone,
    closed_until timestamp with time zone,
    pruned_at timestamp with time zone,
    compares text,
    CONSTRAINT job_compares_check CHECK ((compares = ANY (ARRAY['expression'::text, 'constraints'::text]))),
    CONSTRAINT job_delete_check CHECK (((kind <> 'delete'::text) OR (COALESCE(btrim(filter_sql, ' 	
'::text), ''::text) <> ''::text))),
    CONSTRAINT job_desired_state_check CHECK ((desired_state = ANY (ARRAY['running'::text, 'paused'::text, 'cancelled'::text]))),
    CONSTRAINT job_kind_check CHECK ((kind = ANY (ARRAY['update'::text, 'delete'::text]))),
    CONSTRAINT job_name_check CHECK ((name ~ '^[A-Za-z0-9._:/-]{1,200}$'::text)),
    CONSTRAINT job_spec_check CHECK (((kind = 'update'::text) = (set_sql IS NOT NULL))),
    CONSTRAINT job_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'paused'::text, 'verifying'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text])))
);

-- Name: _add_ranges(backfill.job, jsonb, integer); Type: FUNCTION

CREATE FUNCTION backfill._add_ranges(j backfill.job, slices jsonb, ordinal_from integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, run_as, priority, state, finished_at)
    select j.id, 'walk', j.run, j.generation, ordinal_from + r.ordinal, coalesce(r.relation, j.relation::bigint)::oid, coalesce(r.relation_name, j.target),
           r.lower, r.upper, r.leaf, r.rows, j.run_as, j.priority,
           case when r.upper is null or j.compares is not null then 'done' else 'held' end, case when r.upper is null or j.compares is not null then clock_timestamp() end
      from jsonb_to_recordset(slices) as r(ordinal integer, relation bigint, relation_name text, lower text[], upper text[], leaf jsonb, rows bigint)
    returning id, lower, upper)
  insert into backfill.checkpoint (slice_id, token, position, done)
  select id, gen_random_uuid(), case when j.compares is not null then coalesce(upper, lower) else lower end, upper is null or j.compares is not null from made;
end $$;

-- Name: _add_slices(bigint, text, integer); Type: FUNCTION

CREATE FUNCTION backfill._add_slices(job_id bigint, kind text, generation integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  n integer;
begin
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, protocol, run_as, priority)
    select s.job_id, _add_slices.kind, s.run, _add_slices.generation, s.ordinal, s.relation, s.relation_name, s.lower, s.upper, s.leaf, s.rows_estimated, s.protocol, s.run_as, s.priority
      from backfill.slice s join backfill.job j on j.id = s.job_id and j.run = s.run and j.generation = s.generation
     where s.job_id = _add_slices.job_id and s.kind = 'walk' and s.state <> 'gone' and s.upper is not null
    returning id, lower)
  insert into backfill.checkpoint (slice_id, token, position) select id, gen_random_uuid(), lower from made;
  get diagnostics n = row_count;
  return n;
end $$;

-- Name: _assignments(text); Type: FUNCTION

CREATE FUNCTION backfill._assignments(set_sql text) RETURNS TABLE(columns text[], expression text)
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  token record;
  in_columns boolean := true;
  listed boolean := false;
  expects_name boolean := true;
  shape constant text := 'The form is: column = expression, column = expression, ...';
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
        perform backfill._refuse(format('set assigns to "%s%s..."', columns[1], token.body), 'The left side of an assignment must be the name of a column.', 'Assign the whole column, and write its name without the table.');
      else
        perform backfill._refuse(format('syntax error in set at or near "%s"', token.body), format('The text is: %s', left(set_sql, 200)),
          case when columns = '{set}' then 'Leave the keyword SET out: column = expression, ...' else shape end);
      end if;
    elsif token.body = ',' and token.depth = 0 and token.kind = 'other' then
      return next;
      columns := '{}'; expression := ''; in_columns := true; listed := false; expects_name := true;
    else
      expression := expression || token.body;
    end if;
  end loop;
  if in_columns or btrim(expression, E' \t\n\r') = '' then
    perform backfill._refuse('set is incomplete', format('The text is: "%s"', left(set_sql, 200)), shape);
  end if;
  return next;
end $$;

-- Name: _blocks_writes(integer, oid); Type: FUNCTION

CREATE FUNCTION backfill._blocks_writes(pid integer, relation oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (
    select from pg_locks l join pg_stat_activity a on a.pid = l.pid
     where l.pid = _blocks_writes.pid and l.locktype = 'relation' and l.granted and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       and l.database = (select d.oid from pg_database d where d.datname = current_database()) and (l.relation = _blocks_writes.relation or l.relation in (select p.part from backfill._partitions(_blocks_writes.relation) p))
       and a.wait_event is distinct from 'SyncRep' and (a.state is not null or current_setting('synchronous_standby_names') = ''))
$$;

-- Name: _body_as_query(oid); Type: FUNCTION

CREATE FUNCTION backfill._body_as_query(function oid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _bracketed(text); Type: FUNCTION

CREATE FUNCTION backfill._bracketed(expression text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when position('--' in expression) > 0 then format(E'(\n%s\n)', expression) else format('(%s)', expression) end
$$;

-- Name: _called_functions(text, text, name[], name); Type: FUNCTION

CREATE FUNCTION backfill._called_functions(fragment text, what text, schemas name[], run_as name) RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _caller_settings(); Type: FUNCTION

CREATE FUNCTION backfill._caller_settings() RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$
  select pg_catalog.jsonb_build_object(
    'search_path', (select pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ' order by n)
                      from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality as u(s, n)),
    'TimeZone', pg_catalog.current_setting('TimeZone'),
    'DateStyle', pg_catalog.current_setting('DateStyle'),
    'IntervalStyle', pg_catalog.current_setting('IntervalStyle'))
$$;

-- Name: _calls_unstable(text, jsonb, name, "char"[]); Type: FUNCTION

CREATE FUNCTION backfill._calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _can_refer(oid, oid, text); Type: FUNCTION

CREATE FUNCTION backfill._can_refer(type oid, referred oid, column_name text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _carry_out_command(); Type: FUNCTION

CREATE FUNCTION backfill._carry_out_command() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  ended boolean;
  wanted jsonb;
  v_caution text;
begin
  if new.verb in ('pause_all', 'resume_all') then
    if not backfill._is_operator(new.actor) then
      raise exception using errcode = '42501', message = format('role "%s" is not allowed to %s all jobs', new.actor, split_part(new.verb, '_', 1)), detail = 'The command affects the jobs of all roles.', hint = 'Only members of backfill_operator can run it.';
    end if;
    update backfill.switch set paused_all = new.verb = 'pause_all', reason = new.reason, set_by = new.actor, set_at = clock_timestamp();
    perform backfill._record_event(null, new.verb, concat_ws(': ', case new.verb when 'pause_all' then 'all jobs paused' else 'all jobs resumed' end, new.reason), null, new.actor);
    perform backfill._notify_daemons();
    return null;
  end if;
  select * into j from backfill.job where name = new.job_name for update;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no job "%s"', new.job_name), detail = 'Names are case-sensitive. Each database has its own jobs, and some jobs may not be visible to your role.', hint = 'List the jobs with: select name, state from backfill.jobs;';
  end if;
  if not (backfill._is_operator(new.actor) or new.verb <> 'approve'
          and exists (select from pg_roles r where r.rolname = j.enqueued_by and pg_has_role(new.actor, r.oid, 'MEMBER'))) then
    raise exception using errcode = '42501', message = format('role "%s" is not allowed to %s job "%s"', new.actor, new.verb, j.name),
      detail = case when new.verb = 'approve' then 'A member of backfill_operator must approve the job.' when backfill._may_see(j.enqueued_by) then format('It was enqueued by "%s".', j.enqueued_by) else 'It was enqueued by another role.' end, hint = case when new.verb = 'approve' then 'Ask a member of backfill_operator to approve it.' else 'Only the submitter of the job and members of backfill_operator can do this.' end;
  end if;
  ended := j.state in ('succeeded', 'failed', 'cancelled');
  v_caution := case j.kind when 'delete' then '. The rerun deletes the rows that match the filter at that time.' else ', but only if applying the assignments (set) twice gives the same result as applying them once.' end;

  if new.verb in ('pause', 'resume', 'cancel', 'approve') and ended then
    raise exception using errcode = 'BF005', message = format('job "%s" has finished: %s', j.name, j.state), detail = format('%s applies to active jobs only.', new.verb),
      hint = case when j.state = 'succeeded' then 'No action is needed: the work of the job is done.'
                  when new.verb in ('pause', 'cancel') then 'No action is needed: the job is not running.'
                  when new.verb = 'approve' and j.needs_approval then backfill._name_job('If the job is still needed, start it again with backfill.retry, then run backfill.approve.', j.name)
                  else backfill._name_job('To continue it from the checkpoint, run backfill.retry.', j.name) end;
  elsif new.verb in ('retry', 'rerun', 'forget') and not ended then
    raise exception using errcode = 'BF005', message = format('job "%s" has not finished: %s', j.name, j.state), detail = format('%s applies to finished jobs only.', new.verb),
      hint = backfill._name_job(case new.verb
        when 'retry' then 'No retry is needed: the job is still active.' || case when j.desired_state = 'paused' then ' It is paused: run backfill.resume.' else '' end
        when 'rerun' then case when j.desired_state = 'paused' then 'It is paused. First end it with backfill.cancel.' else 'The job is still active, so no action is needed. To run it once more, wait until it finishes, and then run backfill.rerun' || v_caution end
        else case when j.desired_state = 'paused' then 'It is paused. First end it with backfill.cancel.' else 'Wait until it finishes, or run backfill.cancel first.' end end, j.name);
  elsif new.verb = 'retry' and j.state = 'succeeded' then
    raise exception using errcode = 'BF005', message = format('job "%s" has succeeded', j.name), detail = 'No work is left to retry.', hint = backfill._name_job('No action is needed. To run it once more from the beginning, run backfill.rerun' || v_caution, j.name);
  elsif not ended and j.desired_state = 'cancelled' and new.verb in ('pause', 'resume', 'approve', 'tune') then
    raise exception using errcode = 'BF005', message = format('job "%s" is being cancelled', j.name), detail = format('%s does not apply to a job that is being cancelled.', new.verb), hint = case when new.verb = 'pause' then 'No action is needed: the job is already stopping.' else backfill._name_job('Wait until the job is cancelled, then run backfill.retry.', j.name) end;
  end if;

  if new.verb in ('retry', 'rerun') then
    perform backfill._check_same_table(j.target, j.relation);
  end if;

  case new.verb
    when 'pause' then
      update backfill.job set desired_state = 'paused', state_reason = new.reason where id = j.id;
      perform backfill._record_event(j.id, 'pause', 'pause requested' || coalesce(': ' || new.reason, ''), null, new.actor);
    when 'resume' then
      if j.desired_state <> 'paused' then
        raise notice using message = format('job "%s" was not paused', j.name);
      end if;
      update backfill.job
         set desired_state = 'running', state_reason = null, queued_at = clock_timestamp(),
             state = case when j.state <> 'paused' then j.state
                          when j.plan is null then 'queued'
                          when exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify') then 'verifying'
                          else 'running' end
       where id = j.id;
      perform backfill._record_event(j.id, 'resume', 'resumed', null, new.actor);
    when 'cancel' then
      update backfill.job set desired_state = 'cancelled', state_reason = new.reason where id = j.id;
      perform backfill._record_event(j.id, 'cancel', 'cancel requested' || coalesce(': ' || new.reason, ''), null, new.actor);
    when 'approve' then
      if not j.needs_approval then
        raise exception using errcode = 'BF005', message = format('job "%s" is not waiting for approval', j.name), detail = 'The job needs no approval.', hint = 'No action is needed.';
      end if;
      update backfill.job set approved_at = coalesce(approved_at, clock_timestamp()), approved_by = coalesce(approved_by, new.actor) where id = j.id;
      perform backfill._record_event(j.id, 'approve', 'approved', null, new.actor);
    when 'tune' then
      perform backfill._check_options(new.options, j.filter_sql, backfill._is_operator(new.actor));
      wanted := jsonb_strip_nulls(j.options || backfill._stored_options(new.options));
      update backfill.job set options = wanted, revision = revision + 1, closed_until = case when not new.options ? 'window' then closed_until end where id = j.id;
      if ended then
        raise notice using message = format('job "%s" has finished (%s): the options take effect only if the job runs again', j.name, j.state),
          hint = backfill._name_job(case j.state when 'succeeded' then 'To run it again from the beginning, run backfill.rerun' || v_caution else 'To continue it from the checkpoint, run backfill.retry.' end, j.name);
      elsif j.plan is not null and coalesce((wanted ->> 'slices')::integer, 1) < coalesce((j.options ->> 'slices')::integer, 1) then
        raise notice using message = format('job "%s" is already divided into slices: the lower value of option slices takes effect only if the job runs again from the beginning', j.name),
          hint = 'To walk fewer slices at a time, lower the number of workers of this database in the configuration of the daemons. This affects all jobs of the database.';
      end if;
      perform backfill._record_event(j.id, 'tune', format('options changed to %s', wanted), new.options, new.actor);
    when 'retry' then
      if j.plan is null or j.compares is not null then
        perform backfill._start_new_run(j);
      else
        update backfill.job set state = 'running', desired_state = 'running', state_reason = null, error = null, hint = null, redacted = null, finished_at = null, verified_at = null, rows_scanned = null, rows_changed = null, revision = revision + 1 where id = j.id;
        if backfill._defer_quarantined_rows(j.id) > 0 then
          null; -- The quarantined rows are retried first. The verification follows.
        -- A job that was verifying gets another sweep and another verification. For any other job,
        -- the walk continues from its checkpoint.
        elsif exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify') then
          perform backfill._add_slices(j.id, 'walk', j.generation + 1);
          update backfill.job set generation = j.generation + 1 where id = j.id;
        end if;
      end if;
      perform backfill._record_event(j.id, 'retry', case when j.plan is null or j.compares is not null then 'retried: starts from the beginning' else 'retried: continues from the checkpoint' end || (select case count(*) when 0 then '' when 1 then ', with 1 quarantined row' else format(', with %s quarantined rows', count(*)) end from backfill.row_error e where e.job_id = j.id and e.resolved_at is null), null, new.actor);
    when 'rerun' then
      perform backfill._start_new_run(j);
      perform backfill._record_event(j.id, 'rerun', 'restarted from the beginning', null, new.actor);
    when 'forget' then
      delete from backfill.job where id = j.id;
      delete from backfill.forgotten_job f where f.ctid in (select x.ctid from backfill.forgotten_job x where x.enqueued_at < now() - interval '1 minute' for update skip locked);
      insert into backfill.forgotten_job (enqueued_by, enqueued_at) select j.enqueued_by, j.enqueued_at where j.enqueued_at > now() - interval '1 minute';
      perform backfill._record_event(null, 'forget', format('job "%s" deleted', j.name), null, new.actor);
      return null;
    else
      raise exception using errcode = 'BF001', message = format('unknown command "%s"', new.verb), detail = 'The row was not inserted by a function of schema backfill.', hint = 'Use the functions, for example backfill.pause.';
  end case;
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return null;
end $$;

-- Name: _carry_out_rollout_command(); Type: FUNCTION

CREATE FUNCTION backfill._carry_out_rollout_command() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  r backfill.rollout;
  v_next text;
  j record;
begin
  perform backfill._check_utf8(to_jsonb(new));
  perform backfill._check_bounds(new.actor, null, new.reason);
  select * into r from backfill.rollout x where x.name = new.rollout_name for update;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no rollout "%s"', new.rollout_name), detail = 'Names are case-sensitive, and some rollouts may not be visible to your role.', hint = 'List the rollouts with: select name, stage, state from backfill.rollouts;';
  elsif not backfill._may_control(new.actor, r.started_by) then
    raise exception using errcode = '42501', message = format('role "%s" is not allowed to %s rollout "%s"', new.actor, new.verb, r.name), detail = 'It was started by another role.', hint = 'Only the role that started the rollout and members of backfill_operator can do this.';
  elsif not backfill._is_operator(new.actor) and not backfill._may_run_as(new.actor, r.run_as) then
    raise exception using errcode = '42501', message = format('role "%s" is not allowed to %s rollout "%s"', new.actor, new.verb, r.name), detail = format('Its statements run as "%s", and "%s" is not a member of that role any more.', r.run_as, new.actor), hint = 'Ask a member of backfill_operator to do this.';
  elsif r.state in ('rolled_back', 'done') then
    raise exception using errcode = 'BF005', message = format('rollout "%s" has ended: %s', r.name, replace(r.state, '_', ' ')), detail = format('%s applies to unfinished rollouts only.', new.verb),
      hint = case when r.state = 'done' and new.verb = 'rollback' then format('A rollout that is done cannot be rolled back. When no code uses the column any more, run: alter table %s drop column %I', r.target, r.spec ->> 'column')
                  when r.state = 'done' then 'No action is needed: the work of the rollout is done.' else 'To start it again, run backfill.rollout_start with its spec.' end;
  end if;
  v_next := backfill._stage_at(backfill._stage_number(r.stage) + 1);
  case new.verb
    when 'advance' then
      if r.state <> 'waiting' then
        raise exception using errcode = 'BF005', message = format('cannot advance rollout "%s": it %s', r.name, case when r.desired_state = 'paused' then 'is paused' when r.state = 'rolling_back' then 'is being rolled back' when r.state = 'failed' then 'has failed' else 'is ' || r.state end), detail = format('It is in stage "%s".', r.stage),
          hint = case r.state when 'failed' then 'Fix the cause, then run backfill.rollout_resume.' when 'rolling_back' then 'Wait until the rollback is complete. To start the rollout again, run backfill.rollout_start with its spec.'
              else case when r.desired_state = 'paused' then format('Run: select backfill.rollout_resume(%L);', r.name) else format('Wait until it has reached stage "%s".', r.until) end end;
      end if;
      update backfill.rollout x set until = case when backfill._stage_number(x.until) < backfill._stage_number(v_next) then v_next else x.until end, confirmed = v_next, state = 'running', waiting_reason = null, waiting_text = null, due_at = clock_timestamp() where x.id = r.id;
    when 'pause' then
      update backfill.rollout x set desired_state = 'paused', state_reason = new.reason where x.id = r.id;
    when 'resume' then
      if r.desired_state <> 'paused' and r.state <> 'failed' then
        raise notice 'rollout "%" was not paused', r.name;
      end if;
      update backfill.rollout x set desired_state = 'running', state_reason = null, due_at = clock_timestamp(), error = null, hint = null,
             state = case when x.state <> 'failed' then x.state when x.backwards then 'rolling_back' else 'running' end where x.id = r.id;
    when 'rollback' then
      if r.stage = 'contracted' or exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = 'contracted' and d.done_at is not null) then
        raise exception using errcode = 'BF005', message = format('rollout "%s" cannot be rolled back any more', r.name), detail = 'It has begun to drop the trigger that keeps the column in sync.', hint = format('Let it reach stage contracted. When no code uses the column any more, run: alter table %s drop column %I', r.target, r.spec ->> 'column');
      end if;
      update backfill.rollout x set backwards = true, state = 'rolling_back', desired_state = 'running', due_at = clock_timestamp(), waiting_reason = null, waiting_text = null, error = null, hint = null where x.id = r.id;
    else
      raise exception using errcode = 'BF001', message = format('unknown command "%s"', new.verb), detail = 'The row was not inserted by a function of schema backfill.', hint = 'Use the functions, for example backfill.rollout_pause.';
  end case;
  -- A pause or resume of the rollout also applies to the job of its current stage. If a failed
  -- rollout is resumed, its failed or cancelled job is retried.
  if new.verb in ('pause', 'resume') then
    select x.name, x.state, x.desired_state into j from backfill.job x where x.id = r.job_id;
    if new.verb = 'pause' and j.state in ('queued', 'running', 'verifying', 'paused') then
      insert into backfill.command (verb, job_name, reason) values ('pause', j.name, coalesce(new.reason, 'the rollout is paused'));
    elsif new.verb = 'resume' and j.desired_state = 'paused' and j.state in ('queued', 'running', 'verifying', 'paused') then
      insert into backfill.command (verb, job_name) values ('resume', j.name);
    elsif new.verb = 'resume' and r.state = 'failed' and not r.backwards and j.state in ('failed', 'cancelled') then
      insert into backfill.command (verb, job_name) values ('retry', j.name);
    end if;
  end if;
  perform backfill._record_rollout_event(r.id, 'rollout ' || new.verb, concat_ws(': ', new.verb || ' requested', new.reason), new.actor);
  perform backfill._notify_daemons();
  return null;
end $$;

-- Name: _cascades(oid); Type: FUNCTION

CREATE FUNCTION backfill._cascades(relation oid) RETURNS SETOF text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case r.action when 'c' then format('rows of %s are deleted together with the rows of %s that they refer to (constraint %I, on delete cascade)', r.referring, r.referred, r.constraint_name)
                       else format('rows of %s that refer to deleted rows of %s are changed (constraint %I, on delete set %s)', r.referring, r.referred, r.constraint_name, case r.action when 'n' then 'null' else 'default' end) end
    from backfill._referring(relation) r where r.action in ('c', 'n', 'd')
$$;

-- Name: _changed_column_read(jsonb, oid, text[], oid); Type: FUNCTION

CREATE FUNCTION backfill._changed_column_read(plan jsonb, relation oid, assigned text[], changes oid DEFAULT NULL::oid, OUT source regclass, OUT name text) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _changed_columns(oid, text[]); Type: FUNCTION

CREATE FUNCTION backfill._changed_columns(relation oid, assigned text[]) RETURNS TABLE(changed oid, columns text[], by_action boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_arguments(text, oid, text, text, jsonb, boolean); Type: FUNCTION

CREATE FUNCTION backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_bounds(name, jsonb, text); Type: FUNCTION

CREATE FUNCTION backfill._check_bounds(actor name, options jsonb, what text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  q backfill.quota;
begin
  select * into q from backfill.quota;
  if octet_length(options::text) > 10000 then
    perform backfill._refuse(format('options has %s bytes', octet_length(options::text)), 'The limit is 10000 bytes.', 'Leave out options that the job does not need.');
  elsif octet_length(what) > 4000 then
    perform backfill._refuse(format('reason has %s bytes', octet_length(what)), 'The limit is 4000 bytes.', 'Shorten the reason.');
  elsif jsonb_typeof(options -> 'max_row_errors') = 'number' and (options ->> 'max_row_errors')::numeric > q.max_row_errors and not backfill._is_operator(actor) then
    perform backfill._refuse(format('option "max_row_errors" is %s', options ->> 'max_row_errors'), format('The limit for role "%s" is %s. There is a limit because backfilld stores each quarantined row with its error.', actor, q.max_row_errors),
      'Fix the rows or the expression, or ask a member of backfill_operator to raise the limit (update backfill.quota set max_row_errors = ...).');
  end if;
end $$;

-- Name: _check_fragments(text, text); Type: FUNCTION

CREATE FUNCTION backfill._check_fragments(set_sql text, filter_sql text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  f record;
  start text;
  first_error text;
begin
  perform backfill._lex(filter_sql, 'filter') where filter_sql is not null;
  <<fragments>>
  for f in select 'set' as what, a.expression as body from backfill._assignments(set_sql) a where set_sql is not null union all select 'filter', filter_sql where filter_sql is not null loop
    first_error := null;
    foreach start in array array['select from pg_catalog."no such table" where', 'insert into pg_catalog."no such table"'] loop
      begin
        execute start || E'\n' || f.body || E'\n';
      exception
        when undefined_table then continue fragments;
        when others then first_error := coalesce(first_error, sqlerrm);
      end;
    end loop;
    perform backfill._refuse(format('%s is not a complete expression: %s', f.what, coalesce(first_error, 'it was executed')), 'The server must be able to parse the text without the parentheses that a batch puts around it.', 'Write a single complete expression, in which each opening bracket has a closing bracket.');
  end loop;
end $$;

-- Name: _check_job(oid, text, text, name[], name); Type: FUNCTION

CREATE FUNCTION backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_keys(jsonb, text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._check_keys(object jsonb, what text, keys jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_name(text); Type: FUNCTION

CREATE FUNCTION backfill._check_name(name text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
begin
  if name is null or name !~ '^[A-Za-z0-9._:/-]{1,200}$' then
    perform backfill._refuse(case when name is null then 'name is null' else format('name "%s" is not valid', left(name, 220)) end,
      'A name has 1 to 200 characters. The allowed characters are A-Z a-z 0-9 . _ : / -', 'Use a short name, for example orders_total_cents.');
  end if;
end $_$;

-- Name: _check_options(jsonb, text, boolean); Type: FUNCTION

CREATE FUNCTION backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _check_outcome(text[], bigint, bigint); Type: FUNCTION

CREATE FUNCTION backfill._check_outcome(to_position text[], most bigint, least_count bigint) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if octet_length(to_position::text) > 65536 then
    raise exception using errcode = 'BF001', message = format('the key of a row has %s bytes as text', octet_length(to_position::text)), detail = 'The checkpoint of a slice contains the key. A key can have at most 64 KiB.',
      hint = 'Enqueue the job with a key whose values are shorter as text, for example a unique key on an integer or uuid column.';
  elsif least_count < 0 or most > 1000000 then
    raise exception using errcode = 'BF006', message = format('a batch cannot have %s rows', case when least_count < 0 then least_count else most end);
  end if;
end $$;

-- Name: _check_owners(oid, name); Type: FUNCTION

CREATE FUNCTION backfill._check_owners(relation oid, run_as name) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  untrusted name[];
begin
  if exists (select from backfill.executor e where e.run_as = _check_owners.run_as and e.one_url and not e.trusts_owners) then
    untrusted := backfill._untrusted_roles(relation, run_as);
    if untrusted <> '{}' then
      perform backfill._refuse(format('a job on table %s would run code of %s with the privileges of "%s"', relation::regclass, backfill._role_list(untrusted), run_as),
        format('The daemon has one url, so each job runs as "%s". Triggers and functions of the table run as this role, too. A role can add such code if it owns the table or an object that the table uses, or has the privilege TRIGGER or REFERENCES on the table (GRANT ALL includes both).', run_as),
        format('Revoke these privileges, or configure an executor for the owner of the table (executors). Or, if you accept that these roles can do everything that "%s" can do, set trust_table_owners: true for the database, and reload the configuration of the daemon (SIGHUP).', run_as));
    end if;
  end if;
end $$;

-- Name: _check_planner(); Type: FUNCTION

CREATE FUNCTION backfill._check_planner() RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if exists (select from pg_namespace n where n.nspname = 'backfill' and n.nspowner = to_regrole(quote_ident(current_user)))
     and backfill._has_executors() then
    perform backfill._refuse(format('role "%s" owns schema backfill and must not plan the statements of jobs', current_user),
      'The server evaluates immutable functions while it plans. They would run with the privileges of this role.',
      'Connect as another role: a member of backfill_submitter and of the role that the job runs as.');
  end if;
end $$;

-- Name: _check_proof_rights(oid, text, jsonb, name); Type: FUNCTION

CREATE FUNCTION backfill._check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_run_as(name); Type: FUNCTION

CREATE FUNCTION backfill._check_run_as(asked name) RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_run_as name := backfill._resolve_run_as(current_user, asked);
begin
  if not exists (select from pg_roles r where r.rolname = v_run_as) then
    perform backfill._refuse(format('role "%s" does not exist', v_run_as), 'The job would run as this role.', 'Correct the name of the role: run_as => ''ROLE''. Without this argument, the job runs as your own role, or as the role of the daemon if the daemon has a single url and your role is a member of the role of the daemon.');
  elsif not backfill._may_run_as(current_user, v_run_as) then
    perform backfill._refuse(format('role "%s" may not run jobs as "%s"', current_user, v_run_as), format('Role "%s" is not a member of "%s".', current_user, v_run_as),
      case when (select r.rolsuper from pg_roles r where r.rolname = v_run_as) then 'That role is a superuser. Name the owner of the table: run_as => ''OWNER''. Without this argument, the job runs as your own role, or as the role of the daemon if the daemon has a single url and your role is a member of the role of the daemon.'
           else format('Leave out run_as => ''%1$s''. Or, as an administrator, run: grant %1$I to %2$I%3$s; This gives "%2$s" all privileges of "%1$s".', v_run_as, current_user, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end) end);
  end if;
  return v_run_as;
end $_$;

-- Name: _check_same_table(text, oid); Type: FUNCTION

CREATE FUNCTION backfill._check_same_table(name text, relation oid) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  told text := backfill._other_table(name, relation);
begin
  if told is not null then
    perform backfill._refuse(format('table %s is not the table that the job was enqueued for', name), told,
      'If the table was only renamed, rename it back. If another table took its place, delete this job with backfill.forget, and enqueue a job for the current table.');
  end if;
end $$;

-- Name: _check_self_reads(name, jsonb, oid, jsonb, text, text, text[]); Type: FUNCTION

CREATE FUNCTION backfill._check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_spec(text, oid, text, text, name[], name, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _check_statement_triggers(oid, text, text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._check_statement_triggers(relation oid, kind text, set_sql text, options jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  skipped text := (select string_agg(s, ', ') from backfill._skipped_triggers(relation, kind, set_sql) s);
begin
  if skipped is not null and options ->> 'statement_triggers' is distinct from 'skip' then
    perform backfill._refuse(format('statement-level triggers of %s would not fire: %s', relation::regclass, skipped),
      'The rows of the table are in partitions or children. A batch changes these tables directly, so the statement-level triggers of the table itself do not fire.',
      'If the job does not need these triggers, set the option statement_triggers to skip. Otherwise replace them with row-level triggers first.');
  end if;
end $$;

-- Name: _check_submitter_rights(bigint); Type: FUNCTION

CREATE FUNCTION backfill._check_submitter_rights(job bigint) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
begin
  select * into j from backfill.job x where x.id = _check_submitter_rights.job;
  if not exists (select from pg_roles r where r.rolname = j.enqueued_by) then
    perform backfill._refuse(format('role "%s", which enqueued the job, does not exist any more', j.enqueued_by), format('The job would run as "%s".', j.run_as),
      'Delete the job with backfill.forget. If another role enqueues a new job, that job begins with the first row. Give it a filter that excludes the rows that are already changed.');
  elsif not backfill._may_run_as(j.enqueued_by, j.run_as) then
    perform backfill._refuse(format('role "%s" is not a member of "%s" any more', j.enqueued_by, j.run_as), 'It was a member when it enqueued the job.',
      format('Grant the role again (grant %I to %I%s;), then run backfill.retry. Or delete the job with backfill.forget. If another role enqueues a new job, that job begins with the first row. Give it a filter that excludes the rows that are already changed.', j.run_as, j.enqueued_by, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end));
  end if;
end $$;

-- Name: _check_target(oid); Type: FUNCTION

CREATE FUNCTION backfill._check_target(relation oid) RETURNS void
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _check_utf8(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._check_utf8(stored jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if not backfill._is_utf8(stored::text) then
    perform backfill._refuse(
      format('%s cannot be converted to UTF-8', (select string_agg(case e.key when 'set_sql' then 'set' when 'filter_sql' then 'filter' when 'job_name' then 'name' else e.key end, ', ' order by e.key)
                                                   from jsonb_each(stored) e where not backfill._is_utf8(e.value::text))),
      format('The daemon reads all texts in UTF-8. The encoding of the database is %s, and a byte of the text has no equivalent in UTF-8.', getdatabaseencoding()),
      'Write the text without this byte. For example, call a function that returns the value. If the text is the name of a table, column, schema or role, rename it.');
  end if;
end $$;

-- Name: _checkpoint_ctid(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._checkpoint_ctid(slice bigint, token uuid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select c.ctid::text from backfill.lease l join backfill.checkpoint c on c.slice_id = l.slice_id
   where l.slice_id = _checkpoint_ctid.slice and l.token = _checkpoint_ctid.token
$$;

-- Name: _claim(uuid, name[], interval, integer, name[], uuid[]); Type: FUNCTION

CREATE FUNCTION backfill._claim(worker uuid, run_as name[], ttl interval, protocol integer DEFAULT 1, at_share name[] DEFAULT '{}'::name[], held uuid[] DEFAULT NULL::uuid[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c record;
  j backfill.job;
  s backfill.slice;
  abandoned backfill.lease;
  old backfill.lease;
  v_token uuid := gen_random_uuid();
  answer jsonb;
  v_size integer;
  v_takeover boolean;
begin
  perform set_config('synchronous_commit', 'on', true);
  -- The server cannot interrupt some functions that a job's code can call. A batch that calls such
  -- a function keeps its locks until the function ends. A claim must not wait for these locks.
  perform set_config('lock_timeout', '100', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;
  -- The schema may have been dropped and installed again. Until the daemon has registered its
  -- executors again, its batches would be fenced.
  if exists (select from backfill.worker w where w.id = _claim.worker) and not backfill._is_registered(_claim.worker, _claim.run_as) then
    return null;
  end if;

  for c in
    select l.slice_id, l.job_id from backfill.lease l join backfill.slice x on x.id = l.slice_id
     where backfill._is_abandoned(l, worker, held) and l.run_as = any (_claim.run_as) and x.protocol <= _claim.protocol order by l.expires_at
  loop
    select * into j from backfill.job x where x.id = c.job_id for update skip locked;
    continue when not found;
    select * into abandoned from backfill.lease l where l.slice_id = c.slice_id and backfill._is_abandoned(l, worker, held) for update skip locked;
    continue when not found;
    -- The server may not have detected that the old holder has stopped. Terminate the session of
    -- the old holder, so that this session no longer holds locks that block the new holder (P6). Do
    -- not terminate a session that another lease refers to: its worker has ended the old claim and
    -- already uses the session for another slice.
    begin
      perform pg_terminate_backend(a.pid) from pg_stat_activity a
       where a.pid = abandoned.backend_pid and a.backend_start = abandoned.backend_start
         and not exists (select from backfill.lease l where l.slice_id <> c.slice_id and l.backend_pid = abandoned.backend_pid and l.backend_start = abandoned.backend_start);
    exception when insufficient_privilege then
      null; -- The session belongs to an executor's login. Its statement_timeout usually ends a batch within 2 s.
    end;
    -- The batch of the old holder may still be running, and the server may be unable to interrupt
    -- it.
    perform 1 from backfill.checkpoint k where k.slice_id = c.slice_id for update skip locked;
    if not found and exists (select from backfill.checkpoint k where k.slice_id = c.slice_id) then
      continue;
    end if;
    if j.state in ('succeeded', 'failed', 'cancelled') or j.desired_state <> 'running' then
      begin
        perform backfill._drop_lease(c.slice_id);
        perform backfill._settle(c.job_id);
      exception when others then
        -- The other jobs must not wait because of an error in one job.
        raise warning 'could not end or pause job %: %', c.job_id, sqlerrm;
      end;
      continue;
    end if;
    select * into s from backfill.slice x where x.id = c.slice_id;
    old := abandoned;
    exit;
  end loop;

  if s.id is null then
    for c in
      select r.* from unnest(_claim.run_as) as u(role)
      cross join lateral (
        select x.id, x.job_id, x.kind, x.run_as, x.priority, x.ordinal from backfill.slice x
         where x.run_as = u.role and x.state = 'ready' and x.protocol <= _claim.protocol order by x.priority, x.job_id, x.ordinal, x.id limit 64) r
      order by r.run_as = any (_claim.at_share), r.priority, r.job_id, r.ordinal, r.id
    loop
      if c.kind = 'plan' then
        select * into j from backfill.job x where x.id = c.job_id for update skip locked;
        continue when not found;
      end if;
      continue when exists (select from backfill.checkpoint k where k.slice_id = c.id)
                and not exists (select from backfill._lock_checkpoint(c.id));
      select * into s from backfill.slice x where x.id = c.id and x.state = 'ready' for update skip locked;
      exit when found;
    end loop;
    if s.id is null then
      return null;
    end if;
    if s.kind = 'plan' then
      update backfill.job x set state = 'running', started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.job_id and x.state = 'queued';
    end if;
  end if;

  update backfill.slice x set state = 'leased', due_at = null, not_before = null, waiting_reason = null, waiting_text = null, attempts = x.attempts + 1, started_at = coalesce(x.started_at, clock_timestamp()) where x.id = s.id;
  insert into backfill.lease as l (slice_id, job_id, token, holder, run_as, claimed_at, expires_at, ttl, waiting_reason, waiting_text)
  -- Keep the waiting reason of the slice until its first batch commits.
  values (s.id, s.job_id, v_token, worker, s.run_as, clock_timestamp(), clock_timestamp() + _claim.ttl, _claim.ttl, s.waiting_reason, s.waiting_text)
  on conflict (slice_id) do update set token = excluded.token, holder = excluded.holder, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at, ttl = excluded.ttl,
     backend_pid = null, backend_start = null, rows_per_second = null, steady_rows_per_second = null, time_share = null, throttled_by = null, throttled_text = null,
     waiting_reason = excluded.waiting_reason, waiting_text = excluded.waiting_text;
  insert into backfill.checkpoint as k (slice_id, token, position) values (s.id, v_token, s.lower)
  on conflict (slice_id) do update set token = excluded.token;
  v_takeover := coalesce(old.expires_at < clock_timestamp(), false);
  if v_takeover then
    perform backfill._record_event(s.job_id, 'takeover', format('lease of slice %s expired: taken over', s.ordinal), jsonb_build_object('slice', s.id, 'from', old.holder, 'to', worker));
  end if;

  select jsonb_build_object(
      'slice', s.id, 'job', x.id, 'kind', s.kind, 'ordinal', s.ordinal, 'generation', s.generation, 'token', v_token, 'takeover', v_takeover, 'attempts', s.attempts + 1,
      'lower', to_jsonb(s.lower), 'upper', to_jsonb(s.upper), 'position', to_jsonb(k.position), 'done', k.done, 'checkpoint_ctid', k.ctid::text,
      'rows_scanned', k.rows_scanned, 'rows_changed', k.rows_changed, 'deferred', (select count(*) from backfill.deferred_row a where a.slice_id = s.id),
      'name', x.name, 'relation', x.relation::bigint, 'target', x.target, 'set', x.set_sql, 'filter', x.filter_sql, 'key', to_jsonb(x.key),
      'run_as', x.run_as, 'run', x.run, 'leaf', s.relation::bigint, 'options', x.options, 'settings', x.settings, 'revision', x.revision, 'plan', x.plan)
    into answer
    from backfill.job x, backfill.checkpoint k where x.id = s.job_id and k.slice_id = s.id;
  v_size := octet_length(answer::text);
  if v_size < 4194304 and backfill._is_utf8(answer::text) then
    return answer;
  end if;
  -- The answer is too large, or cannot be converted to UTF-8, so the daemon could not read it. If
  -- the function returned it, the job could neither run nor fail, and workers would try to claim it
  -- before all other jobs.
  perform backfill._drop_lease(s.id);
  perform 1 from backfill.job x where x.id = s.job_id for update skip locked;
  if found then
    perform backfill._end_job(s.job_id, 'failed', false,
      case when v_size < 4194304 then format('the definition of job %s cannot be converted to UTF-8', s.job_id) else format('the definition of job %s has %s bytes', s.job_id, v_size) end,
      'The job was not inserted by backfill.enqueue. Delete it with backfill.forget, then enqueue it again.');
  else
    update backfill.slice x set due_at = clock_timestamp() + interval '1 second', not_before = clock_timestamp() + interval '1 second' where x.id = s.id;
  end if;
  return null;
end $$;

-- Name: _claim_rollout(uuid, name[], interval, uuid[], name[]); Type: FUNCTION

CREATE FUNCTION backfill._claim_rollout(worker uuid, run_as name[], ttl interval, held uuid[], at_share name[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  r backfill.rollout;
  answer jsonb;
  v_now text;
  v_error text;
  v_hint text;
begin
  perform set_config('synchronous_commit', 'on', true);
  perform set_config('lock_timeout', '100', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;
  select * into r from backfill.rollout x
   where (x.state in ('running', 'rolling_back') or x.state = 'waiting' and x.stage = 'constrained') and x.desired_state = 'running' and x.due_at <= clock_timestamp() and x.run_as = any (_claim_rollout.run_as) and x.run_as <> all (at_share)
     and (x.expires_at is null or x.expires_at < clock_timestamp() or x.holder = worker and x.token <> all (held))
   order by x.due_at limit 1 for update skip locked;
  if not found then
    return null;
  end if;
  -- An earlier attempt to run a statement locks the row of the statement in rollout_statement until
  -- the transaction of the attempt ends. The next attempt must not begin before that.
  if (select count(*) from backfill.rollout_statement d where d.rollout_id = r.id and d.done_at is null) > (select count(*) from (select from backfill.rollout_statement d where d.rollout_id = r.id and d.done_at is null for update skip locked) f) then
    perform backfill._end_rollout_session(r.id);
    perform backfill._put_off_rollout(r.id, 'lock', format('an earlier attempt of a statement on table %s has not ended yet; its session is being terminated', r.target), interval '1 s');
    return null;
  elsif r.token is not null then
    perform backfill._end_rollout_session(r.id);
  end if;
  begin
    if not r.backwards and not backfill._may_run_as(r.started_by, r.run_as) then
      perform backfill._fail_rollout(r.id, format('role "%s" is not a member of "%s" any more', r.started_by, r.run_as),
        format('It started the rollout, and the statements of the rollout run as "%2$s". Grant the role again (grant %2$I to %1$I%4$s;), then run: select backfill.rollout_resume(%3$L); Or roll the rollout back: select backfill.rollout_rollback(%3$L);',
          r.started_by, r.run_as, r.name, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end));
      return null;
    end if;
    if r.backwards and not exists (select from pg_class c where c.oid = r.relation) then
      update backfill.rollout x set state = 'rolled_back', stage = 'planned', since = clock_timestamp(), finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, error = 'the table was dropped', holder = null, token = null, expires_at = null where x.id = r.id;
      return null;
    end if;
    if backfill._other_table(r.target, r.relation) is not null then
      perform backfill._fail_rollout(r.id, format('table %s is not the table that the rollout was started for', r.target), backfill._other_table(r.target, r.relation) || ' If the table was only renamed, rename it back, then run backfill.rollout_resume.');
      return null;
    end if;
    v_now := (select a.attname from pg_attribute a where a.attrelid = r.relation and a.attnum = r.attnum and not a.attisdropped and a.attname <> r.spec ->> 'column');
    if v_now is not null then
      perform backfill._fail_rollout(r.id, format('column "%s" of table %s was renamed to "%s"', r.spec ->> 'column', r.target, v_now),
        format('Run: alter table %s rename column %I to %I; Then run: select backfill.%s(%L);', r.target, v_now, r.spec ->> 'column', case when r.backwards then 'rollout_rollback' else 'rollout_resume' end, r.name));
      return null;
    end if;
    return case when r.backwards then backfill._next_undo(r, worker, ttl) else backfill._next_step(r, worker, ttl) end;
  exception when lock_not_available or deadlock_detected or query_canceled then
    raise;
  when others then
    get stacked diagnostics v_error = message_text, v_hint = pg_exception_hint;
  end;
  -- The error of one rollout must not stop the others.
  perform backfill._fail_rollout(r.id, v_error, coalesce(nullif(v_hint, ''), format('Fix the cause, then run: select backfill.rollout_resume(%L);', r.name)));
  return null;
end $_$;

-- Name: _close_window(bigint, uuid, timestamp with time zone); Type: FUNCTION

CREATE FUNCTION backfill._close_window(slice bigint, token uuid, until timestamp with time zone) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  if j.closed_until is distinct from _close_window.until then
    update backfill.job x
       set closed_until = _close_window.until,
           -- If the job has no plan, the slice was claimed for planning, which has not begun.
           state = case when x.plan is null and x.state = 'running' then 'queued' else x.state end, queued_at = clock_timestamp(),
           started_at = case when x.plan is null then null else x.started_at end
     where x.id = j.id;
    perform backfill._record_event(j.id, 'window', format('the window of the job is closed and opens at %s', _close_window.until));
  end if;
  return backfill._release(slice, token);
end $$;

-- Name: _column_read(jsonb, oid, oid[], text[], boolean, oid); Type: FUNCTION

CREATE FUNCTION backfill._column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean DEFAULT false, changes oid DEFAULT NULL::oid) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _columns_in_rollouts(oid); Type: FUNCTION

CREATE FUNCTION backfill._columns_in_rollouts(relation oid) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select r.spec ->> 'column' from backfill.rollout r
   where r.relation = _columns_in_rollouts.relation and r.state not in ('done', 'rolled_back') and (backfill._may_run_as(session_user, r.run_as) or backfill._is_operator(session_user))
$$;

-- Name: _command(text, text, text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._command(verb text, job_name text, reason text, options jsonb) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_message text;
  v_detail  text;
  v_hint    text;
begin
  insert into backfill.command (verb, job_name, reason, options) values (_command.verb, _command.job_name, _command.reason, _command.options);
  return backfill._state_of(_command.job_name);
exception when sqlstate 'BF001' or sqlstate 'BF003' or sqlstate 'BF005' or insufficient_privilege then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Name: _command_bounds(); Type: FUNCTION

CREATE FUNCTION backfill._command_bounds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_run_as name;
  v_most bigint := (select q.live_jobs from backfill.quota q);
  v_submitter name;
  n bigint;
  uncommitted bigint;
begin
  perform backfill._check_utf8(to_jsonb(new));
  perform backfill._check_bounds(new.actor, new.options, new.reason);
  if new.verb in ('retry', 'rerun') and not backfill._is_operator(new.actor) then
    -- If the actor may not act as the submitter, command_carry_out refuses the command.
    select j.enqueued_by into v_submitter from backfill.job j join pg_roles r on r.rolname = j.enqueued_by where j.name = new.job_name and pg_has_role(new.actor, r.oid, 'MEMBER');
    uncommitted := case when found then backfill._mark_new_job(v_submitter) else 0 end;
    select count(*) into n from (select from backfill.job j where j.enqueued_by = v_submitter and j.state in ('queued', 'running', 'paused', 'verifying') limit v_most) x;
    if n + uncommitted >= v_most and v_submitter is not null then
      perform backfill._refuse(format('the submitter of job "%s" has %s', new.job_name, backfill._jobs_text(n, uncommitted, 'active jobs')), 'That is the limit for one role.',
        'Wait until some of these jobs end, or cancel some, or ask a member of backfill_operator to raise the limit (update backfill.quota set live_jobs = ...).');
    end if;
  end if;
  if new.verb in ('retry', 'rerun', 'resume') and not backfill._is_operator(new.actor) then
    select j.run_as into v_run_as from backfill.job j where j.name = new.job_name and exists (select from pg_roles r where r.rolname = j.enqueued_by and pg_has_role(new.actor, r.oid, 'MEMBER'));
    if found and not backfill._may_run_as(new.actor, v_run_as) then
      raise exception using errcode = '42501', message = format('role "%s" is not allowed to %s job "%s"', new.actor, new.verb, new.job_name),
        detail = format('The job runs as "%s", and "%s" is not a member of that role any more.', v_run_as, new.actor),
        hint = format('Ask a member of backfill_operator to do this, or ask an administrator to run: grant %I to %I;', v_run_as, new.actor);
    end if;
  end if;
  return new;
end $$;

-- Name: _compare_spec(text, text, oid, text, text, name[], name); Type: FUNCTION

CREATE FUNCTION backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name) RETURNS TABLE(id bigint, state text, difference text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select j.id, j.state, d.difference
    from backfill._visible j cross join lateral (select case
      when j.kind <> _compare_spec.kind then format('The existing job is of kind %s, and this call is of kind %s', j.kind, _compare_spec.kind)
      when j.relation <> _compare_spec.relation and j.target = (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = _compare_spec.relation)
        then format('The existing job is for an earlier table named %s, which has since been replaced', j.target)
      when j.relation <> _compare_spec.relation then format('Target of the existing job: %s. Target of this call: %s', j.target, _compare_spec.relation::regclass)
      when j.run_as_asked is distinct from _compare_spec.run_as_asked
        then format('Role of the existing job: %s. Role of this call: %s', coalesce(quote_ident(j.run_as_asked), 'the default'), coalesce(quote_ident(_compare_spec.run_as_asked), 'the default'))
      when j.key is distinct from _compare_spec.key then format('Key of the existing job: %s. Key of this call: %s', coalesce(j.key::text, 'the primary key'), coalesce(_compare_spec.key::text, 'the primary key'))
      when not backfill._same_sql(j.set_sql, _compare_spec.set_sql, 'set') then format('Assignments (set) of the existing job: %s. Assignments (set) of this call: %s', j.set_sql, _compare_spec.set_sql)
      when not backfill._same_sql(j.filter_sql, _compare_spec.filter_sql, 'filter') then format('Filter of the existing job: %s. Filter of this call: %s', coalesce(j.filter_sql, 'none'), coalesce(_compare_spec.filter_sql, 'none'))
    end as difference) d
   where j.name = job_name
  union all
  select null, null, 'Your role is not allowed to see the job' where backfill._is_taken(job_name) and not exists (select from backfill._visible j where j.name = job_name)
$$;

-- Name: _comparison_cast(oid); Type: FUNCTION

CREATE FUNCTION backfill._comparison_cast(type oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when (select t.typtype = 'e' from pg_type t where t.oid = type)
                or type in (select unnest(array['bool', 'int2', 'int4', 'int8', 'uuid', 'date', 'time', 'timestamp', 'timestamptz', 'bytea', 'oid']::regtype[]))
              then '' else '::text collate "C"' end
$$;

-- Name: _conjuncts(text); Type: FUNCTION

CREATE FUNCTION backfill._conjuncts(condition text) RETURNS SETOF text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _count_quarantined(bigint); Type: FUNCTION

CREATE FUNCTION backfill._count_quarantined(job bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  n bigint := (select count(*) from backfill.row_error e left join backfill.slice s on s.id = e.slice_id
                where e.job_id = _count_quarantined.job and e.resolved_at is null and s.state is distinct from 'gone'
                  and not exists (select from backfill.deferred_row a where a.slice_id = e.slice_id and a.key = e.position));
begin
  update backfill.job x set rows_quarantined = n where x.id = _count_quarantined.job and x.rows_quarantined <> n;
  return n;
end $$;

-- Name: _coverage_gap(bigint); Type: FUNCTION

CREATE FUNCTION backfill._coverage_gap(job_id bigint) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  u record;
  t record;
  -- Maps the start of each slice of one table to the end of the slice. The start of the first slice
  -- is '{}'. No other slice has this start.
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
     -- A slice without an upper bound belongs to a leaf that was empty or is skipped.
     where s.job_id = _coverage_gap.job_id and s.kind = 'walk' and s.upper is not null
     group by s.relation
    having not bool_or(s.state = 'gone')
     order by 2
  loop
    if t.unfinished is not null then
      select x.ordinal, c.position, x.upper into u from backfill.slice x join backfill.job j on j.id = x.job_id and j.run = x.run and j.generation = x.generation left join backfill.checkpoint c on c.slice_id = x.id
       where x.job_id = _coverage_gap.job_id and x.kind = 'walk' and x.ordinal = t.unfinished;
      return format('slice %s stopped at %s, before its upper bound %s', u.ordinal, coalesce(u.position::text, 'its start'), u.upper::text);
    end if;
    -- Slices with the same start share one entry. So if there are fewer entries than slices, slices
    -- overlap.
    if (select count(*) from jsonb_object_keys(t.ends)) < t.slices then
      return format('slices of %s overlap', t.relation_name);
    end if;
    -- Follow the slices in a chain, in which each slice starts at the end of the previous one. If
    -- the slices formed a cycle, no slice would start with '{}' and the chain would be empty.
    here := '{}'; passed := 0;
    while t.ends ? here and passed < t.slices loop
      here := t.ends ->> here; passed := passed + 1;
    end loop;
    if passed < t.slices then
      return format('no slice of %s starts at %s, where another slice ends', t.relation_name, here);
    elsif array[here] is distinct from t.planned then
      return format('the slices of %s end at %s instead of the planned upper bound %s', t.relation_name, here, array_to_string(t.planned, ', '));
    end if;
  end loop;
  return null;
end $$;

-- Name: _defer_quarantined_rows(bigint); Type: FUNCTION

CREATE FUNCTION backfill._defer_quarantined_rows(job_id bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  n bigint;
begin
  insert into backfill.deferred_row (slice_id, key)
  select e.slice_id, e.position from backfill.row_error e join backfill.slice s on s.id = e.slice_id
   where e.job_id = _defer_quarantined_rows.job_id and e.resolved_at is null and s.state <> 'gone'
     and not exists (select from backfill.deferred_row a where a.slice_id = e.slice_id and a.key = e.position)
   order by e.slice_id, e.position;
  get diagnostics n = row_count;
  update backfill.slice s set state = 'held', not_before = null, finished_at = null
   where s.job_id = _defer_quarantined_rows.job_id and s.state = 'done' and s.kind = 'walk' and exists (select from backfill.deferred_row a where a.slice_id = s.id);
  return n;
end $$;

-- Name: _deferred_rows(bigint, uuid, bigint, integer); Type: FUNCTION

CREATE FUNCTION backfill._deferred_rows(slice bigint, token uuid, after bigint, most integer) RETURNS TABLE(id bigint, key text[])
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select a.id, a.key from backfill.deferred_row a join backfill.lease l on l.slice_id = a.slice_id and l.token = _deferred_rows.token
   where a.slice_id = _deferred_rows.slice and a.id > _deferred_rows.after order by a.id limit _deferred_rows.most
$$;

-- Name: rollout; Type: TABLE

CREATE TABLE backfill.rollout (
    id bigint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    relation oid NOT NULL,
    target text NOT NULL,
    spec jsonb NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    run_as name NOT NULL,
    started_by name DEFAULT CURRENT_USER NOT NULL,
    until text DEFAULT 'constrained'::text NOT NULL,
    confirmed text DEFAULT 'planned'::text NOT NULL,
    stage text DEFAULT 'planned'::text NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    desired_state text DEFAULT 'running'::text NOT NULL,
    state_reason text,
    backwards boolean DEFAULT false NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    waiting_reason text,
    waiting_text text,
    error text,
    hint text,
    pending_error text,
    pending_hint text,
    pending_statement bigint,
    job_id bigint,
    attnum smallint,
    fingerprint text DEFAULT ''::text NOT NULL,
    holder uuid,
    token uuid,
    expires_at timestamp with time zone,
    backend_pid integer,
    backend_start timestamp with time zone,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT rollout_confirmed_check CHECK ((confirmed = ANY (ARRAY['planned'::text, 'expanded'::text, 'syncing'::text, 'backfilled'::text, 'verified'::text, 'constrained'::text, 'switched'::text, 'contracted'::text]))),
    CONSTRAINT rollout_desired_state_check CHECK ((desired_state = ANY (ARRAY['running'::text, 'paused'::text]))),
    CONSTRAINT rollout_kind_check CHECK ((kind = 'add_column'::text)),
    CONSTRAINT rollout_name_check CHECK ((name ~ '^[A-Za-z0-9._:/-]{1,150}$'::text)),
    CONSTRAINT rollout_stage_check CHECK ((stage = ANY (ARRAY['planned'::text, 'expanded'::text, 'syncing'::text, 'backfilled'::text, 'verified'::text, 'constrained'::text, 'switched'::text, 'contracted'::text]))),
    CONSTRAINT rollout_state_check CHECK ((state = ANY (ARRAY['running'::text, 'waiting'::text, 'failed'::text, 'rolling_back'::text, 'rolled_back'::text, 'done'::text]))),
    CONSTRAINT rollout_until_check CHECK ((until = ANY (ARRAY['planned'::text, 'expanded'::text, 'syncing'::text, 'backfilled'::text, 'verified'::text, 'constrained'::text, 'switched'::text, 'contracted'::text])))
);

-- Name: _dependents(backfill.rollout); Type: FUNCTION

CREATE FUNCTION backfill._dependents(r backfill.rollout) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(x.object, ', ' order by x.object) from (
    select distinct pg_describe_object(d.classid, d.objid, d.objsubid) as object
      from pg_attribute a join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype = 'n'
     where (a.attrelid = r.relation or a.attrelid in (select p.part from backfill._partitions(r.relation) p)) and a.attname = r.spec ->> 'column' and not a.attisdropped
       and not exists (select from pg_trigger g where d.classid = 'pg_trigger'::regclass and g.oid = d.objid and g.tgname in (backfill._sync_name(r.spec) || '_insert', backfill._sync_name(r.spec) || '_update'))
       -- If the table refers to itself, leave out the foreign key that the rollout has created.
       and not exists (select from pg_constraint k where d.classid = 'pg_constraint'::regclass and k.oid = d.objid and k.conkey = array[a.attnum] and (k.conrelid = r.relation or k.conrelid in (select p.part from backfill._partitions(r.relation) p)))
     limit 5) x
$$;

-- Name: _deregister_worker(uuid); Type: FUNCTION

CREATE FUNCTION backfill._deregister_worker(worker uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  l record;
begin
  for l in select x.slice_id, x.token from backfill.lease x where x.holder = _deregister_worker.worker loop
    perform backfill._release(l.slice_id, l.token);
  end loop;
  delete from backfill.worker w where w.id = _deregister_worker.worker;
end $$;

-- Name: _desired_state(bigint); Type: FUNCTION

CREATE FUNCTION backfill._desired_state(job bigint) RETURNS TABLE(desired text, revision integer, live integer)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
              when j.desired_state <> 'running' then j.desired_state
              when w.paused_all then 'paused_all' else 'running' end,
         j.revision,
         (select count(*)::integer from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp())
    from backfill.job j, backfill.switch w where j.id = _desired_state.job
$$;

-- Name: _differs(oid, text); Type: FUNCTION

CREATE FUNCTION backfill._differs(relation oid, set_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('(%s)', string_agg(format(E'%s is distinct from (\n%s\n)%s',
    case when cardinality(a.columns) = 1 then quote_ident(a.columns[1])
         else format('row(%s)', (select string_agg(quote_ident(u.c), ', ' order by u.n) from unnest(a.columns) with ordinality u(c, n))) end, btrim(a.expression, E' \t\n\r'),
    -- The cast is the same as in the assignment. For example, a number that is assigned to a text
    -- column is compared as text.
    (select '::' || format_type(t.atttypid, t.atttypmod) from pg_attribute t
      where t.attrelid = _differs.relation and t.attname = a.columns[1] and not t.attisdropped and cardinality(a.columns) = 1)), ' or '))
    from backfill._assignments(set_sql) a
$$;

-- Name: _differs_in_any_path(oid, text); Type: FUNCTION

CREATE FUNCTION backfill._differs_in_any_path(relation oid, set_sql text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('(%s)', string_agg(format('row(%s)::pg_catalog.record operator(pg_catalog.<>) (%s)::pg_catalog.record', c.names,
           case when cardinality(a.columns) = 1 then format(E'row((\n%s\n)::%s)', a.expression, c.types[1])
                else format('select row(%s) from (%s) as _bf_value(%s)',
                            (select string_agg(format('_bf_c%s::%s', u.n - 1, u.t), ', ' order by u.n) from unnest(c.types) with ordinality u(t, n)),
                            case when a.expression ~* '^[(\s]*(select|with)\M' then format(E'\n%s\n', a.expression)
                                 else format(E'values %s\n', regexp_replace(btrim(a.expression, E' \t\n\r'), '^row\s*(?=\()', '', 'i')) end,
                            (select string_agg(format('_bf_c%s', n), ', ') from generate_series(0, cardinality(a.columns) - 1) n)) end), ' or '))
    from backfill._assignments(set_sql) a
    cross join lateral (
      select string_agg(quote_ident(u.name), ', ' order by u.n) as names, array_agg(backfill._type_name(t.atttypid, t.atttypmod) order by u.n) as types
        from unnest(a.columns) with ordinality u(name, n)
        join pg_attribute t on t.attrelid = _differs_in_any_path.relation and t.attname = u.name and not t.attisdropped) c
$$;

-- Name: _drop_lease(bigint); Type: FUNCTION

CREATE FUNCTION backfill._drop_lease(slice_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  delete from backfill.lease l where l.slice_id = _drop_lease.slice_id;
  update backfill.checkpoint c set token = gen_random_uuid() where c.slice_id = _drop_lease.slice_id;
  update backfill.slice s set state = 'held' where s.id = _drop_lease.slice_id and s.state = 'leased';
end $$;

-- Name: _end_gone_leaf(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._end_gone_leaf(slice bigint, token uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
  s backfill.slice;
begin
  select * into s from backfill.slice x where x.id = _end_gone_leaf.slice;
  if not coalesce((j.plan ->> 'spread')::boolean, false) or s.relation is null
     or backfill._other_table(j.target, j.relation) is not null
     or exists (select from backfill._leaves(j.relation) l where l.leaf = s.relation) then
    return null;
  end if;
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  update backfill.slice x set state = 'gone', finished_at = clock_timestamp() where x.id = _end_gone_leaf.slice;
  perform backfill._record_event(j.id, 'leaf_gone', format('%s was detached or dropped: slice %s is closed', s.relation_name, s.ordinal), jsonb_build_object('slice', s.id));
  if s.kind = 'walk' then
    perform backfill._add_new_leaves(j.id);
  end if;
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

-- Name: _end_job(bigint, text, boolean, text, text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._end_job(job_id bigint, final_state text, verified boolean, error text DEFAULT NULL::text, hint text DEFAULT NULL::text, redacted jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  told text;
begin
  if final_state = 'succeeded' then
    -- The job must not count as successful if the name in target now refers to another table.
    select format('the job is done, but table %s is not the table that the job changed', j.target), backfill._other_table(j.target, j.relation) into error, told from backfill.job j where j.id = _end_job.job_id;
    if told is not null then
      perform backfill._end_job(job_id, 'failed', false, error || ': ' || told,
        'If the table was only renamed, rename it back, then run backfill.retry. If another table took its place, delete this job with backfill.forget, and enqueue a job for the current table.');
      return;
    end if;
    error := null;
  end if;
  -- Expired leases are dropped before the totals are stored. The holder of an expired lease may
  -- still be executing a batch, and this batch must be either counted or fenced.
  perform backfill._drop_lease(l.slice_id)
     from (select x.slice_id from backfill.lease x where x.job_id = _end_job.job_id and x.expires_at <= clock_timestamp() order by x.slice_id) l;
  update backfill.job j
     set state = final_state, error = backfill._readable(_end_job.error), hint = backfill._readable(backfill._name_job(_end_job.hint, j.name)),
         redacted = case when _end_job.redacted ? 'hint' then jsonb_set(_end_job.redacted, '{hint}', coalesce(to_jsonb(backfill._name_job(_end_job.redacted ->> 'hint', j.name)), 'null')) else _end_job.redacted end,
         finished_at = clock_timestamp(),
         verified_at = case when verified then clock_timestamp() end,
         rows_scanned = coalesce(j.rows_scanned, 0), rows_changed = coalesce(j.rows_changed, 0)
   where j.id = _end_job.job_id;
  perform backfill._store_totals(_end_job.job_id);
  update backfill.slice s set state = 'held', due_at = null where s.job_id = _end_job.job_id and s.state = 'ready';
  perform backfill._record_event(job_id, final_state, coalesce(_end_job.error, 'job ' || final_state), null, null, 'job ' || final_state);
  perform backfill._notify_daemons();
end $$;

-- Name: _end_rollout_session(bigint); Type: FUNCTION

CREATE FUNCTION backfill._end_rollout_session(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  -- See backfill._end_session.
  v_pid integer := (select a.pid from backfill.rollout r join pg_stat_activity a on a.pid = r.backend_pid and a.backend_start = r.backend_start where r.id = _end_rollout_session.id);
begin
  return coalesce(pg_terminate_backend(v_pid), false);
exception when insufficient_privilege then
  return false;
end $$;

-- Name: _end_session(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._end_session(slice bigint, token uuid) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  -- The process ID is looked up first. If pg_terminate_backend were part of the query's condition,
  -- the server could evaluate it for other sessions, too.
  v_pid integer := (select a.pid from backfill.lease l join pg_stat_activity a on a.pid = l.backend_pid and a.backend_start = l.backend_start
                     where l.slice_id = _end_session.slice and l.token = _end_session.token);
begin
  return coalesce(pg_terminate_backend(v_pid), false);
exception when insufficient_privilege then
  return false;
end $$;

-- Name: _end_slice(bigint); Type: FUNCTION

CREATE FUNCTION backfill._end_slice(slice bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  s backfill.slice;
begin
  perform set_config('synchronous_commit', 'on', true);
  delete from backfill.lease l where l.slice_id = _end_slice.slice;
  update backfill.slice x set state = 'done', finished_at = clock_timestamp() where x.id = _end_slice.slice returning x.* into s;
  if s.kind = 'walk' then
    perform backfill._add_new_leaves(s.job_id);
  end if;
end $$;

-- Name: _enqueue(text, text, regclass, text, text, name[], integer, timestamp with time zone, name, boolean, jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._enqueue(kind text, name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb, settings jsonb) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  v_kind    text    := _enqueue.kind;
  v_name    text    := _enqueue.name;
  v_set     text    := _enqueue."set";
  v_filter  text    := backfill._filter_of(_enqueue.kind, _enqueue.filter);
  v_rel     oid     := _enqueue.target;
  v_run_as  name;
  v_spec    jsonb;
  v_old     record;
  v_note    text;
  v_message text;
  v_detail  text;
  v_hint    text;
begin
  -- The trigger job_bounds makes the same check on the stored row. Here this check comes before all
  -- others, because the errors of the other checks would contain a text that cannot be converted.
  perform backfill._check_utf8(jsonb_build_object('name', v_name, 'target', v_rel::regclass, 'set', v_set, 'filter', v_filter, 'key', _enqueue.key, 'run_as', _enqueue.run_as,
    'options', _enqueue.options, 'settings', _enqueue.settings));
  perform backfill._check_name(v_name);
  if _enqueue.run_at is null or _enqueue.priority is null or _enqueue.needs_approval is null then
    perform backfill._refuse(format('%s is null', case when _enqueue.run_at is null then 'run_at' when _enqueue.priority is null then 'priority' else 'needs_approval' end), 'This argument must not be null.', 'Leave it out to use its default.');
  end if;
  perform backfill._check_arguments(v_kind, v_rel, v_set, v_filter, _enqueue.options, backfill._is_operator(current_user));
  v_run_as := backfill._check_run_as(_enqueue.run_as);
  perform backfill._check_planner();
  -- A repeated call must succeed even if the table has changed since the first call. So the
  -- comparison comes before all checks of the table.
  select * into v_old from backfill._compare_spec(v_name, v_kind, v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as);
  if found then
    return backfill._same_or_raise(v_name, v_old.id, v_old.state, v_old.difference);
  end if;
  v_spec := backfill._check_spec(v_kind, v_rel, v_set, v_filter, _enqueue.key, v_run_as, _enqueue.settings);
  perform backfill._check_statement_triggers(v_rel, v_kind, v_set, _enqueue.options);
  perform backfill._check_proof_rights(v_rel, v_filter, _enqueue.options, v_run_as);
  if current_setting('session_replication_role') = 'replica' then
    perform backfill._refuse('session_replication_role is "replica" in this session', 'The triggers of backfilld, which start a job, would not fire.', 'Set it to origin, or remove it from the settings of the role and the database (as a superuser: alter role ... reset session_replication_role).');
  end if;
  if nullif(current_setting('transaction_read_only'), 'off') is not null then
    perform backfill._refuse('this session is read-only', 'Enqueueing writes a row to the queue.', 'Connect to the primary, in a session that is not read-only.');
  end if;

  insert into backfill.job (name, kind, relation, target, set_sql, filter_sql, key, priority, run_at, run_as, run_as_asked, needs_approval, options, settings)
  values (v_name, v_kind, v_rel, v_rel::regclass::text, v_set, v_filter, _enqueue.key, _enqueue.priority, _enqueue.run_at, v_run_as, _enqueue.run_as, _enqueue.needs_approval, _enqueue.options, _enqueue.settings)
  on conflict do nothing;
  if not found then
    select * into v_old from backfill._compare_spec(v_name, v_kind, v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as);
    return backfill._same_or_raise(v_name, v_old.id, v_old.state, v_old.difference);
  end if;
  v_note := backfill._executor_note(v_run_as, v_rel);
  if v_note is not null then
    raise warning '%', backfill._readable(v_note);
  end if;
  for v_note in select * from jsonb_array_elements_text(v_spec -> 'notes') union all select c from backfill._cascades(v_rel) c where v_kind = 'delete' loop
    raise warning '%', backfill._readable(v_note);
  end loop;
  v_note := backfill._not_in_effect(_enqueue.options);
  if v_note is not null then
    raise notice 'options stored with the job but ignored in this release: %', v_note;
  end if;
  if (_enqueue.options ->> 'deadline')::timestamptz <= clock_timestamp() then
    raise warning 'the deadline of the job (%) has already passed', _enqueue.options ->> 'deadline';
  end if;
  return (select c.id from backfill._compare_spec(v_name, v_kind, v_rel, v_set, v_filter, _enqueue.key, _enqueue.run_as) c);
-- The error is raised again here, so that it does not have a CONTEXT line for each inner function.
exception when sqlstate 'BF001' or sqlstate 'BF002' then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Name: _enqueue_rollout_job(backfill.rollout, text); Type: FUNCTION

CREATE FUNCTION backfill._enqueue_rollout_job(r backfill.rollout, what text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_job bigint;
begin
  insert into backfill.job (name, kind, relation, target, set_sql, filter_sql, run_as, run_as_asked, enqueued_by, options, settings, compares)
  select format('%s/%s-%s', r.name, what, r.id), 'update', r.relation, r.target, w.set_sql, w.filter_sql, r.run_as, r.run_as, r.started_by,
         -- With on_error = null, any number of rows may stay null.
         case r.spec ->> 'on_error' when 'null' then '{"max_row_errors": 1000000}'::jsonb else '{}' end || (r.spec -> 'backfill') || '{"verify": "filter"}'
         -- A job that only compares changes no rows, so it fires no triggers.
         || case when w.compares is null then '{}' else '{"statement_triggers": "skip"}' end::jsonb, r.settings, w.compares
    from backfill._rollout_job(r.spec, r.settings, what) w
  returning id into v_job;
  update backfill.rollout x set job_id = v_job where x.id = r.id;
  return v_job;
end $$;

-- Name: _estimate_cost(text, oid, text[]); Type: FUNCTION

CREATE FUNCTION backfill._estimate_cost(kind text, relation oid, assigned text[]) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _event_after_insert(); Type: FUNCTION

CREATE FUNCTION backfill._event_after_insert() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
declare
  -- How many events of each kind are kept. The number is higher for events without a job (for
  -- example pause_all and forget) than for the events of one job.
  kept constant integer := case when new.job_id is null then 1000 else 100 end;
begin
  if new.job_id is null then
    -- A transaction that stays open must not block the commands of other roles.
    delete from backfill.event e where e.id in (
      select y.id from backfill.event y where y.job_id is null and y.kind = new.kind
         and y.id <= (select x.id from backfill.event x where x.job_id is null and x.kind = new.kind order by x.id desc offset kept limit 1)
       for update skip locked);
  else
    delete from backfill.event e where e.job_id = new.job_id and e.kind = new.kind
       and e.id <= (select x.id from backfill.event x where x.job_id = new.job_id and x.kind = new.kind order by x.id desc offset kept limit 1);
  end if;
  return null;
end $$;

-- Name: _event_before_insert(); Type: FUNCTION

CREATE FUNCTION backfill._event_before_insert() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
begin
  if new.job_id is not null then
    select j.name, j.enqueued_by into new.name, new.enqueued_by from backfill.job j where j.id = new.job_id;
  end if;
  -- An event can contain the name of a table that was renamed or attached after the enqueue. A text
  -- that cannot be converted would make the status page and each query of backfill.events fail.
  if not backfill._is_utf8(concat_ws(' ', new.message, new.redacted, new.detail, new.actor)) then
    new.message := backfill._readable(new.message);
    new.redacted := backfill._readable(new.redacted);
    new.actor := backfill._readable(new.actor);
    new.detail := case when backfill._is_utf8(new.detail::text) then new.detail end;
  end if;
  return new;
end $$;

-- Name: _executor_note(name, oid); Type: FUNCTION

CREATE FUNCTION backfill._executor_note(run_as name, relation oid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case
    when not exists (select from backfill.worker w where w.expires_at > clock_timestamp())
      then 'no daemon is running on this database; the job stays queued until one starts'
    when (select s.paused_all from backfill.switch s) then 'all jobs are paused; the job stays queued until a member of backfill_operator resumes them'
    when not exists (select from backfill.executor e where e.run_as = _executor_note.run_as)
      then format('no daemon runs jobs as role "%s"; the job stays queued until one does (waiting_reason executor)', run_as)
    when exists (select from backfill.executor e where e.run_as = _executor_note.run_as and e.one_url and e.trusts_owners)
      then (select format('triggers and functions of table %s will run with the privileges of "%s"%s, and %s can change these triggers and functions', relation::regclass, run_as,
                          case when (select bool_or(e.is_superuser) from backfill.executor e where e.run_as = _executor_note.run_as) then ', a superuser' else '' end, backfill._role_list(u.roles))
              from (select backfill._untrusted_roles(relation, run_as)) u(roles) where u.roles <> '{}')
  end
$$;

-- Name: _fail(bigint, uuid, text, text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._fail(slice bigint, token uuid, error text, hint text, redacted jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  if j.state in ('succeeded', 'failed', 'cancelled') then
    -- The job has already ended, for example because another slice failed. The totals must include
    -- the last batches of this slice.
    perform backfill._store_totals(j.id);
  else
    perform backfill._end_job(j.id, 'failed', false, _fail.error, _fail.hint, _fail.redacted);
  end if;
  return backfill._state_of(j.name);
end $$;

-- Name: _fail_rollout(bigint, text, text); Type: FUNCTION

CREATE FUNCTION backfill._fail_rollout(id bigint, error text, hint text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  update backfill.rollout r set state = 'failed', error = backfill._readable(_fail_rollout.error), hint = backfill._readable(_fail_rollout.hint), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null
   where r.id = _fail_rollout.id;
  perform backfill._record_rollout_event(id, 'rollout failed', _fail_rollout.error);
end $$;

-- Name: _fence(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._fence(slice bigint, token uuid) RETURNS backfill.job
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.slice s on s.job_id = x.id where s.id = _fence.slice for update of x;
  perform 1 from backfill.lease l where l.slice_id = _fence.slice and l.token = _fence.token for update;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended', slice), hint = 'No action is needed: the worker that claims the slice next continues from its checkpoint.';
  end if;
  return j;
end $$;

-- Name: _filter_of(text, text); Type: FUNCTION

CREATE FUNCTION backfill._filter_of(kind text, filter text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_filter text := btrim(filter, E' \t\n\r');
begin
  if kind = 'update' and v_filter = '' then
    perform backfill._refuse('filter is blank', 'A blank filter may be a mistake. Without a filter, every row is changed.', 'Leave filter out to change every row, or write a condition.');
  end if;
  return nullif(v_filter, '');
end $$;

-- Name: _fingerprint(oid, smallint[]); Type: FUNCTION

CREATE FUNCTION backfill._fingerprint(relation oid, columns smallint[]) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return (select coalesce(string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attgenerated), ', ' order by a.attnum), '')
            from pg_attribute a where a.attrelid = _fingerprint.relation and a.attnum = any (_fingerprint.columns) and not a.attisdropped);
end $$;

-- Name: _finish(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._finish(slice bigint, token uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform 1 from backfill.checkpoint c where c.slice_id = _finish.slice and c.token = _finish.token and c.done;
  if not found then
    raise exception using errcode = 'BF006', message = format('slice %s has not reached its upper bound', slice);
  end if;
  if exists (select from backfill.deferred_row a where a.slice_id = _finish.slice) then
    -- Other sessions still hold locks on some rows. The slice can be claimed again after 1 s, or
    -- after 5 s if its oldest deferred row was deferred at least 1 minute ago. Until then the
    -- worker that held the slice can claim another slice.
    perform backfill._drop_lease(slice);
    update backfill.slice s
       set not_before = clock_timestamp() + case when (select min(a.first_at) from backfill.deferred_row a where a.slice_id = s.id) > clock_timestamp() - interval '1 minute'
                                                 then interval '1 second' else interval '5 seconds' end
     where s.id = _finish.slice;
    perform backfill._schedule_slices(j.id);
    perform backfill._settle(j.id);
    return backfill._state_of(j.name);
  end if;
  perform backfill._end_slice(slice);
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

-- Name: _fit(text, integer); Type: FUNCTION

CREATE FUNCTION backfill._fit(name text, bytes integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select left(name, n) from generate_series(length(name), 0, -1) n where octet_length(left(name, n)) <= bytes limit 1
$$;

-- Name: _fixed(numeric, integer); Type: FUNCTION

CREATE FUNCTION backfill._fixed(value numeric, digits integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select round(value, case when value <> 0 and round(value, digits) = 0 then 1 - floor(log(abs(value)))::int else digits end)::text
$$;

-- Name: _functions_of_columns(oid, text[], text, boolean, name); Type: FUNCTION

CREATE FUNCTION backfill._functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name) RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _functions_of_view(oid); Type: FUNCTION

CREATE FUNCTION backfill._functions_of_view(view oid) RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive views(oid) as (
    select _functions_of_view.view
    union
    select d.refobjid from views v join pg_rewrite r on r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
      join pg_class c on c.oid = d.refobjid where c.relkind = 'v')
  select case d.refclassid when 'pg_proc'::regclass then d.refobjid else (select o.oprcode from pg_operator o where o.oid = d.refobjid) end
    from views v join pg_rewrite r on r.ev_class = v.oid join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
$$;

-- Name: _grant(aclitem[], text[], text, name); Type: FUNCTION

CREATE FUNCTION backfill._grant(acl aclitem[], privileges text[], statement text, role name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if exists (select from unnest(privileges) p(name) where not exists (
       select from aclexplode(acl) a where a.grantee = (select r.oid from pg_roles r where r.rolname = role) and a.privilege_type = p.name)) then
    execute format('grant %s to %I', statement, role);
  end if;
end $$;

-- Name: _grant_all(); Type: FUNCTION

CREATE FUNCTION backfill._grant_all() RETURNS text[]
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  r text;
  missing text[] := '{}';
begin
  lock table backfill.schema_version in share row exclusive mode;
  -- PUBLIC can execute each new function until this statement has run. The statement runs only if
  -- needed, because it writes a catalog row for each function, and one of two concurrent revokes
  -- would fail.
  if exists (select from pg_proc p where p.pronamespace = 'backfill'::regnamespace and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0))) then
    revoke all on all routines in schema backfill from public;
  end if;
  foreach r in array array['backfill_reader', 'backfill_submitter', 'backfill_operator', 'pg_monitor'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin', r);
      exception
        when duplicate_object or unique_violation then null; -- A migration of another database has just created the role.
        when insufficient_privilege then missing := missing || r; continue;
      end;
    end if;
    perform backfill._grant(n.nspacl, array['USAGE'], 'usage on schema backfill', r) from pg_namespace n where n.nspname = 'backfill';
    perform backfill._grant(c.relacl, array['SELECT'], format('select on backfill.%I', c.relname), r) from pg_class c
      where c.relnamespace = 'backfill'::regnamespace and c.relname = any (array['jobs', 'slices', 'events', 'row_errors', 'workers', 'signals', 'quota', 'rollouts', 'rollout_statements']);
    perform backfill._grant(p.proacl, array['EXECUTE'], format('execute on routine %s', p.oid::regprocedure), r) from pg_proc p
      where p.pronamespace = 'backfill'::regnamespace and p.proname = any (array['assert_complete', '_refuse', '_readable', '_is_utf8', '_next_step', '_name_job', '_sees_all', '_is_operator', '_state_of', '_replaced', '_replaced_leaf', '_replaced_column', '_provable', 'wait']);
  end loop;
  foreach r in array array['backfill_submitter', 'backfill_operator'] loop
    continue when r = any (missing);
    perform backfill._grant(p.proacl, array['EXECUTE'], format('execute on function %s', p.oid::regprocedure), r) from pg_proc p
      where p.pronamespace = 'backfill'::regnamespace and p.proname = any (array['enqueue', 'enqueue_delete', '_enqueue', 'preview', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'forget', 'pause_all', 'resume_all', '_command',
                '_caller_settings', '_may_run_as', '_lex', '_check_fragments', '_assignments', '_update_sql', '_key_of', '_check_target', '_check_options', '_not_in_effect', '_stored_options', '_try_plan', '_resolve_run_as', '_executor_note',
                '_compare_spec', '_is_taken', '_same_sql', '_tokens', '_same_or_raise', '_incomparable', '_right_hint',
                '_check_name', '_check_utf8', '_filter_of', '_check_arguments', '_check_run_as', '_check_planner', '_has_executors', '_check_spec', '_check_job', '_check_self_reads', '_self_reads', '_changed_columns', '_changed_column_read', '_column_read', '_heap_of', '_plan_nodes', '_conjuncts', '_identifier', '_functions_of_columns', '_parts_of_type', '_called_functions', '_functions_of_view', '_schemas_of', '_body_as_query', '_skipped_triggers', '_check_statement_triggers', '_check_proof_rights', '_rejection_hint', '_work_sql', '_heaps', '_referring', '_cascades',
                '_preview', '_preview_text', '_values_text', '_fixed', '_sample', '_row_after', '_type_name', '_estimate_cost', '_recent_rate',
                'rollout_plan', 'rollout_start', 'rollout_advance', 'rollout_rollback', 'rollout_pause', 'rollout_resume', '_plan_rollout', '_start_rollout', '_rollout_command', '_rollout_form', '_rollout_spec', '_rollout_steps', '_rollout_work', '_violations', '_sync_function',
                '_try_expressions', '_stage_number', '_stage_at', '_check_keys', '_spec_text', '_resolve_table', '_resolve_type', '_calls_unstable', '_spec_columns', '_comparison_cast', '_unlimited', '_can_refer', '_bracketed', '_fit', '_sync_name', '_lacking_rights', '_columns_in_rollouts',
                '_statements_with_all_columns', '_leaves', '_partitions', '_later_trigger', '_index_name', '_validation', '_has_own_index', '_subscribers']);
    perform backfill._grant_columns('backfill._visible', 'select', array['id', 'name', 'kind', 'state', 'relation', 'target', 'set_sql', 'filter_sql', 'key', 'run_as_asked'], r);
    perform backfill._grant_columns('backfill.job', 'insert', array['name', 'kind', 'relation', 'target', 'set_sql', 'filter_sql', 'key', 'priority', 'run_at', 'run_as', 'run_as_asked', 'needs_approval', 'options', 'settings'], r);
    perform backfill._grant_columns('backfill.command', 'insert', array['verb', 'job_name', 'reason', 'options'], r);
    perform backfill._grant_columns('backfill.rollout', 'insert', array['spec', 'settings'], r);
    perform backfill._grant_columns('backfill.rollout_command', 'insert', array['verb', 'rollout_name', 'reason'], r);
    perform backfill._grant_columns('backfill._visible_rollouts', 'select', array['id', 'name', 'state', 'error', 'spec'], r);
  end loop;
  if to_regrole('backfill_operator') is not null then
    perform backfill._grant_columns('backfill.quota', 'update', array['live_jobs', 'jobs_per_minute', 'max_row_errors'], 'backfill_operator');
  end if;
  return missing;
end $$;

-- Name: _grant_columns(regclass, text, text[], name); Type: FUNCTION

CREATE FUNCTION backfill._grant_columns(relation regclass, privilege text, columns text[], role name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform backfill._grant(a.attacl, array[upper(privilege)], format('%s (%I) on %s', privilege, a.attname, relation), role)
     from pg_attribute a where a.attrelid = relation and a.attname = any (columns) order by a.attnum;
end $$;

-- Name: _grant_executor(name); Type: FUNCTION

CREATE FUNCTION backfill._grant_executor(run_as name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  f record;
begin
  -- A grant updates a row of the catalog, so one of two concurrent grants would fail.
  lock table backfill.schema_version in share row exclusive mode;
  perform backfill._grant(n.nspacl, array['USAGE'], 'usage on schema backfill', run_as) from pg_namespace n where n.nspname = 'backfill';
  for f in select p.oid::regprocedure as signature, p.proacl from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'backfill' and p.proname = any (array['advance', 'advance_deferring', 'retry_deferred', 'unchanged', 'not_rewritten', 'same_triggers', 'suppressible', 'all_changed',
              'key_text', '_server_identity', '_fingerprint', '_other_table', '_written_since', 'rollout_begun', 'rollout_recorded', 'rollout_locked', 'rollout_unlocking']) loop
    perform backfill._grant(f.proacl, array['EXECUTE'], format('execute on function %s', f.signature), run_as);
  end loop;
end $$;

-- Name: _growth(); Type: FUNCTION

CREATE FUNCTION backfill._growth() RETURNS TABLE(job_name text, table_ratio double precision, index_ratio double precision)
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select j.name, x.table_bytes / nullif((j.plan #>> '{sizes,table_bytes}')::float8, 0), x.index_bytes / nullif((j.plan #>> '{sizes,index_bytes}')::float8, 0)
    from (select * from backfill.job j where j.state in ('running', 'paused', 'verifying') and j.plan ? 'sizes' order by j.priority, j.id limit 50) j,
         lateral (select sum(pg_table_size(r.relation))::float8 as table_bytes, sum(pg_indexes_size(r.relation))::float8 as index_bytes
                    from (select distinct coalesce(s.relation, j.relation) as relation from backfill.slice s where s.job_id = j.id and s.run = j.run and s.kind = 'walk') r) x
$$;

-- Name: _has_executors(); Type: FUNCTION

CREATE FUNCTION backfill._has_executors() RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce((select not e.one_url from backfill.executor e order by e.registered_at desc limit 1), false)
$$;

-- Name: _has_own_index(oid, oid, text, text); Type: FUNCTION

CREATE FUNCTION backfill._has_own_index(part oid, parent oid, name text, column_name text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (
    select from pg_index i join pg_class k on k.oid = i.indexrelid join pg_inherits h on h.inhrelid = i.indexrelid join pg_index u on u.indexrelid = h.inhparent and u.indrelid = parent
      join pg_attribute a on a.attrelid = i.indrelid and a.attname = column_name and not a.attisdropped
     where i.indrelid = part and i.indnkeyatts = 1 and i.indkey[0] = a.attnum and k.relname <> _has_own_index.name)
$$;

-- Name: _has_ready(name[], integer); Type: FUNCTION

CREATE FUNCTION backfill._has_ready(run_as name[], protocol integer) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select not exists (select from backfill.switch w where w.paused_all)
     and exists (select from backfill.slice x where x.run_as = any (_has_ready.run_as) and x.state = 'ready' and x.protocol <= _has_ready.protocol)
$$;

-- Name: _heap_of(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._heap_of(node jsonb) RETURNS oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = node ->> 'Relation Name' and n.nspname = node ->> 'Schema'
$$;

-- Name: _heaps(oid); Type: FUNCTION

CREATE FUNCTION backfill._heaps(relation oid) RETURNS TABLE(heap oid, name text, source text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select l.leaf, l.name, case when l.leaf = _heaps.relation then l.name else format('%s as %I', l.name, (select c.relname from pg_class c where c.oid = _heaps.relation)) end
    from (select x.leaf, x.name from backfill._leaves(_heaps.relation) x
          -- For a partitioned table without partitions, the result is the table itself.
          union all select c.oid, format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where c.oid = _heaps.relation and not exists (select from backfill._leaves(_heaps.relation))) l
   order by pg_relation_size(l.leaf) desc, l.leaf
$$;

-- Name: _heartbeat(uuid, interval, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._heartbeat(worker uuid, ttl interval, held jsonb) RETURNS TABLE(slice bigint, desired text, revision integer, live integer, renewed boolean)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
begin
  -- The heartbeat does not wait for a synchronous standby, so that the daemon counts as running and
  -- keeps its leases while the standby is away.
  perform set_config('synchronous_commit', 'local', true);
  update backfill.worker w set heartbeat_at = clock_timestamp(), expires_at = clock_timestamp() + _heartbeat.ttl, ttl = _heartbeat.ttl where w.id = _heartbeat.worker;
  return query
  with h as (select * from jsonb_to_recordset(held) as x(slice bigint, token uuid, rate double precision, steady_rate double precision, time_share double precision, reason text, text text, throttled_by text, throttled_text text)),
  -- The leases are locked in the same order as in the functions that drop the leases of a job, to
  -- avoid deadlocks with these functions.
  locked as materialized (
    select l.slice_id from backfill.lease l join h on h.slice = l.slice_id and h.token = l.token order by l.slice_id for update of l skip locked),
  renewed as (
    update backfill.lease l
       set expires_at = clock_timestamp() + _heartbeat.ttl, ttl = _heartbeat.ttl, rows_per_second = h.rate, steady_rows_per_second = h.steady_rate, time_share = h.time_share,
           -- A worker that has not reported yet sends no rate.
           waiting_reason = case when h.rate is null then l.waiting_reason else h.reason end, waiting_text = case when h.rate is null then l.waiting_text else h.text end,
           throttled_by = h.throttled_by, throttled_text = h.throttled_text
      from h, locked k where l.slice_id = h.slice and l.token = h.token and k.slice_id = l.slice_id
    returning l.slice_id, l.job_id)
  select r.slice_id, d.desired, d.revision, d.live, true from renewed r cross join lateral backfill._desired_state(r.job_id) d
  union all
  select l.slice_id, d.desired, d.revision, d.live, false
    from backfill.lease l join h on h.slice = l.slice_id and h.token = l.token cross join lateral backfill._desired_state(l.job_id) d
   where not exists (select from locked k where k.slice_id = l.slice_id);
end $$;

-- Name: _identifier(text); Type: FUNCTION

CREATE FUNCTION backfill._identifier(quoted text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_inner text := replace(substring(quoted from '"(.*)"$'), '""', '"');
  v_name text;
begin
  if quoted !~* '^u&' then
    return v_inner;
  end if;
  execute format('select U&''%s''', replace(v_inner, '''', '''''')) into v_name;
  return v_name;
end $_$;

-- Name: _incomparable(text); Type: FUNCTION

CREATE FUNCTION backfill._incomparable(set_sql text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with assigned as (select array_agg(c) as columns from backfill._assignments(set_sql) a, unnest(a.columns) c),
  token as (
    select l.kind, l.body, case l.kind when 'word' then lower(l.body) when 'quoted' then replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end as name,
           lag(l.kind) over w as kind_before, lag(l.body) over w as before, lead(l.kind) over w as kind_after, lead(l.body) over w as after, lead(l.body, 2) over w as after_that
      from backfill._assignments(set_sql) with ordinality a(columns, expression, n), backfill._lex(a.expression, 'set') with ordinality l(kind, body, depth, m)
     where l.kind <> 'space'
    window w as (partition by a.n order by l.m))
  select case
    when exists (select from token t where t.kind = 'word' and t.name = 'select') then 'A subquery can return different rows each time.'
    else (select format('Column "%s" is both assigned and read, and its old value is not kept.', t.name) from token t, assigned
           where t.name = any (assigned.columns)
             and (t.kind_before is null or t.kind_before = 'open' or t.kind_before = 'other' and t.before not in ('.', ':'))
             and (t.kind_after is null or t.kind_after = 'close' or t.kind_after = 'other' and t.after <> '.' and not (t.after = '=' and t.after_that = '>') and not (t.after = ':' and t.after_that = '='))
           limit 1)
    end
$$;

-- Name: _index_name(jsonb, text); Type: FUNCTION

CREATE FUNCTION backfill._index_name(s jsonb, table_name text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when table_name = s ->> 'name' then coalesce(s #>> '{index,name}', backfill._fit(format('%s_%s', table_name, s ->> 'column'), 50) || case when (s -> 'unique')::boolean then '_key' else '_idx' end)
              -- The names of partitions are often long and differ only at their end.
              else format('%s_%s_idx', backfill._fit(format('%s_%s', table_name, s ->> 'column'), 41), left(md5(format('%s.%s', table_name, s ->> 'column')), 8)) end
$$;

-- Name: lease; Type: TABLE

CREATE TABLE backfill.lease (
    slice_id bigint NOT NULL,
    job_id bigint NOT NULL,
    token uuid NOT NULL,
    holder uuid NOT NULL,
    run_as name NOT NULL,
    claimed_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ttl interval DEFAULT '00:00:06'::interval NOT NULL,
    backend_pid integer,
    backend_start timestamp with time zone,
    rows_per_second double precision,
    waiting_reason text,
    waiting_text text,
    throttled_by text,
    throttled_text text,
    time_share double precision,
    steady_rows_per_second double precision
)
WITH (fillfactor='50');

-- Name: _is_abandoned(backfill.lease, uuid, uuid[]); Type: FUNCTION

CREATE FUNCTION backfill._is_abandoned(lease backfill.lease, worker uuid, held uuid[]) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(lease.expires_at < clock_timestamp() or lease.holder = worker and lease.token <> all (held), false)
$$;

-- Name: _is_compared_again(backfill.rollout); Type: FUNCTION

CREATE FUNCTION backfill._is_compared_again(r backfill.rollout) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j record;
begin
  select x.id, x.name, x.state, x.finished_at into j from backfill.job x where x.name = format('%s/verify-%s', r.name, r.id);
  if not found or not r.spec ? 'using' or j.state = 'succeeded' and j.finished_at > clock_timestamp() - interval '1 day' then
    return true;
  elsif j.state = 'succeeded' then
    insert into backfill.command (verb, job_name) values ('rerun', j.name);
  elsif j.state in ('failed', 'cancelled') then
    return backfill._is_rollout_job_done(r, 'verify');
  end if;
  update backfill.rollout x set job_id = j.id, due_at = clock_timestamp() + interval '0.2 s', holder = null, token = null, expires_at = null where x.id = r.id;
  return false;
end $$;

-- Name: _is_operator(name); Type: FUNCTION

CREATE FUNCTION backfill._is_operator(actor name) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (select from pg_roles r where r.rolname = 'backfill_operator' and pg_has_role(actor, r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(actor, n.nspowner, 'MEMBER'))
$$;

-- Name: _is_registered(uuid, name[]); Type: FUNCTION

CREATE FUNCTION backfill._is_registered(worker uuid, run_as name[]) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (select from backfill.worker w where w.id = _is_registered.worker)
     and not exists (select from unnest(_is_registered.run_as) r(role) where not exists (select from backfill.executor e where e.run_as = r.role))
$$;

-- Name: _is_rollout_job_done(backfill.rollout, text); Type: FUNCTION

CREATE FUNCTION backfill._is_rollout_job_done(r backfill.rollout, what text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_accepted constant text := 'the rollout accepts rows for which the expression fails (on_error: null)';
  j record;
begin
  if not exists (select from backfill._rollout_job(r.spec, r.settings, what)) then
    return true;
  end if;
  -- All readers see the error of a rollout, so it must not contain data of rows.
  select x.id, x.name, x.state, coalesce(x.redacted ->> 'error', x.error) as error, case when x.redacted is null then x.hint else x.redacted ->> 'hint' end as hint, x.rows_changed, x.started_at, x.state_reason, x.relation = r.relation and x.run_as = r.run_as and x.enqueued_by = r.started_by and x.set_sql = (select w.set_sql from backfill._rollout_job(r.spec, r.settings, what) w) as is_ours
    into j from backfill.job x where x.name = format('%s/%s-%s', r.name, what, r.id);
  if found and not j.is_ours then
    perform backfill._fail_rollout(r.id, format('another job has the name "%s"', j.name), format('That job does not belong to this rollout. If it is not needed any more, run: select backfill.forget(%L); Then run: select backfill.rollout_resume(%L);', j.name, r.name));
    return false;
  elsif j.id is null then
    perform backfill._enqueue_rollout_job(r, what);
    perform backfill._put_off_rollout(r.id, 'job', format('job "%s/%s-%s" has been enqueued', r.name, what, r.id), interval '0.2 s');
    return false;
  end if;
  update backfill.rollout x set job_id = j.id where x.id = r.id and x.job_id is distinct from j.id;
  if j.state = 'succeeded' then
    if what <> 'backfill' and j.rows_changed > 0 and not exists (select from backfill.event e where e.kind = 'rollout repaired' and e.message like format('%% by job "%s"', j.name) and e.at >= j.started_at) then
      perform backfill._record_rollout_event(r.id, 'rollout repaired', format('%s differed from the expression and %s corrected by job "%s"', backfill._rows_text(j.rows_changed), case j.rows_changed when 1 then 'was' else 'were' end, j.name));
    end if;
    return true;
  elsif (j.state = 'failed' or j.state = 'cancelled' and j.state_reason = v_accepted) and r.spec ->> 'on_error' = 'null' and exists (select from backfill.row_error e where e.job_id = j.id and e.resolved_at is null)
        and not exists (select from backfill.slice s join backfill.job x on x.id = s.job_id and x.run = s.run where s.job_id = j.id and s.kind = 'walk' and s.state not in ('done', 'gone')) then
    -- All rows are done except the quarantined rows. With on_error = null, the column stays null in
    -- the quarantined rows, and the stage counts as complete. The job is then not shown as failed.
    perform backfill._set_aside(j.id, v_accepted);
    if not exists (select from backfill.event e where e.kind = 'rollout unverified' and e.message like '%' || j.name || '%') then
      perform backfill._record_rollout_event(r.id, 'rollout unverified', format('the expression failed for %s rows, which stay null; backfill.row_errors lists them for job "%s"', (select count(*) from backfill.row_error e where e.job_id = j.id and e.resolved_at is null), j.name));
    end if;
    return true;
  elsif j.state in ('failed', 'cancelled') then
    perform backfill._fail_rollout(r.id, format('job "%s" %s%s', j.name, case j.state when 'failed' then 'failed' else 'was cancelled' end, ': ' || j.error),
      format('%s To retry the job and continue the rollout, run: select backfill.rollout_resume(%L); To roll the rollout back instead, run: select backfill.rollout_rollback(%L);', coalesce(j.hint, 'Fix the cause.'), r.name, r.name));
  else
    perform backfill._put_off_rollout(r.id, 'job', format('job "%s" is %s', j.name, j.state), interval '0.2 s');
  end if;
  return false;
end $$;

-- Name: _is_spread(oid); Type: FUNCTION

CREATE FUNCTION backfill._is_spread(relation oid) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return (select c.relkind = 'p' or exists (select from pg_inherits h join pg_class k on k.oid = h.inhrelid
                                             where h.inhparent = c.oid and (c.relkind = 'p' or k.relpersistence <> 't'))
            from pg_class c where c.oid = _is_spread.relation);
end $$;

-- Name: _is_taken(text); Type: FUNCTION

CREATE FUNCTION backfill._is_taken(job_name text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (select from backfill.job j where j.name = job_name)
$$;

-- Name: _is_utf8(text); Type: FUNCTION

CREATE FUNCTION backfill._is_utf8(what text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform convert_to(what, 'UTF8');
  return true;
exception when untranslatable_character or character_not_in_repertoire then
  return false;
end $$;

-- Name: _job_after_insert(); Type: FUNCTION

CREATE FUNCTION backfill._job_after_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  insert into backfill.slice (job_id, kind, run_as, priority) values (new.id, 'plan', new.run_as, new.priority);
  perform backfill._schedule_slices(new.id);
  perform backfill._record_event(new.id, 'enqueued', format('enqueued on %s', new.target), null, new.enqueued_by);
  perform backfill._notify_daemons();
  return null;
end $$;

-- Name: _job_before_insert(); Type: FUNCTION

CREATE FUNCTION backfill._job_before_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- A submitter can insert a job without calling enqueue. So this trigger repeats the checks that
  -- limit what a caller of enqueue can choose.
  perform backfill._check_target(new.relation);
  new.target := (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = new.relation);
  if not exists (select from pg_roles r where r.rolname = new.run_as) then
    perform backfill._refuse(format('role "%s" does not exist', new.run_as), 'The job would run as this role.', 'Name an existing role in run_as.');
  end if;
  if jsonb_typeof(new.settings) is distinct from 'object'
     or exists (select from jsonb_each(case jsonb_typeof(new.settings) when 'object' then new.settings end) s
                 where s.key <> all (array['search_path', 'TimeZone', 'DateStyle', 'IntervalStyle']) or jsonb_typeof(s.value) not in ('string', 'null')) then
    perform backfill._refuse('settings are not valid', 'The settings are search_path, TimeZone, DateStyle and IntervalStyle, each a string.', 'Use backfill.enqueue, which takes the settings from the session.');
  elsif array_ndims(new.key) > 1 or array_position(new.key, null) is not null then
    perform backfill._refuse('key is not valid', 'key must be a one-dimensional array of column names, and must not contain nulls.', 'Use backfill.enqueue, for example with key => array[''id''].');
  end if;
  perform backfill._check_options(new.options, new.filter_sql, backfill._is_operator(new.enqueued_by));
  new.options := backfill._stored_options(new.options);
  perform backfill._check_fragments(new.set_sql, new.filter_sql);
  perform backfill._check_job(new.relation, new.kind, new.set_sql, new.key, new.run_as);
  perform backfill._check_statement_triggers(new.relation, new.kind, new.set_sql, new.options);
  return new;
end $$;

-- Name: _job_before_tune(); Type: FUNCTION

CREATE FUNCTION backfill._job_before_tune() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform backfill._refuse(format('job "%s" cannot be verified with verify = expression', new.name), 'The expressions read columns that they assign, or can return a different value each time.',
    'Use verify = auto.');
  return null;
end $$;

-- Name: _job_bounds(); Type: FUNCTION

CREATE FUNCTION backfill._job_bounds() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
declare
  q backfill.quota;
  n bigint;
  uncommitted bigint;
begin
  perform backfill._check_utf8(to_jsonb(new));
  perform backfill._check_bounds(new.enqueued_by, new.options, null);
  if octet_length(new.settings::text) > 10000 or octet_length(new.key::text) > 4000 then
    perform backfill._refuse('the search_path or the key is too long', 'The search_path and the key are stored with the job.', 'Set a shorter search_path in this session.');
  elsif backfill._is_operator(new.enqueued_by) then
    return new;
  end if;
  if new.priority not between -100 and 100 then
    perform backfill._refuse(format('priority is %s', new.priority), format('The limits for role "%s" are -100 and 100. Jobs with a lower priority number run first. Only operators can use numbers outside these limits, for jobs that must run before or after all others.', new.enqueued_by),
      'Use a priority from -100 to 100, or ask a member of backfill_operator to enqueue the job.');
  end if;
  select * into q from backfill.quota;
  -- The marks are counted first. If another transaction commits after its mark is counted and
  -- before the jobs are counted, its job is counted twice rather than missed.
  uncommitted := backfill._mark_new_job(new.enqueued_by);
  select count(*) into n from (select from backfill.job j where j.enqueued_by = new.enqueued_by and j.state in ('queued', 'running', 'paused', 'verifying') limit q.live_jobs) x;
  if n + uncommitted >= q.live_jobs then
    perform backfill._refuse(format('role "%s" has %s', new.enqueued_by, backfill._jobs_text(n, uncommitted, 'active jobs')), 'That is the limit for one role.',
      'Wait until some of these jobs end, or cancel some, or ask a member of backfill_operator to raise the limit (update backfill.quota set live_jobs = ...).');
  end if;
  select count(*) into n from (select from backfill.job j where j.enqueued_by = new.enqueued_by and j.enqueued_at > now() - interval '1 minute' limit q.jobs_per_minute) x;
  n := n + (select count(*) from (select from backfill.forgotten_job f where f.enqueued_by = new.enqueued_by and f.enqueued_at > now() - interval '1 minute' limit q.jobs_per_minute) x);
  if n + uncommitted >= q.jobs_per_minute then
    perform backfill._refuse(format('role "%s" has enqueued %s', new.enqueued_by, backfill._jobs_text(n, uncommitted, 'jobs within a minute')), 'That is the limit for one role.',
      'Wait a minute, or ask a member of backfill_operator to raise the limit (update backfill.quota set jobs_per_minute = ...). One job can update several columns and all partitions of a table.');
  end if;
  return new;
end $$;

-- Name: _job_needs_slices(); Type: FUNCTION

CREATE FUNCTION backfill._job_needs_slices() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  raise exception using errcode = 'BF005', message = format('job "%s" cannot continue from its checkpoint', old.name),
    detail = format('The job finished on %s, and retention removed its slices on %s.', old.finished_at::date, old.pruned_at::date),
    hint = backfill._name_job('To run it again from the beginning, run backfill.rerun. This changes rows a second time, unless the filter excludes the rows that are already changed.', old.name);
end $$;

-- Name: _jobs_text(bigint, bigint, text); Type: FUNCTION

CREATE FUNCTION backfill._jobs_text(n bigint, uncommitted bigint, what text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('%s %s', n, what) || case when uncommitted > 0 then format(' and %s more in open transactions', uncommitted) else '' end
$$;

-- Name: _key_columns(oid, name[]); Type: FUNCTION

CREATE FUNCTION backfill._key_columns(relation oid, asked name[]) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(asked, (select array_agg((k.value ->> 'name')::name order by k.ordinality)
                            from backfill._own_key(relation, null) o, jsonb_array_elements(o.key -> 'columns') with ordinality k))
$$;

-- Name: _key_of(oid, name[]); Type: FUNCTION

CREATE FUNCTION backfill._key_of(relation oid, asked name[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _key_of_job(bigint); Type: FUNCTION

CREATE FUNCTION backfill._key_of_job(job bigint) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._key_of(j.relation, j.key) from backfill.job j where j.id = _key_of_job.job
$$;

-- Name: _lacking_rights(oid, name, jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._lacking_rights(relation oid, owner name, s jsonb, settings jsonb) RETURNS TABLE(writer text, missing text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _later_trigger(oid); Type: FUNCTION

CREATE FUNCTION backfill._later_trigger(relation oid) RETURNS name
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select t.tgname from pg_trigger t
   where (t.tgrelid = relation or t.tgrelid in (select p.part from backfill._partitions(relation) p))
     and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0 and t.tgenabled <> 'D' and t.tgname::text collate "C" > 'zzz_backfill_' collate "C" and t.tgname not like 'zzz\_backfill\_%'
   order by t.tgname desc limit 1
$$;

-- Name: _leaf(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._leaf(slice bigint, token uuid) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select s.leaf from backfill.slice s join backfill.lease l on l.slice_id = s.id where s.id = _leaf.slice and l.token = _leaf.token
$$;

-- Name: _leaf_key(oid, oid, name[]); Type: FUNCTION

CREATE FUNCTION backfill._leaf_key(relation oid, leaf oid, columns name[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _leaf_plans(oid, name[], smallint[], oid); Type: FUNCTION

CREATE FUNCTION backfill._leaf_plans(relation oid, asked name[], columns smallint[], only_leaf oid DEFAULT NULL::oid) RETURNS TABLE(leaf oid, name text, key jsonb, attnums smallint[], fingerprint text, pages bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _lease_rollout(backfill.rollout, text, integer, oid, boolean, text, text, text, boolean, uuid, interval); Type: FUNCTION

CREATE FUNCTION backfill._lease_rollout(r backfill.rollout, stage text, ordinal integer, part oid, undo boolean, sql text, undo_sql text, lock text, alone boolean, worker uuid, ttl interval) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_token uuid := gen_random_uuid();
  v_relation oid := coalesce(nullif(_lease_rollout.part, 0), r.relation);
  s record;
begin
  insert into backfill.rollout_statement as x (rollout_id, stage, ordinal, part, undo, sql, undo_sql, lock, alone)
  values (r.id, _lease_rollout.stage, _lease_rollout.ordinal, _lease_rollout.part, _lease_rollout.undo, _lease_rollout.sql, _lease_rollout.undo_sql, _lease_rollout.lock, _lease_rollout.alone)
  on conflict on constraint rollout_statement_rollout_id_stage_ordinal_part_undo_key do update set attempts = x.attempts + 1, sql = excluded.sql, done_at = null
  returning x.id, x.attempts, x.started_at into s;
  update backfill.rollout x set holder = worker, token = v_token, expires_at = clock_timestamp() + ttl, backend_pid = null, backend_start = null where x.id = r.id;
  return jsonb_build_object('rollout', r.id, 'name', r.name, 'token', v_token, 'statement', s.id, 'run_as', r.run_as, 'relation', v_relation::bigint,
    'target', case v_relation when r.relation then r.target else (select format('%I.%I', n.nspname, k.relname) from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = v_relation) end,
    -- Adding or dropping a foreign key also locks the referenced table. LOCK TABLE needs more
    -- privileges than a foreign key. If the role lacks them, only the statement itself takes the
    -- lock.
    'also', (select r.spec #>> '{references,target}'
              where (_lease_rollout.undo and _lease_rollout.stage = 'expanded'
                     or exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = _lease_rollout.stage and d.ordinal = _lease_rollout.ordinal and not d.undo and d.sql like '% foreign key (%' and d.lock in ('SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE')))
                and r.spec ? 'references' and has_table_privilege(r.run_as, backfill._resolve_table(r.spec #>> '{references,target}', '{}'), 'update, delete, truncate')),
    'undo', _lease_rollout.undo, 'sql', _lease_rollout.sql, 'lock', _lease_rollout.lock, 'alone', _lease_rollout.alone, 'stage', _lease_rollout.stage, 'attempts', s.attempts, 'settings', r.settings,
    'files', backfill._table_file(v_relation));
end $$;

-- Name: _leaves(oid); Type: FUNCTION

CREATE FUNCTION backfill._leaves(relation oid) RETURNS TABLE(leaf oid, name text, relkind "char")
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive tree(relid) as (
    select _leaves.relation
    union
    select h.inhrelid from tree t join pg_inherits h on h.inhparent = t.relid where not h.inhdetachpending)
  select c.oid, format('%I.%I', n.nspname, c.relname), c.relkind
    from tree t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'f') and (c.relpersistence <> 't' or c.oid = _leaves.relation)
   order by n.nspname, c.relname
$$;

-- Name: _lex(text, text); Type: FUNCTION

CREATE FUNCTION backfill._lex(fragment text, what text) RETURNS TABLE(kind text, body text, depth integer)
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  -- As on the server, each non-ASCII character counts as a letter.
  first_letter constant text := '[^\u0001-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_letter     constant text := '[^\u0001-\u0023\u0025-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  no_dollar    constant text := '[^\u0001-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_tag        constant text := '^\$(?:' || first_letter || no_dollar || '*)?\$';
  blank        constant text := '[ \t\n\r\f\v]';
  total constant integer := length(fragment);
  -- A long text is processed in pieces, because the cost of each match grows with the length of the
  -- text.
  begins integer := 1;
  piece text := left(fragment, 4000);
  used integer := 0;
  look text;
  stack text := '';
  tag text;
  level integer;
  opens integer;
  ends integer;
  at integer;
begin
  if octet_length(fragment) > 65536 then
    perform backfill._refuse(format('%s is %s kB long', what, octet_length(fragment) / 1024), 'The limit is 64 kB.', 'Move the logic into a function and call the function.');
  end if;
  while begins + used <= total loop
    if used > 3000 then
      begins := begins + used; used := 0; piece := substr(fragment, begins, 4000);
    end if;
    look := substr(piece, used + 1, 100);
    loop
      if look ~ ('^' || blank) then
        kind := 'space'; body := substring(look from '^' || blank || '+');
      elsif look ~ '^--' then
        kind := 'space'; body := substring(look from '^--[^\n\r]*');
      elsif look ~ '^/\*' then
        -- Block comments nest.
        kind := 'space'; level := 0; at := 1;
        loop
          tag := substr(look, at);
          opens := nullif(position('/*' in tag), 0); ends := nullif(position('*/' in tag), 0);
          level := level + case when opens < ends or ends is null then 1 else -1 end;
          at := case when ends is null then null else at + least(opens, ends) + 1 end;
          exit when level = 0 or at is null;
        end loop;
        body := left(look, at - 1);
      elsif look ~ '^[eE]''' then
        kind := 'escapes'; body := substring(look from '^[eE]''(?:[^''\\]|\\.|'''')*''');
      elsif look ~ '^(?:[bBxXnN]|[uU]&)?''' then
        kind := 'string'; body := substring(look from '^(?:[bBxXnN]|[uU]&)?''(?:[^'']|'''')*''');
      elsif look ~ '^(?:[uU]&)?"' then
        kind := 'quoted'; body := substring(look from '^(?:[uU]&)?"(?:[^"]|"")*"');
      elsif look ~ a_tag then
        tag := substring(look from a_tag);
        at := position(tag in substr(look, length(tag) + 1));
        kind := 'string'; body := case when at > 0 then left(look, at + 2 * length(tag) - 1) end;
      elsif look ~ ('^' || first_letter) then
        kind := 'word'; body := substring(look from '^' || a_letter || '+');
      elsif look ~ '^[([]' then
        kind := 'open'; body := left(look, 1);
      elsif look ~ '^[])]' then
        kind := 'close'; body := left(look, 1);
      else
        kind := 'other'; body := left(look, 1);
      end if;
      -- If the token may extend beyond `look`, it is matched again on the rest of the fragment.
      exit when length(look) = total - begins - used + 1 or (length(body) < length(look) - 1 and kind <> 'escapes');
      look := substr(fragment, begins + used);
    end loop;
    if body is null and kind = 'space' then
      perform backfill._refuse(format('unterminated comment in %s', what), format('The comment begins with: %s', left(look, 40)), 'Close the comment with */.');
    elsif body is null then
      perform backfill._refuse(format('unterminated quote in %s', what), format('The quoted text begins with: %s', left(look, 40)), 'Close the quote.');
    elsif kind = 'quoted' and body ~* '^u&' and substr(fragment, begins + used + length(body)) ~* ('^' || blank || '*uescape\M') then
      perform backfill._refuse(format('%s contains UESCAPE', what), 'backfilld cannot parse identifiers with an escape character other than \.', 'Use the character \ in U&"...", and leave UESCAPE out.');
    elsif body = ';' then
      perform backfill._refuse(format('%s contains a semicolon', what), 'Each batch is a single statement.', 'Remove the semicolon and everything after it.');
    elsif body = '$' then
      perform backfill._refuse(format('%s contains a parameter', what), 'Parameters have no value in a batch.', 'Write the value instead.');
    elsif kind = 'escapes' then
      -- The server continues the string in the next quote, and processes backslash escapes there,
      -- too.
      if substr(look, length(body) + 1) ~ ('^(?:' || blank || '|--[^\n\r]*)*''') then
        perform backfill._refuse(format('%s contains an escape string that continues in a second quoted part', what), format('The string begins with: %s', left(look, 40)), 'Write the value as one string, or join two strings with ||.');
      end if;
      kind := 'string';
    elsif kind = 'close' then
      if right(stack, 1) is distinct from (case body when ')' then '(' else '[' end) then
        perform backfill._refuse(format('unmatched "%2$s" in %1$s', what, body), case when substr(look, 2) = '' then 'There is no text after it.' else format('The text after it begins with: %s', left(substr(look, 2), 40)) end, format('Remove this "%s", or add the opening "%s".', body, translate(body, ')]', '([')));
      end if;
      stack := left(stack, -1);
    end if;
    depth := length(stack);
    return next;
    if kind = 'open' then
      stack := stack || body;
    end if;
    used := used + length(body);
  end loop;
  if stack <> '' then
    perform backfill._refuse(format('unclosed "%2$s" in %1$s', what, right(stack, 1)), format('The text is: %s', left(fragment, 200)), 'Add the closing bracket.');
  end if;
end $_$;

-- Name: _lock_checkpoint(bigint); Type: FUNCTION

CREATE FUNCTION backfill._lock_checkpoint(slice bigint) RETURNS SETOF bigint
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select k.slice_id from backfill.checkpoint k where k.slice_id = _lock_checkpoint.slice for update skip locked
$$;

-- Name: _mark_new_job(name); Type: FUNCTION

CREATE FUNCTION backfill._mark_new_job(submitter name) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  most constant integer := 200;
  v_role oid := (select r.oid from pg_roles r where r.rolname = submitter);
  -- The locks of an application probably do not use this number.
  v_class bigint := v_role::bigint # 1811939328;
  own bigint;
  others bigint;
begin
  for i in 1..20 loop
    exit when pg_try_advisory_xact_lock(v_class::bit(32)::integer, (random() * 2147483647)::integer);
  end loop;
  select count(*) filter (where l.pid = pg_backend_pid()), count(*) filter (where l.pid <> pg_backend_pid()) into own, others
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'advisory' and l.objsubid = 2 and l.granted and l.classid::bigint = v_class
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and (l.pid = pg_backend_pid() or pg_has_role(a.usesysid, v_role, 'MEMBER'));
  if own > most then
    perform backfill._refuse(format('this transaction has already added %s jobs of role "%s"', most, submitter), 'That is the limit for one transaction.', 'Commit the transaction, then continue in another transaction.');
  end if;
  return others;
end $$;

-- Name: _may_control(name, name); Type: FUNCTION

CREATE FUNCTION backfill._may_control(actor name, started_by name) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._is_operator(actor) or exists (select from pg_roles r where r.rolname = _may_control.started_by and pg_has_role(_may_control.actor, r.oid, 'MEMBER'))
$$;

-- Name: _may_run_as(name, name); Type: FUNCTION

CREATE FUNCTION backfill._may_run_as(actor name, run_as name) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if not exists (select from pg_roles where rolname = _may_run_as.run_as) or not exists (select from pg_roles where rolname = _may_run_as.actor) then
    return false;
  end if;
  return pg_has_role(actor, run_as, case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end);
end $$;

-- Name: _may_see(name); Type: FUNCTION

CREATE FUNCTION backfill._may_see(enqueued_by name) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (select from pg_roles r where (r.rolname in (enqueued_by, 'backfill_reader', 'backfill_operator', 'pg_monitor') or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'backfill'))
                                          and pg_has_role(session_user, r.oid, 'MEMBER'))
$$;

-- Name: _may_split(bigint, uuid, integer); Type: FUNCTION

CREATE FUNCTION backfill._may_split(slice bigint, token uuid, wanted integer) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.lease l on l.job_id = x.id where l.slice_id = _may_split.slice and l.token = _may_split.token;
  return j.state = 'running' and j.desired_state = 'running'
    and wanted > (select count(*) from backfill.lease l where l.job_id = j.id)
    and not exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state in ('ready', 'held'))
    -- A slice may be split if it has at least 80 % as many remaining rows as the slice with the
    -- most remaining rows. If only the largest slice could be split, two slices that progress at
    -- the same rate might never be split: at each check, each holder could see the other slice as
    -- the larger one.
    and coalesce((select max(r.remaining) filter (where r.id = _may_split.slice) >= greatest(5000, 0.8 * max(r.remaining))
                    from (select s.id, s.rows_estimated - c.rows_scanned as remaining
                            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                           where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state = 'leased'
                             and s.rows_estimated is not null and not c.done) r), false);
end $$;

-- Name: _name_job(text, text); Type: FUNCTION

CREATE FUNCTION backfill._name_job(hint text, name text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select regexp_replace(replace(replace(hint, 'backfill.tune(name, ', format('select backfill.tune(%L, ', name)), 'backfill.wait', format('call backfill.wait(%L)', name)),
                        'backfill\.(pause|resume|cancel|approve|retry|rerun|forget)\M(?!\()',
                        -- The replacement text of regexp_replace is not literal: a backslash must
                        -- be doubled.
                        format('select backfill.\1(%s)', replace(quote_literal(name), '\', '\\')), 'g')
$$;

-- Name: _next_step(backfill.rollout, uuid, interval); Type: FUNCTION

CREATE FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_next text;
  v_problem text;
  v_asks boolean;
  v_subscribers text := backfill._subscribers(r.relation);
  s record;
  f record;
  v_index record;
begin
  select d.* into f from backfill.rollout_statement d where d.id = r.pending_statement;
  if r.pending_error is not null and f.alone then
    -- A unique index that could not be completed can refuse rows that the application writes, so it
    -- is dropped before the rollout counts as failed.
    if exists (select from backfill._rollout_index(r, f.part, f.undo_sql)) then
      return backfill._lease_rollout(r, f.stage, f.ordinal, f.part, true, f.undo_sql, null, f.lock, true, worker, ttl);
    end if;
    delete from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = f.stage and d.ordinal = f.ordinal and d.part = f.part;
    update backfill.rollout x set pending_error = null, pending_hint = null, pending_statement = null where x.id = r.id;
    perform backfill._fail_rollout(r.id, r.pending_error, r.pending_hint);
    return null;
  elsif r.pending_error is not null then
    -- The validation of a constraint has failed. The constraint would refuse rows that the
    -- application writes, so it is dropped before the rollout counts as failed. A foreign key of a
    -- partitioned table was added to each partition, so it is dropped from each partition.
    select d.*, exists (select from backfill.rollout_statement u where u.rollout_id = r.id and u.undo and u.stage = d.stage and u.ordinal = d.ordinal and u.part = d.part and u.done_at is not null) as undone into s
      from backfill.rollout_statement d
     where d.rollout_id = r.id and d.stage = 'constrained' and not d.undo and d.done_at is not null and d.sql like '% not valid'
       and (d.part = 0 or exists (select from pg_class k where k.oid = d.part)) order by d.ordinal desc, undone, d.part desc limit 1;
    if found and not s.undone then
      return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, true, coalesce(s.undo_sql, regexp_replace(s.sql, '^alter table (.*?) add constraint (.*?) foreign key .*$', 'alter table \1 drop constraint if exists \2')), null, 'ACCESS EXCLUSIVE', false, worker, ttl);
    end if;
    -- The records of the dropped constraint and of its validations are deleted. When the rollout is
    -- resumed, it adds the constraint again and repeats the validations.
    delete from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = s.stage and d.ordinal in (s.ordinal, s.ordinal + 1);
    update backfill.rollout x set pending_error = null, pending_hint = null, pending_statement = null where x.id = r.id;
    perform backfill._fail_rollout(r.id, r.pending_error, r.pending_hint);
    return null;
  end if;
  loop
    v_next := backfill._stage_at(backfill._stage_number(r.stage) + 1);
    if v_next is null then
      update backfill.rollout x set state = 'done', finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null where x.id = r.id;
      perform backfill._record_rollout_event(r.id, 'rollout done', 'done');
      return null;
    end if;
    v_problem := backfill._sync_problem(r);
    if v_problem is not null then
      perform backfill._fail_rollout(r.id, v_problem, format('%s Then run: select backfill.rollout_resume(%L); The next comparison finds the rows that were written while the trigger did not keep the column in sync. To roll the rollout back instead, run: select backfill.rollout_rollback(%L);',
        case when backfill._later_trigger(r.relation) is not null then 'Rename the trigger so that its name sorts before "zzz_backfill".' else 'Enable the trigger, or create it again with its statement in backfill.rollout_statements.' end, r.name, r.name));
      return null;
    end if;
    v_asks := case when v_next = 'expanded' then v_subscribers is not null when v_next = 'syncing' then r.spec ->> 'sync' = 'application' else false end;
    if backfill._stage_number(v_next) > backfill._stage_number(r.until) or v_asks and backfill._stage_number(v_next) > backfill._stage_number(r.confirmed) then
      if r.stage = 'constrained' and not backfill._is_compared_again(r) then
        return null;
      end if;
      update backfill.rollout x set state = 'waiting', waiting_reason = 'advance', holder = null, token = null, expires_at = null, due_at = clock_timestamp() + interval '1 day',
             waiting_text = case v_next
               when 'expanded' then case when v_subscribers is not null then format('the table is published (%s): first add the column on all subscribers, otherwise their replication stops; then run: select backfill.rollout_advance(%L)', v_subscribers, r.name)
                                         else format('the next stage is expanded; to continue: select backfill.rollout_advance(%L)', r.name) end
               when 'syncing' then case r.spec ->> 'sync'
                 when 'application' then format('deploy code that writes column "%s" in each insert, and in each update of the columns that the expression reads; when no older code runs any more: select backfill.rollout_advance(%L)', r.spec ->> 'column', r.name)
                 else format('the next stage is syncing; to continue: select backfill.rollout_advance(%L)', r.name) end
               when 'switched' then format('deploy code that reads the new column and still writes the old ones; then run: select backfill.rollout_advance(%L)', r.name)
               when 'contracted' then format('when no code uses the old columns any more, run: select backfill.rollout_advance(%L). After that, no rollback is possible', r.name)
               else format('the next stage is %s; to continue: select backfill.rollout_advance(%L)', v_next, r.name) end
       where x.id = r.id;
      return null;
    end if;
    -- A constraint that is added as NOT VALID refuses each new version of a row that violates it.
    -- So such rows are looked for before the first constraint is added. Before reads are switched,
    -- the column is compared once more.
    if v_next in ('backfilled', 'verified', 'constrained', 'switched')
       and not backfill._is_rollout_job_done(r, case v_next when 'backfilled' then 'backfill' when 'verified' then 'verify' when 'constrained' then 'check' else 'verify-again' end) then
      return null;
    end if;
    select x.* into s from backfill._rollout_steps(r.spec, r.settings) x
     where x.stage = v_next and not exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = x.stage and d.ordinal = x.ordinal and d.part = x.part and not d.undo and d.done_at is not null)
     order by x.ordinal, x.part limit 1;
    if found then
      if s.alone then
        -- An interrupted attempt may have left an index, which is valid or invalid.
        select x.valid into v_index from backfill._rollout_index(r, s.part, s.undo_sql) x;
        if found and exists (select from backfill.rollout_statement d where d.rollout_id = r.id and d.stage = s.stage and d.ordinal = s.ordinal and d.part = s.part and not d.undo) then
          if v_index.valid then
            update backfill.rollout_statement d set done_at = clock_timestamp() where d.rollout_id = r.id and d.stage = s.stage and d.ordinal = s.ordinal and d.part = s.part and not d.undo;
            continue;
          end if;
          s.sql := s.undo_sql;
          return backfill._lease_rollout(r, s.stage, -s.ordinal, s.part, false, s.sql, null, s.lock, true, worker, ttl);
        end if;
      end if;
      return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, false, s.sql, s.undo_sql, s.lock, s.alone, worker, ttl);
    end if;
    update backfill.rollout x set stage = v_next, since = clock_timestamp(), waiting_reason = null, waiting_text = null where x.id = r.id returning x.* into r;
    perform backfill._record_rollout_event(r.id, 'rollout stage', v_next);
  end loop;
end $_$;

-- Name: _next_step(text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._next_step(name text, state text, waiting_reason text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._name_job(case
    when state = 'failed' then 'Fix the cause (see error and hint in backfill.jobs), then run backfill.retry.'
    when state = 'cancelled' then 'If the job is still needed, run backfill.retry.'
    when state = 'paused' then 'If the pause is no longer needed, run backfill.resume.'
    when waiting_reason = 'approval' then 'A member of backfill_operator must run backfill.approve.'
    when waiting_reason = 'paused_all' then 'All jobs are paused. If the pause is no longer needed, a member of backfill_operator can run: select backfill.resume_all();'
    when waiting_reason = 'daemon' then 'No daemon is running on this database. Start a daemon: backfilld run'
    when waiting_reason = 'executor' then 'No running daemon runs jobs as the role of this job (run_as in backfill.jobs). Add the role to the executors list in the configuration of a daemon; for the steps, run backfilld doctor.'
    when waiting_reason = 'run_at' then 'It starts at its run_at. Wait for it: backfill.wait'
    when waiting_reason = 'window' then 'It continues when its window opens. Wait for it: backfill.wait'
    else 'Wait until it finishes: backfill.wait'
  end, name)
$$;

-- Name: _next_undo(backfill.rollout, uuid, interval); Type: FUNCTION

CREATE FUNCTION backfill._next_undo(r backfill.rollout, worker uuid, ttl interval) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  j record;
  s record;
  v_now text;
  v_differs text;
begin
  for j in select x.id, x.name, x.state, x.desired_state from backfill.job x where x.name like replace(replace(r.name, '\', '\\'), '_', '\_') || '/%-' || r.id and x.relation = r.relation and x.enqueued_by = r.started_by and x.state not in ('succeeded', 'cancelled') loop
    if j.state = 'failed' then
      perform backfill._set_aside(j.id, 'the rollout is being rolled back');
    elsif j.desired_state <> 'cancelled' then
      insert into backfill.command (verb, job_name, reason) values ('cancel', j.name, 'the rollout is being rolled back');
    end if;
    if exists (select from backfill.job x where x.id = j.id and x.state <> 'cancelled') then
      perform backfill._put_off_rollout(r.id, 'job', format('job "%s" is being cancelled', j.name), interval '0.2 s');
      return null;
    end if;
  end loop;
  -- Check first that the column can be dropped. If it cannot, no statement of the rollout is
  -- undone.
  v_differs := backfill._dependents(r);
  if v_differs is not null then
    perform backfill._fail_rollout(r.id, format('column "%s" cannot be dropped, because other objects depend on it: %s', r.spec ->> 'column', v_differs),
      format('Change or drop these objects, then run: select backfill.rollout_rollback(%L);', r.name));
    return null;
  end if;
  -- The undo statement of an index also runs if an interrupted attempt has left an incomplete
  -- index.
  select d.* into s from backfill.rollout_statement d
   where d.rollout_id = r.id and not d.undo and d.undo_sql is not null
     and case when d.alone then exists (select from backfill._rollout_index(r, d.part, d.undo_sql)) else d.done_at is not null end
     and (d.undo_sql not like '% drop not null' or exists (select from pg_attribute a where a.attrelid = r.relation and a.attname = r.spec ->> 'column' and not a.attisdropped))
     and not exists (select from backfill.rollout_statement u where u.rollout_id = r.id and u.undo and u.stage = d.stage and u.ordinal = d.ordinal and u.part = d.part and u.done_at is not null)
     and (d.part = 0 or exists (select from pg_class k where k.oid = d.part))
   order by backfill._stage_number(d.stage) desc, d.ordinal desc, d.part desc limit 1;
  if found then
    return backfill._lease_rollout(r, s.stage, s.ordinal, s.part, true, s.undo_sql, null, case when s.lock = 'none' then 'none' when s.alone then s.lock else 'ACCESS EXCLUSIVE' end, s.alone, worker, ttl);
  end if;
  v_now := backfill._rollout_fingerprint(r.relation);
  -- A difference in a line that names the column of another rollout is left out.
  select string_agg(y.line, '; ') into v_differs from (
    (select '- ' || a as line from regexp_split_to_table(r.fingerprint, E'\n') a except select '- ' || b from regexp_split_to_table(v_now, E'\n') b)
    union all
    (select '+ ' || b from regexp_split_to_table(v_now, E'\n') b except select '+ ' || a from regexp_split_to_table(r.fingerprint, E'\n') a)) y
   where not exists (select from backfill.rollout o where o.relation = r.relation and o.id <> r.id and (o.finished_at is null or o.finished_at > r.started_at)
                        and (position(backfill._sync_name(o.spec) in y.line) > 0 or y.line ~ format('(^|[^\w"])%s($|[^\w"])', regexp_replace(quote_ident(o.spec ->> 'column'), '(\W)', '\\\1', 'g'))))
     -- Partitions may be attached or detached while a rollout runs, so only partitions that are in
     -- both fingerprints are compared.
     and (substr(y.line, 3) not like 'partition % | %' or split_part(substr(y.line, 3), ' | ', 1) in (select split_part(a, ' | ', 1) from regexp_split_to_table(r.fingerprint, E'\n') a)
                                                    and split_part(substr(y.line, 3), ' | ', 1) in (select split_part(b, ' | ', 1) from regexp_split_to_table(v_now, E'\n') b));
  -- A partition that was detached during the rollout still has the column, so it could not be
  -- attached again.
  select concat_ws('; ', v_differs, string_agg(format('%s was detached and keeps column "%s"; to remove it: alter table %s drop column %I', p.name, r.spec ->> 'column', p.name, r.spec ->> 'column'), '; ')) into v_differs
    from (select distinct substring(a from '^partition (.*?) \| ') as name from regexp_split_to_table(r.fingerprint, E'\n') a) p
   where p.name is not null and not exists (select from backfill._partitions(r.relation) x where x.name = p.name)
     and exists (select from pg_attribute a where a.attrelid = backfill._resolve_table(p.name, '{}') and a.attname = r.spec ->> 'column' and not a.attisdropped);
  v_differs := nullif(v_differs, '');
  update backfill.rollout x set state = 'rolled_back', stage = 'planned', since = clock_timestamp(), finished_at = clock_timestamp(), waiting_reason = null, waiting_text = null, holder = null, token = null, expires_at = null,
         error = case when v_differs is not null then 'the rollback is complete, but the schema of the table differs from the schema before the rollout' end,
         hint = 'If other sessions changed the table on purpose, no action is needed. The differences: ' || v_differs
   where x.id = r.id;
  perform backfill._record_rollout_event(r.id, 'rollout rolled back', 'rolled back');
  return null;
end $_$;

-- Name: _nondeterministic_within(oid); Type: FUNCTION

CREATE FUNCTION backfill._nondeterministic_within(type oid) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET jit TO 'off'
    AS $$
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

-- Name: _not_in_effect(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._not_in_effect(options jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format('%s = %s', o.key, o.value), ', ' order by o.key)
    from jsonb_each(options) o
   where o.value <> 'null' and (o.key = 'max_growth_bytes'
      or o.key = 'walk' and o.value #>> '{}' = 'interleaved')
$$;

-- Name: _notify_daemons(); Type: FUNCTION

CREATE FUNCTION backfill._notify_daemons() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select pg_notify('backfill', '') $$;

-- Name: _older_locks(integer, oid, text, boolean, interval); Type: FUNCTION

CREATE FUNCTION backfill._older_locks(pid integer, relation oid, also text, exclusive boolean, age interval) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select array(select distinct format('%s %s', a.pid, a.xact_start)
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'relation' and l.granted and l.pid <> _older_locks.pid
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and (l.relation in (_older_locks.relation, backfill._resolve_table(also, '{}')) or l.relation in (select p.part from backfill._partitions(_older_locks.relation) p))
     and (exclusive or l.mode not in ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock'))
     and a.backend_type is distinct from 'autovacuum worker' and a.xact_start < clock_timestamp() - age)
$$;

-- Name: _oldest_queued(); Type: FUNCTION

CREATE FUNCTION backfill._oldest_queued() RETURNS double precision
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select extract(epoch from min(greatest(j.queued_at, j.run_at, j.approved_at, j.closed_until, (select w.set_at from backfill.switch w))))::float8 from backfill.job j
   where j.state = 'queued' and j.desired_state = 'running' and j.run_at <= clock_timestamp() and (not j.needs_approval or j.approved_at is not null)
     and (j.closed_until is null or j.closed_until <= clock_timestamp())
     and not (select w.paused_all from backfill.switch w)
     and coalesce((select bool_or(x.closed_until is null or x.closed_until <= clock_timestamp()) from backfill.worker x
                    where x.expires_at > clock_timestamp() and j.run_as = any (x.run_as)), true)
$$;

-- Name: _options(bigint); Type: FUNCTION

CREATE FUNCTION backfill._options(job bigint) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select options from backfill.job where id = _options.job $$;

-- Name: _other_table(text, oid); Type: FUNCTION

CREATE FUNCTION backfill._other_table(name text, relation oid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('The name belongs to %s. The job is for the table with OID %s, %s.',
                coalesce('the table with OID ' || (select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = (parse_ident(name))[2] and n.nspname = (parse_ident(name))[1]), 'no table'),
                relation, coalesce('which is now ' || (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation), 'which was dropped'))
   where not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where c.oid = relation and c.relname = (parse_ident(name))[2] and n.nspname = (parse_ident(name))[1])
$$;

-- Name: _own_key(oid, name[]); Type: FUNCTION

CREATE FUNCTION backfill._own_key(relation oid, asked name[], OUT key jsonb, OUT reason text) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _partitions(oid); Type: FUNCTION

CREATE FUNCTION backfill._partitions(relation oid) RETURNS TABLE(part oid, parent oid, name text, schema name, is_leaf boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive tree(part, parent) as (
    select h.inhrelid, h.inhparent from pg_inherits h where h.inhparent = _partitions.relation and not h.inhdetachpending
    union all
    select h.inhrelid, h.inhparent from tree t join pg_inherits h on h.inhparent = t.part where not h.inhdetachpending)
  select t.part, t.parent, format('%I.%I', n.nspname, c.relname), n.nspname, c.relkind <> 'p'
    from tree t join pg_class c on c.oid = t.part join pg_namespace n on n.oid = c.relnamespace
$$;

-- Name: _parts_of_type(oid); Type: FUNCTION

CREATE FUNCTION backfill._parts_of_type(type oid) RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select p.oid from pg_type y
    cross join lateral (select y.typbasetype union all select y.typelem
                        union all select a.atttypid from pg_attribute a join pg_class k on k.oid = a.attrelid and k.relkind = 'c' where a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped) p(oid)
   where y.oid = type and p.oid <> 0
$$;

-- Name: _plan_nodes(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._plan_nodes(plan jsonb) RETURNS TABLE(node jsonb, is_top boolean)
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with recursive nodes(node, is_top) as (
    select plan -> 0 -> 'Plan', true
    union all
    select c.child, c.child ? 'Subplan Name' or c.child ->> 'Parent Relationship' in ('Member', 'Subquery') or n.node ->> 'Node Type' in ('SetOp', 'Recursive Union')
      from nodes n cross join lateral jsonb_array_elements(n.node -> 'Plans') c(child))
  select n.node, n.is_top from nodes n
$$;

-- Name: _plan_rollout(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._plan_rollout(spec jsonb, settings jsonb) RETURNS TABLE(stage text, ordinal integer, statement text, lock text, effect text)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  s jsonb;
  v_rel oid;
  v_rows float8;
  v_size bigint;
  v_fills boolean;
  v_rate float8;
  v_message text; v_detail text; v_hint text;
  w record;
begin
  s := backfill._rollout_spec(spec, settings);
  v_rel := (s ->> 'relation')::bigint::oid;
  select coalesce(sum(greatest(c.reltuples, 0)), 0), sum(pg_table_size(c.oid)) into v_rows, v_size from backfill._leaves(v_rel) l join pg_class c on c.oid = l.leaf;
  v_fills := exists (select from backfill._rollout_work(s, settings));
  perform backfill._check_options(s -> 'backfill', 'true', backfill._is_operator(current_user));
  perform backfill._check_job(v_rel, 'update', null, null, s ->> 'owner');
  perform backfill._check_planner();
  perform backfill._try_expressions(s, settings);
  v_rate := coalesce((select x.rows_per_second from backfill._recent_rate(v_rel) x where x.rows_per_second > 0), 5000);
  return query values ('estimate', 1, case when v_rows = 0 and v_size > 8192 then format('an unknown number of rows, because the table was never analyzed; table of %s', pg_size_pretty(v_size))
                                           else format('about %s rows, table of %s', to_char(v_rows, 'FM999,999,999,990'), pg_size_pretty(v_size)) end, null::text, null::text);
  if v_fills then
    return query values
      ('estimate', 2, format('backfill: about %s at %s rows/s', justify_interval(make_interval(secs => ceil(v_rows / v_rate))), round(v_rate::numeric)), null::text, null::text),
      ('estimate', 3, format('disk: the table grows by at most %s until vacuum has freed the old row versions; WAL: about %s', pg_size_pretty(v_size), pg_size_pretty(2 * v_size + (v_rows * 100)::bigint)), null::text, null::text);
  end if;
  return query values ('estimate', 4, 'rollback: possible until stage contracted; drops the constraints, the trigger and the column, takes seconds and changes no row', null::text, null::text);
  return query
    select x.stage, x.ordinal, x.sql, x.lock, x.effect from (
      select y.stage, y.ordinal, y.part, y.sql, y.lock, y.effect from backfill._rollout_steps(s, settings) y
      union all
      select 'backfilled', 1, 0::oid, format(E'job: update %s set %s where %s', s ->> 'target', k.set_sql, k.filter_sql), 'row locks', 'runs in small batches' from backfill._rollout_work(s, settings) k
      union all
      select v.stage, 0, 0::oid, case s ->> 'on_difference' when 'report' then 'job: compares all rows; if one differs, the rollout fails' else 'job: the same update again; it changes only rows that still differ' end,
             case s ->> 'on_difference' when 'report' then 'none' else 'row locks' end, 'reads all rows in small batches'
        from backfill._rollout_work(s, settings), unnest(array['verified', 'switched']) v(stage) where s ? 'using'
      union all
      select 'constrained', 0, 0::oid, 'job: looks for rows that violate a constraint; if it finds one, the rollout fails before it adds a constraint', 'none', 'reads all rows in small batches' where backfill._violations(s) is not null) x
     order by backfill._stage_number(x.stage), x.ordinal, x.part;
  for w in
    select 'the application''s prepared statements that return all columns of the table fail once after the column is added (cached plan must not change result type)' as told
    union all select format('this statement of the application returns all columns: %s (%s calls)', x.query, x.calls) from backfill._statements_with_all_columns(v_rel) x
    union all select 'after the column is added, insert ... select * and copy without a list of columns can fail or write values to the wrong columns; name the columns'
    union all select format('trigger "%s" fires for each row of the backfill; if it changes other columns, for example updated_at, these change too', t.tgname) from pg_trigger t where v_fills and t.tgrelid = v_rel and not t.tgisinternal and t.tgtype & 17 = 17 and t.tgenabled <> 'D' and cardinality(t.tgattr::smallint[]) = 0 and t.tgname not like 'zzz\_backfill\_%'
    union all select 'the default is volatile: it applies to new rows only, and a backfill fills the existing rows' where (s -> 'volatile_default')::boolean
    union all select 'with an index on the column, updates that change the column cannot be HOT updates' where s ? 'index' or (s -> 'unique')::boolean
    union all select 'the expression is evaluated for each row that the application writes; an error in it makes the statement of the application fail' where s ? 'using' and s ->> 'on_error' = 'fail' and s ->> 'sync' = 'trigger'
    union all select format('the table is published (%s): the rollout waits before it adds the column, until you have added it on all subscribers and have called rollout_advance; otherwise their replication would stop', x) from backfill._subscribers(v_rel) x where x is not null
    union all select format('the table is in publication "%s": before you add a subscriber, add the column there', p.pubname) from pg_publication_tables p where format('%I.%I', p.schemaname, p.tablename) = s ->> 'target' and backfill._subscribers(v_rel) is null
    union all select 'no trigger keeps the column in sync: the rollout waits before stage syncing until you have deployed code that writes it, and have called rollout_advance' where s ->> 'sync' = 'application'
    union all select format('the replica identity of the table is %s', case c.relreplident when 'f' then 'full: each change writes all columns to WAL' else 'nothing' end) from pg_class c where c.oid = v_rel and c.relreplident in ('f', 'n')
    union all select format('roles have privileges on single columns of the table (%s); grant them what they need on the new column', string_agg(distinct g.grantee, ', ')) from (
        select case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee)::text end as grantee from pg_attribute t cross join lateral aclexplode(t.attacl) a where t.attrelid = v_rel and not t.attisdropped) g having count(*) > 0
    union all select format('standbys replay the ACCESS EXCLUSIVE locks, and queries there wait or are cancelled meanwhile: %s', string_agg(format('"%s" replays %s', x.application_name, coalesce(round(1000 * extract(epoch from x.replay_lag)) || ' ms later', 'with a delay that is not known')), ', ')) from pg_stat_replication x where x.state = 'streaming' having count(*) > 0
    union all select format('synchronous_standby_names is %L: each commit waits for a standby while the lock is held; the wait is now %s', current_setting('synchronous_standby_names'),
                            coalesce((select round(1000 * extract(epoch from max(x.flush_lag))) || ' ms' from pg_stat_replication x where x.sync_state in ('sync', 'quorum') and x.flush_lag is not null), 'not known')) where current_setting('synchronous_standby_names') <> ''
  loop
    return query values ('warning', null::integer, w.told, null::text, null::text);
  end loop;
exception when sqlstate 'BF001' then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Name: _poll_claim(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._poll_claim(slice bigint, token uuid) RETURNS TABLE(desired text, revision integer, live integer)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select d.* from backfill.lease l cross join lateral backfill._desired_state(l.job_id) d where l.slice_id = _poll_claim.slice and l.token = _poll_claim.token
$$;

-- Name: _preview(text, text, regclass, text, text, name[], name, jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _preview_text(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._preview_text(x jsonb) RETURNS TABLE(item text, value text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _proof(bigint); Type: FUNCTION

CREATE FUNCTION backfill._proof(slice bigint) RETURNS TABLE(by_expression boolean, planned text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select s.proof is not distinct from 'expression', j.planned_snapshot::text
    from backfill.slice s join backfill.job j on j.id = s.job_id where s.id = _proof.slice
$$;

-- Name: _provable(text); Type: FUNCTION

CREATE FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  comparable boolean;
begin
  select * into j from backfill.job x where x.name = job_name and backfill._may_see(x.enqueued_by);
  if not found then
    refusal := format('There is no job "%s".', job_name);
    return;
  end if;
  comparable := coalesce((j.plan ->> 'comparable')::boolean, false);
  if session_user <> j.enqueued_by then
    refusal := format('The job was enqueued by "%s", but the session user is "%s".', j.enqueued_by, session_user);
  elsif backfill._other_table(j.target, j.relation) is not null then
    refusal := format('Table %s is not the table that the job was planned for.', j.target);
  elsif j.filter_sql is null and not comparable then
    refusal := 'The job has no filter, and its expressions cannot be compared with the rows: the expressions read columns that they assign, or can return a different value each time.';
  else
    spec := jsonb_build_object('enqueued_by', j.enqueued_by, 'target', j.target, 'settings', j.settings,
      'from', case when coalesce((j.plan ->> 'spread')::boolean, false) then '' else 'only ' end || j.target,
      'key', (select string_agg(format('%L, %I', k ->> 'name', k ->> 'name'), ', ' order by n) from jsonb_array_elements(j.plan -> 'key') with ordinality u(k, n)),
      'needs_work', case when j.kind = 'delete' or not comparable then format(E'(\n%s\n)', j.filter_sql)
                         when j.filter_sql is null or backfill._verify_kind(j) = 'expression' then backfill._differs_in_any_path(j.relation, j.set_sql)
                         else format(E'(\n%s\n) and %s', j.filter_sql, backfill._differs_in_any_path(j.relation, j.set_sql)) end);
  end if;
end $$;

-- Name: _prune_history(interval, integer); Type: FUNCTION

CREATE FUNCTION backfill._prune_history(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c record;
  n integer;
  gone integer := 0;
  before timestamptz := clock_timestamp() - keep;
begin
  -- The function locks a row of backfill.switch. It does not use an advisory lock, because any role
  -- could hold the same advisory lock.
  perform from backfill.switch for no key update skip locked;
  if not found then
    return 0;
  end if;
  delete from backfill.signal s where s.sampled_at < clock_timestamp() - interval '1 hour';
  delete from backfill.worker w where w.expires_at < clock_timestamp() - interval '1 hour';
  delete from backfill.event e where e.id in (select x.id from backfill.event x where x.job_id is null and x.at < before order by x.id limit batch for update skip locked);
  get diagnostics gone = row_count;
  for c in select j.id, j.run, j.finished_at from backfill.job j
            where j.finished_at < before and (j.pruned_at is null or j.pruned_at < j.finished_at) and not exists (select from backfill.lease l where l.job_id = j.id)
            order by j.finished_at limit 100 for update skip locked
  loop
    exit when gone >= batch;
    delete from backfill.slice s where s.id in (select x.id from backfill.slice x where x.job_id = c.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    delete from backfill.event e where e.id in (select x.id from backfill.event x where x.job_id = c.id order by x.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    delete from backfill.row_error e where e.ctid in (select x.ctid from backfill.row_error x where x.job_id = c.id limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
    if gone < batch then
      update backfill.job j set pruned_at = clock_timestamp() where j.id = c.id;
    end if;
  end loop;
  if gone < batch then
    delete from backfill.slice s where s.id in (
      select x.id from backfill.job j join backfill.slice x on x.job_id = j.id and x.run < j.run
       where j.run > 1 and coalesce(x.finished_at, x.started_at, j.enqueued_at) < before
         and not exists (select from backfill.lease l where l.slice_id = x.id) limit batch - gone);
    get diagnostics n = row_count;
    gone := gone + n;
  end if;
  return gone;
end $$;

-- Name: _publish_signals(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._publish_signals(readings jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  delete from backfill.signal s
   using jsonb_to_recordset(readings) as r(signal text, source text, gone boolean)
   where r.gone and s.signal = r.signal and s.source = r.source;
  insert into backfill.signal as s (signal, source, kind, value, "limit", utilization, holding, reason, over, sampled_at)
  select r.signal, r.source, r.kind, r.value, r."limit", r.utilization, coalesce(r.holding, false), r.reason, coalesce(r.over, false),
         clock_timestamp() - make_interval(secs => coalesce(r.age_seconds, 0))
    from jsonb_to_recordset(readings) as r(signal text, source text, kind text, value double precision, "limit" double precision, utilization double precision, holding boolean, reason text,
                                           over boolean, age_seconds double precision, gone boolean)
   where r.gone is not true
  on conflict (signal, source) do update set kind = excluded.kind, value = excluded.value, "limit" = excluded."limit",
    utilization = excluded.utilization, holding = excluded.holding, reason = excluded.reason, over = excluded.over, sampled_at = excluded.sampled_at
$$;

-- Name: _put_off_rollout(bigint, text, text, interval); Type: FUNCTION

CREATE FUNCTION backfill._put_off_rollout(id bigint, reason text, told text, pause interval) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.rollout r set waiting_reason = _put_off_rollout.reason, waiting_text = backfill._readable(told), due_at = clock_timestamp() + pause, holder = null, token = null, expires_at = null where r.id = _put_off_rollout.id
$$;

-- Name: _quarantine_row(bigint, bigint, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._quarantine_row(job bigint, slice bigint, failure jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  v_relation text := (select coalesce(s.relation_name, x.target) from backfill.slice s join backfill.job x on x.id = s.job_id where s.id = _quarantine_row.slice);
  v_state text := coalesce(failure ->> 'sqlstate', '09000');
  v_message text := coalesce(left(failure ->> 'message', 2000), 'a BEFORE trigger of the table suppressed the change (it returned null or the old row)');
  most bigint;
  n bigint;
begin
  select * into j from backfill.job x where x.id = _quarantine_row.job;
  insert into backfill.row_error as e (job_id, relation, key, sqlstate, message, slice_id, position)
  values (_quarantine_row.job, v_relation, failure -> 'key', v_state, v_message, _quarantine_row.slice, array(select jsonb_array_elements_text(failure -> 'position')))
  on conflict (job_id, relation, md5(key::text)) do update
     set attempts = e.attempts + 1, last_at = clock_timestamp(), sqlstate = excluded.sqlstate, message = excluded.message, resolved_at = null,
         slice_id = excluded.slice_id, position = excluded.position;
  n := backfill._count_quarantined(_quarantine_row.job);
  most := coalesce(j.options ->> 'max_row_errors', j.plan #>> '{defaults,max_row_errors}', '100')::numeric::bigint;
  if n > most then
    -- This error has its own SQLSTATE, so that the daemon knows that the message contains data from
    -- rows of the table.
    raise exception using errcode = 'BF008',
      message = case when most = 0 then format('row %s of %s could not be changed: %s', failure ->> 'key', v_relation, v_message)
                     else format('more than %s rows could not be changed; the last is row %s of %s: %s', most, failure ->> 'key', v_relation, v_message) end,
      detail = format('SQLSTATE is %s; option max_row_errors is %s.', v_state, most),
      hint = format('To list the rows, run: select relation, key, message from backfill.row_errors where name = %L and resolved_at is null; If the rows are wrong, fix them, or allow more such rows: backfill.tune(name, ''{"max_row_errors": %s}''). Then run backfill.retry. If you allow more such rows, the job changes all other rows, and then fails if any of these rows still cannot be changed. The assignments (set) of a job cannot be changed: if they are wrong, enqueue a corrected job under another name, with a filter that excludes the rows that are already changed.', j.name, greatest(1000, 10 * most));
  elsif n = 1 and j.rows_quarantined = 0 then
    perform backfill._record_event(_quarantine_row.job, 'row_error', format('a row of %s could not be changed: %s; the job continues, and backfill.row_errors lists each such row', v_relation, v_message), null, null, 'a row could not be changed; the job continues');
  end if;
end $$;

-- Name: _readable(text); Type: FUNCTION

CREATE FUNCTION backfill._readable(what text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return case when what is null or backfill._is_utf8(what) then what else encode(decode(replace(what, '\', '\\'), 'escape'), 'escape') end;
end $$;

-- Name: _recent_rate(oid); Type: FUNCTION

CREATE FUNCTION backfill._recent_rate(relation oid) RETURNS TABLE(rows_per_second double precision, jobs bigint, same_table boolean)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _record_event(bigint, text, text, jsonb, name, text); Type: FUNCTION

CREATE FUNCTION backfill._record_event(job_id bigint, kind text, message text, detail jsonb DEFAULT NULL::jsonb, actor name DEFAULT NULL::name, redacted text DEFAULT NULL::text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  insert into backfill.event (job_id, kind, message, redacted, detail, actor)
  values (_record_event.job_id, _record_event.kind, _record_event.message, _record_event.redacted, _record_event.detail, coalesce(_record_event.actor, session_user))
$$;

-- Name: _record_rollout_event(bigint, text, text, name); Type: FUNCTION

CREATE FUNCTION backfill._record_rollout_event(id bigint, kind text, message text, actor name DEFAULT NULL::name) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._record_event(null, _record_rollout_event.kind, (select format('rollout "%s": ', r.name) from backfill.rollout r where r.id = _record_rollout_event.id) || message, null, coalesce(_record_rollout_event.actor, session_user))
$$;

-- Name: signal; Type: TABLE

CREATE TABLE backfill.signal (
    signal text NOT NULL,
    source text NOT NULL,
    kind text NOT NULL,
    value double precision,
    "limit" double precision,
    utilization double precision,
    holding boolean DEFAULT false NOT NULL,
    reason text,
    sampled_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    over boolean DEFAULT false NOT NULL
);

-- Name: _redacted_reason(backfill.signal); Type: FUNCTION

CREATE FUNCTION backfill._redacted_reason(s backfill.signal) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when s.signal = 'signal' and s.value is null then format('signal %s could not be read; see backfill.signals for the reason', s.source) else s.reason end
$$;

-- Name: _referring(oid); Type: FUNCTION

CREATE FUNCTION backfill._referring(relation oid) RETURNS TABLE(referring regclass, constraint_name name, referred regclass, action "char", columns text[], referred_columns smallint[], index text, remedy text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

-- Name: _refuse(text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._refuse(message text, detail text, hint text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  raise exception using errcode = 'BF001', message = backfill._readable(_refuse.message), detail = backfill._readable(_refuse.detail), hint = backfill._readable(_refuse.hint);
end $$;

-- Name: _register_backend(bigint, uuid, integer, timestamp with time zone, text); Type: FUNCTION

CREATE FUNCTION backfill._register_backend(slice bigint, token uuid, backend_pid integer, backend_start timestamp with time zone, server text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if server is distinct from backfill._server_identity() then
    raise exception using errcode = '08006', message = format('the executor login is not connected to the server of the queue: %s instead of %s', server, backfill._server_identity()),
      hint = 'Set the url of the executor to the server that has the queue. During a failover the daemon retries until both logins reach the same server.';
  end if;
  update backfill.lease l
     set backend_pid = _register_backend.backend_pid,
         backend_start = coalesce(_register_backend.backend_start, (select a.backend_start from pg_stat_activity a where a.pid = _register_backend.backend_pid))
   where l.slice_id = _register_backend.slice and l.token = _register_backend.token;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended', slice);
  end if;
end $$;

-- Name: _register_executor(name, name, boolean, boolean); Type: FUNCTION

CREATE FUNCTION backfill._register_executor(login name, run_as name, one_url boolean, trusts_owners boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  insert into backfill.executor (login, run_as, one_url, is_superuser, trusts_owners)
  values (login, run_as, one_url, (select r.rolsuper from pg_roles r where r.rolname = _register_executor.login), trusts_owners)
  on conflict on constraint executor_pkey do update
     set run_as = excluded.run_as, one_url = excluded.one_url, is_superuser = excluded.is_superuser, trusts_owners = excluded.trusts_owners, registered_at = now();
  if run_as <> current_user then
    perform backfill._grant_executor(run_as);
  end if;
  if one_url then
    -- A queued job moves to the role of the daemon's single url if it was enqueued without run_as
    -- and no executor serves its role. Its submitter must be allowed to run jobs as the new role.
    with moved as (
      update backfill.job j set run_as = _register_executor.run_as
       where j.state = 'queued' and j.run_as_asked is null and j.run_as <> _register_executor.run_as
         and not exists (select from backfill.executor e where e.run_as = j.run_as)
         and backfill._may_run_as(j.enqueued_by, _register_executor.run_as)
      returning j.id)
    update backfill.slice s set run_as = _register_executor.run_as from moved m where s.job_id = m.id;
  end if;
end $$;

-- Name: _register_rollout_backend(bigint, uuid, integer, timestamp with time zone); Type: FUNCTION

CREATE FUNCTION backfill._register_rollout_backend(id bigint, token uuid, pid integer, started timestamp with time zone) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.rollout x set backend_pid = pid, backend_start = started where x.id = _register_rollout_backend.id and x.token = _register_rollout_backend.token
$$;

-- Name: _register_worker(uuid, text, integer, text, name[], interval); Type: FUNCTION

CREATE FUNCTION backfill._register_worker(worker uuid, host text, pid integer, version text, run_as name[], ttl interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform set_config('synchronous_commit', 'local', true);
  insert into backfill.worker as w (id, host, pid, version, run_as, expires_at, ttl) values (worker, host, pid, version, run_as, clock_timestamp() + _register_worker.ttl, _register_worker.ttl)
  on conflict (id) do update set heartbeat_at = clock_timestamp(), expires_at = excluded.expires_at, ttl = excluded.ttl;
  delete from backfill.worker w where w.expires_at < clock_timestamp() - interval '1 hour';
end $$;

-- Name: _rejection_hint(text, text, text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._rejection_hint(kind text, name text, source text, state text, message text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _release(bigint, uuid); Type: FUNCTION

CREATE FUNCTION backfill._release(slice bigint, token uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform backfill._drop_lease(slice);
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Name: _release_for_retry(bigint, uuid, text, text, interval, boolean); Type: FUNCTION

CREATE FUNCTION backfill._release_for_retry(slice bigint, token uuid, reason text, message text, pause interval, counts boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform backfill._fence(slice, token);
  update backfill.slice s
     set attempts = s.attempts - case when _release_for_retry.counts then 0 else 1 end,
         waiting_reason = _release_for_retry.reason, waiting_text = left(_release_for_retry.message, 1000), not_before = clock_timestamp() + nullif(_release_for_retry.pause, '0')
   where s.id = _release_for_retry.slice;
  return backfill._release(slice, token);
end $$;

-- Name: _release_rollout(bigint, uuid, bigint); Type: FUNCTION

CREATE FUNCTION backfill._release_rollout(id bigint, token uuid, statement bigint) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.rollout_statement d set committed = clock_timestamp() - d.locked_at - d.held
   where d.id = _release_rollout.statement and d.done_at is not null and d.held is not null and exists (select from backfill.rollout x where x.id = _release_rollout.id and x.token = _release_rollout.token);
  update backfill.rollout x set holder = null, token = null, expires_at = null, due_at = clock_timestamp(), waiting_reason = null, waiting_text = null
   where x.id = _release_rollout.id and x.token = _release_rollout.token and exists (select from backfill.rollout_statement d where d.id = _release_rollout.statement and d.done_at is not null);
  select exists (select from backfill.rollout_statement d where d.id = _release_rollout.statement and d.done_at is not null)
$$;

-- Name: _renew_rollout(bigint, uuid, interval, boolean); Type: FUNCTION

CREATE FUNCTION backfill._renew_rollout(id bigint, token uuid, ttl interval, undo boolean) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  r record;
begin
  perform set_config('synchronous_commit', 'local', true);
  perform set_config('lock_timeout', '100', true);
  update backfill.rollout x set expires_at = clock_timestamp() + ttl, waiting_reason = case when w.sessions is not null then 'lock' end,
         waiting_text = 'the statement waits until these sessions have ended their transactions: ' || w.sessions
    from (select string_agg(format('process %s of role %s', a.pid, a.usename), ', ' order by a.pid) as sessions
            from backfill.rollout y cross join unnest(pg_blocking_pids(y.backend_pid)) b(pid) join pg_stat_activity a on a.pid = b.pid where y.id = _renew_rollout.id) w
   where x.id = _renew_rollout.id and x.token = _renew_rollout.token returning x.desired_state, x.backwards into r;
  return found and r.backwards = undo
     and (r.desired_state = 'running'
          or exists (select from backfill.rollout_statement d where d.rollout_id = _renew_rollout.id and d.done_at is null and not d.undo and d.alone and d.sql like 'create unique index %'));
end $$;

-- Name: _replaced(text); Type: FUNCTION

CREATE FUNCTION backfill._replaced(job_name text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._other_table(target, relation) from backfill.job where name = job_name and backfill._may_see(enqueued_by)
$$;

-- Name: _replaced_column(text); Type: FUNCTION

CREATE FUNCTION backfill._replaced_column(job_name text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('Column "%s" has number %s, and the job changed a column that had this name before.', a.attname, a.attnum)
    from backfill.job j cross join lateral jsonb_array_elements(j.plan -> 'assignments') s cross join lateral jsonb_array_elements_text(s -> 'columns') c
    join pg_attribute a on a.attrelid = j.relation and a.attname = c and a.attnum > 0 and not a.attisdropped
   where j.name = _replaced_column.job_name and backfill._may_see(j.enqueued_by) and jsonb_typeof(j.plan -> 'columns') = 'array' and not j.plan -> 'columns' @> to_jsonb(a.attnum)
   order by a.attnum limit 1
$$;

-- Name: _replaced_leaf(text); Type: FUNCTION

CREATE FUNCTION backfill._replaced_leaf(job_name text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('%s: %s', s.relation_name, backfill._other_table(s.relation_name, s.relation))
    from backfill.job j join backfill.slice s on s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.relation <> j.relation
    join pg_namespace n on n.nspname = (parse_ident(s.relation_name))[1] join pg_class c on c.relnamespace = n.oid and c.relname = (parse_ident(s.relation_name))[2] and c.oid <> s.relation
   where j.name = _replaced_leaf.job_name and backfill._may_see(j.enqueued_by) and c.oid in (select h.heap from backfill._heaps(j.relation) h)
   order by s.ordinal limit 1
$$;

-- Name: _resolve_run_as(name, name); Type: FUNCTION

CREATE FUNCTION backfill._resolve_run_as(actor name, asked name) RETURNS name
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  own name;
begin
  if asked is not null then
    return asked;
  end if;
  if exists (select from backfill.executor e where e.run_as = actor) then
    return actor;
  end if;
  -- A daemon with a single url writes a row to backfill.executor. The row remains after the
  -- daemon's configuration has been changed to use executors. So while any daemon is running, such
  -- a row counts only if a running daemon serves the row's role.
  select e.run_as into own from backfill.executor e
   where e.one_url and backfill._may_run_as(actor, e.run_as)
     and (not exists (select from backfill.worker w where w.expires_at > clock_timestamp())
          or exists (select from backfill.worker w where w.expires_at > clock_timestamp() and e.run_as = any (w.run_as)))
   order by e.login limit 1;
  return coalesce(own, actor);
end $$;

-- Name: _resolve_table(text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._resolve_table(name text, settings jsonb) RETURNS oid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_parts text[];
begin
  v_parts := parse_ident(name);
  return (select c.oid from unnest(case cardinality(v_parts) when 2 then v_parts[1:1]::name[] when 1 then backfill._schemas_of(settings) end) with ordinality u(schema, n)
            join pg_namespace s on s.nspname = u.schema join pg_class c on c.relnamespace = s.oid and c.relname = v_parts[cardinality(v_parts)]::name order by u.n limit 1);
exception when invalid_parameter_value then
  return null; -- The name has no valid syntax.
end $$;

-- Name: _resolve_type(text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._resolve_type(name text, settings jsonb) RETURNS oid
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _right_hint(text, text, name); Type: FUNCTION

CREATE FUNCTION backfill._right_hint(kind text, target text, run_as name) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c record;
  lacks text;
begin
  select k.oid, n.oid as namespace, n.nspname, pg_get_userbyid(k.relowner) as owner into c from pg_class k join pg_namespace n on n.oid = k.relnamespace where k.oid = to_regclass(target);
  lacks := case
    when not has_schema_privilege(run_as, c.namespace, 'usage') then format('grant usage on schema %I to %I', c.nspname, run_as)
    else 'grant ' || nullif(concat_ws(', ', case when not has_any_column_privilege(run_as, c.oid, 'select') then 'select' end,
           case when kind = 'delete' and not has_table_privilege(run_as, c.oid, 'delete') then 'delete'
                when kind <> 'delete' and not has_any_column_privilege(run_as, c.oid, 'update') then 'update' end), '') || format(' on %s to %I', target, run_as) end;
  return format('The job would run as role "%s"%s, which lacks a privilege. As an administrator: %s%s.', run_as, case when run_as <> current_user then ' (the role of the daemon, or the one in run_as)' end,
    coalesce(lacks, 'grant it the privilege that the message names'),
    case when c.owner <> run_as and not (select r.rolsuper from pg_roles r where r.rolname = c.owner) and pg_has_role(current_user, c.owner, 'MEMBER') then format('; or let a daemon run jobs as the owner of the table (executors in the configuration of the daemon), and then enqueue the job with run_as => %L', c.owner) end);
end $$;

-- Name: _role_list(name[]); Type: FUNCTION

CREATE FUNCTION backfill._role_list(roles name[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when cardinality(roles) = 1 then 'role ' else 'roles ' end || (select string_agg(format('"%s"', r), ', ' order by n) from unnest(roles[1:5]) with ordinality u(r, n))
         || case when cardinality(roles) > 5 then format(' and %s more', cardinality(roles) - 5) else '' end
$$;

-- Name: _rollout_after_insert(); Type: FUNCTION

CREATE FUNCTION backfill._rollout_after_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform backfill._record_rollout_event(new.id, 'rollout started', format('adds column "%s" to %s', new.spec ->> 'column', new.target), new.started_by);
  perform backfill._notify_daemons();
  return null;
end $$;

-- Name: _rollout_before_insert(); Type: FUNCTION

CREATE FUNCTION backfill._rollout_before_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_old record;
begin
  perform backfill._check_utf8(jsonb_build_object('spec', new.spec, 'settings', new.settings));
  if jsonb_typeof(new.settings) is distinct from 'object' or new.settings ->> 'search_path' is null then
    perform backfill._refuse('settings are not valid', 'The settings are search_path, TimeZone, DateStyle and IntervalStyle, each a string.', 'Use backfill.rollout_start, which takes the settings from the session.');
  end if;
  -- The search_path becomes part of a statement, so it is rebuilt from the names of its schemas.
  new.settings := jsonb_build_object('TimeZone', new.settings ->> 'TimeZone', 'DateStyle', new.settings ->> 'DateStyle', 'IntervalStyle', new.settings ->> 'IntervalStyle',
    'search_path', coalesce((select string_agg(quote_ident(x), ', ' order by n) from unnest(backfill._schemas_of(new.settings)) with ordinality u(x, n) where x <> 'pg_catalog' or n > 1), 'pg_catalog'));
  new.spec := backfill._rollout_spec(new.spec, new.settings);
  new.name := new.spec ->> 'rollout';
  new.kind := new.spec ->> 'kind';
  new.relation := (new.spec ->> 'relation')::bigint::oid;
  new.target := new.spec ->> 'target';
  new.run_as := new.spec ->> 'owner';
  new.until := new.spec ->> 'until';
  if not backfill._may_run_as(new.started_by, new.run_as) then
    perform backfill._refuse(format('role "%s" may not change table %s', new.started_by, new.target), format('The statements of a rollout run as "%s", the owner of the table, and "%s" is not a member of that role.', new.run_as, new.started_by), 'Let the owner of the table start the rollout, or ask an administrator for membership in that role.');
  end if;
  perform backfill._check_job(new.relation, 'update', null, null, new.run_as);
  perform backfill._check_options(new.spec -> 'backfill', 'true', backfill._is_operator(new.started_by));
  select r.id, r.name into v_old from backfill.rollout r where r.relation = new.relation and r.state not in ('rolled_back', 'done') and r.spec ->> 'column' = new.spec ->> 'column' limit 1;
  if found then
    perform backfill._refuse(format('another rollout adds column "%s" to table %s', new.spec ->> 'column', new.target), 'Only one rollout can add a column.', 'Wait until it has ended, or roll it back with backfill.rollout_rollback.');
  elsif not backfill._is_operator(new.started_by) and (select count(*) from backfill.rollout r where r.started_by = new.started_by and r.state not in ('rolled_back', 'done')) >= 100 then
    perform backfill._refuse(format('role "%s" has 100 unfinished rollouts', new.started_by), 'That is the limit for one role.', 'Finish some of them, or roll them back with backfill.rollout_rollback.');
  end if;
  -- The name of a rollout that was rolled back is free again, for a role that may control the old
  -- rollout.
  delete from backfill.rollout r where r.name = new.name and r.state = 'rolled_back' and backfill._may_control(new.started_by, r.started_by);
  new.fingerprint := backfill._rollout_fingerprint(new.relation);
  return new;
end $$;

-- Name: _rollout_command(text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._rollout_command(verb text, rollout_name text, reason text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_message text; v_detail text; v_hint text;
begin
  insert into backfill.rollout_command (verb, rollout_name, reason) values (_rollout_command.verb, _rollout_command.rollout_name, _rollout_command.reason);
  return (select r.state from backfill._visible_rollouts r where r.name = _rollout_command.rollout_name);
exception when sqlstate 'BF001' or sqlstate 'BF003' or sqlstate 'BF005' or insufficient_privilege then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Name: _rollout_fingerprint(oid); Type: FUNCTION

CREATE FUNCTION backfill._rollout_fingerprint(relation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select backfill._table_fingerprint(relation) || coalesce(E'\n' || string_agg(x.line, E'\n' order by x.line collate "C"), '')
    from (select format('partition %s | %s', p.name, line) as line from backfill._partitions(relation) p, regexp_split_to_table(backfill._table_fingerprint(p.part), E'\n') line) x
$$;

-- Name: _rollout_form(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._rollout_form(spec jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _rollout_index(backfill.rollout, oid, text); Type: FUNCTION

CREATE FUNCTION backfill._rollout_index(r backfill.rollout, part oid, undo_sql text) RETURNS TABLE(valid boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = i.indrelid and a.attname = r.spec ->> 'column' and not a.attisdropped
   where i.indrelid = coalesce(nullif(part, 0), r.relation) and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid) and format('%I.%I', n.nspname, c.relname) = substring(undo_sql from 'if exists (.*)$') and i.indnkeyatts = 1 and i.indkey[0] = a.attnum
$_$;

-- Name: _rollout_job(jsonb, jsonb, text); Type: FUNCTION

CREATE FUNCTION backfill._rollout_job(s jsonb, settings jsonb, what text) RETURNS TABLE(set_sql text, filter_sql text, compares text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select w.set_sql, w.filter_sql, case when what <> 'backfill' and s ->> 'on_difference' = 'report' then 'expression' end
    from backfill._rollout_work(s, settings) w
   -- Without "using" there is nothing to compare. A null in a column with a volatile default may
   -- have been written by the application.
   where what = 'backfill' or what <> 'check' and s ? 'using'
  union all
  select format('%1$I = %1$I', s ->> 'column'), v, 'constraints' from backfill._violations(s) v where what = 'check' and v is not null
$_$;

-- Name: _rollout_spec(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._rollout_spec(spec jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _rollout_statement_failed(bigint, uuid, bigint, text, text, boolean, text); Type: FUNCTION

CREATE FUNCTION backfill._rollout_statement_failed(id bigint, token uuid, statement bigint, error text, hint text, is_temporary boolean, waits text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  s backfill.rollout_statement;
  v_name text;
  v_error text;
  v_hint text;
begin
  select x.name into v_name from backfill.rollout x where x.id = _rollout_statement_failed.id and x.token = _rollout_statement_failed.token for update;
  if not found then
    return;
  end if;
  update backfill.rollout_statement d set error = backfill._readable(_rollout_statement_failed.error) where d.id = statement returning d.* into s;
  if is_temporary and clock_timestamp() < s.started_at + interval '1 hour' then
    perform backfill._put_off_rollout(id, 'lock', waits, least(interval '30 s', interval '0.5 s' * power(2, least(s.attempts - 1, 10))));
  else
    v_error := format('%s: %s', _rollout_statement_failed.error, s.sql);
    v_hint := coalesce(nullif(_rollout_statement_failed.hint, ''), backfill._rows_that_violate(s), 'Fix the cause.') || format(' Then run: select backfill.rollout_resume(%L); To roll the rollout back instead, run: select backfill.rollout_rollback(%L);', v_name, v_name);
    if s.sql like '% validate constraint %' or s.alone and s.sql like 'create unique index %' then
      update backfill.rollout x set pending_error = backfill._readable(v_error), pending_hint = backfill._readable(v_hint), pending_statement = s.id, due_at = clock_timestamp(), holder = null, token = null, expires_at = null where x.id = _rollout_statement_failed.id;
    else
      perform backfill._fail_rollout(id, v_error, v_hint);
    end if;
    update backfill.rollout_statement d set started_at = clock_timestamp() where d.id = statement;
  end if;
end $$;

-- Name: _rollout_steps(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._rollout_steps(s jsonb, settings jsonb) RETURNS TABLE(stage text, ordinal integer, part oid, target text, sql text, undo_sql text, lock text, alone boolean, effect text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _rollout_work(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._rollout_work(s jsonb, settings jsonb) RETURNS TABLE(set_sql text, filter_sql text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _row_after(oid, text[], text); Type: FUNCTION

CREATE FUNCTION backfill._row_after(relation oid, columns text[], expression text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

-- Name: _row_security_hides(oid, name); Type: FUNCTION

CREATE FUNCTION backfill._row_security_hides(relation oid, role name) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
         and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'USAGE'))
    from pg_class c, pg_roles r where c.oid = relation and r.rolname = role
$$;

-- Name: _rows_text(bigint); Type: FUNCTION

CREATE FUNCTION backfill._rows_text(n bigint) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select format('%s row%s', n, case when n <> 1 then 's' end) $$;

-- Name: rollout_statement; Type: TABLE

CREATE TABLE backfill.rollout_statement (
    id bigint NOT NULL,
    rollout_id bigint NOT NULL,
    stage text NOT NULL,
    ordinal integer NOT NULL,
    part oid DEFAULT 0 NOT NULL,
    undo boolean DEFAULT false NOT NULL,
    sql text NOT NULL,
    undo_sql text,
    lock text NOT NULL,
    alone boolean NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    begun_at timestamp with time zone,
    locked_at timestamp with time zone,
    waited interval,
    held interval,
    committed interval,
    done_at timestamp with time zone,
    error text
);

-- Name: _rows_that_violate(backfill.rollout_statement); Type: FUNCTION

CREATE FUNCTION backfill._rows_that_violate(s backfill.rollout_statement) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select 'To list rows that violate it: ' || case
    when s.sql like 'create unique index %' then format('select %1$I, count(*) from %2$s group by 1 having count(*) > 1 limit 20;', r.spec ->> 'column', r.target)
    when s.sql ~ ' validate constraint "?[^ ]*_not_null"?$' then format('select * from %2$s where %1$I is null limit 20;', r.spec ->> 'column', r.target)
    when s.sql ~ ' validate constraint "?[^ ]*_check"?$' then format('select * from %s where not (%s) limit 20;', r.target, r.spec ->> 'check')
    when s.sql ~ ' validate constraint "?[^ ]*_fkey"?$' then format('select * from %2$s x where x.%1$I is not null and not exists (select from %3$s y where y.%4$I = x.%1$I) limit 20;', r.spec ->> 'column', r.target, r.spec #>> '{references,target}', r.spec #>> '{references,column}') end
    from backfill.rollout r where r.id = s.rollout_id
$_$;

-- Name: _run_housekeeping(); Type: FUNCTION

CREATE FUNCTION backfill._run_housekeeping() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  c record;
  n integer := 0;
begin
  -- Housekeeping must wait neither for a synchronous standby nor for the locks of one job.
  perform set_config('synchronous_commit', 'local', true);
  perform set_config('lock_timeout', '100', true);
  -- If the clock of the server was set back, a lease or a registration would last until the clock
  -- reaches its old time again.
  update backfill.lease l set expires_at = clock_timestamp() + l.ttl
   where l.slice_id in (select x.slice_id from backfill.lease x where x.expires_at > clock_timestamp() + x.ttl + interval '1 s' for update skip locked);
  update backfill.worker w set expires_at = clock_timestamp() + w.ttl
   where w.id in (select x.id from backfill.worker x where x.expires_at > clock_timestamp() + x.ttl + interval '1 s' for update skip locked);
  for c in select j.id from backfill.job j where j.id in (select x.job_id from backfill.slice x where x.state = 'held' and x.due_at <= clock_timestamp())
            order by j.priority, j.id limit 1000 for update skip locked loop
    begin
      perform backfill._schedule_slices(c.id);
      n := n + 1;
    exception when lock_not_available then
      null; -- Another session has locked a slice. The next turn tries again.
    end;
  end loop;
  for c in select x.id from backfill.job x where x.state in ('queued', 'running', 'verifying') and x.desired_state <> 'running' order by x.id limit 1000 for update skip locked loop
    begin
      perform backfill._settle(c.id);
    exception
      when lock_not_available then null;
      when others then
      -- The other jobs must not wait because of an error in one job.
      raise warning 'could not end or pause job %: %', c.id, sqlerrm;
    end;
  end loop;
  if n > 0 then
    perform backfill._notify_daemons();
  end if;
end $$;

-- Name: _same_or_raise(text, bigint, text, text); Type: FUNCTION

CREATE FUNCTION backfill._same_or_raise(job_name text, id bigint, state text, difference text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if id is null then
    raise exception using errcode = 'BF002', message = format('the name "%s" is taken', job_name), detail = 'Your role is not allowed to see the job that has this name.',
      hint = 'Use another name, or ask a member of backfill_operator to delete the existing job.';
  elsif difference is not null then
    raise exception using errcode = 'BF002', message = format('a job named "%s" already exists with a different definition', job_name),
      detail = difference || '.' || coalesce(format(' The existing job %s %s.', case when state in ('succeeded', 'failed') then 'has' else 'is' end, state), ''),
      hint = backfill._name_job(case when state in ('queued', 'running', 'paused', 'verifying')
        then 'Enqueue the new job under another name. If it replaces the existing job, first cancel that job with backfill.cancel, and wait until it is cancelled.'
        else 'Use another name. Or, to enqueue again, first delete the existing job and its checkpoint: backfill.forget' end, job_name);
  end if;
  -- This message is a warning and not a notice, because many clients hide notices. Without the
  -- warning, a deploy could wait forever for a job that is not active.
  if state in ('failed', 'cancelled') then
    raise warning using message = format('job "%s" already exists and has %s; enqueueing it again does not start it', job_name, case state when 'failed' then state else 'been cancelled' end),
      hint = format('To continue from the checkpoint: select backfill.retry(%L); to run it again from the beginning: select backfill.rerun(%L);', job_name, job_name);
  elsif state = 'succeeded' then
    raise notice 'job "%" already exists and has %; enqueueing it again does not start it', job_name, state;
  end if;
  return id;
end $$;

-- Name: _same_sql(text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._same_sql(a text, b text, what text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- Usually the texts are identical, and then neither of them is split into tokens.
  if a is not distinct from b then
    return true;
  elsif a is null or b is null then
    return false;
  end if;
  return backfill._tokens(a, what) = backfill._tokens(b, what);
end $$;

-- Name: _sample(text, oid, text, text, jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _save_leaf(bigint, uuid, jsonb, bigint); Type: FUNCTION

CREATE FUNCTION backfill._save_leaf(slice bigint, token uuid, slices jsonb, rows_estimated bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
  n integer := (select max(x.ordinal) from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk');
begin
  perform backfill._drop_lease(slice);
  update backfill.slice s set upper = r.upper, leaf = r.leaf, rows_estimated = r.rows
    from jsonb_to_recordset(slices) as r(ordinal integer, upper text[], leaf jsonb, rows bigint) where r.ordinal = 0 and s.id = _save_leaf.slice;
  if (select s.upper is null from backfill.slice s where s.id = _save_leaf.slice) then
    update backfill.checkpoint c set done = true where c.slice_id = _save_leaf.slice;
    perform backfill._end_slice(slice);
  end if;
  perform backfill._add_ranges(j, (select coalesce(jsonb_agg(e), '[]') from jsonb_array_elements(slices) e where (e ->> 'ordinal')::integer > 0), n);
  update backfill.job x set rows_estimated = x.rows_estimated + _save_leaf.rows_estimated where x.id = j.id;
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Name: _save_plan(bigint, uuid, jsonb, jsonb, bigint, text); Type: FUNCTION

CREATE FUNCTION backfill._save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  update backfill.job x set plan = _save_plan.plan, rows_estimated = _save_plan.rows_estimated, planned_snapshot = snapshot::pg_snapshot where x.id = j.id;
  perform backfill._add_ranges(j, slices, 0);
  perform backfill._end_slice(slice);
  perform backfill._record_event(j.id, 'planned', format('about %s rows in %s', to_char(rows_estimated, 'FM999,999,999,999,999,990'), case jsonb_array_length(slices) when 1 then '1 slice' else jsonb_array_length(slices) || ' slices' end) || coalesce('; batches run at REPEATABLE READ, because ' || (plan ->> 'unseen'), ''), plan);
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Name: _schedule_slices(bigint); Type: FUNCTION

CREATE FUNCTION backfill._schedule_slices(job_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  open boolean;
begin
  select * into j from backfill.job where id = _schedule_slices.job_id;
  open := j.state in ('queued', 'running', 'verifying') and j.desired_state = 'running'
          and (not j.needs_approval or j.approved_at is not null);
  update backfill.slice s
     set state = case when open and greatest(j.run_at, s.not_before, j.closed_until) <= clock_timestamp() then 'ready' else 'held' end,
         due_at = case when open and greatest(j.run_at, s.not_before, j.closed_until) > clock_timestamp() then greatest(j.run_at, s.not_before, j.closed_until) end,
         priority = j.priority, run_as = j.run_as
   where s.job_id = _schedule_slices.job_id and s.run = j.run and s.state in ('held', 'ready')
     -- Slices of an earlier generation are scheduled only if they have deferred rows.
     and (s.generation = j.generation or s.kind = 'walk' and exists (select from backfill.deferred_row a where a.slice_id = s.id));
end $$;

-- Name: _schemas_of(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._schemas_of(settings jsonb) RETURNS name[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select array(select u.name from (select 0 as n, 'pg_catalog'::name as name
                                   union all
                                   select m.n, coalesce(replace(m.part[1], '""', '"'), lower(m.part[2]))::name from regexp_matches(settings ->> 'search_path', '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') with ordinality m(part, n)) u
                where u.name in (select s.nspname from pg_namespace s)
                group by u.name order by case when u.name = 'pg_catalog' and count(*) > 1 then max(u.n) else min(u.n) end)
$$;

-- Name: _sees_all(); Type: FUNCTION

CREATE FUNCTION backfill._sees_all() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (select from pg_roles r where r.rolname in ('backfill_reader', 'backfill_operator', 'pg_monitor') and pg_has_role(r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(n.nspowner, 'MEMBER'))
$$;

-- Name: _self_reads(name, jsonb, oid, text, text, text[]); Type: FUNCTION

CREATE FUNCTION backfill._self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], OUT place text, OUT name text, OUT source regclass, OUT unknown text[]) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _server_identity(); Type: FUNCTION

CREATE FUNCTION backfill._server_identity() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if pg_is_in_recovery() then
    return 'a standby of cluster ' || (select c.system_identifier from pg_control_system() c);
  end if;
  return format('cluster %s, timeline %s, started at %s UTC', (select c.system_identifier from pg_control_system() c),
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), to_json(pg_postmaster_start_time() at time zone 'UTC') #>> '{}');
end $$;

-- Name: _sessions_with_locks(oid); Type: FUNCTION

CREATE FUNCTION backfill._sessions_with_locks(relation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select string_agg(format('process %s of role %s', x.pid, x.usename), ', ' order by x.xact_start)
    from (select distinct a.pid, a.usename, a.xact_start from pg_locks l join pg_stat_activity a on a.pid = l.pid
           where l.locktype = 'relation' and l.granted and (l.relation = _sessions_with_locks.relation or l.relation in (select v.leaf from backfill._leaves(_sessions_with_locks.relation) v))
             and l.database = (select d.oid from pg_database d where d.datname = current_database()) and coalesce(a.application_name, '') not like 'backfilld %'
           order by a.xact_start limit 3) x
$$;

-- Name: _set_aside(bigint, text); Type: FUNCTION

CREATE FUNCTION backfill._set_aside(job_id bigint, reason text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.job j set state = 'cancelled', desired_state = 'cancelled', state_reason = reason, error = null, hint = null, redacted = null where j.id = _set_aside.job_id and j.state = 'failed'
$$;

-- Name: _set_worker_window(uuid, timestamp with time zone); Type: FUNCTION

CREATE FUNCTION backfill._set_worker_window(worker uuid, until timestamp with time zone) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.worker w set closed_until = _set_worker_window.until where w.id = _set_worker_window.worker and w.closed_until is distinct from _set_worker_window.until
$$;

-- Name: _settle(bigint); Type: FUNCTION

CREATE FUNCTION backfill._settle(job_id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j backfill.job;
  live boolean;
  waits boolean;
  gap text;
  remaining bigint;
  quarantined bigint;
  missed bigint;
  v_proof text;
  v_row_ms bigint;
  v_hint text;
  changed bigint;
  told text;
begin
  select * into j from backfill.job where id = _settle.job_id for update;
  if j.state in ('succeeded', 'failed', 'cancelled') then
    -- If one slice makes the job fail, a worker may release another slice after the job has ended.
    -- The totals must include the last batches of this other slice.
    perform backfill._store_totals(j.id);
    return;
  end if;
  live := exists (select from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp());
  if j.desired_state <> 'running' then
    if live then
      return;
    elsif j.desired_state = 'cancelled' then
      perform backfill._end_job(j.id, 'cancelled', false, null, null);
    elsif j.state <> 'paused' then
      update backfill.job set state = 'paused' where id = j.id;
      perform backfill._record_event(j.id, 'paused', 'job paused' || coalesce(': ' || j.state_reason, ''));
      perform backfill._notify_daemons();
    end if;
    return;
  end if;
  if j.state in ('running') and j.plan is not null then
    select exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.state not in ('done', 'gone')) into waits;
    if waits then
      return;
    end if;
    gap := backfill._coverage_gap(j.id);
    if gap is not null then
      perform backfill._end_job(j.id, 'failed', false, 'the walk has a gap: ' || gap, 'Some rows were not processed, because of a defect in backfilld. Run the job again from the beginning (backfill.rerun) only if applying the assignments (set) twice gives the same result as applying them once. Please report the defect, and include the rows of backfill.events for this job.',
        jsonb_build_object('error', 'the walk has a gap', 'hint', 'Some rows were not processed, because of a defect in backfilld. Run the job again from the beginning (backfill.rerun) only if applying the assignments (set) twice gives the same result as applying them once. Please report the defect, and include the rows of backfill.events for this job.'));
      return;
    end if;
    quarantined := backfill._count_quarantined(j.id);
    if quarantined > 0 then
      select least(max(substring(e.message from '^the statement for this row takes longer than max_row_ms \((\d+) ms\)')::bigint) * 10, 3600000) into v_row_ms
        from backfill.row_error e where e.job_id = j.id and e.resolved_at is null;
      v_hint := format('All other rows are done. Fix the quarantined rows, then run backfill.retry (only these rows are retried). %sTo list them: select relation, key, message from backfill.row_errors where name = %L and resolved_at is null;',
        case when v_row_ms is not null then format('If a row only takes too long, first allow more time for each row: backfill.tune(name, ''{"max_row_ms": %s}''). ', v_row_ms) end, j.name);
      perform backfill._end_job(j.id, 'failed', false, format('%s row%s could not be changed: %s', quarantined, case when quarantined > 1 then 's' end,
               (select e.message || case when quarantined > 1 then ' (error of the first)' else '' end from backfill.row_error e left join backfill.slice s on s.id = e.slice_id
                 where e.job_id = j.id and e.resolved_at is null and s.state is distinct from 'gone' order by e.first_at, e.key::text limit 1)),
        v_hint, jsonb_build_object('error', format('%s row%s could not be changed', quarantined, case when quarantined > 1 then 's' end), 'hint', v_hint));
      return;
    end if;
    if j.generation = 1 and j.compares is null and j.options ->> 'statement_triggers' is distinct from 'skip' then
      -- At planning there was no such trigger, because the job would have been refused.
      select string_agg(t, ', ') into told from backfill._skipped_triggers(j.relation, j.kind, j.set_sql) t;
      if told is not null then
        perform backfill._record_event(j.id, 'trigger_skipped', format('statement-level triggers of %s that were created or enabled after planning did not fire for this job: %s', j.target, told));
      end if;
    end if;
    v_proof := backfill._verify_kind(j);
    if v_proof = 'expression' and not coalesce((j.plan ->> 'comparable')::boolean, false) then
      perform backfill._end_job(j.id, 'failed', false, 'the walk is complete, but verify = expression is not possible for these expressions',
        'The expressions read columns that they assign, or can return a different value each time. Run backfill.tune(name, ''{"verify": "auto"}''), then backfill.retry.');
      return;
    end if;
    case v_proof
      when 'none' then
        perform backfill._end_job(j.id, 'succeeded', false);
      when 'coverage' then
        perform backfill._end_job(j.id, 'succeeded', true);
      else
        if backfill._add_slices(j.id, 'verify', j.generation) = 0 then
          perform backfill._end_job(j.id, 'succeeded', true);
          return;
        end if;
        update backfill.slice s set proof = v_proof
         where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify';
        update backfill.job set state = 'verifying' where id = j.id;
        perform backfill._record_event(j.id, 'verifying', 'all rows processed; verifying');
        perform backfill._schedule_slices(j.id);
        perform backfill._notify_daemons();
    end case;
    return;
  end if;
  if j.state = 'verifying' then
    select exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation
                                                  and s.kind = 'verify' and s.state not in ('done', 'gone')) into waits;
    if waits then
      return;
    end if;
    -- In a verification, rows_changed is the number of rows that the verification found.
    -- rows_unresolved is the number of these rows that have not been written since planning.
    select coalesce(sum(c.rows_changed), 0), coalesce(sum(c.rows_unresolved), 0), coalesce(max(s.proof), 'filter') into remaining, missed, v_proof
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify';
    if remaining = 0 then
      perform backfill._end_job(j.id, 'succeeded', true);
      return;
    end if;
    if j.compares = 'constraints' then
      perform backfill._end_job(j.id, 'failed', false, format('%s violate%s a constraint that the rollout is about to add', backfill._rows_text(remaining), case when remaining = 1 then 's' end),
        format('To list them: select * from %s where %s limit 20; Find what writes these rows, and correct it. Then correct the rows.', j.target, j.filter_sql));
      return;
    elsif j.compares = 'expression' then
      told := format('%s differ%s from the expression', backfill._rows_text(remaining), case when remaining = 1 then 's' end);
      perform backfill._end_job(j.id, 'failed', false, told,
        format('To list them: select * from %s where %s limit 20; Find what writes these rows, and correct it. Then correct the rows: update %s set %s where %s;', j.target, j.filter_sql, j.target, j.set_sql, j.filter_sql));
      return;
    end if;
    if missed = 0 and not coalesce((j.plan ->> 'comparable')::boolean, false)
       and remaining <= (select coalesce(sum(c.rows_unresolved), 0) from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                          where s.job_id = j.id and s.run = j.run and s.kind = 'walk') then
      -- The walk missed no rows, and the verification found at most as many rows as the walk and
      -- its sweeps had counted as unresolved. Unresolved rows still match the filter after the
      -- change. They do not make the job fail.
      perform backfill._end_job(j.id, 'succeeded', true);
      return;
    end if;
    told := case when coalesce((j.plan ->> 'filter_varies')::boolean, false) then 'the filter depends on the time or on other rows, so it is unknown when these rows began to match'
                 else format('%s written after planning, %s missed', backfill._rows_text(remaining - missed), missed) end;
    if missed > 0 then
      perform backfill._record_event(j.id, 'missed', format('%s still need%s work and %s not been written since planning: either the walk missed %s, which is a defect in backfilld, or the expressions now return a different result (for example, because a function was replaced)',
        backfill._rows_text(missed), case when missed = 1 then 's' end, case when missed = 1 then 'has' else 'have' end, case when missed = 1 then 'it' else 'them' end), jsonb_build_object('rows', missed));
    end if;
    select coalesce(sum(c.rows_changed), 0) into changed
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk';
    if v_proof = 'expression' and j.filter_sql is not null and j.generation > 1 and changed = 0 then
      -- The last sweep changed no rows. A sweep changes only rows that match the filter, so the
      -- rows found here do not match it, and another sweep would not change them.
      perform backfill._end_job(j.id, 'failed', false,
        format('%s differ%s from the result of set but %s not match the filter, so the job does not change %s', backfill._rows_text(remaining), case when remaining = 1 then 's' end,
               case when remaining = 1 then 'does' else 'do' end, case when remaining = 1 then 'it' else 'them' end),
        format('Inspect: select * from %s where %s limit 20; Fix the rows, or enqueue a job without the filter, then run backfill.retry. If the rows are correct, run backfill.tune(name, ''{"verify": "auto"}''), then backfill.retry.', j.target, backfill._differs(j.relation, j.set_sql)),
        jsonb_build_object('error', format('%s differ%s from the result of set but %s not match the filter', backfill._rows_text(remaining), case when remaining = 1 then 's' end,
               case when remaining = 1 then 'does' else 'do' end),
          'hint', 'The column "hint" of backfill.jobs contains a query that finds these rows. Fix the rows, or, if they are correct, set the option verify to auto. Then run backfill.retry.'));
    elsif j.generation <= 3 then
      -- The walk missed these rows, or they were written after the walk had passed their keys, or
      -- the filter or the expressions now return a different result for them. A sweep walks the
      -- range again to change them.
      perform backfill._add_slices(j.id, 'walk', j.generation + 1);
      update backfill.job set state = 'running', generation = j.generation + 1 where id = j.id;
      perform backfill._record_event(j.id, 'sweep', format('%s %s after the walk (%s): starting sweep %s of 3', backfill._rows_text(remaining),
          case when v_proof = 'expression' then case when remaining = 1 then 'differs from the result of set' else 'differ from the result of set' end
               else case when remaining = 1 then 'matches the filter' else 'match the filter' end end, told, j.generation),
        jsonb_build_object('rows', remaining, 'written_since_planning', remaining - missed, 'missed', missed));
      perform backfill._schedule_slices(j.id);
      perform backfill._notify_daemons();
    else
      perform backfill._end_job(j.id, 'failed', false, format('%s still need%s work after 3 sweeps: %s', backfill._rows_text(remaining), case when remaining = 1 then 's' end, told),
        case when missed > 0 then 'Rows that existed at planning were missed: a function or table that the filter reads has changed, or backfilld has a defect. Run backfill.retry. If the job fails again, report this and include the job''s rows from backfill.events.'
             when j.kind = 'delete' then 'The application keeps writing rows that match the filter. Change the application, or enqueue a job with a filter that new rows do not match.'
             when v_proof = 'expression' then 'The application or a trigger keeps writing values that differ from the result of set. Change it to write the same values, then run backfill.retry.'
             when coalesce((j.plan ->> 'filter_varies')::boolean, false)
               then 'The filter depends on the time or on other rows, so rows can start to match at any time. Enqueue a new job with a filter that compares a column with a constant. Or verify only that each row was processed: run backfill.tune(name, ''{"verify": "coverage"}''), then backfill.retry.'
             else 'The application keeps writing rows that match the filter. Change the application so that it fills the column, then run backfill.retry.' end);
    end if;
  end if;
end $$;

-- Name: _share_duty_cycle(uuid, double precision, double precision); Type: FUNCTION

CREATE FUNCTION backfill._share_duty_cycle(worker uuid, duty_cycle double precision, budget_duty_cycle double precision) RETURNS double precision
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  update backfill.worker w set duty_cycle = _share_duty_cycle.duty_cycle, budget_duty_cycle = coalesce(_share_duty_cycle.budget_duty_cycle, 0)
   where w.id = _share_duty_cycle.worker
     and (w.duty_cycle, w.budget_duty_cycle) is distinct from (_share_duty_cycle.duty_cycle, coalesce(_share_duty_cycle.budget_duty_cycle, 0));
  return (select avg(case when w.budget_duty_cycle is null then w.duty_cycle else nullif(w.budget_duty_cycle, 0) end)
            from backfill.worker w where w.id <> _share_duty_cycle.worker and w.expires_at > clock_timestamp());
end $$;

-- Name: _signal_changed(); Type: FUNCTION

CREATE FUNCTION backfill._signal_changed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  r backfill.signal := case when tg_op = 'DELETE' then old else new end;
  held boolean := tg_op <> 'INSERT' and old.holding;
  holds boolean := tg_op <> 'DELETE' and new.holding;
  was_over boolean := tg_op <> 'INSERT' and old.over;
  is_over boolean := tg_op <> 'DELETE' and new.over;
  detail jsonb := jsonb_build_object('signal', r.signal, 'source', r.source, 'value', r.value, 'limit', r."limit");
begin
  if held <> holds then
    perform backfill._record_event(null, case when holds then 'hold' else 'go' end,
      case when holds then coalesce(r.reason, format('%s of %s is at its limit: work is held', r.signal, r.source))
           else format('%s of %s is under its limit again: work resumes', r.signal, r.source) end, detail, null,
      case when holds then backfill._redacted_reason(r) end);
  end if;
  if was_over <> is_over then
    perform backfill._record_event(null, case when is_over then 'shed' else 'grow' end,
      case when is_over then format('%s of %s is over its limit: work slows down', r.signal, r.source)
           else format('%s of %s is well below its limit again', r.signal, r.source) end, detail);
  end if;
  return null;
end $$;

-- Name: _skipped_triggers(oid, text, text); Type: FUNCTION

CREATE FUNCTION backfill._skipped_triggers(relation oid, kind text, set_sql text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('%I (function %s)', t.tgname, t.tgfoid::regproc) from pg_trigger t
   where t.tgrelid = relation and not t.tgisinternal and t.tgtype::integer & 1 = 0 and t.tgenabled in ('O', 'A') and t.tgtype::integer & (case kind when 'delete' then 8 else 16 end) <> 0
     and (kind = 'delete' or t.tgattr = '' or exists (
       select from pg_attribute a where a.attrelid = relation and a.attnum = any (t.tgattr::smallint[]) and a.attname = any (array(select unnest(x.columns) from backfill._assignments(set_sql) x where set_sql is not null))))
     and backfill._is_spread(relation)
   order by t.tgname
$$;

-- Name: _spec_columns(oid, text); Type: FUNCTION

CREATE FUNCTION backfill._spec_columns(relation oid, fragment text) RETURNS SETOF name
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select a.attname from pg_attribute a
   where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
     and (a.attname::text in (select case l.kind when 'word' then lower(l.body) else replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end from backfill._lex(fragment, 'using') l where l.kind in ('word', 'quoted'))
          -- A whole-row reference reads every column.
          or (select c.relname::text from pg_class c where c.oid = relation) in (select lower(replace(l.body, '"', '')) from backfill._lex(fragment, 'using') l where l.kind in ('word', 'quoted')))
   order by a.attnum
$$;

-- Name: _spec_text(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._spec_text(value jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select nullif(btrim(value #>> '{}', E' \t\n\r'), '')
$$;

-- Name: _split(bigint, uuid, text[], bigint); Type: FUNCTION

CREATE FUNCTION backfill._split(slice bigint, token uuid, at text[], rows bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
    raise exception using errcode = 'BF006', message = format('slice %s cannot be split at %s', slice, _split.at);
  end if;
  perform backfill._drop_lease(slice);
  select max(x.ordinal) + 1 into n from backfill.slice x where x.job_id = j.id and x.run = s.run and x.generation = s.generation and x.kind = s.kind;
  insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, protocol, run_as, priority)
  values (s.job_id, s.kind, s.run, s.generation, n, s.relation, s.relation_name, _split.at, s.upper, s.leaf, _split.rows, s.protocol, s.run_as, s.priority)
  returning id into made;
  insert into backfill.checkpoint (slice_id, token, position) values (made, gen_random_uuid(), _split.at);
  update backfill.slice x set upper = _split.at, rows_estimated = c.rows_scanned + _split.rows where x.id = s.id;
  perform backfill._record_event(j.id, 'split', format('slice %s was split: slice %s is its second half', s.ordinal, n), jsonb_build_object('slice', s.ordinal, 'new', n, 'at', _split.at, 'rows', _split.rows));
  perform backfill._schedule_slices(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Name: _stage_at(integer); Type: FUNCTION

CREATE FUNCTION backfill._stage_at(number integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select (array['planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted'])[number]
$$;

-- Name: _stage_number(text); Type: FUNCTION

CREATE FUNCTION backfill._stage_number(stage text) RETURNS integer
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select array_position(array['planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted'], stage)
$$;

-- Name: _start_new_run(backfill.job); Type: FUNCTION

CREATE FUNCTION backfill._start_new_run(j backfill.job) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- A worker that still holds a slice of the ended run is fenced before the new run begins.
  perform backfill._drop_lease(l.slice_id) from (select x.slice_id from backfill.lease x where x.job_id = j.id order by x.slice_id) l;
  -- The new run walks each row again, so the row errors of the ended run are deleted.
  delete from backfill.row_error e where e.job_id = j.id;
  delete from backfill.deferred_row a using backfill.slice s where s.id = a.slice_id and s.job_id = j.id;
  update backfill.job
     set run = j.run + 1, generation = 1, state = 'queued', queued_at = clock_timestamp(), desired_state = 'running', state_reason = null, plan = null, planned_snapshot = null, rows_estimated = null,
         rows_scanned = null, rows_changed = null, rows_unresolved = 0, rows_quarantined = 0, error = null, hint = null, redacted = null,
         started_at = null, finished_at = null, verified_at = null, revision = revision + 1
   where id = j.id;
  insert into backfill.slice (job_id, kind, run, run_as, priority) values (j.id, 'plan', j.run + 1, j.run_as, j.priority);
end $$;

-- Name: _start_rollout(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._start_rollout(spec jsonb, settings jsonb) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
declare
  v_form jsonb;
  v_old record;
  v_message text; v_detail text; v_hint text;
begin
  v_form := backfill._rollout_form(_start_rollout.spec);
  select r.id, r.state, r.error, r.spec into v_old from backfill._visible_rollouts r where r.name = _start_rollout.spec ->> 'rollout' and r.state <> 'rolled_back';
  if found then
    if v_old.spec @> v_form then
      raise notice 'rollout "%" already exists and is %', _start_rollout.spec ->> 'rollout', v_old.state;
      return v_old.id;
    end if;
    raise exception using errcode = 'BF002', message = format('a rollout named "%s" already exists with a different definition', _start_rollout.spec ->> 'rollout'), detail = format('Its state is %s.', v_old.state),
      hint = 'Use another name, or first roll the existing rollout back with backfill.rollout_rollback.';
  end if;
  perform backfill._check_planner();
  perform backfill._try_expressions(backfill._rollout_spec(_start_rollout.spec, _start_rollout.settings), _start_rollout.settings);
  insert into backfill.rollout (spec, settings) values (_start_rollout.spec, _start_rollout.settings);
  return (select r.id from backfill._visible_rollouts r where r.name = v_form ->> 'rollout');
exception when unique_violation then
  raise exception using errcode = 'BF002', message = format('the name "%s" is taken', _start_rollout.spec ->> 'rollout'), detail = 'Your role is not allowed to see the rollout that has this name.', hint = 'Use another name.';
when sqlstate 'BF001' or sqlstate 'BF002' then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Name: _state_of(text); Type: FUNCTION

CREATE FUNCTION backfill._state_of(job_name text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select state from backfill.job where name = job_name and backfill._may_see(enqueued_by)
$$;

-- Name: _statements_with_all_columns(oid); Type: FUNCTION

CREATE FUNCTION backfill._statements_with_all_columns(relation oid) RETURNS TABLE(query text, calls bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_view text := (select format('%I.pg_stat_statements', n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements');
  v_name text := (select regexp_replace(c.relname, '(\W)', '\\\1', 'g') from pg_class c where c.oid = relation);
begin
  if v_view is not null then
    return query execute format(
      'select left(regexp_replace(s.query, ''\s+'', '' '', ''g''), 100), sum(s.calls)::bigint from %s s
        where s.dbid = (select d.oid from pg_database d where d.datname = current_database()) and s.query ~* %L and s.query ~* %L group by 1 order by 2 desc limit 5',
      v_view, '(\m(select|returning)\s+|,\s*)([\w"]+\.)?\*', format('(^|[^\w])%s($|[^\w])', v_name));
  end if;
exception when object_not_in_prerequisite_state or insufficient_privilege then
  return; -- The library is not loaded, or the caller may not use the schema of the extension.
end $_$;

-- Name: _status(bigint[]); Type: FUNCTION

CREATE FUNCTION backfill._status(jobs bigint[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select json_build_object(
    'read_at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'paused_all', (select json_build_object('reason', w.reason, 'by', w.set_by, 'at', to_char(w.set_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                     from backfill.switch w where w.paused_all),
    'queue', (select coalesce(json_object_agg(q.state, q.jobs), '{}') from (
      -- The halves of the union use different indexes.
      select j.state, count(*) as jobs from backfill.job j where j.state in ('queued', 'running', 'verifying', 'paused') group by j.state
      union all
      select j.state, count(*) from backfill.job j where j.state in ('succeeded', 'failed', 'cancelled') group by j.state) q),
    'jobs', (
      select coalesce(json_agg(x order by array_position(_status.jobs, x.id)), '[]')
        from (
          select j.id, j.name, j.kind, j.state, j.desired_state, j.waiting_reason,
               -- If a user's own signal could not be read, waiting_text contains the server's
               -- message about the user's query.
               case when j.waiting_reason = 'signal' and exists (select from backfill.signal s where s.signal = 'signal' and s.value is null)
                    then (select string_agg(backfill._redacted_reason(s), '; ' order by s.source) from backfill.signal s where s.signal = 'signal' and s.reason is not null)
                    else j.waiting_text end as waiting_text,
               j.target, j.run_as, j.enqueued_by,
                 j.throttled_by, j.throttled_text, j.time_share,
                 j.rows_scanned, j.rows_changed, j.rows_unresolved, j.rows_quarantined, j.rows_estimated, j.percent_done, j.rows_per_second,
                 to_char(j.eta at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as eta,
                 extract(epoch from j.eta - clock_timestamp())::float8 as eta_seconds,
                 to_char(j.deadline at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as deadline,
                 coalesce(o.redacted ->> 'error', j.error) as error, case when o.redacted is not null then o.redacted ->> 'hint' when j.error is not null then j.hint end as hint, j.reason,
                 to_char(j.run_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as run_at,
                 to_char(j.enqueued_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as enqueued_at,
                 to_char(j.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as started_at,
                 to_char(j.finished_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as finished_at,
                 to_char(j.verified_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as verified_at,
                 extract(epoch from coalesce(j.finished_at, clock_timestamp()) - j.started_at)::float8 as took_seconds,
                 j.options -> 'max_rows_per_second' as max_rows_per_second,
                 coalesce((select json_agg(s order by s.slice) from (
                    select s.ordinal as slice, coalesce(s.relation_name, j.target) as relation, s.state, c.rows_scanned, c.rows_changed,
                           case when s.state in ('done', 'gone') then 100.0
                                when s.rows_estimated > 0 then least(99.9, 100.0 * c.rows_scanned / s.rows_estimated) end as percent_done,
                           w.host
                      from backfill.job o
                      join backfill.slice s on s.job_id = o.id and s.run = o.run and s.kind = 'walk' and s.generation = 1
                      join backfill.checkpoint c on c.slice_id = s.id
                      left join backfill.lease l on l.slice_id = s.id and l.expires_at > clock_timestamp()
                      left join backfill.worker w on w.id = l.holder
                     where o.id = j.id and j.finished_at is null
                     -- At most 16 slices are shown: first those that a worker holds, then other
                     -- unfinished slices, then finished slices. The result lists them by number.
                     order by l.slice_id is null, s.state in ('done', 'gone'), s.ordinal limit 16) s), '[]') as slices,
                 (select count(*) from backfill.job o join backfill.slice s on s.job_id = o.id and s.run = o.run and s.kind = 'walk' and s.generation = 1
                   where o.id = j.id) as slices_total,
                 coalesce((select json_agg(e order by e.rows desc, e.sqlstate) from (
                    select e.sqlstate, count(*) as rows from backfill.row_error e
                     where e.job_id = j.id and e.resolved_at is null and j.rows_quarantined > 0
                     group by e.sqlstate order by 2 desc, 1 limit 5) e), '[]') as row_errors
            from backfill.jobs j join backfill.job o on o.id = j.id
           where j.id = any (_status.jobs)) x),
    'rollouts', (
      select coalesce(json_agg(x), '[]')
        from (select r.name, r.table_name, r.stage, r.state, r.desired_state, r.until, r.waiting_reason, r.waiting_text, r.error, r.hint,
                     to_char(r.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as since
                from backfill.rollouts r where coalesce(r.finished_at > clock_timestamp() - interval '1 day', true) order by r.finished_at is not null, r.id desc limit 20) x),
    'signals', (
      select coalesce(json_agg(x), '[]')
        from (select s.signal, s.source, s.kind, s.value, s."limit", s.utilization, extract(epoch from clock_timestamp() - s.sampled_at)::float8 as age_seconds, s.holding,
                     backfill._redacted_reason(s) as reason
                from backfill.signal s order by s.holding desc, s.utilization desc nulls last, s.signal, s.source limit 40) x),
    'workers', (
      select coalesce(json_agg(x), '[]')
        from (select w.id, w.host, w.pid, w.version, w.slices, to_char(w.started_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as started_at,
                     extract(epoch from clock_timestamp() - w.heartbeat_at)::float8 as heartbeat_age_seconds
                from backfill.workers w where w.alive order by w.host, w.pid limit 40) x),
    'events', (
      select coalesce(json_agg(x), '[]')
        from (select to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at, e.name, e.kind, e.actor, left(coalesce(e.redacted, e.message), 500) as message
                from backfill.event e order by e.at desc, e.id desc limit 20) x)
  )::text
$$;

-- Name: _status_jobs(); Type: FUNCTION

CREATE FUNCTION backfill._status_jobs() RETURNS bigint[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select array(select j.id from backfill.job j where j.state in ('running', 'verifying', 'paused', 'queued')
                order by array_position(array['running', 'verifying', 'paused', 'queued'], j.state), j.priority, j.id limit 50)
      || array(select j.id from backfill.job j where j.state = 'failed' order by j.finished_at desc limit 10)
      || array(select j.id from backfill.job j where j.state in ('succeeded', 'cancelled') order by j.finished_at desc limit 10)
$$;

-- Name: _store_totals(bigint); Type: FUNCTION

CREATE FUNCTION backfill._store_totals(job_id bigint) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update backfill.job j set rows_scanned = t.scanned, rows_changed = t.changed, rows_unresolved = t.unresolved
    from (select coalesce(sum(c.rows_scanned) filter (where s.generation = 1), 0) as scanned, coalesce(sum(c.rows_changed), 0) as changed,
                 coalesce(sum(c.rows_unresolved), 0) as unresolved
            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
            join backfill.job x on x.id = s.job_id and x.run = s.run
           where s.job_id = _store_totals.job_id and s.kind = 'walk'
          having count(*) > 0) t
   where j.id = _store_totals.job_id
$$;

-- Name: _stored_options(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._stored_options(options jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when options ->> 'deadline' is null then options
              else jsonb_set(options, '{deadline}', to_jsonb((options ->> 'deadline')::timestamptz)) end
$$;

-- Name: _subscribers(oid); Type: FUNCTION

CREATE FUNCTION backfill._subscribers(relation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('publication %s, %s', string_agg(distinct format('"%s"', p.pubname), ', '), (select count(*) || case count(*) when 1 then ' slot' else ' slots' end from pg_replication_slots x where x.slot_type = 'logical' and x.database = current_database()))
    from pg_publication_tables p join pg_class c on c.relname = p.tablename join pg_namespace n on n.oid = c.relnamespace and n.nspname = p.schemaname
   where (c.oid = relation or c.oid in (select x.part from backfill._partitions(relation) x))
     and not exists (select from pg_publication_rel k join pg_publication b on b.oid = k.prpubid where k.prrelid = c.oid and b.pubname = p.pubname and to_jsonb(k) ->> 'prattrs' is not null)
     and exists (select from pg_replication_slots x where x.slot_type = 'logical' and x.database = current_database())
  having count(*) > 0
$$;

-- Name: _sync_function(jsonb, jsonb, boolean); Type: FUNCTION

CREATE FUNCTION backfill._sync_function(s jsonb, settings jsonb, switched boolean) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: _sync_name(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._sync_name(s jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('%s_%s', backfill._fit(format('zzz_backfill_%s_%s', s ->> 'name', s ->> 'column'), 44), left(md5(format('%s.%s', s ->> 'target', s ->> 'column')), 8))
$$;

-- Name: _sync_problem(backfill.rollout); Type: FUNCTION

CREATE FUNCTION backfill._sync_problem(r backfill.rollout) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case
    when v.later is not null then format('trigger "%s" fires after the trigger of the rollout, and may change columns that the expression reads', v.later)
    when v.missing is not null then format('trigger "%s" of the rollout was dropped or disabled', v.missing) end
    from (select backfill._later_trigger(r.relation) as later,
                 (select x.name from unnest(array[backfill._sync_name(r.spec) || '_insert', backfill._sync_name(r.spec) || '_update']) x(name)
                   where exists (select from (select r.relation as o union all select p.part from backfill._partitions(r.relation) p) t
                                  where not exists (select from pg_trigger g where g.tgrelid = t.o and g.tgname = x.name and g.tgenabled in ('O', 'A'))) limit 1) as missing) v
   where r.spec ? 'using' and r.spec ->> 'sync' = 'trigger' and r.stage in ('syncing', 'backfilled', 'verified', 'constrained')
$$;

-- Name: _table_file(oid); Type: FUNCTION

CREATE FUNCTION backfill._table_file(relation oid) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select concat_ws(' ', pg_relation_filenode(relation), (select string_agg(pg_relation_filenode(p.part)::text, ' ' order by p.part) from backfill._partitions(relation) p))
$$;

-- Name: _table_fingerprint(oid); Type: FUNCTION

CREATE FUNCTION backfill._table_fingerprint(relation oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: _tokens(text, text); Type: FUNCTION

CREATE FUNCTION backfill._tokens(fragment text, what text) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with token as (
    select l.kind, l.body, l.n, lag(l.kind, 1, '') over w as before, lag(l.kind, 2, '') over w as before_that, lag(l.body, 2, '') over w as body_before_that
      from (select x.kind, min(x.n) as n, string_agg(x.body, '' order by x.n) as body
              -- Consecutive blanks and comments count as one blank.
              from (select t.*, sum(case when t.kind = 'space' and t.previous = 'space' then 0 else 1 end) over (order by t.n) as part
                      from (select y.kind, y.body, y.n, lag(y.kind, 1, '') over (order by y.n) as previous from backfill._lex(fragment, what) with ordinality y(kind, body, depth, n)) t) x
             group by x.part, x.kind) l
    window w as (order by l.n))
  select coalesce(array_agg(case when t.before = 'space' and t.before_that = 'other' and t.kind = 'other' and (t.body ~ '[0-9.]') = (t.body_before_that ~ '[0-9.]') then ' ' else '' end
                            || case t.kind when 'word' then lower(t.body) else t.body end order by t.n) filter (where t.kind <> 'space'), '{}')
    from token t
$$;

-- Name: _try_expressions(jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill._try_expressions(s jsonb, settings jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_copy text := format('create temporary table %I (like %s)', s ->> 'name', s ->> 'target');
  v_column text := format('alter table pg_temp.%I add column %I %s', s ->> 'name', s ->> 'column', s ->> 'type');
  v_using text := v_column || E' generated always as ((\n' || (s ->> 'using') || E'\n)::' || (s ->> 'cast') || ') stored';
  v_other text := concat(v_column, E' default (\n' || (s ->> 'default') || E'\n)', E' check (\n' || (s ->> 'check') || E'\n)');
  v_drop text := format('alter table pg_temp.%I drop column %I', s ->> 'name', s ->> 'column');
  v_index text := case when s ? 'index' or (s -> 'unique')::boolean then format('create index on pg_temp.%I using %s (%I)', s ->> 'name', coalesce(s #>> '{index,method}', 'btree'), s ->> 'column') end;
  v_owner text := s ->> 'owner';
  v_path text := settings ->> 'search_path';
  v_part text := 'type';
  v_message text; v_state text; v_hint text; v_detail text;
begin
  if not backfill._may_run_as(current_user, s ->> 'owner') then
    perform backfill._refuse(format('role "%s" may not change table %s', current_user, s ->> 'target'), format('The statements of a rollout run as "%s", the owner of the table, and "%s" is not a member of that role.', s ->> 'owner', current_user), 'Let the owner of the table start the rollout, or ask an administrator for membership in that role.');
  end if;
  if current_setting('transaction_read_only') = 'on' or not has_database_privilege(v_owner, current_database(), 'temporary') then
    raise warning 'the expressions were not checked: this session cannot create a temporary table' using hint = 'The server checks them when the rollout adds the column. To check them now, run rollout_plan on the primary, as a role that may create temporary tables.';
    return;
  end if;
  begin
    if v_using is not null then
      v_part := '"using"';
      perform backfill._try_plan(v_owner, settings, format('select %s::%s from (select * from only %s) as %I', backfill._bracketed(s ->> 'using'), s ->> 'type', s ->> 'target', s ->> 'name'));
    end if;
    if v_owner <> current_user then
      perform set_config('role', v_owner, true);
    end if;
    perform set_config('search_path', v_path, true);
    execute v_copy;
    if v_using is not null then
      v_part := '"using"';
      execute v_using;
      execute v_drop;
    end if;
    v_part := 'the column';
    execute v_other;
    if v_index is not null then
      v_part := 'the index';
      execute v_index;
    end if;
    raise exception using errcode = 'BF999', message = 'rolled back';
  exception when sqlstate 'BF999' then
    return;
  when others then
    get stacked diagnostics v_message = message_text, v_state = returned_sqlstate, v_hint = pg_exception_hint, v_detail = pg_exception_detail;
  end;
  perform backfill._refuse(format('the server rejects %s of rollout "%s": %s', v_part, s ->> 'rollout', v_message), coalesce(nullif(v_detail, ''), format('SQLSTATE %s.', v_state)),
    coalesce(nullif(v_hint, ''), case v_state when '42P17' then 'Use immutable functions and casts only: the trigger and the backfill compute the column at different times, and must get the same value.'
                                              when '42501' then format('The statements of a rollout run as "%1$s", the owner of the table. Grant the missing privilege to "%1$s".', v_owner)
                                              else 'Correct the spec.' end));
end $_$;

-- Name: _try_plan(name, jsonb, text); Type: FUNCTION

CREATE FUNCTION backfill._try_plan(run_as name, settings jsonb, statement text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_indexscan TO 'off'
    SET enable_indexonlyscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

-- Name: _type_name(oid, integer); Type: FUNCTION

CREATE FUNCTION backfill._type_name(type oid, modifier integer) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case when t.typnamespace = 'pg_catalog'::regnamespace
                and n.name !~ '^(smallint|integer|bigint|real|double precision|numeric|boolean|character|bit|time|timestamp|interval)\M'
              then 'pg_catalog.' || n.name else n.name end
    from pg_type t cross join lateral format_type(t.oid, _type_name.modifier) n(name) where t.oid = _type_name.type
$$;

-- Name: _unfinished_jobs(); Type: FUNCTION

CREATE FUNCTION backfill._unfinished_jobs() RETURNS TABLE(id bigint, name text, kind text, target text, relation oid, run_as name, has_executor boolean)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select j.id, j.name, j.kind, j.target, j.relation, j.run_as, exists (select from backfill.executor e where e.run_as = j.run_as)
    from backfill.job j where j.finished_at is null order by j.id limit 100
$$;

-- Name: _unlimited(oid, text); Type: FUNCTION

CREATE FUNCTION backfill._unlimited(type oid, name text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case type when 'varchar'::regtype then 'varchar' when 'bpchar'::regtype then 'bpchar' when 'bit'::regtype then 'varbit' when 'varbit'::regtype then 'varbit'
                   when 'varchar[]'::regtype then 'varchar[]' when 'bpchar[]'::regtype then 'bpchar[]' when 'bit[]'::regtype then 'varbit[]' when 'varbit[]'::regtype then 'varbit[]' else name end
$$;

-- Name: _untrusted_roles(oid, name); Type: FUNCTION

CREATE FUNCTION backfill._untrusted_roles(relation oid, login name) RETURNS name[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET jit TO 'off'
    AS $$
declare
  v_login oid := (select r.oid from pg_roles r where r.rolname = login);
  tables oid[] := array(
    with recursive tree(relid) as (
      select relation
      union
      select x.relid from tree t cross join lateral (
        select h.inhrelid from pg_inherits h where h.inhparent = t.relid
        union all select a.relid from pg_partition_ancestors(t.relid) a
        union all select k.conrelid from pg_constraint k where k.confrelid = t.relid and k.contype = 'f') x(relid))
    select relid from tree);
  authors oid[];
begin
  -- All objects on which the following depend: the triggers, constraints, defaults, indexes,
  -- policies and partition keys of the tables, and the domains of their columns. Domains without a
  -- constraint are included, because they can get one later.
  with recursive used(classid, objid) as (
    select o.classid, o.objid
      from (select 'pg_trigger'::regclass::oid, g.oid from pg_trigger g where g.tgrelid = any (tables)
            union all select 'pg_constraint'::regclass, k.oid from pg_constraint k where k.conrelid = any (tables)
            union all select 'pg_attrdef'::regclass, d.oid from pg_attrdef d where d.adrelid = any (tables)
            union all select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = any (tables)
            union all select 'pg_class'::regclass, p.partrelid from pg_partitioned_table p where p.partrelid = any (tables)
            union all select 'pg_policy'::regclass, p.oid from pg_policy p where p.polrelid = any (tables)
            union all select 'pg_type'::regclass, a.atttypid from pg_attribute a where a.attrelid = any (tables) and not a.attisdropped and a.attnum > 0) o(classid, objid)
    union
    select x.classid, x.objid from used u cross join lateral (
      select d.refclassid, d.refobjid from pg_depend d where d.classid = u.classid and d.objid = u.objid
         and d.refclassid = any (array['pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_cast'::regclass])
      union all select 'pg_constraint'::regclass, k.oid from pg_constraint k where u.classid = 'pg_type'::regclass and k.contypid = u.objid
      union all select 'pg_type'::regclass, y.typelem from pg_type y where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typelem <> 0
      union all select 'pg_type'::regclass, y.typbasetype from pg_type y where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typbasetype <> 0
      union all select 'pg_type'::regclass, r.rngsubtype from pg_range r where u.classid = 'pg_type'::regclass and u.objid in (r.rngtypid, r.rngmultitypid)
      union all select 'pg_type'::regclass, a.atttypid from pg_type y join pg_attribute a on a.attrelid = y.typrelid where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typtype = 'c' and not a.attisdropped) x(classid, objid))
  select array(
    select c.relowner from pg_class c where c.oid = any (tables)
    union select x.grantee from pg_class c cross join lateral aclexplode(c.relacl) x where c.oid = any (tables) and x.privilege_type in ('TRIGGER', 'REFERENCES')
    union select x.grantee from pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = any (tables) and a.attacl is not null and x.privilege_type = 'REFERENCES'
    union select y.typowner from used u join pg_type y on u.classid = 'pg_type'::regclass and y.oid = u.objid
    union select f.proowner from used u join pg_proc f on u.classid = 'pg_proc'::regclass and f.oid = u.objid
    union select o.oprowner from used u join pg_operator o on u.classid = 'pg_operator'::regclass and o.oid = u.objid
    union select f.proowner from used u join pg_operator o on u.classid = 'pg_operator'::regclass and o.oid = u.objid join pg_proc f on f.oid in (o.oprcode, o.oprrest, o.oprjoin)
    union select o.opcowner from used u join pg_opclass o on u.classid = 'pg_opclass'::regclass and o.oid = u.objid) into authors;
  return (select coalesce(array_agg(coalesce(r.rolname, 'public') order by r.rolname), '{}')
            from unnest(authors) a(oid) left join pg_roles r on r.oid = a.oid
           where r.oid is null or not r.rolsuper and r.oid <> v_login and not pg_has_role(r.oid, v_login, 'MEMBER'));
end $$;

-- Name: _update_sql(text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._update_sql(target text, set_sql text, filter_sql text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format(E'update only %s set %s where (%s)', target,
    (select string_agg(
       case when cardinality(a.columns) = 1 then format(E'%I = (\n%s\n)', a.columns[1], a.expression)
            else format(E'(%s) = (\n%s\n)', (select string_agg(quote_ident(c), ', ' order by n) from unnest(a.columns) with ordinality u(c, n)), a.expression)
       end, ', ') from backfill._assignments(set_sql) a),
    coalesce(E'\n' || filter_sql || E'\n', 'true'))
$$;

-- Name: _validation(jsonb, integer, text); Type: FUNCTION

CREATE FUNCTION backfill._validation(s jsonb, number integer, name text) RETURNS TABLE(stage text, ordinal integer, part oid, target text, sql text, undo_sql text, lock text, alone boolean, effect text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select 'constrained', number, p.part, p.name, format('alter table %s validate constraint %I', p.name, _validation.name), null, 'SHARE UPDATE EXCLUSIVE', false, 'reads the whole partition; reads and writes continue'
    from backfill._partitions((s ->> 'relation')::bigint::oid) p where p.is_leaf
  union all
  select 'constrained', number + 1, 0::oid, s ->> 'target', format('alter table %s validate constraint %I', s ->> 'target', _validation.name), null, 'SHARE UPDATE EXCLUSIVE', false,
         case when (s -> 'partitioned')::boolean then 'changes only the catalog: the partitions are valid' else 'reads the whole table; reads and writes continue' end
$$;

-- Name: _values_text(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._values_text(vals jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select left(string_agg(format('%s = %s', e.key, e.value), ', '), 400) from jsonb_each(vals) e
$$;

-- Name: _verify_kind(backfill.job); Type: FUNCTION

CREATE FUNCTION backfill._verify_kind(j backfill.job) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case
    -- A job that only compares has no other result than that of its verification.
    when j.compares is not null then 'filter'
    when w.kind in ('none', 'coverage') then w.kind
    -- A delete leaves no row to compare with the result of an expression.
    when w.kind = 'expression' and j.kind = 'update' then 'expression'
    -- If the expressions read columns that they assign, a row may still match the filter with its
    -- new value, and a sweep would change the row twice. An example is n = n + 1 where n < 5.
    -- A filter that calls a volatile function is evaluated only once for each row.
    when j.filter_sql is not null and not coalesce((j.plan ->> 'self_reading')::boolean, false) and not coalesce((j.plan #>> '{volatile,filter}')::boolean, false) then 'filter'
    else 'coverage' end
    from (select coalesce(j.options ->> 'verify', j.plan #>> '{defaults,verify}', 'auto')) w(kind)
$$;

-- Name: _violations(jsonb); Type: FUNCTION

CREATE FUNCTION backfill._violations(s jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select string_agg(x.condition, ' or ' order by x.n) from (
    select 1, 'not ' || backfill._bracketed(s ->> 'check') where s ? 'check'
    union all
    select 2, format('%I is null', s ->> 'column') where (s -> 'not_null')::boolean
    union all
    select 3, format('%1$I.%2$I is not null and not exists (select from %3$s as zzz_backfill_referred where zzz_backfill_referred.%4$I = %1$I.%2$I)', s ->> 'name', s ->> 'column', s #>> '{references,target}', s #>> '{references,column}')
      from pg_class c where c.oid = backfill._resolve_table(s #>> '{references,target}', '{}') and not c.relrowsecurity
       and has_schema_privilege(s ->> 'owner', c.relnamespace, 'usage') and has_column_privilege(s ->> 'owner', c.oid, s #>> '{references,column}', 'select')) x(n, condition)
   where (s -> 'keyed')::boolean
$_$;

-- Name: _work_sql(text, text, text, text); Type: FUNCTION

CREATE FUNCTION backfill._work_sql(kind text, target text, set_sql text, filter_sql text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case kind when 'delete' then format(E'delete from only %s where (\n%s\n)', target, filter_sql)
                   else backfill._update_sql(target, set_sql, filter_sql) end
$$;

-- Name: _written_since(xid, pg_snapshot); Type: FUNCTION

CREATE FUNCTION backfill._written_since(written xid, planned pg_snapshot) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  turn constant numeric := 4294967296;
  low numeric := written::text::numeric;
  next numeric := pg_snapshot_xmax(pg_current_snapshot())::text::numeric;
  whole numeric;
begin
  -- The values 1 and 2 mark rows that are older than every snapshot (bootstrap, frozen).
  if planned is null or low < 3 then
    return false;
  end if;
  whole := next - next % turn + low;
  if whole >= next then
    whole := whole - turn;
  end if;
  return whole >= pg_snapshot_xmin(planned)::text::numeric;
end $$;

-- Name: advance(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean); Type: FUNCTION

CREATE FUNCTION backfill.advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean) RETURNS TABLE(new_ctid text, desired text, revision integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
end $_$;

-- Name: FUNCTION advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean); Type: COMMENT

COMMENT ON FUNCTION backfill.advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean) IS 'Moves the checkpoint of a slice, in the transaction that changes the rows. Raises BF006 if the claim has ended or the checkpoint was moved. For daemons.';

-- Name: advance_deferring(bigint, uuid, tid, text[], text[], bigint, bigint, bigint, boolean, jsonb, jsonb); Type: FUNCTION

CREATE FUNCTION backfill.advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb) RETURNS TABLE(new_ctid text, desired text, revision integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: FUNCTION advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb) IS 'Does what backfill.advance does, and also defers or quarantines rows. For daemons.';

-- Name: all_changed(bigint, bigint); Type: FUNCTION

CREATE FUNCTION backfill.all_changed(matched bigint, changed bigint) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if matched > changed then
    raise exception using errcode = 'BF007', message = format('%s of %s rows were not changed by the update', matched - changed, matched);
  end if;
  return true;
end $$;

-- Name: FUNCTION all_changed(matched bigint, changed bigint); Type: COMMENT

COMMENT ON FUNCTION backfill.all_changed(matched bigint, changed bigint) IS 'Raises BF007 if the batch changed fewer rows than it found. For daemons.';

-- Name: approve(text); Type: FUNCTION

CREATE FUNCTION backfill.approve(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('approve', approve.name, null, null) $$;

-- Name: FUNCTION approve(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.approve(name text) IS 'Approves a job that was enqueued with needs_approval, so that it can start. Returns the job''s state.';

-- Name: assert_complete(text, boolean); Type: FUNCTION

CREATE FUNCTION backfill.assert_complete(name text, whole_table boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  j record;
  p record;
  found_key jsonb;
  looked boolean := false;
begin
  select v.kind, v.state, v.verified_at, v.error, v.hint, v.waiting_reason, v.percent_done, v.reason, v.target, backfill._replaced(v.name) as replaced, backfill._replaced_leaf(v.name) as replaced_leaf, backfill._replaced_column(v.name) as replaced_column into j from backfill.jobs v where v.name = assert_complete.name;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no job "%s"', assert_complete.name), detail = 'Names are case-sensitive. Each database has its own jobs, and some jobs may not be visible to your role.', hint = 'List the jobs with: select name, state from backfill.jobs;';
  elsif j.state <> 'succeeded' then
    raise exception using errcode = 'BF004',
      message = format('job "%s" is not complete: %s, at %s percent%s', assert_complete.name, j.state, round(j.percent_done::numeric, 1), coalesce(', waiting: ' || j.waiting_reason, '')),
      detail = coalesce(nullif(j.error, ''), case j.state when 'cancelled' then 'It was cancelled' when 'paused' then 'It is paused' else 'It has not finished' end || coalesce(': ' || nullif(j.reason, ''), '') || '.'),
      hint = backfill._next_step(assert_complete.name, j.state, j.waiting_reason);
  elsif j.verified_at is null then
    raise exception using errcode = 'BF004', message = format('job "%s" succeeded without verification', assert_complete.name), detail = 'The job ran with option verify = none.', hint = backfill._name_job('Run backfill.tune(name, ''{"verify": "auto"}''), then backfill.rerun. ' || case j.kind when 'delete' then 'The rerun deletes the rows that match the filter at that time.' else 'The rerun changes the rows again: run it only if applying the assignments (set) twice gives the same result as applying them once. Otherwise check the rows with your own query instead of assert_complete.' end, assert_complete.name);
  elsif j.replaced is not null then
    raise exception using errcode = 'BF004', message = format('job "%s" is complete, but table %s is not the table that the job changed', assert_complete.name, j.target), detail = j.replaced,
      hint = 'If the table was only renamed, rename it back. If another table took its place, delete this job with backfill.forget, and enqueue a job for the current table.';
  elsif j.replaced_leaf is not null then
    raise exception using errcode = 'BF004', message = format('job "%s" is complete, but a partition or child of %s is not the one that the job changed', assert_complete.name, j.target), detail = j.replaced_leaf,
      hint = backfill._name_job('If the partition was only renamed, rename it back. Otherwise enqueue a job for the partition, or run backfill.rerun, but only if applying the assignments (set) twice gives the same result as applying them once.', assert_complete.name);
  elsif j.replaced_column is not null then
    raise exception using errcode = 'BF004', message = format('job "%s" is complete, but table %s has another column in place of the one that the job changed', assert_complete.name, j.target), detail = j.replaced_column,
      hint = 'To fill the new column, delete this job with backfill.forget, and enqueue it again.';
  end if;
  if not coalesce(assert_complete.whole_table, false) then
    return;
  end if;

  select * into p from backfill._provable(assert_complete.name);
  if p.refusal is not null or p.spec ->> 'enqueued_by' <> current_user then
    perform backfill._refuse(format('cannot verify the whole table of job "%s"', assert_complete.name),
      coalesce(p.refusal, format('The job was enqueued by "%s", but the current role is "%s".', p.spec ->> 'enqueued_by', current_user)),
      case when p.refusal is null or p.refusal like 'The job was enqueued by%'
        then 'Connect as the role that enqueued the job (SET ROLE is not enough). Or leave whole_table out; the check then covers the rows up to the highest key that the table had at planning.'
        else 'Leave whole_table out. The check then covers the rows up to the highest key that the table had at planning.' end);
  end if;
  -- The check is read-only and runs under the job's settings. The end of the subtransaction resets
  -- the settings. Until then, the code below writes the schema before the name of each function and
  -- operator. Otherwise the server could first find a user's object of the same name.
  begin
    perform set_config(s.name, s.value, true)
       from (values ('transaction_read_only', 'on'), ('row_security', 'off'), ('jit', 'off'), ('TimeZone', p.spec #>> '{settings,TimeZone}'), ('DateStyle', p.spec #>> '{settings,DateStyle}'),
                    ('IntervalStyle', p.spec #>> '{settings,IntervalStyle}'), ('search_path', coalesce(p.spec #>> '{settings,search_path}', 'pg_catalog'))) s(name, value)
      where s.value is not null;
    execute pg_catalog.format(E'select pg_catalog.jsonb_build_object(%s) from %s where %s limit 1',
      p.spec operator(pg_catalog.->>) 'key', p.spec operator(pg_catalog.->>) 'from', p.spec operator(pg_catalog.->>) 'needs_work') into found_key;
    looked := true;
    raise exception using errcode = 'BF0RB', message = 'rolled back';
  exception when sqlstate 'BF0RB' then
    -- If the error BF0RB came from an expression of the job, the check did not finish and its
    -- result is unknown.
    if not looked then
      raise;
    end if;
  end;
  if found_key is not null then
    raise exception using errcode = 'BF004', message = format('job "%s" is complete, but table %s is not: row %s needs work', assert_complete.name, p.spec ->> 'target', found_key),
      detail = 'The row was inserted after planning, was written after the job had processed the row''s key, or still matches the filter after its update.',
      hint = backfill._name_job('Change the application, or add a trigger, so that rows written from now on need no work. Then run backfill.rerun, which changes the rows that match the filter. If set depends on its own result (n = n + 1), enqueue a new job with a filter for the remaining rows instead.', assert_complete.name);
  end if;
end $$;

-- Name: FUNCTION assert_complete(name text, whole_table boolean); Type: COMMENT

COMMENT ON FUNCTION backfill.assert_complete(name text, whole_table boolean) IS 'Raises BF004 unless the job succeeded and was verified (BF003 if there is no such job). whole_table => true also checks that no row of the whole table needs work now.';

-- Name: cancel(text, text); Type: FUNCTION

CREATE FUNCTION backfill.cancel(name text, reason text DEFAULT NULL::text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('cancel', cancel.name, cancel.reason, null) $$;

-- Name: FUNCTION cancel(name text, reason text); Type: COMMENT

COMMENT ON FUNCTION backfill.cancel(name text, reason text) IS 'Cancels a job after the batch in flight. Keeps the changes that are already committed. Returns the job''s state.';

-- Name: enqueue(text, regclass, text, text, name[], integer, timestamp with time zone, name, boolean, jsonb); Type: FUNCTION

CREATE FUNCTION backfill.enqueue(name text, target regclass, set text, filter text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], priority integer DEFAULT 0, run_at timestamp with time zone DEFAULT now(), run_as name DEFAULT NULL::name, needs_approval boolean DEFAULT false, options jsonb DEFAULT '{}'::jsonb) RETURNS bigint
    LANGUAGE sql
    AS $_$
  select backfill._enqueue('update', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, backfill._caller_settings())
$_$;

-- Name: FUNCTION enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) IS 'Enqueues a job that applies the assignments in `set`, in batches, to the rows of `target` that match `filter`. Returns the id of the job. A repeated call returns the same id.';

-- Name: enqueue_delete(text, regclass, text, name[], integer, timestamp with time zone, name, boolean, jsonb); Type: FUNCTION

CREATE FUNCTION backfill.enqueue_delete(name text, target regclass, filter text, key name[] DEFAULT NULL::name[], priority integer DEFAULT 0, run_at timestamp with time zone DEFAULT now(), run_as name DEFAULT NULL::name, needs_approval boolean DEFAULT false, options jsonb DEFAULT '{}'::jsonb) RETURNS bigint
    LANGUAGE sql
    AS $_$
  select backfill._enqueue('delete', $1, $2, null, $3, $4, $5, $6, $7, $8, $9, backfill._caller_settings())
$_$;

-- Name: FUNCTION enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) IS 'Enqueues a job that deletes, in batches, the rows of `target` that match `filter`. Returns the id of the job. A repeated call returns the same id.';

-- Name: forget(text); Type: FUNCTION

CREATE FUNCTION backfill.forget(name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare state text; begin state := backfill._command('forget', forget.name, null, null); end $$;

-- Name: FUNCTION forget(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.forget(name text) IS 'Deletes a finished job and its history.';

-- Name: key_text(anyelement); Type: FUNCTION

CREATE FUNCTION backfill.key_text(value anyelement) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return value::text;
end $$;

-- Name: FUNCTION key_text(value anyelement); Type: COMMENT

COMMENT ON FUNCTION backfill.key_text(value anyelement) IS 'Returns a key value as text that can be converted back to the same value under any DateStyle and IntervalStyle. For daemons.';

-- Name: not_rewritten(oid[]); Type: FUNCTION

CREATE FUNCTION backfill.not_rewritten(relations oid[]) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: FUNCTION not_rewritten(relations oid[]); Type: COMMENT

COMMENT ON FUNCTION backfill.not_rewritten(relations oid[]) IS 'Raises 40001 if one of the given tables was rewritten after the batch took its snapshot. For daemons.';

-- Name: pause(text, text); Type: FUNCTION

CREATE FUNCTION backfill.pause(name text, reason text DEFAULT NULL::text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('pause', pause.name, pause.reason, null) $$;

-- Name: FUNCTION pause(name text, reason text); Type: COMMENT

COMMENT ON FUNCTION backfill.pause(name text, reason text) IS 'Stops a job after the batch in flight; backfill.resume continues the job. Returns the job''s state.';

-- Name: pause_all(text); Type: FUNCTION

CREATE FUNCTION backfill.pause_all(reason text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare state text; begin state := backfill._command('pause_all', null, pause_all.reason, null); end $$;

-- Name: FUNCTION pause_all(reason text); Type: COMMENT

COMMENT ON FUNCTION backfill.pause_all(reason text) IS 'Pauses all jobs of this database until resume_all is called. Batches in flight finish first.';

-- Name: preview(regclass, text, text, name[], jsonb); Type: FUNCTION

CREATE FUNCTION backfill.preview(target regclass, set text, filter text DEFAULT NULL::text, key name[] DEFAULT NULL::name[], options jsonb DEFAULT '{}'::jsonb) RETURNS TABLE(item text, value text)
    LANGUAGE plpgsql
    AS $_$
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
end $_$;

-- Name: FUNCTION preview(target regclass, set text, filter text, key name[], options jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.preview(target regclass, set text, filter text, key name[], options jsonb) IS 'Shows what a job would do: rows, time, WAL, growth, triggers, warnings, and up to five rows before and after the change. Changes nothing. set => null previews a delete.';

-- Name: rerun(text); Type: FUNCTION

CREATE FUNCTION backfill.rerun(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('rerun', rerun.name, null, null) $$;

-- Name: FUNCTION rerun(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.rerun(name text) IS 'Runs a finished job again from the beginning. Returns the job''s state.';

-- Name: resume(text); Type: FUNCTION

CREATE FUNCTION backfill.resume(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('resume', resume.name, null, null) $$;

-- Name: FUNCTION resume(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.resume(name text) IS 'Continues a paused job from its checkpoint. Returns the job''s state.';

-- Name: resume_all(); Type: FUNCTION

CREATE FUNCTION backfill.resume_all() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare state text; begin state := backfill._command('resume_all', null, null, null); end $$;

-- Name: FUNCTION resume_all(); Type: COMMENT

COMMENT ON FUNCTION backfill.resume_all() IS 'Resumes the jobs of this database after pause_all.';

-- Name: retry(text); Type: FUNCTION

CREATE FUNCTION backfill.retry(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('retry', retry.name, null, null) $$;

-- Name: FUNCTION retry(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.retry(name text) IS 'Continues a failed or cancelled job from its checkpoint, and tries its quarantined rows again. Returns the job''s state.';

-- Name: retry_deferred(bigint, uuid, tid, bigint[], bigint, bigint, bigint[], jsonb); Type: FUNCTION

CREATE FUNCTION backfill.retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb) RETURNS TABLE(new_ctid text, desired text, revision integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
#variable_conflict use_column
declare
  v_job bigint;
  v_ctid tid;
  v_run_as name;
  n bigint;
  r jsonb;
begin
  perform backfill._check_outcome(null, greatest(retry_deferred.changed, retry_deferred.unresolved), least(retry_deferred.changed, retry_deferred.unresolved));
  select s.job_id, s.run_as into v_job, v_run_as from backfill.slice s where s.id = retry_deferred.slice;
  if not exists (select from backfill.executor e where e.run_as = v_run_as and e.login = session_user) then
    raise exception using errcode = 'BF006', message = format('fenced: slice %2$s does not run as login "%1$s"', session_user, retry_deferred.slice);
  end if;
  perform from backfill.job x where x.id = v_job for no key update;
  update backfill.checkpoint c
     set rows_changed = c.rows_changed + retry_deferred.changed, rows_unresolved = c.rows_unresolved + retry_deferred.unresolved, batches = c.batches + 1, moved_in = pg_current_xact_id()
   where c.slice_id = retry_deferred.slice and c.token = retry_deferred.token and c.done and c.moved_in is distinct from pg_current_xact_id()
  returning c.ctid into v_ctid;
  if v_ctid is null then
    raise exception using errcode = 'BF006', message = format('fenced: the claim of slice %s has ended, or the slice is not done', retry_deferred.slice);
  end if;
  update backfill.deferred_row a set attempts = a.attempts + 1 where a.slice_id = retry_deferred.slice and a.id = any (retry_deferred.locked);
  get diagnostics n = row_count;
  with gone as (
    delete from backfill.deferred_row a
     where a.slice_id = retry_deferred.slice and a.id = any (retry_deferred.tried) and a.id <> all (coalesce(retry_deferred.locked, '{}'))
    returning a.id, a.key),
  resolved as (
    update backfill.row_error e set resolved_at = clock_timestamp()
      from gone g where e.job_id = v_job and e.slice_id = retry_deferred.slice and e.position = g.key and e.resolved_at is null
       and not exists (select from jsonb_array_elements(coalesce(retry_deferred.quarantined, '[]')) f where (f.value ->> 'id')::bigint = g.id))
  select n + count(*) into n from gone;
  -- Compare and set: if a row no longer exists, an earlier call has handled the row, and the result
  -- of that call was lost.
  if n <> cardinality(retry_deferred.tried) then
    raise exception using errcode = 'BF006', message = format('fenced: deferred rows of slice %s are gone', retry_deferred.slice);
  end if;
  for r in select x.value from jsonb_array_elements(coalesce(retry_deferred.quarantined, '[]')) x loop
    perform backfill._quarantine_row(v_job, retry_deferred.slice, r);
  end loop;
  perform backfill._count_quarantined(v_job);
  if not exists (select from backfill.deferred_row a where a.slice_id = retry_deferred.slice) then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  return query
    select v_ctid::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $_$;

-- Name: FUNCTION retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb) IS 'Records the outcome of retrying deferred rows. For daemons.';

-- Name: rollout_advance(text); Type: FUNCTION

CREATE FUNCTION backfill.rollout_advance(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._rollout_command('advance', rollout_advance.name, null) $$;

-- Name: FUNCTION rollout_advance(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_advance(name text) IS 'Lets a rollout that waits continue to its next stage. Returns the state of the rollout.';

-- Name: rollout_begun(bigint, uuid, bigint); Type: FUNCTION

CREATE FUNCTION backfill.rollout_begun(rollout bigint, token uuid, statement bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  begin
    -- Lock the rollout, so that a concurrent command on the rollout ends before the statement locks
    -- the table. The exception then releases the lock on the rollout, because the statement may run
    -- user code.
    perform from backfill.rollout r join backfill.executor e on e.run_as = r.run_as
      where r.id = rollout_begun.rollout and r.token = rollout_begun.token and r.desired_state = 'running' and e.login = session_user for no key update of r;
    if found then
      raise exception using errcode = 'BF999';
    end if;
  exception when sqlstate 'BF999' then
    update backfill.rollout_statement d set begun_at = clock_timestamp()
     where d.id = rollout_begun.statement and d.rollout_id = rollout_begun.rollout and d.done_at is null;
    if found then
      return;
    end if;
  end;
  raise exception using errcode = 'BF006', message = format('fenced: rollout %s is paused, or another daemon continues it', rollout);
end $$;

-- Name: FUNCTION rollout_begun(rollout bigint, token uuid, statement bigint); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_begun(rollout bigint, token uuid, statement bigint) IS 'Notes the beginning of a statement of a rollout, in the transaction of the statement. For daemons.';

-- Name: rollout_locked(bigint); Type: FUNCTION

CREATE FUNCTION backfill.rollout_locked(statement bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_rollout record;
begin
  select x.target, x.relation into v_rollout from backfill.rollout_statement d join backfill.rollout x on x.id = d.rollout_id join backfill.executor e on e.run_as = x.run_as
   where d.id = rollout_locked.statement and e.login = session_user;
  if not found then
    return;
  end if;
  if backfill._other_table(v_rollout.target, v_rollout.relation) is not null then
    raise exception using errcode = 'BF001', message = format('table %s is not the table that the rollout was started for', v_rollout.target), detail = backfill._other_table(v_rollout.target, v_rollout.relation);
  end if;
  update backfill.rollout_statement d set locked_at = clock_timestamp() where d.id = rollout_locked.statement;
end $$;

-- Name: FUNCTION rollout_locked(statement bigint); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_locked(statement bigint) IS 'Notes the time at which a statement of a rollout has its locks. For daemons.';

-- Name: rollout_pause(text, text); Type: FUNCTION

CREATE FUNCTION backfill.rollout_pause(name text, reason text DEFAULT NULL::text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._rollout_command('pause', rollout_pause.name, rollout_pause.reason) $$;

-- Name: FUNCTION rollout_pause(name text, reason text); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_pause(name text, reason text) IS 'Pauses a rollout and its job. Returns the state of the rollout.';

-- Name: rollout_plan(jsonb); Type: FUNCTION

CREATE FUNCTION backfill.rollout_plan(spec jsonb) RETURNS TABLE(stage text, ordinal integer, statement text, lock text, effect text)
    LANGUAGE sql
    AS $$ select * from backfill._plan_rollout(rollout_plan.spec, backfill._caller_settings()) $$;

-- Name: FUNCTION rollout_plan(spec jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_plan(spec jsonb) IS 'Returns what a rollout would do: estimates, each statement with its lock, and warnings. Changes nothing.';

-- Name: rollout_recorded(bigint, uuid, bigint); Type: FUNCTION

CREATE FUNCTION backfill.rollout_recorded(rollout bigint, token uuid, statement bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  r record;
begin
  perform set_config('synchronous_commit', 'on', true);
  select x.started_by, x.run_as, x.relation, x.spec into r from backfill.rollout x join backfill.executor e on e.run_as = x.run_as
    where x.id = rollout_recorded.rollout and x.token = rollout_recorded.token and x.desired_state = 'running' and e.login = session_user for no key update of x;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: rollout %s is paused, or another daemon continues it', rollout);
  elsif not backfill._may_run_as(r.started_by, r.run_as) and not (select d.undo from backfill.rollout_statement d where d.id = rollout_recorded.statement) then
    raise exception using errcode = 'BF006', message = format('fenced: role "%s", which started rollout %s, is not a member of "%s" any more', r.started_by, rollout, r.run_as);
  end if;
  update backfill.rollout_statement d set done_at = clock_timestamp(), begun_at = coalesce(d.begun_at, clock_timestamp()), error = null
   where d.id = rollout_recorded.statement and d.rollout_id = rollout_recorded.rollout and d.done_at is null;
  if not found then
    raise exception using errcode = 'BF006', message = format('fenced: the statement of rollout %s has already been recorded', rollout);
  end if;
  update backfill.rollout x set attnum = (select a.attnum from pg_attribute a where a.attrelid = r.relation and a.attname = r.spec ->> 'column' and not a.attisdropped)
    from backfill.rollout_statement d where d.id = rollout_recorded.statement and d.stage = 'expanded' and d.ordinal = 1 and not d.undo and x.id = rollout_recorded.rollout;
end $$;

-- Name: FUNCTION rollout_recorded(rollout bigint, token uuid, statement bigint); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_recorded(rollout bigint, token uuid, statement bigint) IS 'Records a statement of a rollout, in the transaction of the statement. For daemons.';

-- Name: rollout_resume(text); Type: FUNCTION

CREATE FUNCTION backfill.rollout_resume(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._rollout_command('resume', rollout_resume.name, null) $$;

-- Name: FUNCTION rollout_resume(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_resume(name text) IS 'Continues a paused or failed rollout, and its job. Returns the state of the rollout.';

-- Name: rollout_rollback(text); Type: FUNCTION

CREATE FUNCTION backfill.rollout_rollback(name text) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._rollout_command('rollback', rollout_rollback.name, null) $$;

-- Name: FUNCTION rollout_rollback(name text); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_rollback(name text) IS 'Rolls a rollout back: cancels its job, and drops its constraints, its trigger and its column. Returns the state of the rollout.';

-- Name: rollout_start(jsonb); Type: FUNCTION

CREATE FUNCTION backfill.rollout_start(spec jsonb) RETURNS bigint
    LANGUAGE sql
    AS $$ select backfill._start_rollout(rollout_start.spec, backfill._caller_settings()) $$;

-- Name: FUNCTION rollout_start(spec jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_start(spec jsonb) IS 'Starts a rollout. Returns its id. A repeated call with the same spec returns the id of the existing rollout.';

-- Name: rollout_unlocking(bigint, oid, text); Type: FUNCTION

CREATE FUNCTION backfill.rollout_unlocking(statement bigint, relation oid, files text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if not exists (select from backfill.rollout_statement d join backfill.rollout r on r.id = d.rollout_id join backfill.executor e on e.run_as = r.run_as where d.id = rollout_unlocking.statement and e.login = session_user) then
    return;
  end if;
  if backfill._table_file(relation) is distinct from files then
    raise exception using errcode = 'BF001', message = 'the statement would rewrite the table', hint = 'Leave the default out, and fill the column with "using".';
  end if;
  update backfill.rollout_statement d set waited = d.locked_at - d.begun_at, held = clock_timestamp() - d.locked_at
   where d.id = rollout_unlocking.statement;
end $$;

-- Name: FUNCTION rollout_unlocking(statement bigint, relation oid, files text); Type: COMMENT

COMMENT ON FUNCTION backfill.rollout_unlocking(statement bigint, relation oid, files text) IS 'Notes how long a statement of a rollout has held its locks. Raises BF001 if the table was rewritten. For daemons.';

-- Name: same_triggers(oid, boolean); Type: FUNCTION

CREATE FUNCTION backfill.same_triggers(relation oid, suppressible boolean) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if backfill.suppressible(relation) <> suppressible then
    raise exception using errcode = '0A000', message = 'the triggers of the table have changed';
  end if;
  return true;
end $$;

-- Name: FUNCTION same_triggers(relation oid, suppressible boolean); Type: COMMENT

COMMENT ON FUNCTION backfill.same_triggers(relation oid, suppressible boolean) IS 'Raises 0A000 if suppressible(relation) no longer returns the given value. For daemons.';

-- Name: suppressible(oid); Type: FUNCTION

CREATE FUNCTION backfill.suppressible(relation oid) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  return exists (select from pg_trigger t where t.tgrelid = relation and t.tgenabled in ('O', 'A') and t.tgtype & 3 = 3 and t.tgtype & 24 <> 0);
end $$;

-- Name: FUNCTION suppressible(relation oid); Type: COMMENT

COMMENT ON FUNCTION backfill.suppressible(relation oid) IS 'Returns true if a BEFORE trigger of the table can suppress a change. For daemons.';

-- Name: tune(text, jsonb); Type: FUNCTION

CREATE FUNCTION backfill.tune(name text, options jsonb) RETURNS text
    LANGUAGE sql
    AS $$ select backfill._command('tune', tune.name, null, tune.options) $$;

-- Name: FUNCTION tune(name text, options jsonb); Type: COMMENT

COMMENT ON FUNCTION backfill.tune(name text, options jsonb) IS 'Changes options of a job, even while it is running. Returns the job''s state.';

-- Name: unchanged(oid, text, smallint[], smallint[], text); Type: FUNCTION

CREATE FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: FUNCTION unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text); Type: COMMENT

COMMENT ON FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) IS 'Raises BF001 unless the table, its columns and its key are as planned. For daemons.';

-- Name: unchanged(oid, text, smallint[], smallint[], text, oid, text); Type: FUNCTION

CREATE FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

-- Name: FUNCTION unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text); Type: COMMENT

COMMENT ON FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) IS 'Checks a partition or child in the same way as backfill.unchanged checks a table. For daemons.';

-- Name: wait(text, interval); Type: PROCEDURE

CREATE PROCEDURE backfill.wait(IN name text, IN timeout interval DEFAULT '1 day'::interval)
    LANGUAGE plpgsql
    AS $$
declare
  j pg_catalog.record;
  deadline pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) timeout;
  n integer := 0;
begin
  if pg_catalog.now() operator(pg_catalog.<>) pg_catalog.statement_timestamp() then
    raise exception using errcode = 'BF005', message = 'backfill.wait cannot run inside a transaction block',
      detail = 'The transaction''s snapshot would be held during the wait.', hint = 'Call backfill.wait outside a transaction block, or run the command backfilld wait NAME.';
  end if;
  loop
    if n operator(pg_catalog.%) 10 operator(pg_catalog.=) 0 then
      select v.state, v.error, v.percent_done, v.waiting_reason into j from backfill.jobs v where v.name operator(pg_catalog.=) wait.name;
      if not found then
        raise exception using errcode = 'BF003', message = pg_catalog.format('there is no job "%s"', wait.name), detail = 'Names are case-sensitive. Each database has its own jobs, and some jobs may not be visible to your role.', hint = 'List the jobs with: select name, state from backfill.jobs;';
      elsif j.state operator(pg_catalog.=) 'succeeded' then
        return;
      elsif j.state operator(pg_catalog.=) any (array['failed', 'cancelled']) then
        raise exception using errcode = 'BF004', message = pg_catalog.format('job "%s" has finished: %s', wait.name, j.state), detail = coalesce(j.error, 'It was cancelled.'), hint = backfill._next_step(wait.name, j.state, j.waiting_reason);
      elsif pg_catalog.clock_timestamp() operator(pg_catalog.>) deadline then
        raise exception using errcode = 'BF004', message = pg_catalog.format('job "%s" is not complete after %s: %s', wait.name, timeout, j.state),
          detail = pg_catalog.format('Progress: %s percent%s.', pg_catalog.round(j.percent_done::pg_catalog.numeric, 1), coalesce(', waiting: ' operator(pg_catalog.||) j.waiting_reason, '')), hint = backfill._next_step(wait.name, j.state, j.waiting_reason);
      end if;
    end if;
    n := n operator(pg_catalog.+) 1;
    commit;
    perform pg_catalog.pg_sleep(0.02);
    commit;
  end loop;
end $$;

-- Name: PROCEDURE wait(IN name text, IN timeout interval); Type: COMMENT

COMMENT ON PROCEDURE backfill.wait(IN name text, IN timeout interval) IS 'Waits until the job has succeeded. Raises BF004 if the job fails, is cancelled, or has not succeeded when the timeout ends.';

-- Name: _visible; Type: VIEW

CREATE VIEW backfill._visible WITH (security_barrier='true') AS
 SELECT j.id,
    j.name,
    j.kind,
    j.relation,
    j.target,
    j.set_sql,
    j.filter_sql,
    j.key,
    j.priority,
    j.run_at,
    j.run_as,
    j.run_as_asked,
    j.enqueued_by,
    j.needs_approval,
    j.approved_at,
    j.approved_by,
    j.options,
    j.settings,
    j.state,
    j.desired_state,
    j.state_reason,
    j.revision,
    j.run,
    j.generation,
    j.plan,
    j.planned_snapshot,
    j.rows_estimated,
    j.rows_scanned,
    j.rows_changed,
    j.rows_unresolved,
    j.rows_quarantined,
    j.error,
    j.hint,
    j.redacted,
    j.enqueued_at,
    j.queued_at,
    j.started_at,
    j.finished_at,
    j.verified_at,
    j.closed_until,
    j.pruned_at,
    j.compares
   FROM backfill.job j
  WHERE (( SELECT backfill._sees_all() AS _sees_all) OR (j.enqueued_by IN ( SELECT r.rolname
           FROM pg_roles r
          WHERE pg_has_role(r.oid, 'MEMBER'::text))));

-- Name: executor; Type: TABLE

CREATE TABLE backfill.executor (
    login name NOT NULL,
    run_as name NOT NULL,
    one_url boolean DEFAULT false NOT NULL,
    is_superuser boolean DEFAULT false NOT NULL,
    trusts_owners boolean DEFAULT false NOT NULL,
    registered_at timestamp with time zone DEFAULT now() NOT NULL
);

-- Name: _busy; Type: VIEW

CREATE VIEW backfill._busy AS
 SELECT ( SELECT concat_ws(', '::text, ( SELECT string_agg(format('"%s"'::text, v.name), ', '::text ORDER BY v.id) AS string_agg
                   FROM ( SELECT x.id,
                            x.name
                           FROM backfill._visible x
                          WHERE (x.id = ANY (o.jobs))
                          ORDER BY x.id
                         LIMIT 3) v),
                CASE
                    WHEN ((o.jobs IS NOT NULL) AND (cardinality(o.jobs) > ( SELECT count(*) AS count
                       FROM ( SELECT
                               FROM backfill._visible x
                              WHERE (x.id = ANY (o.jobs))
                             LIMIT 3) v))) THEN ((cardinality(o.jobs) - ( SELECT count(*) AS count
                       FROM ( SELECT
                               FROM backfill._visible x
                              WHERE (x.id = ANY (o.jobs))
                             LIMIT 3) v)) || ' other jobs'::text)
                    ELSE NULL::text
                END) AS concat_ws
           FROM ( SELECT array_agg(DISTINCT l.job_id) AS jobs
                   FROM backfill.lease l
                  WHERE (l.expires_at > clock_timestamp())) o
          WHERE (o.jobs IS NOT NULL)) AS jobs,
    ( SELECT format('a commit of backfilld waits for a synchronous standby (synchronous_standby_names is %L); start the standby, or change the setting'::text, current_setting('synchronous_standby_names'::text)) AS format
           FROM pg_stat_activity a
          WHERE ((a.application_name ~~ 'backfilld %'::text) AND (a.wait_event = 'SyncRep'::text) AND (a.state_change < (clock_timestamp() - '00:00:02'::interval)) AND ((a.usename IN ( SELECT e.login
                   FROM backfill.executor e)) OR (a.usename = ( SELECT pg_get_userbyid(n.nspowner) AS pg_get_userbyid
                   FROM pg_namespace n
                  WHERE (n.nspname = 'backfill'::name)))))
         LIMIT 1) AS commit;

-- Name: checkpoint; Type: TABLE

CREATE TABLE backfill.checkpoint (
    slice_id bigint NOT NULL,
    token uuid NOT NULL,
    done boolean DEFAULT false NOT NULL,
    "position" text[],
    rows_scanned bigint DEFAULT 0 NOT NULL,
    rows_changed bigint DEFAULT 0 NOT NULL,
    rows_unresolved bigint DEFAULT 0 NOT NULL,
    batches bigint DEFAULT 0 NOT NULL,
    moved_in xid8
)
WITH (fillfactor='20', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');

-- Name: deferred_row; Type: TABLE

CREATE TABLE backfill.deferred_row (
    id bigint NOT NULL,
    slice_id bigint NOT NULL,
    key text[] NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    first_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

-- Name: slice; Type: TABLE

CREATE TABLE backfill.slice (
    id bigint NOT NULL,
    job_id bigint NOT NULL,
    kind text NOT NULL,
    run integer DEFAULT 1 NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    ordinal integer DEFAULT 0 NOT NULL,
    relation oid,
    relation_name text,
    lower text[],
    upper text[],
    state text DEFAULT 'held'::text NOT NULL,
    run_as name NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    protocol integer DEFAULT 1 NOT NULL,
    not_before timestamp with time zone,
    waiting_reason text,
    waiting_text text,
    leaf jsonb,
    rows_estimated bigint,
    proof text,
    CONSTRAINT slice_kind_check CHECK ((kind = ANY (ARRAY['plan'::text, 'walk'::text, 'verify'::text]))),
    CONSTRAINT slice_state_check CHECK ((state = ANY (ARRAY['held'::text, 'ready'::text, 'leased'::text, 'done'::text, 'gone'::text])))
);

-- Name: switch; Type: TABLE

CREATE TABLE backfill.switch (
    only_row boolean DEFAULT true NOT NULL,
    paused_all boolean DEFAULT false NOT NULL,
    reason text,
    set_by name,
    set_at timestamp with time zone,
    CONSTRAINT switch_only_row_check CHECK (only_row)
);

-- Name: worker; Type: TABLE

CREATE TABLE backfill.worker (
    id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    run_as name[] NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ttl interval DEFAULT '00:00:06'::interval NOT NULL,
    closed_until timestamp with time zone,
    duty_cycle double precision,
    budget_duty_cycle double precision
);

-- Name: jobs; Type: VIEW

CREATE VIEW backfill.jobs WITH (security_barrier='true') AS
 SELECT j.id,
    j.name,
        CASE
            WHEN (j.compares IS NOT NULL) THEN 'compare'::text
            ELSE j.kind
        END AS kind,
    j.state,
    j.desired_state,
    w.reason AS waiting_reason,
        CASE w.reason
            WHEN 'approval'::text THEN format('a member of backfill_operator must approve the job: select backfill.approve(%L)'::text, j.name)
            WHEN 'run_at'::text THEN format('the job starts at %s; to start it earlier, cancel it, delete it with backfill.forget, and enqueue it again without run_at'::text, j.run_at)
            WHEN 'window'::text THEN COALESCE(format('the window of the job opens at %s; to change it: backfill.tune(%L, ''{"window": ...}'')'::text, j.closed_until, j.name), format('the window in the configuration of the daemon opens at %s'::text, ( SELECT min(x.closed_until) AS min
               FROM backfill.worker x
              WHERE (x.expires_at > clock_timestamp()))), l.waiting_text)
            WHEN 'paused_all'::text THEN 'all jobs are paused; a member of backfill_operator can resume them: select backfill.resume_all()'::text
            WHEN 'daemon'::text THEN 'no daemon is running on this database; start one: backfilld run'::text
            WHEN 'executor'::text THEN format('no running daemon runs jobs as role "%s"; add an executor for this role to the configuration of a daemon'::text, j.run_as)
            WHEN 'worker'::text THEN format('no worker is free; running now: %s. To start this job earlier, pause one of them, or raise "workers" in the configuration of the daemon'::text, ( SELECT y.jobs
               FROM backfill._busy y))
            WHEN 'commit'::text THEN ( SELECT y.commit
               FROM backfill._busy y)
            WHEN 'locked_rows'::text THEN COALESCE(l.waiting_text, t.text, format('the walk is complete, except for rows that other sessions have locked; the job changes them when these transactions end. Sessions that use the table: %s'::text, COALESCE(( SELECT string_agg(format('process %s of role %s'::text, y.pid, y.usename), ', '::text ORDER BY y.pid) AS string_agg
               FROM ( SELECT DISTINCT b.pid,
                        b.usename
                       FROM (pg_locks k
                         JOIN pg_stat_activity b ON ((b.pid = k.pid)))
                      WHERE ((k.locktype = 'relation'::text) AND k.granted AND (k.database = ( SELECT d.oid
                               FROM pg_database d
                              WHERE (d.datname = current_database()))) AND (k.mode = ANY (ARRAY['RowShareLock'::text, 'RowExclusiveLock'::text])) AND (COALESCE(b.application_name, ''::text) !~~ 'backfilld %'::text) AND (k.relation IN ( SELECT COALESCE(s.relation, j.relation) AS "coalesce"
                               FROM backfill.slice s
                              WHERE ((s.job_id = j.id) AND (s.run = j.run) AND (s.kind = 'walk'::text) AND (s.state <> ALL (ARRAY['done'::text, 'gone'::text]))))))
                     LIMIT 3) y), 'none at this moment'::text)))
            ELSE COALESCE(l.waiting_text, t.text)
        END AS waiting_text,
    j.target,
    j.run_as,
    j.enqueued_by,
    COALESCE(j.rows_scanned, p.scanned, (0)::bigint) AS rows_scanned,
    COALESCE(j.rows_changed, p.changed, (0)::bigint) AS rows_changed,
    COALESCE(p.unresolved, (0)::bigint) AS rows_unresolved,
    j.rows_quarantined,
    j.rows_estimated,
        CASE
            WHEN ((p.slices > 0) AND (p.slices = p.finished)) THEN (100.0)::double precision
            WHEN (j.rows_estimated > 0) THEN LEAST((99.9)::double precision, (((100.0 * (COALESCE(p.scanned, (0)::bigint))::numeric) / (j.rows_estimated)::numeric))::double precision)
            ELSE (0.0)::double precision
        END AS percent_done,
    l.rows_per_second,
        CASE
            WHEN ((j.rows_estimated > 0) AND (e.rows_left < (e.rate * ('300000000'::numeric)::double precision))) THEN (clock_timestamp() + make_interval(secs => (e.rows_left / e.rate)))
            ELSE NULL::timestamp with time zone
        END AS eta,
    ((j.options ->> 'deadline'::text))::timestamp with time zone AS deadline,
    j.error,
    j.hint,
    j.enqueued_at,
    j.started_at,
    j.finished_at,
    j.verified_at,
    j.set_sql AS set,
    j.filter_sql AS filter,
    j.options,
    j.priority,
    j.run_at,
    j.state_reason AS reason,
        CASE
            WHEN (w.reason IS NULL) THEN l.throttled_by
            ELSE NULL::text
        END AS throttled_by,
        CASE
            WHEN (w.reason IS NULL) THEN l.throttled_text
            ELSE NULL::text
        END AS throttled_text,
    l.time_share
   FROM ((((((backfill._visible j
     LEFT JOIN LATERAL ( SELECT count(*) FILTER (WHERE (s.generation = 1)) AS slices,
            count(*) FILTER (WHERE ((s.generation = 1) AND (s.state = ANY (ARRAY['done'::text, 'gone'::text])))) AS finished,
            (sum(c.rows_scanned) FILTER (WHERE (s.generation = 1)))::bigint AS scanned,
            (sum(c.rows_changed))::bigint AS changed,
            (sum(c.rows_unresolved))::bigint AS unresolved
           FROM (backfill.slice s
             JOIN backfill.checkpoint c ON ((c.slice_id = s.id)))
          WHERE ((s.job_id = j.id) AND (s.run = j.run) AND (s.kind = 'walk'::text) AND (j.plan IS NOT NULL))) p ON (true))
     LEFT JOIN LATERAL ( SELECT count(*) AS live,
            sum(x.rows_per_second) AS rows_per_second,
            (avg(x.steady_rows_per_second) * (count(*))::double precision) AS steady_rows_per_second,
                CASE
                    WHEN (count(*) = count(x.waiting_reason)) THEN min(x.waiting_reason)
                    ELSE NULL::text
                END AS reason,
                CASE
                    WHEN (count(*) = count(x.waiting_reason)) THEN min(x.waiting_text)
                    ELSE NULL::text
                END AS waiting_text,
            min(x.throttled_by) AS throttled_by,
            min(x.throttled_text) AS throttled_text,
            avg(x.time_share) AS time_share
           FROM backfill.lease x
          WHERE ((x.job_id = j.id) AND (x.expires_at > clock_timestamp()))) l ON (true))
     LEFT JOIN LATERAL ( SELECT min(s.waiting_reason) AS reason,
            min(s.waiting_text) AS text
           FROM backfill.slice s
          WHERE ((s.job_id = j.id) AND (s.run = j.run) AND (s.state = ANY (ARRAY['ready'::text, 'held'::text])) AND (s.waiting_reason IS NOT NULL))) t ON (true))
     LEFT JOIN LATERAL ( SELECT bool_and((c.done AND (EXISTS ( SELECT
                   FROM backfill.deferred_row y
                  WHERE (y.slice_id = s.id))))) AS waits
           FROM (backfill.slice s
             JOIN backfill.checkpoint c ON ((c.slice_id = s.id)))
          WHERE ((s.job_id = j.id) AND (s.run = j.run) AND (s.kind = 'walk'::text) AND (s.state <> ALL (ARRAY['done'::text, 'gone'::text])) AND (j.state = 'running'::text))) a ON (true))
     LEFT JOIN LATERAL ( SELECT GREATEST((0)::double precision, ((j.rows_estimated)::double precision - d.scanned)) AS rows_left,
            COALESCE(l.steady_rows_per_second,
                CASE
                    WHEN ((l.rows_per_second > (0)::double precision) AND (d.seconds > (5)::double precision)) THEN (d.scanned / d.seconds)
                    ELSE NULL::double precision
                END) AS rate
           FROM ( SELECT (COALESCE(sum(c.rows_scanned), (0)::numeric))::double precision AS scanned,
                    (EXTRACT(epoch FROM (clock_timestamp() - min(s.started_at))))::double precision AS seconds
                   FROM (backfill.slice s
                     JOIN backfill.checkpoint c ON ((c.slice_id = s.id)))
                  WHERE ((s.job_id = j.id) AND (s.run = j.run) AND
                        CASE j.state
                            WHEN 'running'::text THEN ((s.kind = 'walk'::text) AND (s.generation = 1))
                            WHEN 'verifying'::text THEN ((s.kind = 'verify'::text) AND (s.generation = j.generation))
                            ELSE NULL::boolean
                        END)) d) e ON (true))
     LEFT JOIN LATERAL ( SELECT
                CASE
                    WHEN (j.state = 'paused'::text) THEN NULL::text
                    WHEN (j.needs_approval AND (j.approved_at IS NULL)) THEN 'approval'::text
                    WHEN ((j.state = 'queued'::text) AND (j.run_at > clock_timestamp())) THEN 'run_at'::text
                    WHEN (j.closed_until > clock_timestamp()) THEN 'window'::text
                    WHEN ( SELECT s.paused_all
                       FROM backfill.switch s) THEN 'paused_all'::text
                    WHEN (l.reason IS NOT NULL) THEN l.reason
                    WHEN ((j.state = 'running'::text) AND a.waits) THEN 'locked_rows'::text
                    WHEN ((l.live > 0) AND (l.rows_per_second > (0)::double precision)) THEN NULL::text
                    WHEN (NOT (EXISTS ( SELECT
                       FROM backfill.worker x
                      WHERE (x.expires_at > clock_timestamp())))) THEN 'daemon'::text
                    WHEN ( SELECT (y.commit IS NOT NULL)
                       FROM backfill._busy y) THEN 'commit'::text
                    WHEN (l.live > 0) THEN NULL::text
                    WHEN (NOT (EXISTS ( SELECT
                       FROM backfill.worker x
                      WHERE ((x.expires_at > clock_timestamp()) AND (j.run_as = ANY (x.run_as)))))) THEN 'executor'::text
                    WHEN (NOT (EXISTS ( SELECT
                       FROM backfill.worker x
                      WHERE ((x.expires_at > clock_timestamp()) AND (j.run_as = ANY (x.run_as)) AND ((x.closed_until IS NULL) OR (x.closed_until <= clock_timestamp())))))) THEN 'window'::text
                    WHEN (t.reason IS NOT NULL) THEN t.reason
                    WHEN ( SELECT (y.jobs IS NOT NULL)
                       FROM backfill._busy y) THEN 'worker'::text
                    ELSE NULL::text
                END AS reason) w ON (true))
  WHERE (j.state = ANY (ARRAY['queued'::text, 'running'::text, 'paused'::text, 'verifying'::text]))
UNION ALL
 SELECT j.id,
    j.name,
        CASE
            WHEN (j.compares IS NOT NULL) THEN 'compare'::text
            ELSE j.kind
        END AS kind,
    j.state,
    j.desired_state,
    NULL::text AS waiting_reason,
    NULL::text AS waiting_text,
    j.target,
    j.run_as,
    j.enqueued_by,
    COALESCE(j.rows_scanned, (0)::bigint) AS rows_scanned,
    COALESCE(j.rows_changed, (0)::bigint) AS rows_changed,
    j.rows_unresolved,
    j.rows_quarantined,
    j.rows_estimated,
        CASE
            WHEN (j.state = 'succeeded'::text) THEN (100.0)::double precision
            WHEN (j.rows_estimated > 0) THEN LEAST((99.9)::double precision, (((100.0 * (COALESCE(j.rows_scanned, (0)::bigint))::numeric) / (j.rows_estimated)::numeric))::double precision)
            ELSE (0.0)::double precision
        END AS percent_done,
    NULL::double precision AS rows_per_second,
    NULL::timestamp with time zone AS eta,
    ((j.options ->> 'deadline'::text))::timestamp with time zone AS deadline,
    j.error,
    COALESCE(j.hint,
        CASE
            WHEN ((j.state = 'succeeded'::text) AND (j.rows_unresolved > 0)) THEN format('%s row%s still match%s the filter after the update. Each was updated once; the filter cannot distinguish updated rows from other rows. Inspect: select * from %s where (%s) limit 20;'::text, j.rows_unresolved,
            CASE
                WHEN (j.rows_unresolved <> 1) THEN 's'::text
                ELSE NULL::text
            END,
            CASE
                WHEN (j.rows_unresolved = 1) THEN 'es'::text
                ELSE NULL::text
            END, j.target, j.filter_sql)
            ELSE NULL::text
        END) AS hint,
    j.enqueued_at,
    j.started_at,
    j.finished_at,
    j.verified_at,
    j.set_sql AS set,
    j.filter_sql AS filter,
    j.options,
    j.priority,
    j.run_at,
    j.state_reason AS reason,
    NULL::text AS throttled_by,
    NULL::text AS throttled_text,
    NULL::double precision AS time_share
   FROM backfill._visible j
  WHERE (j.state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text]));

-- Name: VIEW jobs; Type: COMMENT

COMMENT ON VIEW backfill.jobs IS 'One row per job: its state, why it waits, its progress, rate, error and hint.';

-- Name: COLUMN jobs.id; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.id IS 'Numeric id of the job.';

-- Name: COLUMN jobs.name; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.name IS 'Name of the job, unique.';

-- Name: COLUMN jobs.kind; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.kind IS 'update, delete or compare (a job of a rollout that changes no rows).';

-- Name: COLUMN jobs.state; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.state IS 'queued, running, paused, verifying, succeeded, failed or cancelled.';

-- Name: COLUMN jobs.desired_state; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.desired_state IS 'The requested state: running, paused or cancelled. It takes effect after the batch in flight.';

-- Name: COLUMN jobs.waiting_reason; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.waiting_reason IS 'Reason why no batch runs; null while rows move, and if the job is paused or finished.';

-- Name: COLUMN jobs.waiting_text; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.waiting_text IS 'Explanation of waiting_reason, for example with the measured values; null for a reason that needs none, such as approval.';

-- Name: COLUMN jobs.target; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.target IS 'Table that the job changes.';

-- Name: COLUMN jobs.run_as; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.run_as IS 'Role that the job runs as.';

-- Name: COLUMN jobs.enqueued_by; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.enqueued_by IS 'Role that enqueued the job.';

-- Name: COLUMN jobs.rows_scanned; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_scanned IS 'Rows processed by the walk, changed or not. Rows that a sweep processes again do not count.';

-- Name: COLUMN jobs.rows_changed; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_changed IS 'Rows that the walk and its sweeps have changed or deleted.';

-- Name: COLUMN jobs.rows_unresolved; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_unresolved IS 'Rows that still matched the filter right after the job had updated them.';

-- Name: COLUMN jobs.rows_quarantined; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_quarantined IS 'Rows that are quarantined, because they could not be changed; see row_errors.';

-- Name: COLUMN jobs.rows_estimated; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_estimated IS 'Estimated number of rows of the table at planning, plus the rows of partitions and children that were attached later; null if the job has not been planned.';

-- Name: COLUMN jobs.percent_done; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.percent_done IS 'Progress of the walk, 0 to 100.';

-- Name: COLUMN jobs.rows_per_second; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.rows_per_second IS 'Rows processed per second now, over all slices; null while no worker reports a rate.';

-- Name: COLUMN jobs.eta; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.eta IS 'Time at which the walk or, in state verifying, the verification is expected to finish; null in other states, or if the time cannot be estimated.';

-- Name: COLUMN jobs.deadline; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.deadline IS 'Deadline of the job (option deadline); null if it has none.';

-- Name: COLUMN jobs.error; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.error IS 'Error that made the job fail; null if it has not failed.';

-- Name: COLUMN jobs.hint; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.hint IS 'Hint that says how to fix the error. For a job that succeeded with rows_unresolved above 0, it says how to inspect these rows.';

-- Name: COLUMN jobs.enqueued_at; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.enqueued_at IS 'Time at which the job was enqueued.';

-- Name: COLUMN jobs.started_at; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.started_at IS 'Time at which a worker first claimed the job in its current run; null if no worker has claimed it.';

-- Name: COLUMN jobs.finished_at; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.finished_at IS 'Time at which the job succeeded, failed or was cancelled; null if it has not finished.';

-- Name: COLUMN jobs.verified_at; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.verified_at IS 'Time at which the job was verified; null if it has not been verified.';

-- Name: COLUMN jobs.set; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.set IS 'SQL assignments of the job; null if it deletes rows.';

-- Name: COLUMN jobs.filter; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.filter IS 'SQL condition that selects the rows; null if the job changes every row.';

-- Name: COLUMN jobs.options; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.options IS 'Options of the job.';

-- Name: COLUMN jobs.priority; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.priority IS 'Priority of the job; jobs with lower values are claimed first.';

-- Name: COLUMN jobs.run_at; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.run_at IS 'Time before which no worker claims the job.';

-- Name: COLUMN jobs.reason; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.reason IS 'Reason given with pause or cancel; null if none was given.';

-- Name: COLUMN jobs.throttled_by; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.throttled_by IS 'What slows the job down: replica_lag, lock_waits, load, signal or rate; null while the job is held or runs at full speed.';

-- Name: COLUMN jobs.throttled_text; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.throttled_text IS 'A sentence that explains throttled_by.';

-- Name: COLUMN jobs.time_share; Type: COMMENT

COMMENT ON COLUMN backfill.jobs.time_share IS 'Share of the last few seconds during which batches of the job ran, 0 to 1; null while no worker holds a slice.';

-- Name: _gauges; Type: VIEW

CREATE VIEW backfill._gauges AS
 SELECT j.name,
    j.state,
    j.waiting_reason,
    (j.percent_done / (100)::double precision) AS progress,
    ((j.rows_estimated - j.rows_scanned))::double precision AS remaining_rows,
    (EXTRACT(epoch FROM j.eta))::double precision AS eta,
        CASE
            WHEN (j.finished_at IS NULL) THEN (EXTRACT(epoch FROM j.deadline))::double precision
            ELSE NULL::double precision
        END AS deadline,
    COALESCE(j.rows_scanned, (0)::bigint) AS rows_scanned,
    ( SELECT (COALESCE(sum((c.rows_scanned + c.rows_changed)), (0)::numeric))::bigint AS "coalesce"
           FROM ((backfill.slice s
             JOIN backfill.checkpoint c ON ((c.slice_id = s.id)))
             JOIN backfill.job b ON (((b.id = s.job_id) AND (b.run = s.run))))
          WHERE (s.job_id = j.id)) AS work
   FROM ( SELECT jobs.id,
            jobs.name,
            jobs.kind,
            jobs.state,
            jobs.desired_state,
            jobs.waiting_reason,
            jobs.waiting_text,
            jobs.target,
            jobs.run_as,
            jobs.enqueued_by,
            jobs.rows_scanned,
            jobs.rows_changed,
            jobs.rows_unresolved,
            jobs.rows_quarantined,
            jobs.rows_estimated,
            jobs.percent_done,
            jobs.rows_per_second,
            jobs.eta,
            jobs.deadline,
            jobs.error,
            jobs.hint,
            jobs.enqueued_at,
            jobs.started_at,
            jobs.finished_at,
            jobs.verified_at,
            jobs.set,
            jobs.filter,
            jobs.options,
            jobs.priority,
            jobs.run_at,
            jobs.reason,
            jobs.throttled_by,
            jobs.throttled_text,
            jobs.time_share
           FROM backfill.jobs
          WHERE (jobs.state = ANY (ARRAY['running'::text, 'verifying'::text, 'paused'::text]))
        UNION ALL
         SELECT jobs.id,
            jobs.name,
            jobs.kind,
            jobs.state,
            jobs.desired_state,
            jobs.waiting_reason,
            jobs.waiting_text,
            jobs.target,
            jobs.run_as,
            jobs.enqueued_by,
            jobs.rows_scanned,
            jobs.rows_changed,
            jobs.rows_unresolved,
            jobs.rows_quarantined,
            jobs.rows_estimated,
            jobs.percent_done,
            jobs.rows_per_second,
            jobs.eta,
            jobs.deadline,
            jobs.error,
            jobs.hint,
            jobs.enqueued_at,
            jobs.started_at,
            jobs.finished_at,
            jobs.verified_at,
            jobs.set,
            jobs.filter,
            jobs.options,
            jobs.priority,
            jobs.run_at,
            jobs.reason,
            jobs.throttled_by,
            jobs.throttled_text,
            jobs.time_share
           FROM backfill.jobs
          WHERE ((jobs.id = ANY (ARRAY( SELECT q.id
                   FROM backfill.job q
                  WHERE (q.state = 'queued'::text)
                  ORDER BY q.priority, q.id
                 LIMIT 50))) AND (jobs.state = 'queued'::text))
        UNION ALL
         SELECT jobs.id,
            jobs.name,
            jobs.kind,
            jobs.state,
            jobs.desired_state,
            jobs.waiting_reason,
            jobs.waiting_text,
            jobs.target,
            jobs.run_as,
            jobs.enqueued_by,
            jobs.rows_scanned,
            jobs.rows_changed,
            jobs.rows_unresolved,
            jobs.rows_quarantined,
            jobs.rows_estimated,
            jobs.percent_done,
            jobs.rows_per_second,
            jobs.eta,
            jobs.deadline,
            jobs.error,
            jobs.hint,
            jobs.enqueued_at,
            jobs.started_at,
            jobs.finished_at,
            jobs.verified_at,
            jobs.set,
            jobs.filter,
            jobs.options,
            jobs.priority,
            jobs.run_at,
            jobs.reason,
            jobs.throttled_by,
            jobs.throttled_text,
            jobs.time_share
           FROM backfill.jobs
          WHERE ((jobs.state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text])) AND (jobs.finished_at > (now() - '00:15:00'::interval)) AND ((jobs.state = 'failed'::text) OR (jobs.finished_at > (now() - '00:02:00'::interval))))) j
  ORDER BY (j.state = ANY (ARRAY['running'::text, 'verifying'::text])) DESC, (j.state = 'failed'::text) DESC, (j.finished_at IS NOT NULL), j.priority, j.id
 LIMIT 1000;

-- Name: _queue; Type: VIEW

CREATE VIEW backfill._queue AS
 SELECT j.state,
    count(*) AS jobs
   FROM backfill.job j
  WHERE (j.state = ANY (ARRAY['queued'::text, 'running'::text, 'verifying'::text, 'paused'::text]))
  GROUP BY j.state
UNION ALL
 SELECT j.state,
    count(*) AS jobs
   FROM backfill.job j
  WHERE (j.state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text]))
  GROUP BY j.state;

-- Name: _visible_rollouts; Type: VIEW

CREATE VIEW backfill._visible_rollouts WITH (security_barrier='true') AS
 SELECT r.id,
    r.name,
    r.kind,
    r.relation,
    r.target,
    r.spec,
    r.settings,
    r.run_as,
    r.started_by,
    r.until,
    r.confirmed,
    r.stage,
    r.state,
    r.desired_state,
    r.state_reason,
    r.backwards,
    r.since,
    r.started_at,
    r.finished_at,
    r.waiting_reason,
    r.waiting_text,
    r.error,
    r.hint,
    r.pending_error,
    r.pending_hint,
    r.pending_statement,
    r.job_id,
    r.attnum,
    r.fingerprint,
    r.holder,
    r.token,
    r.expires_at,
    r.backend_pid,
    r.backend_start,
    r.due_at
   FROM backfill.rollout r
  WHERE (( SELECT backfill._sees_all() AS _sees_all) OR (r.started_by IN ( SELECT x.rolname
           FROM pg_roles x
          WHERE pg_has_role(x.oid, 'MEMBER'::text))));

-- Name: command; Type: TABLE

CREATE TABLE backfill.command (
    verb text NOT NULL,
    job_name text,
    reason text,
    options jsonb,
    actor name DEFAULT CURRENT_USER NOT NULL
);

-- Name: deferred_row_id_seq; Type: SEQUENCE

ALTER TABLE backfill.deferred_row ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.deferred_row_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: event; Type: TABLE

CREATE TABLE backfill.event (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    job_id bigint,
    kind text NOT NULL,
    actor name DEFAULT SESSION_USER NOT NULL,
    message text NOT NULL,
    redacted text,
    detail jsonb,
    name text,
    enqueued_by name
);

-- Name: event_id_seq; Type: SEQUENCE

ALTER TABLE backfill.event ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: events; Type: VIEW

CREATE VIEW backfill.events WITH (security_barrier='true') AS
 SELECT e.at,
    e.job_id,
    e.name,
    e.kind,
    e.actor,
    e.message,
    e.detail
   FROM backfill.event e
  WHERE (( SELECT backfill._sees_all() AS _sees_all) OR (e.enqueued_by IN ( SELECT r.rolname
           FROM pg_roles r
          WHERE pg_has_role(r.oid, 'MEMBER'::text))))
  ORDER BY e.at DESC, e.id DESC;

-- Name: VIEW events; Type: COMMENT

COMMENT ON VIEW backfill.events IS 'Events, newest first. The latest 100 events of each kind are kept for each job, and the latest 1000 of each kind for events without a job.';

-- Name: COLUMN events.at; Type: COMMENT

COMMENT ON COLUMN backfill.events.at IS 'Time of the event.';

-- Name: COLUMN events.job_id; Type: COMMENT

COMMENT ON COLUMN backfill.events.job_id IS 'Numeric id of the job; null if the event does not belong to a job.';

-- Name: COLUMN events.name; Type: COMMENT

COMMENT ON COLUMN backfill.events.name IS 'Name of the job; null if the event does not belong to a job.';

-- Name: COLUMN events.kind; Type: COMMENT

COMMENT ON COLUMN backfill.events.kind IS 'Kind of event.';

-- Name: COLUMN events.actor; Type: COMMENT

COMMENT ON COLUMN backfill.events.actor IS 'Role that caused the event.';

-- Name: COLUMN events.message; Type: COMMENT

COMMENT ON COLUMN backfill.events.message IS 'Description of the event.';

-- Name: COLUMN events.detail; Type: COMMENT

COMMENT ON COLUMN backfill.events.detail IS 'Details of the event, as JSON; null if there are none.';

-- Name: forgotten_job; Type: TABLE

CREATE TABLE backfill.forgotten_job (
    enqueued_by name NOT NULL,
    enqueued_at timestamp with time zone NOT NULL
);

-- Name: job_id_seq; Type: SEQUENCE

ALTER TABLE backfill.job ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.job_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: quota; Type: TABLE

CREATE TABLE backfill.quota (
    only_row boolean DEFAULT true NOT NULL,
    live_jobs integer DEFAULT 10000 NOT NULL,
    jobs_per_minute integer DEFAULT 600 NOT NULL,
    max_row_errors integer DEFAULT 10000 NOT NULL,
    CONSTRAINT quota_jobs_per_minute_check CHECK ((jobs_per_minute >= 0)),
    CONSTRAINT quota_live_jobs_check CHECK ((live_jobs >= 0)),
    CONSTRAINT quota_max_row_errors_check CHECK ((max_row_errors >= 0)),
    CONSTRAINT quota_only_row_check CHECK (only_row)
);

-- Name: TABLE quota; Type: COMMENT

COMMENT ON TABLE backfill.quota IS 'Limits for each role that is not an operator. The table has one row. Operators may update it.';

-- Name: COLUMN quota.only_row; Type: COMMENT

COMMENT ON COLUMN backfill.quota.only_row IS 'Always true, because the table has one row.';

-- Name: COLUMN quota.live_jobs; Type: COMMENT

COMMENT ON COLUMN backfill.quota.live_jobs IS 'Maximum number of unfinished jobs of one role.';

-- Name: COLUMN quota.jobs_per_minute; Type: COMMENT

COMMENT ON COLUMN backfill.quota.jobs_per_minute IS 'Maximum number of jobs that one role may enqueue in a minute.';

-- Name: COLUMN quota.max_row_errors; Type: COMMENT

COMMENT ON COLUMN backfill.quota.max_row_errors IS 'The largest value of the option max_row_errors that a role may set for a job.';

-- Name: rollout_command; Type: TABLE

CREATE TABLE backfill.rollout_command (
    verb text NOT NULL,
    rollout_name text NOT NULL,
    reason text,
    actor name DEFAULT CURRENT_USER NOT NULL
);

-- Name: rollout_id_seq; Type: SEQUENCE

ALTER TABLE backfill.rollout ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.rollout_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: rollout_statement_id_seq; Type: SEQUENCE

ALTER TABLE backfill.rollout_statement ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.rollout_statement_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: rollout_statements; Type: VIEW

CREATE VIEW backfill.rollout_statements WITH (security_barrier='true') AS
 SELECT r.name,
    d.stage,
    d.sql,
    d.lock,
    d.started_at,
    d.waited,
    d.held,
    d.attempts,
    d.error,
    d.undo,
    d.done_at,
    d.committed
   FROM (backfill._visible_rollouts r
     JOIN backfill.rollout_statement d ON ((d.rollout_id = r.id)))
  ORDER BY d.id;

-- Name: VIEW rollout_statements; Type: COMMENT

COMMENT ON VIEW backfill.rollout_statements IS 'The statements that rollouts have begun.';

-- Name: COLUMN rollout_statements.name; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.name IS 'Name of the rollout.';

-- Name: COLUMN rollout_statements.stage; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.stage IS 'The stage to which the statement belongs.';

-- Name: COLUMN rollout_statements.sql; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.sql IS 'The statement.';

-- Name: COLUMN rollout_statements.lock; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.lock IS 'The strongest lock on a table that the statement needs.';

-- Name: COLUMN rollout_statements.started_at; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.started_at IS 'Time of the first attempt.';

-- Name: COLUMN rollout_statements.waited; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.waited IS 'How long the last attempt waited for the lock that blocks the application.';

-- Name: COLUMN rollout_statements.held; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.held IS 'How long the statement held its locks, until its commit began.';

-- Name: COLUMN rollout_statements.attempts; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.attempts IS 'Number of attempts so far.';

-- Name: COLUMN rollout_statements.error; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.error IS 'Error of the last attempt; null if it succeeded.';

-- Name: COLUMN rollout_statements.undo; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.undo IS 'True if the statement undoes an earlier one.';

-- Name: COLUMN rollout_statements.done_at; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.done_at IS 'Time at which the statement was complete; null if it is not.';

-- Name: COLUMN rollout_statements.committed; Type: COMMENT

COMMENT ON COLUMN backfill.rollout_statements.committed IS 'How long the commit took, until the daemon had the answer. The locks are held until the commit, also while it waits for a synchronous standby.';

-- Name: row_error; Type: TABLE

CREATE TABLE backfill.row_error (
    job_id bigint NOT NULL,
    relation text NOT NULL,
    key jsonb NOT NULL,
    sqlstate text NOT NULL,
    message text NOT NULL,
    attempts integer DEFAULT 1 NOT NULL,
    first_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resolved_at timestamp with time zone,
    slice_id bigint,
    "position" text[]
);

-- Name: rollouts; Type: VIEW

CREATE VIEW backfill.rollouts WITH (security_barrier='true') AS
 SELECT r.id,
    r.name,
    r.kind,
    r.target AS table_name,
    r.stage,
    r.state,
    r.desired_state,
    w.reason AS waiting_reason,
        CASE w.reason
            WHEN 'paused_all'::text THEN 'all jobs and rollouts are paused; a member of backfill_operator can resume them: select backfill.resume_all()'::text
            WHEN 'daemon'::text THEN 'no daemon is running on this database; start one: backfilld run'::text
            WHEN 'executor'::text THEN format('no running daemon runs statements as role "%s"; add an executor for this role to the configuration of a daemon'::text, r.run_as)
            WHEN 'worker'::text THEN (('the daemons carry out other rollouts: '::text || COALESCE(( SELECT string_agg(format('"%s"'::text, x.name), ', '::text ORDER BY x.id) AS string_agg
               FROM ( SELECT o.id,
                        o.name
                       FROM backfill._visible_rollouts o
                      WHERE (o.expires_at > clock_timestamp())
                      ORDER BY o.id
                     LIMIT 3) x), 'those of other roles'::text)) || '. A daemon carries out three rollouts at a time, and at most two of the same role'::text)
            WHEN 'job'::text THEN COALESCE(( SELECT format('job "%s" is %s%s%s'::text, j.name, j.state, ((', '::text || round((j.percent_done)::numeric, 1)) || ' %'::text), (', waiting: '::text || j.waiting_text)) AS format
               FROM backfill.jobs j
              WHERE ((j.id = r.job_id) AND (j.finished_at IS NULL))), r.waiting_text)
            ELSE
            CASE
                WHEN (w.reason IS NOT NULL) THEN r.waiting_text
                ELSE NULL::text
            END
        END AS waiting_text,
    r.since,
    ( SELECT j.name
           FROM backfill._visible j
          WHERE (j.id = r.job_id)) AS job,
    r.error,
    r.hint,
    r.until,
    r.started_by,
    r.run_as,
    r.state_reason AS reason,
    r.started_at,
    r.finished_at,
        CASE
            WHEN (((r.spec ->> 'on_error'::text) = 'null'::text) AND (r.job_id IS NOT NULL)) THEN ( SELECT count(*) AS count
               FROM backfill.row_error e
              WHERE ((e.job_id = r.job_id) AND (e.resolved_at IS NULL)))
            ELSE NULL::bigint
        END AS rows_unverified
   FROM (backfill._visible_rollouts r
     LEFT JOIN LATERAL ( SELECT
                CASE
                    WHEN ((r.state <> ALL (ARRAY['running'::text, 'waiting'::text, 'rolling_back'::text])) OR (r.desired_state = 'paused'::text)) THEN NULL::text
                    WHEN (r.state = 'waiting'::text) THEN r.waiting_reason
                    WHEN ( SELECT s.paused_all
                       FROM backfill.switch s) THEN 'paused_all'::text
                    WHEN (NOT (EXISTS ( SELECT
                       FROM backfill.worker x
                      WHERE (x.expires_at > clock_timestamp())))) THEN 'daemon'::text
                    WHEN (NOT (EXISTS ( SELECT
                       FROM backfill.worker x
                      WHERE ((x.expires_at > clock_timestamp()) AND (r.run_as = ANY (x.run_as)))))) THEN 'executor'::text
                    WHEN ((r.token IS NULL) AND (r.due_at < (clock_timestamp() - '00:00:03'::interval))) THEN 'worker'::text
                    ELSE r.waiting_reason
                END AS reason) w ON (true));

-- Name: VIEW rollouts; Type: COMMENT

COMMENT ON VIEW backfill.rollouts IS 'The rollouts that the current role may see.';

-- Name: COLUMN rollouts.id; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.id IS 'Number of the rollout; its jobs have it at the end of their names.';

-- Name: COLUMN rollouts.name; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.name IS 'Name of the rollout.';

-- Name: COLUMN rollouts.kind; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.kind IS 'add_column.';

-- Name: COLUMN rollouts.table_name; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.table_name IS 'Schema and name of the table.';

-- Name: COLUMN rollouts.stage; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.stage IS 'The last stage that is complete: planned, expanded, syncing, backfilled, verified, constrained, switched or contracted.';

-- Name: COLUMN rollouts.state; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.state IS 'running, waiting (for backfill.rollout_advance), failed, rolling_back, rolled_back or done.';

-- Name: COLUMN rollouts.desired_state; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.desired_state IS 'running or paused.';

-- Name: COLUMN rollouts.waiting_reason; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.waiting_reason IS 'What the rollout waits for: advance, job, lock, worker, daemon, executor or paused_all; null while a statement runs.';

-- Name: COLUMN rollouts.waiting_text; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.waiting_text IS 'What the rollout waits for, and what an operator can do.';

-- Name: COLUMN rollouts.since; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.since IS 'Time at which the stage was reached.';

-- Name: COLUMN rollouts.job; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.job IS 'The job that works for the next stage.';

-- Name: COLUMN rollouts.error; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.error IS 'Error that made the rollout fail; after a rollback, a note if the schema of the table differs from the schema before the rollout.';

-- Name: COLUMN rollouts.hint; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.hint IS 'What to do about the error.';

-- Name: COLUMN rollouts.until; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.until IS 'The last stage that the daemons reach without backfill.rollout_advance.';

-- Name: COLUMN rollouts.started_by; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.started_by IS 'Role that started the rollout.';

-- Name: COLUMN rollouts.run_as; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.run_as IS 'Role that runs the statements: the owner of the table.';

-- Name: COLUMN rollouts.reason; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.reason IS 'Reason given with backfill.rollout_pause.';

-- Name: COLUMN rollouts.started_at; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.started_at IS 'Time at which the rollout was started.';

-- Name: COLUMN rollouts.finished_at; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.finished_at IS 'Time at which the rollout was done or rolled back; null if it is unfinished.';

-- Name: COLUMN rollouts.rows_unverified; Type: COMMENT

COMMENT ON COLUMN backfill.rollouts.rows_unverified IS 'Rows in which the column stays null because the expression failed in the last job of the rollout (on_error: null); backfill.row_errors lists them.';

-- Name: row_errors; Type: VIEW

CREATE VIEW backfill.row_errors WITH (security_barrier='true') AS
 SELECT e.job_id,
    j.name,
    e.relation,
    e.key,
    e.sqlstate,
    e.message,
    e.attempts,
    e.first_at,
    e.last_at,
    e.resolved_at
   FROM (backfill.row_error e
     JOIN backfill.job j ON ((j.id = e.job_id)))
  WHERE (( SELECT backfill._is_operator(CURRENT_USER) AS _is_operator) OR (j.run_as IN ( SELECT r.rolname
           FROM pg_roles r
          WHERE pg_has_role(r.oid, 'MEMBER'::text))));

-- Name: VIEW row_errors; Type: COMMENT

COMMENT ON VIEW backfill.row_errors IS 'Rows that could not be changed, with their error. A row is quarantined until resolved_at is set.';

-- Name: COLUMN row_errors.job_id; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.job_id IS 'Numeric id of the job.';

-- Name: COLUMN row_errors.name; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.name IS 'Name of the job.';

-- Name: COLUMN row_errors.relation; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.relation IS 'Table that holds the row.';

-- Name: COLUMN row_errors.key; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.key IS 'Key of the row: a JSON object with the value of each key column.';

-- Name: COLUMN row_errors.sqlstate; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.sqlstate IS 'SQLSTATE of the last error; 09000 if a BEFORE trigger suppressed the change.';

-- Name: COLUMN row_errors.message; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.message IS 'Message of the last error.';

-- Name: COLUMN row_errors.attempts; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.attempts IS 'How often the row was quarantined: once in the walk, and once for each retry that failed.';

-- Name: COLUMN row_errors.first_at; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.first_at IS 'Time of the first failure.';

-- Name: COLUMN row_errors.last_at; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.last_at IS 'Time of the last failure.';

-- Name: COLUMN row_errors.resolved_at; Type: COMMENT

COMMENT ON COLUMN backfill.row_errors.resolved_at IS 'Time at which a retry changed the row, or found that it needs no change any more; null while the row is quarantined.';

-- Name: schema_text; Type: TABLE

CREATE TABLE backfill.schema_text (
    name text NOT NULL,
    hash text NOT NULL
);

-- Name: schema_version; Type: TABLE

CREATE TABLE backfill.schema_version (
    version integer NOT NULL,
    min_compatible_version integer NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

-- Name: signals; Type: VIEW

CREATE VIEW backfill.signals AS
 SELECT s.signal,
    s.source,
    s.kind,
    s.value,
    s."limit",
    s.utilization,
    (clock_timestamp() - s.sampled_at) AS age,
    s.holding,
    s.reason
   FROM backfill.signal s;

-- Name: VIEW signals; Type: COMMENT

COMMENT ON VIEW backfill.signals IS 'The last reading of each signal that the throttle samples.';

-- Name: COLUMN signals.signal; Type: COMMENT

COMMENT ON COLUMN backfill.signals.signal IS 'Name of the signal.';

-- Name: COLUMN signals.source; Type: COMMENT

COMMENT ON COLUMN backfill.signals.source IS 'Source of the reading, for example a replica, a replication slot or the server.';

-- Name: COLUMN signals.kind; Type: COMMENT

COMMENT ON COLUMN backfill.signals.kind IS 'budget (holds jobs once the value reaches the limit), load (slows jobs down) or shown (has no effect on jobs).';

-- Name: COLUMN signals.value; Type: COMMENT

COMMENT ON COLUMN backfill.signals.value IS 'The reading, in the unit of the signal; null if the signal could not be read.';

-- Name: COLUMN signals."limit"; Type: COMMENT

COMMENT ON COLUMN backfill.signals."limit" IS 'Limit of the signal; null if it has none.';

-- Name: COLUMN signals.utilization; Type: COMMENT

COMMENT ON COLUMN backfill.signals.utilization IS 'value / limit; null if value is null, or if the signal is only shown.';

-- Name: COLUMN signals.age; Type: COMMENT

COMMENT ON COLUMN backfill.signals.age IS 'Age of the reading (interval).';

-- Name: COLUMN signals.holding; Type: COMMENT

COMMENT ON COLUMN backfill.signals.holding IS 'True while the signal holds jobs.';

-- Name: COLUMN signals.reason; Type: COMMENT

COMMENT ON COLUMN backfill.signals.reason IS 'Reason why the signal holds jobs, or why it could not be read; null otherwise.';

-- Name: slice_id_seq; Type: SEQUENCE

ALTER TABLE backfill.slice ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME backfill.slice_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- Name: slices; Type: VIEW

CREATE VIEW backfill.slices WITH (security_barrier='true') AS
 SELECT s.job_id,
    j.name,
    s.ordinal AS slice,
    s.relation_name AS relation,
    s.state,
    s.lower,
    s.upper,
    c."position",
    c.rows_scanned,
    c.rows_changed,
    l.holder,
    l.expires_at AS lease_expires_at,
    s.generation,
    c.batches,
    s.started_at,
    s.finished_at
   FROM (((backfill.slice s
     JOIN backfill._visible j ON (((j.id = s.job_id) AND (j.run = s.run))))
     JOIN backfill.checkpoint c ON ((c.slice_id = s.id)))
     LEFT JOIN backfill.lease l ON ((l.slice_id = s.id)))
  WHERE (s.kind = 'walk'::text);

-- Name: VIEW slices; Type: COMMENT

COMMENT ON VIEW backfill.slices IS 'One row per slice of the current run of each job. A slice is the range (lower, upper] of the keys of a table. The slices of one table and generation do not overlap.';

-- Name: COLUMN slices.job_id; Type: COMMENT

COMMENT ON COLUMN backfill.slices.job_id IS 'Numeric id of the job.';

-- Name: COLUMN slices.name; Type: COMMENT

COMMENT ON COLUMN backfill.slices.name IS 'Name of the job.';

-- Name: COLUMN slices.slice; Type: COMMENT

COMMENT ON COLUMN backfill.slices.slice IS 'Number of the slice within its generation, from 0.';

-- Name: COLUMN slices.relation; Type: COMMENT

COMMENT ON COLUMN backfill.slices.relation IS 'Table that holds the rows of the slice: the target itself, or one of its partitions or children.';

-- Name: COLUMN slices.state; Type: COMMENT

COMMENT ON COLUMN backfill.slices.state IS 'held (cannot be claimed now), ready (can be claimed), leased (claimed), done, or gone (its table is no longer part of the target, or is skipped).';

-- Name: COLUMN slices.lower; Type: COMMENT

COMMENT ON COLUMN backfill.slices.lower IS 'Exclusive lower bound: the value of each key column, as text; null if the slice begins at the lowest key.';

-- Name: COLUMN slices.upper; Type: COMMENT

COMMENT ON COLUMN backfill.slices.upper IS 'Inclusive upper bound: the value of each key column, as text; null if the partition or child was empty at planning, is skipped, or was attached later and is not planned yet.';

-- Name: COLUMN slices."position"; Type: COMMENT

COMMENT ON COLUMN backfill.slices."position" IS 'Checkpoint: the last key that was processed, with the value of each key column as text. Before the first batch, it is the same as lower.';

-- Name: COLUMN slices.rows_scanned; Type: COMMENT

COMMENT ON COLUMN backfill.slices.rows_scanned IS 'Rows processed in the slice, changed or not.';

-- Name: COLUMN slices.rows_changed; Type: COMMENT

COMMENT ON COLUMN backfill.slices.rows_changed IS 'Rows changed or deleted in the slice.';

-- Name: COLUMN slices.holder; Type: COMMENT

COMMENT ON COLUMN backfill.slices.holder IS 'Worker that holds the lease, see workers.id; null if there is no lease.';

-- Name: COLUMN slices.lease_expires_at; Type: COMMENT

COMMENT ON COLUMN backfill.slices.lease_expires_at IS 'Time at which the lease expires, unless its holder renews it. After this time another worker can take over the slice.';

-- Name: COLUMN slices.generation; Type: COMMENT

COMMENT ON COLUMN backfill.slices.generation IS '1 for the walk, above 1 for a sweep.';

-- Name: COLUMN slices.batches; Type: COMMENT

COMMENT ON COLUMN backfill.slices.batches IS 'Number of committed batches.';

-- Name: COLUMN slices.started_at; Type: COMMENT

COMMENT ON COLUMN backfill.slices.started_at IS 'Time at which the slice was first claimed; null if it has not been claimed yet.';

-- Name: COLUMN slices.finished_at; Type: COMMENT

COMMENT ON COLUMN backfill.slices.finished_at IS 'Time at which the slice was finished or closed; null until then.';

-- Name: workers; Type: VIEW

CREATE VIEW backfill.workers AS
 SELECT w.id,
    w.host,
    w.pid,
    w.version,
    w.started_at,
    w.heartbeat_at,
    ( SELECT count(*) AS count
           FROM backfill.lease l
          WHERE ((l.holder = w.id) AND (l.expires_at > clock_timestamp()))) AS slices,
    (w.expires_at > clock_timestamp()) AS alive,
    w.run_as,
    w.duty_cycle,
    w.closed_until
   FROM backfill.worker w;

-- Name: VIEW workers; Type: COMMENT

COMMENT ON VIEW backfill.workers IS 'One row per daemon that serves this database. The row of a daemon that did not exit cleanly remains for about an hour.';

-- Name: COLUMN workers.id; Type: COMMENT

COMMENT ON COLUMN backfill.workers.id IS 'Id of the daemon, new at each start.';

-- Name: COLUMN workers.host; Type: COMMENT

COMMENT ON COLUMN backfill.workers.host IS 'Host name.';

-- Name: COLUMN workers.pid; Type: COMMENT

COMMENT ON COLUMN backfill.workers.pid IS 'Process id.';

-- Name: COLUMN workers.version; Type: COMMENT

COMMENT ON COLUMN backfill.workers.version IS 'Version of backfilld.';

-- Name: COLUMN workers.started_at; Type: COMMENT

COMMENT ON COLUMN backfill.workers.started_at IS 'Time at which the daemon registered.';

-- Name: COLUMN workers.heartbeat_at; Type: COMMENT

COMMENT ON COLUMN backfill.workers.heartbeat_at IS 'Time of the last heartbeat.';

-- Name: COLUMN workers.slices; Type: COMMENT

COMMENT ON COLUMN backfill.workers.slices IS 'Number of slices for which the daemon holds a valid lease.';

-- Name: COLUMN workers.alive; Type: COMMENT

COMMENT ON COLUMN backfill.workers.alive IS 'True while the registration of the daemon has not expired. Each heartbeat renews it.';

-- Name: COLUMN workers.run_as; Type: COMMENT

COMMENT ON COLUMN backfill.workers.run_as IS 'Roles whose jobs the daemon runs.';

-- Name: COLUMN workers.duty_cycle; Type: COMMENT

COMMENT ON COLUMN backfill.workers.duty_cycle IS 'Duty cycle: share of the time in which batches of a slice may run, 0 to 1; null while the daemon has no slice.';

-- Name: COLUMN workers.closed_until; Type: COMMENT

COMMENT ON COLUMN backfill.workers.closed_until IS 'Time at which the window of the database opens again for this daemon; null if the window is open.';

-- Name: deferred_row deferred_row_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.deferred_row
    ADD CONSTRAINT deferred_row_pkey PRIMARY KEY (id);

-- Name: event event_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);

-- Name: executor executor_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.executor
    ADD CONSTRAINT executor_pkey PRIMARY KEY (login);

-- Name: job job_name_key; Type: CONSTRAINT

ALTER TABLE ONLY backfill.job
    ADD CONSTRAINT job_name_key UNIQUE (name);

-- Name: job job_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.job
    ADD CONSTRAINT job_pkey PRIMARY KEY (id);

-- Name: lease lease_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (slice_id);

-- Name: quota quota_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.quota
    ADD CONSTRAINT quota_pkey PRIMARY KEY (only_row);

-- Name: rollout rollout_name_key; Type: CONSTRAINT

ALTER TABLE ONLY backfill.rollout
    ADD CONSTRAINT rollout_name_key UNIQUE (name);

-- Name: rollout rollout_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.rollout
    ADD CONSTRAINT rollout_pkey PRIMARY KEY (id);

-- Name: rollout_statement rollout_statement_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.rollout_statement
    ADD CONSTRAINT rollout_statement_pkey PRIMARY KEY (id);

-- Name: rollout_statement rollout_statement_rollout_id_stage_ordinal_part_undo_key; Type: CONSTRAINT

ALTER TABLE ONLY backfill.rollout_statement
    ADD CONSTRAINT rollout_statement_rollout_id_stage_ordinal_part_undo_key UNIQUE (rollout_id, stage, ordinal, part, undo);

-- Name: schema_text schema_text_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.schema_text
    ADD CONSTRAINT schema_text_pkey PRIMARY KEY (name);

-- Name: schema_version schema_version_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);

-- Name: signal signal_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.signal
    ADD CONSTRAINT signal_pkey PRIMARY KEY (signal, source);

-- Name: slice slice_job_id_run_generation_kind_ordinal_key; Type: CONSTRAINT

ALTER TABLE ONLY backfill.slice
    ADD CONSTRAINT slice_job_id_run_generation_kind_ordinal_key UNIQUE (job_id, run, generation, kind, ordinal);

-- Name: slice slice_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.slice
    ADD CONSTRAINT slice_pkey PRIMARY KEY (id);

-- Name: switch switch_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.switch
    ADD CONSTRAINT switch_pkey PRIMARY KEY (only_row);

-- Name: worker worker_pkey; Type: CONSTRAINT

ALTER TABLE ONLY backfill.worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (id);

-- Name: checkpoint_slice; Type: INDEX

CREATE UNIQUE INDEX checkpoint_slice ON backfill.checkpoint USING btree (slice_id);

-- Name: deferred_row_slice; Type: INDEX

CREATE INDEX deferred_row_slice ON backfill.deferred_row USING btree (slice_id, id);

-- Name: event_at; Type: INDEX

CREATE INDEX event_at ON backfill.event USING btree (at, id);

-- Name: event_job; Type: INDEX

CREATE INDEX event_job ON backfill.event USING btree (job_id, id);

-- Name: event_kind; Type: INDEX

CREATE INDEX event_kind ON backfill.event USING btree (job_id, kind, id);

-- Name: event_name; Type: INDEX

CREATE INDEX event_name ON backfill.event USING btree (name, at, id);

-- Name: executor_run_as; Type: INDEX

CREATE INDEX executor_run_as ON backfill.executor USING btree (run_as);

-- Name: job_ended; Type: INDEX

CREATE INDEX job_ended ON backfill.job USING btree (finished_at) INCLUDE (state) WHERE (state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text]));

-- Name: job_enqueued; Type: INDEX

CREATE INDEX job_enqueued ON backfill.job USING btree (enqueued_by, enqueued_at);

-- Name: job_live; Type: INDEX

CREATE INDEX job_live ON backfill.job USING btree (state, id) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text, 'paused'::text, 'verifying'::text]));

-- Name: job_live_of; Type: INDEX

CREATE INDEX job_live_of ON backfill.job USING btree (enqueued_by) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text, 'paused'::text, 'verifying'::text]));

-- Name: job_rerun; Type: INDEX

CREATE INDEX job_rerun ON backfill.job USING btree (id) WHERE (run > 1);

-- Name: job_stopping; Type: INDEX

CREATE INDEX job_stopping ON backfill.job USING btree (id) WHERE ((state = ANY (ARRAY['queued'::text, 'running'::text, 'verifying'::text])) AND (desired_state <> 'running'::text));

-- Name: job_to_prune; Type: INDEX

CREATE INDEX job_to_prune ON backfill.job USING btree (finished_at) WHERE ((finished_at IS NOT NULL) AND ((pruned_at IS NULL) OR (pruned_at < finished_at)));

-- Name: lease_job; Type: INDEX

CREATE INDEX lease_job ON backfill.lease USING btree (job_id);

-- Name: rollout_due; Type: INDEX

CREATE INDEX rollout_due ON backfill.rollout USING btree (due_at) WHERE (state = ANY (ARRAY['running'::text, 'rolling_back'::text, 'waiting'::text]));

-- Name: row_error_open; Type: INDEX

CREATE INDEX row_error_open ON backfill.row_error USING btree (job_id) WHERE (resolved_at IS NULL);

-- Name: row_error_row; Type: INDEX

CREATE UNIQUE INDEX row_error_row ON backfill.row_error USING btree (job_id, relation, md5((key)::text));

-- Name: row_error_slice; Type: INDEX

CREATE INDEX row_error_slice ON backfill.row_error USING btree (slice_id);

-- Name: slice_due; Type: INDEX

CREATE INDEX slice_due ON backfill.slice USING btree (due_at) WHERE ((state = 'held'::text) AND (due_at IS NOT NULL));

-- Name: slice_open; Type: INDEX

CREATE INDEX slice_open ON backfill.slice USING btree (job_id) WHERE (state = ANY (ARRAY['held'::text, 'ready'::text, 'leased'::text]));

-- Name: slice_ready; Type: INDEX

CREATE INDEX slice_ready ON backfill.slice USING btree (run_as, priority, job_id, ordinal, id) WHERE (state = 'ready'::text);

-- Name: command command_bounds; Type: TRIGGER

CREATE TRIGGER command_bounds BEFORE INSERT ON backfill.command FOR EACH ROW EXECUTE FUNCTION backfill._command_bounds();

-- Name: command command_carry_out; Type: TRIGGER

CREATE TRIGGER command_carry_out BEFORE INSERT ON backfill.command FOR EACH ROW EXECUTE FUNCTION backfill._carry_out_command();

-- Name: event event_after_insert; Type: TRIGGER

CREATE TRIGGER event_after_insert AFTER INSERT ON backfill.event FOR EACH ROW EXECUTE FUNCTION backfill._event_after_insert();

-- Name: event event_before_insert; Type: TRIGGER

CREATE TRIGGER event_before_insert BEFORE INSERT ON backfill.event FOR EACH ROW EXECUTE FUNCTION backfill._event_before_insert();

-- Name: job job_after_insert; Type: TRIGGER

CREATE TRIGGER job_after_insert AFTER INSERT ON backfill.job FOR EACH ROW EXECUTE FUNCTION backfill._job_after_insert();

-- Name: job job_before_insert; Type: TRIGGER

CREATE TRIGGER job_before_insert BEFORE INSERT ON backfill.job FOR EACH ROW EXECUTE FUNCTION backfill._job_before_insert();

-- Name: job job_before_tune; Type: TRIGGER

CREATE TRIGGER job_before_tune BEFORE UPDATE OF options ON backfill.job FOR EACH ROW WHEN (((new.kind = 'update'::text) AND ((new.options ->> 'verify'::text) = 'expression'::text) AND ((old.options ->> 'verify'::text) IS DISTINCT FROM 'expression'::text) AND (NOT (COALESCE((new.plan ->> 'comparable'::text), 'true'::text))::boolean))) EXECUTE FUNCTION backfill._job_before_tune();

-- Name: job job_bounds; Type: TRIGGER

CREATE TRIGGER job_bounds BEFORE INSERT ON backfill.job FOR EACH ROW EXECUTE FUNCTION backfill._job_bounds();

-- Name: job job_needs_slices; Type: TRIGGER

CREATE TRIGGER job_needs_slices BEFORE UPDATE OF state ON backfill.job FOR EACH ROW WHEN (((old.state = ANY (ARRAY['failed'::text, 'cancelled'::text])) AND (new.state = ANY (ARRAY['running'::text, 'verifying'::text])) AND (old.pruned_at >= old.finished_at))) EXECUTE FUNCTION backfill._job_needs_slices();

-- Name: rollout rollout_after_insert; Type: TRIGGER

CREATE TRIGGER rollout_after_insert AFTER INSERT ON backfill.rollout FOR EACH ROW EXECUTE FUNCTION backfill._rollout_after_insert();

-- Name: rollout rollout_before_insert; Type: TRIGGER

CREATE TRIGGER rollout_before_insert BEFORE INSERT ON backfill.rollout FOR EACH ROW EXECUTE FUNCTION backfill._rollout_before_insert();

-- Name: rollout_command rollout_command_carry_out; Type: TRIGGER

CREATE TRIGGER rollout_command_carry_out BEFORE INSERT ON backfill.rollout_command FOR EACH ROW EXECUTE FUNCTION backfill._carry_out_rollout_command();

-- Name: signal signal_held; Type: TRIGGER

CREATE TRIGGER signal_held AFTER UPDATE ON backfill.signal FOR EACH ROW WHEN (((old.holding <> new.holding) OR (old.over <> new.over))) EXECUTE FUNCTION backfill._signal_changed();

-- Name: signal signal_holds; Type: TRIGGER

CREATE TRIGGER signal_holds AFTER INSERT ON backfill.signal FOR EACH ROW WHEN ((new.holding OR new.over)) EXECUTE FUNCTION backfill._signal_changed();

-- Name: signal signal_is_gone; Type: TRIGGER

CREATE TRIGGER signal_is_gone AFTER DELETE ON backfill.signal FOR EACH ROW WHEN ((old.holding OR old.over)) EXECUTE FUNCTION backfill._signal_changed();

-- Name: checkpoint checkpoint_slice_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.checkpoint
    ADD CONSTRAINT checkpoint_slice_id_fkey FOREIGN KEY (slice_id) REFERENCES backfill.slice(id) ON DELETE CASCADE;

-- Name: deferred_row deferred_row_slice_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.deferred_row
    ADD CONSTRAINT deferred_row_slice_id_fkey FOREIGN KEY (slice_id) REFERENCES backfill.slice(id) ON DELETE CASCADE;

-- Name: event event_job_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.event
    ADD CONSTRAINT event_job_id_fkey FOREIGN KEY (job_id) REFERENCES backfill.job(id) ON DELETE CASCADE;

-- Name: lease lease_slice_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.lease
    ADD CONSTRAINT lease_slice_id_fkey FOREIGN KEY (slice_id) REFERENCES backfill.slice(id) ON DELETE CASCADE;

-- Name: rollout_statement rollout_statement_rollout_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.rollout_statement
    ADD CONSTRAINT rollout_statement_rollout_id_fkey FOREIGN KEY (rollout_id) REFERENCES backfill.rollout(id) ON DELETE CASCADE;

-- Name: row_error row_error_job_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.row_error
    ADD CONSTRAINT row_error_job_id_fkey FOREIGN KEY (job_id) REFERENCES backfill.job(id) ON DELETE CASCADE;

-- Name: row_error row_error_slice_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.row_error
    ADD CONSTRAINT row_error_slice_id_fkey FOREIGN KEY (slice_id) REFERENCES backfill.slice(id) ON DELETE SET NULL;

-- Name: slice slice_job_id_fkey; Type: FK CONSTRAINT

ALTER TABLE ONLY backfill.slice
    ADD CONSTRAINT slice_job_id_fkey FOREIGN KEY (job_id) REFERENCES backfill.job(id) ON DELETE CASCADE;

-- Name: command; Type: ROW SECURITY

ALTER TABLE backfill.command ENABLE ROW LEVEL SECURITY;

-- Name: command command_insert; Type: POLICY

CREATE POLICY command_insert ON backfill.command FOR INSERT WITH CHECK ((actor = CURRENT_USER));

-- Name: job; Type: ROW SECURITY

ALTER TABLE backfill.job ENABLE ROW LEVEL SECURITY;

-- Name: job job_insert; Type: POLICY

CREATE POLICY job_insert ON backfill.job FOR INSERT WITH CHECK (((enqueued_by = CURRENT_USER) AND backfill._may_run_as(CURRENT_USER, run_as)));

-- Name: quota; Type: ROW SECURITY

ALTER TABLE backfill.quota ENABLE ROW LEVEL SECURITY;

-- Name: quota quota_change; Type: POLICY

CREATE POLICY quota_change ON backfill.quota FOR UPDATE USING (backfill._is_operator(CURRENT_USER));

-- Name: quota quota_read; Type: POLICY

CREATE POLICY quota_read ON backfill.quota FOR SELECT USING (true);

-- Name: rollout; Type: ROW SECURITY

ALTER TABLE backfill.rollout ENABLE ROW LEVEL SECURITY;

-- Name: rollout_command; Type: ROW SECURITY

ALTER TABLE backfill.rollout_command ENABLE ROW LEVEL SECURITY;

-- Name: rollout_command rollout_command_insert; Type: POLICY

CREATE POLICY rollout_command_insert ON backfill.rollout_command FOR INSERT WITH CHECK ((actor = CURRENT_USER));

-- Name: rollout rollout_insert; Type: POLICY

CREATE POLICY rollout_insert ON backfill.rollout FOR INSERT WITH CHECK ((started_by = CURRENT_USER));

-- Name: SCHEMA backfill; Type: ACL; Schema: -; Owner: -

GRANT USAGE ON SCHEMA backfill TO backfill_reader;
GRANT USAGE ON SCHEMA backfill TO backfill_submitter;
GRANT USAGE ON SCHEMA backfill TO backfill_operator;
GRANT USAGE ON SCHEMA backfill TO pg_monitor;

-- Name: FUNCTION _add_new_leaves(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._add_new_leaves(job_id bigint) FROM PUBLIC;

-- Name: COLUMN job.name; Type: ACL

GRANT INSERT(name) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(name) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.kind; Type: ACL

GRANT INSERT(kind) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(kind) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.relation; Type: ACL

GRANT INSERT(relation) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(relation) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.target; Type: ACL

GRANT INSERT(target) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(target) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.set_sql; Type: ACL

GRANT INSERT(set_sql) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(set_sql) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.filter_sql; Type: ACL

GRANT INSERT(filter_sql) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(filter_sql) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.key; Type: ACL

GRANT INSERT(key) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(key) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.priority; Type: ACL

GRANT INSERT(priority) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(priority) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.run_at; Type: ACL

GRANT INSERT(run_at) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(run_at) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.run_as; Type: ACL

GRANT INSERT(run_as) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(run_as) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.run_as_asked; Type: ACL

GRANT INSERT(run_as_asked) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(run_as_asked) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.needs_approval; Type: ACL

GRANT INSERT(needs_approval) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(needs_approval) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.options; Type: ACL

GRANT INSERT(options) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(options) ON TABLE backfill.job TO backfill_operator;

-- Name: COLUMN job.settings; Type: ACL

GRANT INSERT(settings) ON TABLE backfill.job TO backfill_submitter;
GRANT INSERT(settings) ON TABLE backfill.job TO backfill_operator;

-- Name: FUNCTION _add_ranges(j backfill.job, slices jsonb, ordinal_from integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._add_ranges(j backfill.job, slices jsonb, ordinal_from integer) FROM PUBLIC;

-- Name: FUNCTION _add_slices(job_id bigint, kind text, generation integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._add_slices(job_id bigint, kind text, generation integer) FROM PUBLIC;

-- Name: FUNCTION _assignments(set_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._assignments(set_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._assignments(set_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._assignments(set_sql text) TO backfill_operator;

-- Name: FUNCTION _blocks_writes(pid integer, relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._blocks_writes(pid integer, relation oid) FROM PUBLIC;

-- Name: FUNCTION _body_as_query(function oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._body_as_query(function oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._body_as_query(function oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._body_as_query(function oid) TO backfill_operator;

-- Name: FUNCTION _bracketed(expression text); Type: ACL

REVOKE ALL ON FUNCTION backfill._bracketed(expression text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._bracketed(expression text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._bracketed(expression text) TO backfill_operator;

-- Name: FUNCTION _called_functions(fragment text, what text, schemas name[], run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._called_functions(fragment text, what text, schemas name[], run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._called_functions(fragment text, what text, schemas name[], run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._called_functions(fragment text, what text, schemas name[], run_as name) TO backfill_operator;

-- Name: FUNCTION _caller_settings(); Type: ACL

REVOKE ALL ON FUNCTION backfill._caller_settings() FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._caller_settings() TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._caller_settings() TO backfill_operator;

-- Name: FUNCTION _calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._calls_unstable(fragment text, settings jsonb, run_as name, counts "char"[]) TO backfill_operator;

-- Name: FUNCTION _can_refer(type oid, referred oid, column_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._can_refer(type oid, referred oid, column_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._can_refer(type oid, referred oid, column_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._can_refer(type oid, referred oid, column_name text) TO backfill_operator;

-- Name: FUNCTION _carry_out_command(); Type: ACL

REVOKE ALL ON FUNCTION backfill._carry_out_command() FROM PUBLIC;

-- Name: FUNCTION _carry_out_rollout_command(); Type: ACL

REVOKE ALL ON FUNCTION backfill._carry_out_rollout_command() FROM PUBLIC;

-- Name: FUNCTION _cascades(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._cascades(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._cascades(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._cascades(relation oid) TO backfill_operator;

-- Name: FUNCTION _changed_column_read(plan jsonb, relation oid, assigned text[], changes oid, OUT source regclass, OUT name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._changed_column_read(plan jsonb, relation oid, assigned text[], changes oid, OUT source regclass, OUT name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._changed_column_read(plan jsonb, relation oid, assigned text[], changes oid, OUT source regclass, OUT name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._changed_column_read(plan jsonb, relation oid, assigned text[], changes oid, OUT source regclass, OUT name text) TO backfill_operator;

-- Name: FUNCTION _changed_columns(relation oid, assigned text[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._changed_columns(relation oid, assigned text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._changed_columns(relation oid, assigned text[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._changed_columns(relation oid, assigned text[]) TO backfill_operator;

-- Name: FUNCTION _check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) TO backfill_operator;

-- Name: FUNCTION _check_bounds(actor name, options jsonb, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_bounds(actor name, options jsonb, what text) FROM PUBLIC;

-- Name: FUNCTION _check_fragments(set_sql text, filter_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_fragments(set_sql text, filter_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_fragments(set_sql text, filter_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_fragments(set_sql text, filter_sql text) TO backfill_operator;

-- Name: FUNCTION _check_job(relation oid, kind text, set_sql text, key name[], run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_job(relation oid, kind text, set_sql text, key name[], run_as name) TO backfill_operator;

-- Name: FUNCTION _check_keys(object jsonb, what text, keys jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_keys(object jsonb, what text, keys jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_keys(object jsonb, what text, keys jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_keys(object jsonb, what text, keys jsonb) TO backfill_operator;

-- Name: FUNCTION _check_name(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_name(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_name(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_name(name text) TO backfill_operator;

-- Name: FUNCTION _check_options(options jsonb, filter_sql text, operator_ok boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_options(options jsonb, filter_sql text, operator_ok boolean) TO backfill_operator;

-- Name: FUNCTION _check_outcome(to_position text[], most bigint, least_count bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_outcome(to_position text[], most bigint, least_count bigint) FROM PUBLIC;

-- Name: FUNCTION _check_owners(relation oid, run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_owners(relation oid, run_as name) FROM PUBLIC;

-- Name: FUNCTION _check_planner(); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_planner() FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_planner() TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_planner() TO backfill_operator;

-- Name: FUNCTION _check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_proof_rights(relation oid, filter_sql text, options jsonb, run_as name) TO backfill_operator;

-- Name: FUNCTION _check_run_as(asked name); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_run_as(asked name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_run_as(asked name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_run_as(asked name) TO backfill_operator;

-- Name: FUNCTION _check_same_table(name text, relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_same_table(name text, relation oid) FROM PUBLIC;

-- Name: FUNCTION _check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_self_reads(run_as name, settings jsonb, relation oid, plan jsonb, set_sql text, filter_sql text, assigned text[]) TO backfill_operator;

-- Name: FUNCTION _check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_spec(kind text, relation oid, set_sql text, filter_sql text, key name[], run_as name, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _check_statement_triggers(relation oid, kind text, set_sql text, options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_statement_triggers(relation oid, kind text, set_sql text, options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_statement_triggers(relation oid, kind text, set_sql text, options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_statement_triggers(relation oid, kind text, set_sql text, options jsonb) TO backfill_operator;

-- Name: FUNCTION _check_submitter_rights(job bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_submitter_rights(job bigint) FROM PUBLIC;

-- Name: FUNCTION _check_target(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_target(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_target(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_target(relation oid) TO backfill_operator;

-- Name: FUNCTION _check_utf8(stored jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._check_utf8(stored jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._check_utf8(stored jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._check_utf8(stored jsonb) TO backfill_operator;

-- Name: FUNCTION _checkpoint_ctid(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._checkpoint_ctid(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _claim(worker uuid, run_as name[], ttl interval, protocol integer, at_share name[], held uuid[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._claim(worker uuid, run_as name[], ttl interval, protocol integer, at_share name[], held uuid[]) FROM PUBLIC;

-- Name: FUNCTION _claim_rollout(worker uuid, run_as name[], ttl interval, held uuid[], at_share name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._claim_rollout(worker uuid, run_as name[], ttl interval, held uuid[], at_share name[]) FROM PUBLIC;

-- Name: FUNCTION _close_window(slice bigint, token uuid, until timestamp with time zone); Type: ACL

REVOKE ALL ON FUNCTION backfill._close_window(slice bigint, token uuid, until timestamp with time zone) FROM PUBLIC;

-- Name: FUNCTION _column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean, changes oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean, changes oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean, changes oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._column_read(plan jsonb, relation oid, tables oid[], columns text[], own_row boolean, changes oid) TO backfill_operator;

-- Name: FUNCTION _columns_in_rollouts(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._columns_in_rollouts(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._columns_in_rollouts(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._columns_in_rollouts(relation oid) TO backfill_operator;

-- Name: FUNCTION _command(verb text, job_name text, reason text, options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._command(verb text, job_name text, reason text, options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._command(verb text, job_name text, reason text, options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._command(verb text, job_name text, reason text, options jsonb) TO backfill_operator;

-- Name: FUNCTION _command_bounds(); Type: ACL

REVOKE ALL ON FUNCTION backfill._command_bounds() FROM PUBLIC;

-- Name: FUNCTION _compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name); Type: ACL

REVOKE ALL ON FUNCTION backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name) TO backfill_operator;

-- Name: FUNCTION _comparison_cast(type oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._comparison_cast(type oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._comparison_cast(type oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._comparison_cast(type oid) TO backfill_operator;

-- Name: FUNCTION _conjuncts(condition text); Type: ACL

REVOKE ALL ON FUNCTION backfill._conjuncts(condition text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._conjuncts(condition text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._conjuncts(condition text) TO backfill_operator;

-- Name: FUNCTION _count_quarantined(job bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._count_quarantined(job bigint) FROM PUBLIC;

-- Name: FUNCTION _coverage_gap(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._coverage_gap(job_id bigint) FROM PUBLIC;

-- Name: FUNCTION _defer_quarantined_rows(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._defer_quarantined_rows(job_id bigint) FROM PUBLIC;

-- Name: FUNCTION _deferred_rows(slice bigint, token uuid, after bigint, most integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._deferred_rows(slice bigint, token uuid, after bigint, most integer) FROM PUBLIC;

-- Name: COLUMN rollout.spec; Type: ACL

GRANT INSERT(spec) ON TABLE backfill.rollout TO backfill_submitter;
GRANT INSERT(spec) ON TABLE backfill.rollout TO backfill_operator;

-- Name: COLUMN rollout.settings; Type: ACL

GRANT INSERT(settings) ON TABLE backfill.rollout TO backfill_submitter;
GRANT INSERT(settings) ON TABLE backfill.rollout TO backfill_operator;

-- Name: FUNCTION _dependents(r backfill.rollout); Type: ACL

REVOKE ALL ON FUNCTION backfill._dependents(r backfill.rollout) FROM PUBLIC;

-- Name: FUNCTION _deregister_worker(worker uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._deregister_worker(worker uuid) FROM PUBLIC;

-- Name: FUNCTION _desired_state(job bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._desired_state(job bigint) FROM PUBLIC;

-- Name: FUNCTION _differs(relation oid, set_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._differs(relation oid, set_sql text) FROM PUBLIC;

-- Name: FUNCTION _differs_in_any_path(relation oid, set_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._differs_in_any_path(relation oid, set_sql text) FROM PUBLIC;

-- Name: FUNCTION _drop_lease(slice_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._drop_lease(slice_id bigint) FROM PUBLIC;

-- Name: FUNCTION _end_gone_leaf(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._end_gone_leaf(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _end_job(job_id bigint, final_state text, verified boolean, error text, hint text, redacted jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._end_job(job_id bigint, final_state text, verified boolean, error text, hint text, redacted jsonb) FROM PUBLIC;

-- Name: FUNCTION _end_rollout_session(id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._end_rollout_session(id bigint) FROM PUBLIC;

-- Name: FUNCTION _end_session(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._end_session(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _end_slice(slice bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._end_slice(slice bigint) FROM PUBLIC;

-- Name: FUNCTION _enqueue(kind text, name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._enqueue(kind text, name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._enqueue(kind text, name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._enqueue(kind text, name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _enqueue_rollout_job(r backfill.rollout, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._enqueue_rollout_job(r backfill.rollout, what text) FROM PUBLIC;

-- Name: FUNCTION _estimate_cost(kind text, relation oid, assigned text[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._estimate_cost(kind text, relation oid, assigned text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._estimate_cost(kind text, relation oid, assigned text[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._estimate_cost(kind text, relation oid, assigned text[]) TO backfill_operator;

-- Name: FUNCTION _event_after_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._event_after_insert() FROM PUBLIC;

-- Name: FUNCTION _event_before_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._event_before_insert() FROM PUBLIC;

-- Name: FUNCTION _executor_note(run_as name, relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._executor_note(run_as name, relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._executor_note(run_as name, relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._executor_note(run_as name, relation oid) TO backfill_operator;

-- Name: FUNCTION _fail(slice bigint, token uuid, error text, hint text, redacted jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._fail(slice bigint, token uuid, error text, hint text, redacted jsonb) FROM PUBLIC;

-- Name: FUNCTION _fail_rollout(id bigint, error text, hint text); Type: ACL

REVOKE ALL ON FUNCTION backfill._fail_rollout(id bigint, error text, hint text) FROM PUBLIC;

-- Name: FUNCTION _fence(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._fence(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _filter_of(kind text, filter text); Type: ACL

REVOKE ALL ON FUNCTION backfill._filter_of(kind text, filter text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._filter_of(kind text, filter text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._filter_of(kind text, filter text) TO backfill_operator;

-- Name: FUNCTION _fingerprint(relation oid, columns smallint[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._fingerprint(relation oid, columns smallint[]) FROM PUBLIC;

-- Name: FUNCTION _finish(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._finish(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _fit(name text, bytes integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._fit(name text, bytes integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._fit(name text, bytes integer) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._fit(name text, bytes integer) TO backfill_operator;

-- Name: FUNCTION _fixed(value numeric, digits integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._fixed(value numeric, digits integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._fixed(value numeric, digits integer) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._fixed(value numeric, digits integer) TO backfill_operator;

-- Name: FUNCTION _functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._functions_of_columns(relation oid, assigned text[], fragments text, with_defaults boolean, run_as name) TO backfill_operator;

-- Name: FUNCTION _functions_of_view(view oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._functions_of_view(view oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._functions_of_view(view oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._functions_of_view(view oid) TO backfill_operator;

-- Name: FUNCTION _grant(acl aclitem[], privileges text[], statement text, role name); Type: ACL

REVOKE ALL ON FUNCTION backfill._grant(acl aclitem[], privileges text[], statement text, role name) FROM PUBLIC;

-- Name: FUNCTION _grant_all(); Type: ACL

REVOKE ALL ON FUNCTION backfill._grant_all() FROM PUBLIC;

-- Name: FUNCTION _grant_columns(relation regclass, privilege text, columns text[], role name); Type: ACL

REVOKE ALL ON FUNCTION backfill._grant_columns(relation regclass, privilege text, columns text[], role name) FROM PUBLIC;

-- Name: FUNCTION _grant_executor(run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._grant_executor(run_as name) FROM PUBLIC;

-- Name: FUNCTION _growth(); Type: ACL

REVOKE ALL ON FUNCTION backfill._growth() FROM PUBLIC;

-- Name: FUNCTION _has_executors(); Type: ACL

REVOKE ALL ON FUNCTION backfill._has_executors() FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._has_executors() TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._has_executors() TO backfill_operator;

-- Name: FUNCTION _has_own_index(part oid, parent oid, name text, column_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._has_own_index(part oid, parent oid, name text, column_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._has_own_index(part oid, parent oid, name text, column_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._has_own_index(part oid, parent oid, name text, column_name text) TO backfill_operator;

-- Name: FUNCTION _has_ready(run_as name[], protocol integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._has_ready(run_as name[], protocol integer) FROM PUBLIC;

-- Name: FUNCTION _heap_of(node jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._heap_of(node jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._heap_of(node jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._heap_of(node jsonb) TO backfill_operator;

-- Name: FUNCTION _heaps(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._heaps(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._heaps(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._heaps(relation oid) TO backfill_operator;

-- Name: FUNCTION _heartbeat(worker uuid, ttl interval, held jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._heartbeat(worker uuid, ttl interval, held jsonb) FROM PUBLIC;

-- Name: FUNCTION _identifier(quoted text); Type: ACL

REVOKE ALL ON FUNCTION backfill._identifier(quoted text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._identifier(quoted text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._identifier(quoted text) TO backfill_operator;

-- Name: FUNCTION _incomparable(set_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._incomparable(set_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._incomparable(set_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._incomparable(set_sql text) TO backfill_operator;

-- Name: FUNCTION _index_name(s jsonb, table_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._index_name(s jsonb, table_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._index_name(s jsonb, table_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._index_name(s jsonb, table_name text) TO backfill_operator;

-- Name: FUNCTION _is_abandoned(lease backfill.lease, worker uuid, held uuid[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_abandoned(lease backfill.lease, worker uuid, held uuid[]) FROM PUBLIC;

-- Name: FUNCTION _is_compared_again(r backfill.rollout); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_compared_again(r backfill.rollout) FROM PUBLIC;

-- Name: FUNCTION _is_operator(actor name); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_operator(actor name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._is_operator(actor name) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._is_operator(actor name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._is_operator(actor name) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._is_operator(actor name) TO pg_monitor;

-- Name: FUNCTION _is_registered(worker uuid, run_as name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_registered(worker uuid, run_as name[]) FROM PUBLIC;

-- Name: FUNCTION _is_rollout_job_done(r backfill.rollout, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_rollout_job_done(r backfill.rollout, what text) FROM PUBLIC;

-- Name: FUNCTION _is_spread(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_spread(relation oid) FROM PUBLIC;

-- Name: FUNCTION _is_taken(job_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_taken(job_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._is_taken(job_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._is_taken(job_name text) TO backfill_operator;

-- Name: FUNCTION _is_utf8(what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._is_utf8(what text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._is_utf8(what text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._is_utf8(what text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._is_utf8(what text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._is_utf8(what text) TO pg_monitor;

-- Name: FUNCTION _job_after_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._job_after_insert() FROM PUBLIC;

-- Name: FUNCTION _job_before_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._job_before_insert() FROM PUBLIC;

-- Name: FUNCTION _job_before_tune(); Type: ACL

REVOKE ALL ON FUNCTION backfill._job_before_tune() FROM PUBLIC;

-- Name: FUNCTION _job_bounds(); Type: ACL

REVOKE ALL ON FUNCTION backfill._job_bounds() FROM PUBLIC;

-- Name: FUNCTION _job_needs_slices(); Type: ACL

REVOKE ALL ON FUNCTION backfill._job_needs_slices() FROM PUBLIC;

-- Name: FUNCTION _jobs_text(n bigint, uncommitted bigint, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._jobs_text(n bigint, uncommitted bigint, what text) FROM PUBLIC;

-- Name: FUNCTION _key_columns(relation oid, asked name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._key_columns(relation oid, asked name[]) FROM PUBLIC;

-- Name: FUNCTION _key_of(relation oid, asked name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._key_of(relation oid, asked name[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._key_of(relation oid, asked name[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._key_of(relation oid, asked name[]) TO backfill_operator;

-- Name: FUNCTION _key_of_job(job bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._key_of_job(job bigint) FROM PUBLIC;

-- Name: FUNCTION _lacking_rights(relation oid, owner name, s jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._lacking_rights(relation oid, owner name, s jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._lacking_rights(relation oid, owner name, s jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._lacking_rights(relation oid, owner name, s jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _later_trigger(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._later_trigger(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._later_trigger(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._later_trigger(relation oid) TO backfill_operator;

-- Name: FUNCTION _leaf(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._leaf(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _leaf_key(relation oid, leaf oid, columns name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._leaf_key(relation oid, leaf oid, columns name[]) FROM PUBLIC;

-- Name: FUNCTION _leaf_plans(relation oid, asked name[], columns smallint[], only_leaf oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._leaf_plans(relation oid, asked name[], columns smallint[], only_leaf oid) FROM PUBLIC;

-- Name: FUNCTION _lease_rollout(r backfill.rollout, stage text, ordinal integer, part oid, undo boolean, sql text, undo_sql text, lock text, alone boolean, worker uuid, ttl interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._lease_rollout(r backfill.rollout, stage text, ordinal integer, part oid, undo boolean, sql text, undo_sql text, lock text, alone boolean, worker uuid, ttl interval) FROM PUBLIC;

-- Name: FUNCTION _leaves(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._leaves(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._leaves(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._leaves(relation oid) TO backfill_operator;

-- Name: FUNCTION _lex(fragment text, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._lex(fragment text, what text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._lex(fragment text, what text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._lex(fragment text, what text) TO backfill_operator;

-- Name: FUNCTION _lock_checkpoint(slice bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._lock_checkpoint(slice bigint) FROM PUBLIC;

-- Name: FUNCTION _mark_new_job(submitter name); Type: ACL

REVOKE ALL ON FUNCTION backfill._mark_new_job(submitter name) FROM PUBLIC;

-- Name: FUNCTION _may_control(actor name, started_by name); Type: ACL

REVOKE ALL ON FUNCTION backfill._may_control(actor name, started_by name) FROM PUBLIC;

-- Name: FUNCTION _may_run_as(actor name, run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._may_run_as(actor name, run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._may_run_as(actor name, run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._may_run_as(actor name, run_as name) TO backfill_operator;

-- Name: FUNCTION _may_see(enqueued_by name); Type: ACL

REVOKE ALL ON FUNCTION backfill._may_see(enqueued_by name) FROM PUBLIC;

-- Name: FUNCTION _may_split(slice bigint, token uuid, wanted integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._may_split(slice bigint, token uuid, wanted integer) FROM PUBLIC;

-- Name: FUNCTION _name_job(hint text, name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._name_job(hint text, name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._name_job(hint text, name text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._name_job(hint text, name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._name_job(hint text, name text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._name_job(hint text, name text) TO pg_monitor;

-- Name: FUNCTION _next_step(r backfill.rollout, worker uuid, ttl interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._next_step(r backfill.rollout, worker uuid, ttl interval) TO pg_monitor;

-- Name: FUNCTION _next_step(name text, state text, waiting_reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill._next_step(name text, state text, waiting_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._next_step(name text, state text, waiting_reason text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._next_step(name text, state text, waiting_reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._next_step(name text, state text, waiting_reason text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._next_step(name text, state text, waiting_reason text) TO pg_monitor;

-- Name: FUNCTION _next_undo(r backfill.rollout, worker uuid, ttl interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._next_undo(r backfill.rollout, worker uuid, ttl interval) FROM PUBLIC;

-- Name: FUNCTION _nondeterministic_within(type oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._nondeterministic_within(type oid) FROM PUBLIC;

-- Name: FUNCTION _not_in_effect(options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._not_in_effect(options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._not_in_effect(options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._not_in_effect(options jsonb) TO backfill_operator;

-- Name: FUNCTION _notify_daemons(); Type: ACL

REVOKE ALL ON FUNCTION backfill._notify_daemons() FROM PUBLIC;

-- Name: FUNCTION _older_locks(pid integer, relation oid, also text, exclusive boolean, age interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._older_locks(pid integer, relation oid, also text, exclusive boolean, age interval) FROM PUBLIC;

-- Name: FUNCTION _oldest_queued(); Type: ACL

REVOKE ALL ON FUNCTION backfill._oldest_queued() FROM PUBLIC;

-- Name: FUNCTION _options(job bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._options(job bigint) FROM PUBLIC;

-- Name: FUNCTION _other_table(name text, relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._other_table(name text, relation oid) FROM PUBLIC;

-- Name: FUNCTION _own_key(relation oid, asked name[], OUT key jsonb, OUT reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill._own_key(relation oid, asked name[], OUT key jsonb, OUT reason text) FROM PUBLIC;

-- Name: FUNCTION _partitions(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._partitions(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._partitions(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._partitions(relation oid) TO backfill_operator;

-- Name: FUNCTION _parts_of_type(type oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._parts_of_type(type oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._parts_of_type(type oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._parts_of_type(type oid) TO backfill_operator;

-- Name: FUNCTION _plan_nodes(plan jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._plan_nodes(plan jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._plan_nodes(plan jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._plan_nodes(plan jsonb) TO backfill_operator;

-- Name: FUNCTION _plan_rollout(spec jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._plan_rollout(spec jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._plan_rollout(spec jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._plan_rollout(spec jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _poll_claim(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._poll_claim(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._preview(kind text, name text, target regclass, set_sql text, filter_sql text, key name[], run_as name, options jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _preview_text(x jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._preview_text(x jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._preview_text(x jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._preview_text(x jsonb) TO backfill_operator;

-- Name: FUNCTION _proof(slice bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._proof(slice bigint) FROM PUBLIC;

-- Name: FUNCTION _provable(job_name text, OUT spec jsonb, OUT refusal text); Type: ACL

REVOKE ALL ON FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._provable(job_name text, OUT spec jsonb, OUT refusal text) TO pg_monitor;

-- Name: FUNCTION _prune_history(keep interval, batch integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._prune_history(keep interval, batch integer) FROM PUBLIC;

-- Name: FUNCTION _publish_signals(readings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._publish_signals(readings jsonb) FROM PUBLIC;

-- Name: FUNCTION _put_off_rollout(id bigint, reason text, told text, pause interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._put_off_rollout(id bigint, reason text, told text, pause interval) FROM PUBLIC;

-- Name: FUNCTION _quarantine_row(job bigint, slice bigint, failure jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._quarantine_row(job bigint, slice bigint, failure jsonb) FROM PUBLIC;

-- Name: FUNCTION _readable(what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._readable(what text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._readable(what text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._readable(what text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._readable(what text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._readable(what text) TO pg_monitor;

-- Name: FUNCTION _recent_rate(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._recent_rate(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._recent_rate(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._recent_rate(relation oid) TO backfill_operator;

-- Name: FUNCTION _record_event(job_id bigint, kind text, message text, detail jsonb, actor name, redacted text); Type: ACL

REVOKE ALL ON FUNCTION backfill._record_event(job_id bigint, kind text, message text, detail jsonb, actor name, redacted text) FROM PUBLIC;

-- Name: FUNCTION _record_rollout_event(id bigint, kind text, message text, actor name); Type: ACL

REVOKE ALL ON FUNCTION backfill._record_rollout_event(id bigint, kind text, message text, actor name) FROM PUBLIC;

-- Name: FUNCTION _redacted_reason(s backfill.signal); Type: ACL

REVOKE ALL ON FUNCTION backfill._redacted_reason(s backfill.signal) FROM PUBLIC;

-- Name: FUNCTION _referring(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._referring(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._referring(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._referring(relation oid) TO backfill_operator;

-- Name: FUNCTION _refuse(message text, detail text, hint text); Type: ACL

REVOKE ALL ON FUNCTION backfill._refuse(message text, detail text, hint text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._refuse(message text, detail text, hint text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._refuse(message text, detail text, hint text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._refuse(message text, detail text, hint text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._refuse(message text, detail text, hint text) TO pg_monitor;

-- Name: FUNCTION _register_backend(slice bigint, token uuid, backend_pid integer, backend_start timestamp with time zone, server text); Type: ACL

REVOKE ALL ON FUNCTION backfill._register_backend(slice bigint, token uuid, backend_pid integer, backend_start timestamp with time zone, server text) FROM PUBLIC;

-- Name: FUNCTION _register_executor(login name, run_as name, one_url boolean, trusts_owners boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._register_executor(login name, run_as name, one_url boolean, trusts_owners boolean) FROM PUBLIC;

-- Name: FUNCTION _register_rollout_backend(id bigint, token uuid, pid integer, started timestamp with time zone); Type: ACL

REVOKE ALL ON FUNCTION backfill._register_rollout_backend(id bigint, token uuid, pid integer, started timestamp with time zone) FROM PUBLIC;

-- Name: FUNCTION _register_worker(worker uuid, host text, pid integer, version text, run_as name[], ttl interval); Type: ACL

REVOKE ALL ON FUNCTION backfill._register_worker(worker uuid, host text, pid integer, version text, run_as name[], ttl interval) FROM PUBLIC;

-- Name: FUNCTION _rejection_hint(kind text, name text, source text, state text, message text); Type: ACL

REVOKE ALL ON FUNCTION backfill._rejection_hint(kind text, name text, source text, state text, message text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rejection_hint(kind text, name text, source text, state text, message text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rejection_hint(kind text, name text, source text, state text, message text) TO backfill_operator;

-- Name: FUNCTION _release(slice bigint, token uuid); Type: ACL

REVOKE ALL ON FUNCTION backfill._release(slice bigint, token uuid) FROM PUBLIC;

-- Name: FUNCTION _release_for_retry(slice bigint, token uuid, reason text, message text, pause interval, counts boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._release_for_retry(slice bigint, token uuid, reason text, message text, pause interval, counts boolean) FROM PUBLIC;

-- Name: FUNCTION _release_rollout(id bigint, token uuid, statement bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._release_rollout(id bigint, token uuid, statement bigint) FROM PUBLIC;

-- Name: FUNCTION _renew_rollout(id bigint, token uuid, ttl interval, undo boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._renew_rollout(id bigint, token uuid, ttl interval, undo boolean) FROM PUBLIC;

-- Name: FUNCTION _replaced(job_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._replaced(job_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._replaced(job_name text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._replaced(job_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._replaced(job_name text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._replaced(job_name text) TO pg_monitor;

-- Name: FUNCTION _replaced_column(job_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._replaced_column(job_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._replaced_column(job_name text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._replaced_column(job_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._replaced_column(job_name text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._replaced_column(job_name text) TO pg_monitor;

-- Name: FUNCTION _replaced_leaf(job_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._replaced_leaf(job_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._replaced_leaf(job_name text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._replaced_leaf(job_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._replaced_leaf(job_name text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._replaced_leaf(job_name text) TO pg_monitor;

-- Name: FUNCTION _resolve_run_as(actor name, asked name); Type: ACL

REVOKE ALL ON FUNCTION backfill._resolve_run_as(actor name, asked name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._resolve_run_as(actor name, asked name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._resolve_run_as(actor name, asked name) TO backfill_operator;

-- Name: FUNCTION _resolve_table(name text, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._resolve_table(name text, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._resolve_table(name text, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._resolve_table(name text, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _resolve_type(name text, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._resolve_type(name text, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._resolve_type(name text, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._resolve_type(name text, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _right_hint(kind text, target text, run_as name); Type: ACL

REVOKE ALL ON FUNCTION backfill._right_hint(kind text, target text, run_as name) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._right_hint(kind text, target text, run_as name) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._right_hint(kind text, target text, run_as name) TO backfill_operator;

-- Name: FUNCTION _role_list(roles name[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._role_list(roles name[]) FROM PUBLIC;

-- Name: FUNCTION _rollout_after_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_after_insert() FROM PUBLIC;

-- Name: FUNCTION _rollout_before_insert(); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_before_insert() FROM PUBLIC;

-- Name: FUNCTION _rollout_command(verb text, rollout_name text, reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_command(verb text, rollout_name text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rollout_command(verb text, rollout_name text, reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rollout_command(verb text, rollout_name text, reason text) TO backfill_operator;

-- Name: FUNCTION _rollout_fingerprint(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_fingerprint(relation oid) FROM PUBLIC;

-- Name: FUNCTION _rollout_form(spec jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_form(spec jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rollout_form(spec jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rollout_form(spec jsonb) TO backfill_operator;

-- Name: FUNCTION _rollout_index(r backfill.rollout, part oid, undo_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_index(r backfill.rollout, part oid, undo_sql text) FROM PUBLIC;

-- Name: FUNCTION _rollout_job(s jsonb, settings jsonb, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_job(s jsonb, settings jsonb, what text) FROM PUBLIC;

-- Name: FUNCTION _rollout_spec(spec jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_spec(spec jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rollout_spec(spec jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rollout_spec(spec jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _rollout_statement_failed(id bigint, token uuid, statement bigint, error text, hint text, is_temporary boolean, waits text); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_statement_failed(id bigint, token uuid, statement bigint, error text, hint text, is_temporary boolean, waits text) FROM PUBLIC;

-- Name: FUNCTION _rollout_steps(s jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_steps(s jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rollout_steps(s jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rollout_steps(s jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _rollout_work(s jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._rollout_work(s jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._rollout_work(s jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._rollout_work(s jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _row_after(relation oid, columns text[], expression text); Type: ACL

REVOKE ALL ON FUNCTION backfill._row_after(relation oid, columns text[], expression text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._row_after(relation oid, columns text[], expression text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._row_after(relation oid, columns text[], expression text) TO backfill_operator;

-- Name: FUNCTION _row_security_hides(relation oid, role name); Type: ACL

REVOKE ALL ON FUNCTION backfill._row_security_hides(relation oid, role name) FROM PUBLIC;

-- Name: FUNCTION _rows_text(n bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._rows_text(n bigint) FROM PUBLIC;

-- Name: FUNCTION _rows_that_violate(s backfill.rollout_statement); Type: ACL

REVOKE ALL ON FUNCTION backfill._rows_that_violate(s backfill.rollout_statement) FROM PUBLIC;

-- Name: FUNCTION _run_housekeeping(); Type: ACL

REVOKE ALL ON FUNCTION backfill._run_housekeeping() FROM PUBLIC;

-- Name: FUNCTION _same_or_raise(job_name text, id bigint, state text, difference text); Type: ACL

REVOKE ALL ON FUNCTION backfill._same_or_raise(job_name text, id bigint, state text, difference text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._same_or_raise(job_name text, id bigint, state text, difference text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._same_or_raise(job_name text, id bigint, state text, difference text) TO backfill_operator;

-- Name: FUNCTION _same_sql(a text, b text, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._same_sql(a text, b text, what text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._same_sql(a text, b text, what text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._same_sql(a text, b text, what text) TO backfill_operator;

-- Name: FUNCTION _sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._sample(kind text, relation oid, set_sql text, filter_sql text, key jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _save_leaf(slice bigint, token uuid, slices jsonb, rows_estimated bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._save_leaf(slice bigint, token uuid, slices jsonb, rows_estimated bigint) FROM PUBLIC;

-- Name: FUNCTION _save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text); Type: ACL

REVOKE ALL ON FUNCTION backfill._save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text) FROM PUBLIC;

-- Name: FUNCTION _schedule_slices(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._schedule_slices(job_id bigint) FROM PUBLIC;

-- Name: FUNCTION _schemas_of(settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._schemas_of(settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._schemas_of(settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._schemas_of(settings jsonb) TO backfill_operator;

-- Name: FUNCTION _sees_all(); Type: ACL

REVOKE ALL ON FUNCTION backfill._sees_all() FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._sees_all() TO backfill_reader;
GRANT ALL ON FUNCTION backfill._sees_all() TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._sees_all() TO backfill_operator;
GRANT ALL ON FUNCTION backfill._sees_all() TO pg_monitor;

-- Name: FUNCTION _self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], OUT place text, OUT name text, OUT source regclass, OUT unknown text[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], OUT place text, OUT name text, OUT source regclass, OUT unknown text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], OUT place text, OUT name text, OUT source regclass, OUT unknown text[]) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._self_reads(run_as name, settings jsonb, relation oid, set_sql text, filter_sql text, assigned text[], OUT place text, OUT name text, OUT source regclass, OUT unknown text[]) TO backfill_operator;

-- Name: FUNCTION _server_identity(); Type: ACL

REVOKE ALL ON FUNCTION backfill._server_identity() FROM PUBLIC;

-- Name: FUNCTION _sessions_with_locks(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._sessions_with_locks(relation oid) FROM PUBLIC;

-- Name: FUNCTION _set_aside(job_id bigint, reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill._set_aside(job_id bigint, reason text) FROM PUBLIC;

-- Name: FUNCTION _set_worker_window(worker uuid, until timestamp with time zone); Type: ACL

REVOKE ALL ON FUNCTION backfill._set_worker_window(worker uuid, until timestamp with time zone) FROM PUBLIC;

-- Name: FUNCTION _settle(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._settle(job_id bigint) FROM PUBLIC;

-- Name: FUNCTION _share_duty_cycle(worker uuid, duty_cycle double precision, budget_duty_cycle double precision); Type: ACL

REVOKE ALL ON FUNCTION backfill._share_duty_cycle(worker uuid, duty_cycle double precision, budget_duty_cycle double precision) FROM PUBLIC;

-- Name: FUNCTION _signal_changed(); Type: ACL

REVOKE ALL ON FUNCTION backfill._signal_changed() FROM PUBLIC;

-- Name: FUNCTION _skipped_triggers(relation oid, kind text, set_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._skipped_triggers(relation oid, kind text, set_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._skipped_triggers(relation oid, kind text, set_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._skipped_triggers(relation oid, kind text, set_sql text) TO backfill_operator;

-- Name: FUNCTION _spec_columns(relation oid, fragment text); Type: ACL

REVOKE ALL ON FUNCTION backfill._spec_columns(relation oid, fragment text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._spec_columns(relation oid, fragment text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._spec_columns(relation oid, fragment text) TO backfill_operator;

-- Name: FUNCTION _spec_text(value jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._spec_text(value jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._spec_text(value jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._spec_text(value jsonb) TO backfill_operator;

-- Name: FUNCTION _split(slice bigint, token uuid, at text[], rows bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._split(slice bigint, token uuid, at text[], rows bigint) FROM PUBLIC;

-- Name: FUNCTION _stage_at(number integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._stage_at(number integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._stage_at(number integer) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._stage_at(number integer) TO backfill_operator;

-- Name: FUNCTION _stage_number(stage text); Type: ACL

REVOKE ALL ON FUNCTION backfill._stage_number(stage text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._stage_number(stage text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._stage_number(stage text) TO backfill_operator;

-- Name: FUNCTION _start_new_run(j backfill.job); Type: ACL

REVOKE ALL ON FUNCTION backfill._start_new_run(j backfill.job) FROM PUBLIC;

-- Name: FUNCTION _start_rollout(spec jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._start_rollout(spec jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._start_rollout(spec jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._start_rollout(spec jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _state_of(job_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._state_of(job_name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._state_of(job_name text) TO backfill_reader;
GRANT ALL ON FUNCTION backfill._state_of(job_name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._state_of(job_name text) TO backfill_operator;
GRANT ALL ON FUNCTION backfill._state_of(job_name text) TO pg_monitor;

-- Name: FUNCTION _statements_with_all_columns(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._statements_with_all_columns(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._statements_with_all_columns(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._statements_with_all_columns(relation oid) TO backfill_operator;

-- Name: FUNCTION _status(jobs bigint[]); Type: ACL

REVOKE ALL ON FUNCTION backfill._status(jobs bigint[]) FROM PUBLIC;

-- Name: FUNCTION _status_jobs(); Type: ACL

REVOKE ALL ON FUNCTION backfill._status_jobs() FROM PUBLIC;

-- Name: FUNCTION _store_totals(job_id bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill._store_totals(job_id bigint) FROM PUBLIC;

-- Name: FUNCTION _stored_options(options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._stored_options(options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._stored_options(options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._stored_options(options jsonb) TO backfill_operator;

-- Name: FUNCTION _subscribers(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._subscribers(relation oid) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._subscribers(relation oid) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._subscribers(relation oid) TO backfill_operator;

-- Name: FUNCTION _sync_function(s jsonb, settings jsonb, switched boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill._sync_function(s jsonb, settings jsonb, switched boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._sync_function(s jsonb, settings jsonb, switched boolean) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._sync_function(s jsonb, settings jsonb, switched boolean) TO backfill_operator;

-- Name: FUNCTION _sync_name(s jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._sync_name(s jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._sync_name(s jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._sync_name(s jsonb) TO backfill_operator;

-- Name: FUNCTION _sync_problem(r backfill.rollout); Type: ACL

REVOKE ALL ON FUNCTION backfill._sync_problem(r backfill.rollout) FROM PUBLIC;

-- Name: FUNCTION _table_file(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._table_file(relation oid) FROM PUBLIC;

-- Name: FUNCTION _table_fingerprint(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill._table_fingerprint(relation oid) FROM PUBLIC;

-- Name: FUNCTION _tokens(fragment text, what text); Type: ACL

REVOKE ALL ON FUNCTION backfill._tokens(fragment text, what text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._tokens(fragment text, what text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._tokens(fragment text, what text) TO backfill_operator;

-- Name: FUNCTION _try_expressions(s jsonb, settings jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._try_expressions(s jsonb, settings jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._try_expressions(s jsonb, settings jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._try_expressions(s jsonb, settings jsonb) TO backfill_operator;

-- Name: FUNCTION _try_plan(run_as name, settings jsonb, statement text); Type: ACL

REVOKE ALL ON FUNCTION backfill._try_plan(run_as name, settings jsonb, statement text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._try_plan(run_as name, settings jsonb, statement text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._try_plan(run_as name, settings jsonb, statement text) TO backfill_operator;

-- Name: FUNCTION _type_name(type oid, modifier integer); Type: ACL

REVOKE ALL ON FUNCTION backfill._type_name(type oid, modifier integer) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._type_name(type oid, modifier integer) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._type_name(type oid, modifier integer) TO backfill_operator;

-- Name: FUNCTION _unfinished_jobs(); Type: ACL

REVOKE ALL ON FUNCTION backfill._unfinished_jobs() FROM PUBLIC;

-- Name: FUNCTION _unlimited(type oid, name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._unlimited(type oid, name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._unlimited(type oid, name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._unlimited(type oid, name text) TO backfill_operator;

-- Name: FUNCTION _untrusted_roles(relation oid, login name); Type: ACL

REVOKE ALL ON FUNCTION backfill._untrusted_roles(relation oid, login name) FROM PUBLIC;

-- Name: FUNCTION _update_sql(target text, set_sql text, filter_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._update_sql(target text, set_sql text, filter_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._update_sql(target text, set_sql text, filter_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._update_sql(target text, set_sql text, filter_sql text) TO backfill_operator;

-- Name: FUNCTION _validation(s jsonb, number integer, name text); Type: ACL

REVOKE ALL ON FUNCTION backfill._validation(s jsonb, number integer, name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._validation(s jsonb, number integer, name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._validation(s jsonb, number integer, name text) TO backfill_operator;

-- Name: FUNCTION _values_text(vals jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._values_text(vals jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._values_text(vals jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._values_text(vals jsonb) TO backfill_operator;

-- Name: FUNCTION _verify_kind(j backfill.job); Type: ACL

REVOKE ALL ON FUNCTION backfill._verify_kind(j backfill.job) FROM PUBLIC;

-- Name: FUNCTION _violations(s jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill._violations(s jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._violations(s jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._violations(s jsonb) TO backfill_operator;

-- Name: FUNCTION _work_sql(kind text, target text, set_sql text, filter_sql text); Type: ACL

REVOKE ALL ON FUNCTION backfill._work_sql(kind text, target text, set_sql text, filter_sql text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill._work_sql(kind text, target text, set_sql text, filter_sql text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill._work_sql(kind text, target text, set_sql text, filter_sql text) TO backfill_operator;

-- Name: FUNCTION _written_since(written xid, planned pg_snapshot); Type: ACL

REVOKE ALL ON FUNCTION backfill._written_since(written xid, planned pg_snapshot) FROM PUBLIC;

-- Name: FUNCTION advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill.advance(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean) FROM PUBLIC;

-- Name: FUNCTION advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.advance_deferring(slice bigint, token uuid, checkpoint_ctid tid, from_position text[], to_position text[], scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, quarantined jsonb) FROM PUBLIC;

-- Name: FUNCTION all_changed(matched bigint, changed bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill.all_changed(matched bigint, changed bigint) FROM PUBLIC;

-- Name: FUNCTION approve(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.approve(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.approve(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.approve(name text) TO backfill_operator;

-- Name: FUNCTION assert_complete(name text, whole_table boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill.assert_complete(name text, whole_table boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.assert_complete(name text, whole_table boolean) TO backfill_reader;
GRANT ALL ON FUNCTION backfill.assert_complete(name text, whole_table boolean) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.assert_complete(name text, whole_table boolean) TO backfill_operator;
GRANT ALL ON FUNCTION backfill.assert_complete(name text, whole_table boolean) TO pg_monitor;

-- Name: FUNCTION cancel(name text, reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill.cancel(name text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.cancel(name text, reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.cancel(name text, reason text) TO backfill_operator;

-- Name: FUNCTION enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.enqueue(name text, target regclass, set text, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) TO backfill_operator;

-- Name: FUNCTION enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.enqueue_delete(name text, target regclass, filter text, key name[], priority integer, run_at timestamp with time zone, run_as name, needs_approval boolean, options jsonb) TO backfill_operator;

-- Name: FUNCTION forget(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.forget(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.forget(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.forget(name text) TO backfill_operator;

-- Name: FUNCTION key_text(value anyelement); Type: ACL

REVOKE ALL ON FUNCTION backfill.key_text(value anyelement) FROM PUBLIC;

-- Name: FUNCTION not_rewritten(relations oid[]); Type: ACL

REVOKE ALL ON FUNCTION backfill.not_rewritten(relations oid[]) FROM PUBLIC;

-- Name: FUNCTION pause(name text, reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill.pause(name text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.pause(name text, reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.pause(name text, reason text) TO backfill_operator;

-- Name: FUNCTION pause_all(reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill.pause_all(reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.pause_all(reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.pause_all(reason text) TO backfill_operator;

-- Name: FUNCTION preview(target regclass, set text, filter text, key name[], options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.preview(target regclass, set text, filter text, key name[], options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.preview(target regclass, set text, filter text, key name[], options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.preview(target regclass, set text, filter text, key name[], options jsonb) TO backfill_operator;

-- Name: FUNCTION rerun(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rerun(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rerun(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rerun(name text) TO backfill_operator;

-- Name: FUNCTION resume(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.resume(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.resume(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.resume(name text) TO backfill_operator;

-- Name: FUNCTION resume_all(); Type: ACL

REVOKE ALL ON FUNCTION backfill.resume_all() FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.resume_all() TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.resume_all() TO backfill_operator;

-- Name: FUNCTION retry(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.retry(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.retry(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.retry(name text) TO backfill_operator;

-- Name: FUNCTION retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.retry_deferred(slice bigint, token uuid, checkpoint_ctid tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], quarantined jsonb) FROM PUBLIC;

-- Name: FUNCTION rollout_advance(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_advance(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_advance(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_advance(name text) TO backfill_operator;

-- Name: FUNCTION rollout_begun(rollout bigint, token uuid, statement bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_begun(rollout bigint, token uuid, statement bigint) FROM PUBLIC;

-- Name: FUNCTION rollout_locked(statement bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_locked(statement bigint) FROM PUBLIC;

-- Name: FUNCTION rollout_pause(name text, reason text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_pause(name text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_pause(name text, reason text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_pause(name text, reason text) TO backfill_operator;

-- Name: FUNCTION rollout_plan(spec jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_plan(spec jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_plan(spec jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_plan(spec jsonb) TO backfill_operator;

-- Name: FUNCTION rollout_recorded(rollout bigint, token uuid, statement bigint); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_recorded(rollout bigint, token uuid, statement bigint) FROM PUBLIC;

-- Name: FUNCTION rollout_resume(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_resume(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_resume(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_resume(name text) TO backfill_operator;

-- Name: FUNCTION rollout_rollback(name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_rollback(name text) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_rollback(name text) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_rollback(name text) TO backfill_operator;

-- Name: FUNCTION rollout_start(spec jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_start(spec jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.rollout_start(spec jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.rollout_start(spec jsonb) TO backfill_operator;

-- Name: FUNCTION rollout_unlocking(statement bigint, relation oid, files text); Type: ACL

REVOKE ALL ON FUNCTION backfill.rollout_unlocking(statement bigint, relation oid, files text) FROM PUBLIC;

-- Name: FUNCTION same_triggers(relation oid, suppressible boolean); Type: ACL

REVOKE ALL ON FUNCTION backfill.same_triggers(relation oid, suppressible boolean) FROM PUBLIC;

-- Name: FUNCTION suppressible(relation oid); Type: ACL

REVOKE ALL ON FUNCTION backfill.suppressible(relation oid) FROM PUBLIC;

-- Name: FUNCTION tune(name text, options jsonb); Type: ACL

REVOKE ALL ON FUNCTION backfill.tune(name text, options jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION backfill.tune(name text, options jsonb) TO backfill_submitter;
GRANT ALL ON FUNCTION backfill.tune(name text, options jsonb) TO backfill_operator;

-- Name: FUNCTION unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text); Type: ACL

REVOKE ALL ON FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text) FROM PUBLIC;

-- Name: FUNCTION unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text); Type: ACL

REVOKE ALL ON FUNCTION backfill.unchanged(relation oid, name text, columns smallint[], key smallint[], fingerprint text, root oid, root_name text) FROM PUBLIC;

-- Name: PROCEDURE wait(IN name text, IN timeout interval); Type: ACL

REVOKE ALL ON PROCEDURE backfill.wait(IN name text, IN timeout interval) FROM PUBLIC;
GRANT ALL ON PROCEDURE backfill.wait(IN name text, IN timeout interval) TO backfill_reader;
GRANT ALL ON PROCEDURE backfill.wait(IN name text, IN timeout interval) TO backfill_submitter;
GRANT ALL ON PROCEDURE backfill.wait(IN name text, IN timeout interval) TO backfill_operator;
GRANT ALL ON PROCEDURE backfill.wait(IN name text, IN timeout interval) TO pg_monitor;

-- Name: COLUMN _visible.id; Type: ACL

GRANT SELECT(id) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(id) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.name; Type: ACL

GRANT SELECT(name) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(name) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.kind; Type: ACL

GRANT SELECT(kind) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(kind) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.relation; Type: ACL

GRANT SELECT(relation) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(relation) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.target; Type: ACL

GRANT SELECT(target) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(target) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.set_sql; Type: ACL

GRANT SELECT(set_sql) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(set_sql) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.filter_sql; Type: ACL

GRANT SELECT(filter_sql) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(filter_sql) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.key; Type: ACL

GRANT SELECT(key) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(key) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.run_as_asked; Type: ACL

GRANT SELECT(run_as_asked) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(run_as_asked) ON TABLE backfill._visible TO backfill_operator;

-- Name: COLUMN _visible.state; Type: ACL

GRANT SELECT(state) ON TABLE backfill._visible TO backfill_submitter;
GRANT SELECT(state) ON TABLE backfill._visible TO backfill_operator;

-- Name: TABLE jobs; Type: ACL

GRANT SELECT ON TABLE backfill.jobs TO backfill_reader;
GRANT SELECT ON TABLE backfill.jobs TO backfill_submitter;
GRANT SELECT ON TABLE backfill.jobs TO backfill_operator;
GRANT SELECT ON TABLE backfill.jobs TO pg_monitor;

-- Name: COLUMN _visible_rollouts.id; Type: ACL

GRANT SELECT(id) ON TABLE backfill._visible_rollouts TO backfill_submitter;
GRANT SELECT(id) ON TABLE backfill._visible_rollouts TO backfill_operator;

-- Name: COLUMN _visible_rollouts.name; Type: ACL

GRANT SELECT(name) ON TABLE backfill._visible_rollouts TO backfill_submitter;
GRANT SELECT(name) ON TABLE backfill._visible_rollouts TO backfill_operator;

-- Name: COLUMN _visible_rollouts.spec; Type: ACL

GRANT SELECT(spec) ON TABLE backfill._visible_rollouts TO backfill_submitter;
GRANT SELECT(spec) ON TABLE backfill._visible_rollouts TO backfill_operator;

-- Name: COLUMN _visible_rollouts.state; Type: ACL

GRANT SELECT(state) ON TABLE backfill._visible_rollouts TO backfill_submitter;
GRANT SELECT(state) ON TABLE backfill._visible_rollouts TO backfill_operator;

-- Name: COLUMN _visible_rollouts.error; Type: ACL

GRANT SELECT(error) ON TABLE backfill._visible_rollouts TO backfill_submitter;
GRANT SELECT(error) ON TABLE backfill._visible_rollouts TO backfill_operator;

-- Name: COLUMN command.verb; Type: ACL

GRANT INSERT(verb) ON TABLE backfill.command TO backfill_submitter;
GRANT INSERT(verb) ON TABLE backfill.command TO backfill_operator;

-- Name: COLUMN command.job_name; Type: ACL

GRANT INSERT(job_name) ON TABLE backfill.command TO backfill_submitter;
GRANT INSERT(job_name) ON TABLE backfill.command TO backfill_operator;

-- Name: COLUMN command.reason; Type: ACL

GRANT INSERT(reason) ON TABLE backfill.command TO backfill_submitter;
GRANT INSERT(reason) ON TABLE backfill.command TO backfill_operator;

-- Name: COLUMN command.options; Type: ACL

GRANT INSERT(options) ON TABLE backfill.command TO backfill_submitter;
GRANT INSERT(options) ON TABLE backfill.command TO backfill_operator;

-- Name: TABLE events; Type: ACL

GRANT SELECT ON TABLE backfill.events TO backfill_reader;
GRANT SELECT ON TABLE backfill.events TO backfill_submitter;
GRANT SELECT ON TABLE backfill.events TO backfill_operator;
GRANT SELECT ON TABLE backfill.events TO pg_monitor;

-- Name: TABLE quota; Type: ACL

GRANT SELECT ON TABLE backfill.quota TO backfill_reader;
GRANT SELECT ON TABLE backfill.quota TO backfill_submitter;
GRANT SELECT ON TABLE backfill.quota TO backfill_operator;
GRANT SELECT ON TABLE backfill.quota TO pg_monitor;

-- Name: COLUMN quota.live_jobs; Type: ACL

GRANT UPDATE(live_jobs) ON TABLE backfill.quota TO backfill_operator;

-- Name: COLUMN quota.jobs_per_minute; Type: ACL

GRANT UPDATE(jobs_per_minute) ON TABLE backfill.quota TO backfill_operator;

-- Name: COLUMN quota.max_row_errors; Type: ACL

GRANT UPDATE(max_row_errors) ON TABLE backfill.quota TO backfill_operator;

-- Name: COLUMN rollout_command.verb; Type: ACL

GRANT INSERT(verb) ON TABLE backfill.rollout_command TO backfill_submitter;
GRANT INSERT(verb) ON TABLE backfill.rollout_command TO backfill_operator;

-- Name: COLUMN rollout_command.rollout_name; Type: ACL

GRANT INSERT(rollout_name) ON TABLE backfill.rollout_command TO backfill_submitter;
GRANT INSERT(rollout_name) ON TABLE backfill.rollout_command TO backfill_operator;

-- Name: COLUMN rollout_command.reason; Type: ACL

GRANT INSERT(reason) ON TABLE backfill.rollout_command TO backfill_submitter;
GRANT INSERT(reason) ON TABLE backfill.rollout_command TO backfill_operator;

-- Name: TABLE rollout_statements; Type: ACL

GRANT SELECT ON TABLE backfill.rollout_statements TO backfill_reader;
GRANT SELECT ON TABLE backfill.rollout_statements TO backfill_submitter;
GRANT SELECT ON TABLE backfill.rollout_statements TO backfill_operator;
GRANT SELECT ON TABLE backfill.rollout_statements TO pg_monitor;

-- Name: TABLE rollouts; Type: ACL

GRANT SELECT ON TABLE backfill.rollouts TO backfill_reader;
GRANT SELECT ON TABLE backfill.rollouts TO backfill_submitter;
GRANT SELECT ON TABLE backfill.rollouts TO backfill_operator;
GRANT SELECT ON TABLE backfill.rollouts TO pg_monitor;

-- Name: TABLE row_errors; Type: ACL

GRANT SELECT ON TABLE backfill.row_errors TO backfill_reader;
GRANT SELECT ON TABLE backfill.row_errors TO backfill_submitter;
GRANT SELECT ON TABLE backfill.row_errors TO backfill_operator;
GRANT SELECT ON TABLE backfill.row_errors TO pg_monitor;

-- Name: TABLE signals; Type: ACL

GRANT SELECT ON TABLE backfill.signals TO backfill_reader;
GRANT SELECT ON TABLE backfill.signals TO backfill_submitter;
GRANT SELECT ON TABLE backfill.signals TO backfill_operator;
GRANT SELECT ON TABLE backfill.signals TO pg_monitor;

-- Name: TABLE slices; Type: ACL

GRANT SELECT ON TABLE backfill.slices TO backfill_reader;
GRANT SELECT ON TABLE backfill.slices TO backfill_submitter;
GRANT SELECT ON TABLE backfill.slices TO backfill_operator;
GRANT SELECT ON TABLE backfill.slices TO pg_monitor;

-- Name: TABLE workers; Type: ACL

GRANT SELECT ON TABLE backfill.workers TO backfill_reader;
GRANT SELECT ON TABLE backfill.workers TO backfill_submitter;
GRANT SELECT ON TABLE backfill.workers TO backfill_operator;
GRANT SELECT ON TABLE backfill.workers TO pg_monitor;

