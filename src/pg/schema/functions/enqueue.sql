-- Returns whether a job has this name. This is all that a role learns of a job that it may not see.
create or replace function backfill._is_taken(job_name text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select exists (select from backfill.job j where j.name = job_name)
$$;

-- Compares the stored job of this name with a new spec. Returns the ID and state of the stored job,
-- and the first difference, if any. If the caller may not see the stored job, the ID and the state
-- are null, and the difference says so. Returns no row if no job has this name.
create or replace function backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name)
returns table (id bigint, state text, difference text)
language sql stable set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._same_or_raise(job_name text, id bigint, state text, difference text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._enqueue(
  kind           text,
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

-- The function that users call. It cannot pin its search_path, because it stores the search_path of
-- the caller with the job. So every name is qualified.
create or replace function backfill.enqueue(
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
  select backfill._enqueue('update', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, backfill._caller_settings())
$$;
comment on function backfill.enqueue(text, regclass, text, text, name[], integer, timestamptz, name, boolean, jsonb) is 'Enqueues a job that applies the assignments in `set`, in batches, to the rows of `target` that match `filter`. Returns the id of the job. A repeated call returns the same id.';

create or replace function backfill.enqueue_delete(
  name           text,
  target         regclass,
  filter         text,
  key            name[]      default null,
  priority       integer     default 0,
  run_at         timestamptz default now(),
  run_as         name        default null,
  needs_approval boolean     default false,
  options        jsonb       default '{}'
) returns bigint
language sql volatile as $$
  select backfill._enqueue('delete', $1, $2, null, $3, $4, $5, $6, $7, $8, $9, backfill._caller_settings())
$$;
comment on function backfill.enqueue_delete(text, regclass, text, name[], integer, timestamptz, name, boolean, jsonb) is 'Enqueues a job that deletes, in batches, the rows of `target` that match `filter`. Returns the id of the job. A repeated call returns the same id.';

create or replace function backfill._job_bounds() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- Makes the counts below use an index, however long the queue is.
set enable_seqscan = off as $$
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

create or replace function backfill._job_before_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._job_after_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.slice (job_id, kind, run_as, priority) values (new.id, 'plan', new.run_as, new.priority);
  perform backfill._schedule_slices(new.id);
  perform backfill._record_event(new.id, 'enqueued', format('enqueued on %s', new.target), null, new.enqueued_by);
  perform backfill._notify_daemons();
  return null;
end $$;
