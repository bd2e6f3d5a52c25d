-- Returns whether a row with this xmin was written after the snapshot. The result is not exact:
-- - An xmin has only the lower 32 bits of a transaction ID. The function assumes that the latest
--   transaction with these bits wrote the row. A frozen row keeps its xmin. If a transaction since
--   planning has the same 32 bits, the function returns true for the frozen row.
-- - A snapshot does not list subtransactions. So a transaction counts as earlier than the snapshot
--   only if it is older than all transactions that were active at planning.
create or replace function backfill._written_since(written xid, planned pg_snapshot) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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

-- Returns the same condition as _differs, in a form that takes no operator from the job's
-- search_path, because another role may have created an operator there. The daemon compares rows in
-- the same form (src/pg/assigned.rs).
create or replace function backfill._differs_in_any_path(relation oid, set_sql text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
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

-- Returns in `spec` the data that a check of the job's whole table needs. If the check is not
-- possible, returns the reason in `refusal`. Only the role that enqueued the job gets the data, so
-- that the expressions of the job are never evaluated with the privileges of another role.
create or replace function backfill._provable(job_name text, out spec jsonb, out refusal text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
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

-- Returns a hint whose commands name the job and can be pasted into psql: backfill.retry becomes
-- select backfill.retry('orders').
create or replace function backfill._name_job(hint text, name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select regexp_replace(replace(replace(hint, 'backfill.tune(name, ', format('select backfill.tune(%L, ', name)), 'backfill.wait', format('call backfill.wait(%L)', name)),
                        'backfill\.(pause|resume|cancel|approve|retry|rerun|forget)\M(?!\()',
                        -- The replacement text of regexp_replace is not literal: a backslash must
                        -- be doubled.
                        format('select backfill.\1(%s)', replace(quote_literal(name), '\', '\\')), 'g')
$$;

-- Returns the hint for a job that is not complete: the action that lets it finish.
create or replace function backfill._next_step(name text, state text, waiting_reason text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
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

-- Raises an error unless the job succeeded and was verified, and the table, its partitions and
-- children, and the assigned columns are still the ones that the job changed. A migration or a
-- deploy calls the function before a step that needs the job's result. With whole_table the
-- function also checks that no row of the table needs work now, including rows above the upper
-- bound of the plan.
create or replace function backfill.assert_complete(name text, whole_table boolean default false) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
comment on function backfill.assert_complete(text, boolean) is 'Raises BF004 unless the job succeeded and was verified (BF003 if there is no such job). whole_table => true also checks that no row of the whole table needs work now.';
