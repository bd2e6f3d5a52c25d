-- The job's state machine, and the functions by which people steer it.
--
-- Everything that changes a job's state ends in _settle; everything that decides which slices may be claimed is
-- _arrange. Both expect the job's row to be locked by the caller.

create function backfill._note(job_id bigint, kind text, message text, detail jsonb default null, actor name default null) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into backfill.event (job_id, kind, message, detail, actor) values (_note.job_id, _note.kind, _note.message, _note.detail, coalesce(_note.actor, session_user))
$$;

create function backfill._wake() returns void
language sql set search_path = pg_catalog, pg_temp as $$ select pg_notify('backfill', '') $$;

-- Says for each slice of a job that nobody holds whether it may be claimed now, later by itself, or not.
create function backfill._arrange(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  open boolean;
  due boolean;
begin
  select * into j from backfill.job where id = _arrange.job_id;
  open := j.state in ('queued', 'running', 'verifying') and j.desired_state = 'running'
          and (not j.needs_approval or j.approved_at is not null);
  due := j.run_at <= clock_timestamp();
  update backfill.slice s
     set state = case when open and due then 'ready' else 'held' end,
         due_at = case when open and not due then j.run_at end,
         priority = j.priority, run_as = j.run_as
   where s.job_id = _arrange.job_id and s.run = j.run and s.generation = j.generation and s.state in ('held', 'ready');
end $$;

-- Takes a slice from its holder, if it has one: whatever that holder still sends is fenced from here on.
create function backfill._drop_lease(slice_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from backfill.lease l where l.slice_id = _drop_lease.slice_id;
  update backfill.checkpoint c set token = gen_random_uuid() where c.slice_id = _drop_lease.slice_id;
  update backfill.slice s set state = 'held' where s.id = _drop_lease.slice_id and s.state = 'leased';
end $$;

-- The totals of a run, kept with the job, whatever becomes of its slices (retention takes them in the end).
create function backfill._total(job_id bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.job j set rows_scanned = t.scanned, rows_changed = t.changed, rows_unresolved = t.unresolved
    from (select coalesce(sum(c.rows_scanned) filter (where s.generation = 1), 0) as scanned, coalesce(sum(c.rows_changed), 0) as changed,
                 coalesce(sum(c.rows_unresolved), 0) as unresolved
            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
            join backfill.job x on x.id = s.job_id and x.run = s.run
           where s.job_id = _total.job_id and s.kind = 'walk'
          having count(*) > 0) t
   where j.id = _total.job_id
$$;

-- Ends a run.
create function backfill._end(job_id bigint, final_state text, verified boolean, error text default null, hint text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- First of all: a holder whose lease ran out may be in the middle of a batch, which must be counted or refused.
  perform backfill._drop_lease(l.slice_id)
     from (select x.slice_id from backfill.lease x where x.job_id = _end.job_id and x.expires_at <= clock_timestamp() order by x.slice_id) l;
  update backfill.job j
     set state = final_state, error = _end.error, hint = _end.hint, finished_at = clock_timestamp(),
         verified_at = case when verified then clock_timestamp() end,
         rows_scanned = coalesce(j.rows_scanned, 0), rows_changed = coalesce(j.rows_changed, 0)
   where j.id = _end.job_id;
  perform backfill._total(_end.job_id);
  update backfill.slice s set state = 'held', due_at = null where s.job_id = _end.job_id and s.state = 'ready';
  perform backfill._note(job_id, final_state, coalesce(_end.error, 'job ' || final_state));
  perform backfill._wake();
end $$;

-- The closing proof of the walk itself: the ranges of a run's slices follow one another without a gap from the
-- start to the planned upper bound, and each was passed to its end. Null, or what is wrong.
create function backfill._coverage_gap(job_id bigint) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with s as (
    select s.ordinal, s.relation_name, s.lower, s.upper, s.state, c.done, c.position,
           lag(s.upper) over w as previous, lead(s.ordinal) over w is null as is_last, lag(s.ordinal) over w is null as is_first
      from backfill.slice s join backfill.job j on j.id = s.job_id and j.run = s.run and j.generation = s.generation
      left join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = _coverage_gap.job_id and s.kind = 'walk'
    window w as (partition by s.relation order by s.ordinal))
  select case
      when s.state = 'gone' then null
      when s.done is not true or s.position is distinct from s.upper then format('slice %s stopped at %s, before its end %s', s.ordinal, coalesce(s.position::text, 'its start'), s.upper::text)
      when s.is_first and s.lower is not null then format('slice %s starts at %s, not at the start of the table', s.ordinal, s.lower::text)
      when not s.is_first and s.lower is distinct from s.previous then format('slice %s starts at %s, the one before it ends at %s', s.ordinal, s.lower::text, s.previous::text)
      when s.is_last and s.upper is distinct from array(select jsonb_array_elements_text(j.plan -> 'upper'))
        then format('slice %s ends at %s, the plan at %s', s.ordinal, s.upper::text, j.plan ->> 'upper')
    end
    from s, backfill.job j
   where j.id = _coverage_gap.job_id
     and (s.state <> 'gone' and (s.done is not true or s.position is distinct from s.upper
       or s.is_first and s.lower is not null or not s.is_first and s.lower is distinct from s.previous
       or s.is_last and s.upper is distinct from array(select jsonb_array_elements_text(j.plan -> 'upper'))))
   order by s.ordinal limit 1
$$;

-- Which proof the job asks for: 'auto' is filter where that can tell, else coverage.
create function backfill._verify_kind(j backfill.job) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when w.kind in ('none', 'coverage') then w.kind
    -- A sweep would change rows twice whose new value matches the filter again: n = n + 1 where n < 5.
    when j.filter_sql is not null and not coalesce((j.plan ->> 'self_reading')::boolean, false) and w.kind in ('auto', 'filter') then 'filter'
    else 'coverage' end
    from (select coalesce(j.options ->> 'verify', j.plan #>> '{defaults,verify}', 'auto')) w(kind)
$$;

-- Copies the walked ranges of the current generation for another passage (a verification, or a sweep).
create function backfill._add_slices(job_id bigint, kind text, generation integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n integer;
begin
  with made as (
    insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, run_as, priority)
    select s.job_id, _add_slices.kind, s.run, _add_slices.generation, s.ordinal, s.relation, s.relation_name, s.lower, s.upper, s.run_as, s.priority
      from backfill.slice s join backfill.job j on j.id = s.job_id and j.run = s.run and j.generation = s.generation
     where s.job_id = _add_slices.job_id and s.kind = 'walk' and s.state <> 'gone'
    returning id, lower)
  insert into backfill.checkpoint (slice_id, token, position) select id, gen_random_uuid(), lower from made;
  get diagnostics n = row_count;
  return n;
end $$;

create function backfill._settle(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  live boolean;
  waits boolean;
  gap text;
  remaining bigint;
begin
  select * into j from backfill.job where id = _settle.job_id for update;
  if j.state in ('succeeded', 'failed', 'cancelled') then
    -- A slice that comes back after the end, because another one failed: its last batches count too.
    perform backfill._total(j.id);
    return;
  end if;
  live := exists (select from backfill.lease l where l.job_id = j.id and l.expires_at > clock_timestamp());
  if j.desired_state <> 'running' then
    if live then
      return;
    elsif j.desired_state = 'cancelled' then
      perform backfill._end(j.id, 'cancelled', false, null, null);
    elsif j.state <> 'paused' then
      update backfill.job set state = 'paused' where id = j.id;
      perform backfill._note(j.id, 'paused', 'job paused' || coalesce(': ' || j.state_reason, ''));
      perform backfill._wake();
    end if;
    return;
  end if;
  if j.state in ('running') and j.plan is not null then
    select exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation
                                                  and s.kind = 'walk' and s.state not in ('done', 'gone')) into waits;
    if waits then
      return;
    end if;
    gap := backfill._coverage_gap(j.id);
    if gap is not null then
      perform backfill._end(j.id, 'failed', false, 'the walk has a gap: ' || gap, 'This is a defect of backfilld: please report it with the rows of backfill.slices and backfill.events of this job.');
      return;
    end if;
    case backfill._verify_kind(j)
      when 'none' then
        perform backfill._end(j.id, 'succeeded', false);
      when 'coverage' then
        perform backfill._end(j.id, 'succeeded', true);
      else
        if backfill._add_slices(j.id, 'verify', j.generation) = 0 then
          perform backfill._end(j.id, 'succeeded', true);
          return;
        end if;
        update backfill.job set state = 'verifying' where id = j.id;
        perform backfill._note(j.id, 'verifying', 'every row was passed; verifying');
        perform backfill._arrange(j.id);
        perform backfill._wake();
    end case;
    return;
  end if;
  if j.state = 'verifying' then
    select exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation
                                                  and s.kind = 'verify' and s.state not in ('done', 'gone')) into waits;
    if waits then
      return;
    end if;
    select coalesce(sum(c.rows_changed), 0) into remaining
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify';
    if remaining = 0 then
      perform backfill._end(j.id, 'succeeded', true);
    elsif not coalesce((j.plan ->> 'comparable')::boolean, false)
          and remaining <= (select coalesce(sum(c.rows_unresolved), 0) from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                             where s.job_id = j.id and s.run = j.run and s.kind = 'walk') then
      -- Their new value matched the filter again when it was written: counted as unresolved, and no failure.
      perform backfill._end(j.id, 'succeeded', true);
    elsif j.generation <= 3 then
      -- Rows that came, or were written again, since their place was passed: sweep the range for them.
      perform backfill._add_slices(j.id, 'walk', j.generation + 1);
      update backfill.job set state = 'running', generation = j.generation + 1 where id = j.id;
      perform backfill._note(j.id, 'sweep', format('%s rows match the filter after the walk: sweep %s of 3', remaining, j.generation), jsonb_build_object('rows', remaining));
      perform backfill._arrange(j.id);
      perform backfill._wake();
    else
      perform backfill._end(j.id, 'failed', false, format('%s rows still need work after 3 sweeps', remaining),
        'The application keeps writing rows that match the filter: make it fill the column itself, then backfill.retry.');
    end if;
  end if;
end $$;

create function backfill._job_before_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- A submitter may insert without enqueue; what it could not choose there it can't choose here.
  perform backfill._check_target(new.relation);
  new.target := (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = new.relation);
  if not exists (select from pg_roles r where r.rolname = new.run_as) then
    perform backfill._refuse(format('role "%s" does not exist', new.run_as), 'The job would run with its rights.', 'Name an existing role in run_as.');
  end if;
  perform backfill._check_options(new.options, new.filter_sql, backfill._is_operator(new.enqueued_by));
  new.options := backfill._stored_options(new.options);
  perform backfill._assignments(new.set_sql) where new.set_sql is not null;
  perform backfill._lex(new.filter_sql, 'filter') where new.filter_sql is not null;
  return new;
end $$;
create trigger job_before_insert before insert on backfill.job for each row execute function backfill._job_before_insert();

create function backfill._job_after_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.slice (job_id, kind, run_as, priority) values (new.id, 'plan', new.run_as, new.priority);
  perform backfill._arrange(new.id);
  perform backfill._note(new.id, 'enqueued', format('enqueued on %s', new.target), null, new.enqueued_by);
  perform backfill._wake();
  return null;
end $$;
create trigger job_after_insert after insert on backfill.job for each row execute function backfill._job_after_insert();

-- Starts a job's run again: a new plan, a new bound. The ended run's slices stay until retention takes them.
create function backfill._run_again(j backfill.job) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Who still holds a slice of the ended run is fenced before the new one begins.
  perform backfill._drop_lease(l.slice_id) from (select x.slice_id from backfill.lease x where x.job_id = j.id order by x.slice_id) l;
  update backfill.job
     set run = j.run + 1, generation = 1, state = 'queued', desired_state = 'running', state_reason = null, plan = null, planned_snapshot = null, rows_estimated = null,
         rows_scanned = null, rows_changed = null, rows_unresolved = 0, rows_quarantined = 0, error = null, hint = null,
         started_at = null, finished_at = null, verified_at = null, revision = revision + 1
   where id = j.id;
  insert into backfill.slice (job_id, kind, run, run_as, priority) values (j.id, 'plan', j.run + 1, j.run_as, j.priority);
end $$;

create function backfill._command() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  ended boolean;
  wanted jsonb;
begin
  if new.verb in ('pause_all', 'resume_all') then
    if not backfill._is_operator(new.actor) then
      raise exception using errcode = '42501', message = format('role "%s" may not use backfill.%s', new.actor, new.verb), detail = 'It concerns the jobs of everybody.', hint = 'Only members of backfill_operator may.';
    end if;
    update backfill.switch set paused_all = new.verb = 'pause_all', reason = new.reason, set_by = new.actor, set_at = clock_timestamp();
    perform backfill._note(null, new.verb, coalesce(new.reason, new.verb), null, new.actor);
    perform backfill._wake();
    return null;
  end if;
  select * into j from backfill.job where name = new.job_name for update;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no job "%s"', new.job_name), detail = 'Names are exact, with upper and lower case.', hint = 'select name, state from backfill.jobs lists them.';
  end if;
  if not (backfill._is_operator(new.actor) or new.verb <> 'approve'
          and exists (select from pg_roles r where r.rolname = j.enqueued_by and pg_has_role(new.actor, r.oid, 'MEMBER'))) then
    raise exception using errcode = '42501', message = format('role "%s" may not %s job "%s"', new.actor, new.verb, j.name),
      detail = format('It was enqueued by "%s".', j.enqueued_by), hint = case when new.verb = 'approve' then 'Only members of backfill_operator may approve.' else 'Its submitter and members of backfill_operator may.' end;
  end if;
  ended := j.state in ('succeeded', 'failed', 'cancelled');

  if new.verb in ('pause', 'resume', 'cancel', 'approve') and ended then
    raise exception using errcode = 'BF005', message = format('job "%s" has ended: %s', j.name, j.state), detail = format('%s needs a job that has not ended.', new.verb),
      hint = case when j.state = 'succeeded' then 'Use backfill.rerun to start it again from the beginning.' else 'Use backfill.retry to go on from its checkpoint, or backfill.rerun to start again.' end;
  elsif new.verb in ('retry', 'rerun', 'forget') and not ended then
    raise exception using errcode = 'BF005', message = format('job "%s" has not ended: %s', j.name, j.state), detail = format('%s needs a job that has ended.', new.verb), hint = 'Cancel it first with backfill.cancel, or wait for it.';
  elsif new.verb = 'retry' and j.state = 'succeeded' then
    raise exception using errcode = 'BF005', message = format('job "%s" has succeeded', j.name), detail = 'There is nothing to retry.', hint = 'Use backfill.rerun to start it again from the beginning.';
  elsif not ended and j.desired_state = 'cancelled' and new.verb in ('pause', 'resume', 'approve', 'tune') then
    raise exception using errcode = 'BF005', message = format('job "%s" is being cancelled', j.name), detail = format('%s needs a job that goes on.', new.verb), hint = 'Wait until it is cancelled, then use backfill.retry.';
  end if;

  case new.verb
    when 'pause' then
      update backfill.job set desired_state = 'paused', state_reason = new.reason where id = j.id;
      perform backfill._note(j.id, 'pause', 'pause asked' || coalesce(': ' || new.reason, ''), null, new.actor);
    when 'resume' then
      update backfill.job
         set desired_state = 'running', state_reason = null,
             state = case when j.state <> 'paused' then j.state
                          when j.plan is null then 'queued'
                          when exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify') then 'verifying'
                          else 'running' end
       where id = j.id;
      perform backfill._note(j.id, 'resume', 'resumed', null, new.actor);
    when 'cancel' then
      update backfill.job set desired_state = 'cancelled', state_reason = new.reason where id = j.id;
      perform backfill._note(j.id, 'cancel', 'cancel asked' || coalesce(': ' || new.reason, ''), null, new.actor);
    when 'approve' then
      if not j.needs_approval then
        raise exception using errcode = 'BF005', message = format('job "%s" does not wait for approval', j.name), detail = 'It was enqueued without needs_approval.', hint = 'It starts without approval.';
      end if;
      update backfill.job set approved_at = coalesce(approved_at, clock_timestamp()), approved_by = coalesce(approved_by, new.actor) where id = j.id;
      perform backfill._note(j.id, 'approve', 'approved', null, new.actor);
    when 'tune' then
      perform backfill._check_options(new.options, j.filter_sql, backfill._is_operator(new.actor));
      wanted := jsonb_strip_nulls(j.options || backfill._stored_options(new.options));
      update backfill.job set options = wanted, revision = revision + 1 where id = j.id;
      if new.options ? 'slices' and j.plan is not null and not ended then
        raise notice 'the job is cut into its slices already: slices counts from the next rerun';
      end if;
      perform backfill._note(j.id, 'tune', format('options are now %s', wanted), new.options, new.actor);
    when 'retry' then
      if j.plan is null then
        perform backfill._run_again(j);
      else
        update backfill.job set state = 'running', desired_state = 'running', state_reason = null, error = null, hint = null, finished_at = null, verified_at = null, rows_scanned = null, rows_changed = null, revision = revision + 1 where id = j.id;
        -- A verdict is found anew; the walk goes on where it stopped.
        if exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify') then
          perform backfill._add_slices(j.id, 'walk', j.generation + 1);
          update backfill.job set generation = j.generation + 1 where id = j.id;
        end if;
      end if;
      perform backfill._note(j.id, 'retry', 'retried, on from the checkpoint', null, new.actor);
    when 'rerun' then
      perform backfill._run_again(j);
      perform backfill._note(j.id, 'rerun', 'started again from the beginning', null, new.actor);
    when 'forget' then
      delete from backfill.job where id = j.id;
      perform backfill._note(null, 'forget', format('job "%s" forgotten', j.name), null, new.actor);
      return null;
    else
      raise exception using errcode = 'BF001', message = format('unknown command "%s"', new.verb), detail = 'It was inserted without the functions of schema backfill.', hint = 'Use backfill.pause and its like.';
  end case;
  perform backfill._arrange(j.id);
  perform backfill._settle(j.id);
  perform backfill._wake();
  return null;
end $$;
create trigger command_carry_out before insert on backfill.command for each row execute function backfill._command();

-- What the control functions answer: the state after the command. For callers who could see the job anyway.
create function backfill._state_of(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select state from backfill.job where name = job_name
$$;

create function backfill.pause(name text, reason text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name, reason) values ('pause', pause.name, pause.reason); return backfill._state_of(pause.name); end $$;

create function backfill.resume(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name) values ('resume', resume.name); return backfill._state_of(resume.name); end $$;

create function backfill.cancel(name text, reason text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name, reason) values ('cancel', cancel.name, cancel.reason); return backfill._state_of(cancel.name); end $$;

create function backfill.approve(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name) values ('approve', approve.name); return backfill._state_of(approve.name); end $$;

create function backfill.retry(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name) values ('retry', retry.name); return backfill._state_of(retry.name); end $$;

create function backfill.rerun(name text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name) values ('rerun', rerun.name); return backfill._state_of(rerun.name); end $$;

create function backfill.tune(name text, options jsonb) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name, options) values ('tune', tune.name, tune.options); return backfill._state_of(tune.name); end $$;

create function backfill.forget(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, job_name) values ('forget', forget.name); end $$;

create function backfill.pause_all(reason text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb, reason) values ('pause_all', pause_all.reason); end $$;

create function backfill.resume_all() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin insert into backfill.command (verb) values ('resume_all'); end $$;

-- A gate for a migration or a deploy: returns only when the job succeeded and its proof was found.
create function backfill.assert_complete(name text, whole_table boolean default false) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j record;
begin
  if assert_complete.whole_table then
    perform backfill._refuse('whole_table is not available in this release', 'The proof covers the rows up to the bound that was frozen at planning.', 'Leave whole_table out.');
  end if;
  select v.state, v.verified_at, v.error, v.waiting_reason, v.percent_done into j from backfill.jobs v where v.name = assert_complete.name;
  if not found then
    raise exception using errcode = 'BF003', message = format('there is no job "%s"', assert_complete.name), detail = 'Names are exact, with upper and lower case.', hint = 'select name, state from backfill.jobs lists them.';
  elsif j.state <> 'succeeded' then
    raise exception using errcode = 'BF004', message = format('job "%s" is not complete: %s', assert_complete.name, j.state),
      detail = coalesce(nullif(j.error, ''), format('It is at %s percent%s.', round(j.percent_done::numeric, 1), coalesce(', waiting: ' || j.waiting_reason, ''))),
      hint = case when j.state in ('failed', 'cancelled') then 'See backfill.events, mend the cause, then backfill.retry.' when j.state = 'paused' then 'Resume it with backfill.resume, then wait for it.' else 'Wait for it: backfilld wait, or call backfill.wait.' end;
  elsif j.verified_at is null then
    raise exception using errcode = 'BF004', message = format('job "%s" succeeded without a proof', assert_complete.name), detail = 'It ran with the option verify = none.', hint = 'Run it again with backfill.rerun after backfill.tune(name, ''{"verify": "auto"}'').';
  end if;
end $$;

-- Waits from psql. It can't pin its search_path, for such a procedure may not commit; so every name is qualified.
-- A snapshot is held for 20 ms at most.
create procedure backfill.wait(name text, timeout interval default '1 day')
language plpgsql as $$
declare
  j record;
  give_up timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) timeout;
  n integer := 0;
begin
  if pg_catalog.now() operator(pg_catalog.<>) pg_catalog.statement_timestamp() then
    raise exception using errcode = 'BF005', message = 'backfill.wait can''t run inside a transaction block',
      detail = 'It would hold the transaction''s snapshot while it waits.', hint = 'Use the command "backfilld wait NAME", or call it outside of a transaction.';
  end if;
  loop
    if n operator(pg_catalog.%) 10 operator(pg_catalog.=) 0 then
      select v.state, v.error, v.percent_done, v.waiting_reason into j from backfill.jobs v where v.name operator(pg_catalog.=) wait.name;
      if not found then
        raise exception using errcode = 'BF003', message = pg_catalog.format('there is no job "%s"', wait.name), detail = 'Names are exact, with upper and lower case.', hint = 'select name, state from backfill.jobs lists them.';
      elsif j.state operator(pg_catalog.=) 'succeeded' then
        return;
      elsif j.state operator(pg_catalog.=) any (array['failed', 'cancelled']) then
        raise exception using errcode = 'BF004', message = pg_catalog.format('job "%s" has ended: %s', wait.name, j.state), detail = coalesce(j.error, 'Somebody cancelled it.'), hint = 'See backfill.events, mend the cause, then backfill.retry.';
      elsif pg_catalog.clock_timestamp() operator(pg_catalog.>) give_up then
        raise exception using errcode = 'BF004', message = pg_catalog.format('job "%s" is not complete after %s: %s', wait.name, timeout, j.state),
          detail = pg_catalog.format('It is at %s percent%s.', pg_catalog.round(j.percent_done::pg_catalog.numeric, 1), coalesce(', waiting: ' operator(pg_catalog.||) j.waiting_reason, '')), hint = 'Wait again with a longer timeout.';
      end if;
    end if;
    n := n operator(pg_catalog.+) 1;
    commit;
    perform pg_catalog.pg_sleep(0.02);
    commit;
  end loop;
end $$;
