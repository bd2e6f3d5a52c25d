-- Whether a row that has this xmin was written after the snapshot. An xmin is the lower half of a transaction's number:
-- of those that it may be, the latest that has begun. What is frozen keeps its number, and is taken for later only if it
-- was written a whole turn of the counter earlier, to within the length of the job. The snapshot lists no
-- subtransactions; so from the oldest one that was under way at planning on, nothing is known to have been committed.
create or replace function backfill._written_since(written xid, planned pg_snapshot) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  turn constant numeric := 4294967296;
  low numeric := written::text::numeric;
  next numeric := pg_snapshot_xmax(pg_current_snapshot())::text::numeric;
  whole numeric;
begin
  -- 1 and 2 stand for what was there from the beginning.
  if planned is null or low < 3 then
    return false;
  end if;
  whole := next - next % turn + low;
  if whole >= next then
    whole := whole - turn;
  end if;
  return whole >= pg_snapshot_xmin(planned)::text::numeric;
end $$;

-- The rest: what the table, and the server, say to it. Answers with the key, as _key_of does, and the assigned columns.

-- What is needed to look at the whole table of a job: for nobody but the role that enqueued it, whose expressions
-- these are. With anybody else's rights they are not evaluated.
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
    refusal := format('The job was enqueued by "%s", and this session is of "%s".', j.enqueued_by, session_user);
  elsif to_regclass(j.target)::oid is distinct from j.relation then
    refusal := format('Table %s is not the table that was planned.', j.target);
  elsif j.filter_sql is null and not comparable then
    refusal := 'The job has no filter, and its expressions can''t be compared: they read what they assign, or may give another value each time.';
  else
    spec := jsonb_build_object('enqueued_by', j.enqueued_by, 'target', j.target, 'settings', j.settings,
      'from', case when coalesce((j.plan ->> 'spread')::boolean, false) then '' else 'only ' end || j.target,
      'key', (select string_agg(format('%L, %I', k ->> 'name', k ->> 'name'), ', ' order by n) from jsonb_array_elements(j.plan -> 'key') with ordinality u(k, n)),
      'needs_work', case when j.kind = 'delete' or not comparable then format(E'(\n%s\n)', j.filter_sql)
                         when j.filter_sql is null or backfill._verify_kind(j) = 'expression' then backfill._differs(j.relation, j.set_sql)
                         else format(E'(\n%s\n) and %s', j.filter_sql, backfill._differs(j.relation, j.set_sql)) end);
  end if;
end $$;

-- A gate for a migration or a deploy: returns only when the job succeeded and its proof was found. whole_table: and no
-- row of the table needs work now, those above the bound of the plan included.
create or replace function backfill.assert_complete(name text, whole_table boolean default false) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j record;
  p record;
  found_key jsonb;
  looked boolean := false;
begin
  select v.state, v.verified_at, v.error, v.hint, v.waiting_reason, v.percent_done into j from backfill.jobs v where v.name = assert_complete.name;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no job "%s"', assert_complete.name), detail = 'Names are exact, with upper and lower case.', hint = 'select name, state from backfill.jobs lists them.';
  elsif j.state <> 'succeeded' then
    raise exception using errcode = 'BF004',
      message = format('job "%s" is not complete: %s, at %s percent%s', assert_complete.name, j.state, round(j.percent_done::numeric, 1), coalesce(', waiting: ' || j.waiting_reason, '')),
      detail = coalesce(nullif(j.error, ''), case j.state when 'cancelled' then 'Somebody cancelled it.' when 'paused' then 'Somebody paused it.' else 'It has not ended.' end),
      hint = case when j.state in ('failed', 'cancelled') then 'See backfill.events, mend the cause, then backfill.retry.' when j.state = 'paused' then 'Resume it with backfill.resume, then wait for it.' else 'Wait for it: backfilld wait, or call backfill.wait.' end;
  elsif j.verified_at is null then
    raise exception using errcode = 'BF004', message = format('job "%s" succeeded without a proof', assert_complete.name), detail = 'It ran with the option verify = none.', hint = 'Run it again with backfill.rerun after backfill.tune(name, ''{"verify": "auto"}'').';
  end if;
  if not coalesce(assert_complete.whole_table, false) then
    return;
  end if;

  select * into p from backfill._provable(assert_complete.name);
  if p.refusal is not null or p.spec ->> 'enqueued_by' <> current_user then
    perform backfill._refuse(format('the whole table of job "%s" can''t be proven here', assert_complete.name),
      coalesce(p.refusal, format('The job was enqueued by "%s", and the current role is "%s".', p.spec ->> 'enqueued_by', current_user)),
      case when p.refusal is null or p.refusal like 'The job was enqueued by%'
        then 'Its expressions are evaluated by nobody but the role that enqueued it: connect as that role (set role is not enough). Or leave whole_table out: the proof covers the rows up to the bound that was frozen at planning.'
        else 'Leave whole_table out: the proof covers the rows up to the bound that was frozen at planning.' end);
  end if;
  -- Under the job's settings, and read-only: all of it ends with the subtransaction. Until then nothing of ours may be
  -- looked up by name.
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
    -- Raised by an expression it would prove nothing.
    if not looked then
      raise;
    end if;
  end;
  if found_key is not null then
    raise exception using errcode = 'BF004', message = format('job "%s" is complete, and %s is not: row %s needs work', assert_complete.name, p.spec ->> 'target', found_key),
      detail = 'It was written after the job passed its place, or came after the job was planned.',
      hint = 'Make the application fill the column itself (or a trigger), then backfill.rerun takes what is left.';
  end if;
end $$;
comment on function backfill.assert_complete(text, boolean) is 'Raises BF004 unless the job has succeeded and its proof was found. whole_table => true also checks that no row of the whole table needs work now.';
