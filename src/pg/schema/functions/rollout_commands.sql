-- The public functions for rollouts, and their checks. The functions run with the privileges of
-- their caller. The triggers run with the privileges of the owner of schema backfill.

-- Checks the expressions of a rollout with the server, without evaluating them: creates an empty
-- temporary table like the target, adds the new column to it (for "using", as a generated column),
-- and rolls this back. If the session cannot create a temporary table, only raises a warning. The
-- server then refuses expressions that are not immutable, or that read other rows. The statements
-- are built before the search_path of the caller is set.
create or replace function backfill._try_expressions(s jsonb, settings jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Sets the columns that a caller cannot choose, and refuses a rollout that is not possible.
create or replace function backfill._rollout_before_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._rollout_after_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._record_rollout_event(new.id, 'rollout started', format('adds column "%s" to %s', new.spec ->> 'column', new.target), new.started_by);
  perform backfill._notify_daemons();
  return null;
end $$;

-- Returns whether a role may control the rollouts that another role has started.
create or replace function backfill._may_control(actor name, started_by name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select backfill._is_operator(actor) or exists (select from pg_roles r where r.rolname = _may_control.started_by and pg_has_role(_may_control.actor, r.oid, 'MEMBER'))
$$;

create or replace function backfill._start_rollout(spec jsonb, settings jsonb) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Carries out a command on a rollout.
create or replace function backfill._carry_out_rollout_command() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._rollout_command(verb text, rollout_name text, reason text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_message text; v_detail text; v_hint text;
begin
  insert into backfill.rollout_command (verb, rollout_name, reason) values (_rollout_command.verb, _rollout_command.rollout_name, _rollout_command.reason);
  return (select r.state from backfill._visible_rollouts r where r.name = _rollout_command.rollout_name);
exception when sqlstate 'BF001' or sqlstate 'BF003' or sqlstate 'BF005' or insufficient_privilege then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
end $$;

-- Returns at most five statements of pg_stat_statements that, judging by their text, return all
-- columns of a table. Returns no row if the extension is not installed, or if the caller may not
-- read the statements.
create or replace function backfill._statements_with_all_columns(relation oid) returns table (query text, calls bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
end $$;

-- Returns the plan of a rollout: estimates, then each statement, then warnings.
create or replace function backfill._plan_rollout(spec jsonb, settings jsonb) returns table (stage text, ordinal integer, statement text, lock text, effect text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill.rollout_plan(spec jsonb) returns table (stage text, ordinal integer, statement text, lock text, effect text)
language sql volatile as $$ select * from backfill._plan_rollout(rollout_plan.spec, backfill._caller_settings()) $$;
comment on function backfill.rollout_plan(jsonb) is 'Returns what a rollout would do: estimates, each statement with its lock, and warnings. Changes nothing.';

create or replace function backfill.rollout_start(spec jsonb) returns bigint
language sql volatile as $$ select backfill._start_rollout(rollout_start.spec, backfill._caller_settings()) $$;
comment on function backfill.rollout_start(jsonb) is 'Starts a rollout. Returns its id. A repeated call with the same spec returns the id of the existing rollout.';

create or replace function backfill.rollout_advance(name text) returns text
language sql volatile as $$ select backfill._rollout_command('advance', rollout_advance.name, null) $$;
comment on function backfill.rollout_advance(text) is 'Lets a rollout that waits continue to its next stage. Returns the state of the rollout.';

create or replace function backfill.rollout_rollback(name text) returns text
language sql volatile as $$ select backfill._rollout_command('rollback', rollout_rollback.name, null) $$;
comment on function backfill.rollout_rollback(text) is 'Rolls a rollout back: cancels its job, and drops its constraints, its trigger and its column. Returns the state of the rollout.';

create or replace function backfill.rollout_pause(name text, reason text default null) returns text
language sql volatile as $$ select backfill._rollout_command('pause', rollout_pause.name, rollout_pause.reason) $$;
comment on function backfill.rollout_pause(text, text) is 'Pauses a rollout and its job. Returns the state of the rollout.';

create or replace function backfill.rollout_resume(name text) returns text
language sql volatile as $$ select backfill._rollout_command('resume', rollout_resume.name, null) $$;
comment on function backfill.rollout_resume(text) is 'Continues a paused or failed rollout, and its job. Returns the state of the rollout.';
