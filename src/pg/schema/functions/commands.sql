-- Checks a command before trigger command_carry_out executes it. Checks the limits for the
-- command's values. Unless the caller is an operator, also checks the limit for the number of
-- active jobs (retry, rerun), and whether the caller may still run jobs as run_as (retry, rerun,
-- resume). A role that is no longer a member of run_as must not start or resume the job, because
-- the role may still be able to change functions that the job calls.
create or replace function backfill._command_bounds() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill._carry_out_command() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

-- Starts a new run of a job, with a new plan and a new upper bound. The slices of the ended run
-- remain until retention removes them.
create or replace function backfill._start_new_run(j backfill.job) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Refuses to change the option `verify` to `expression` if the plan of the job says that its
-- expressions cannot be compared.
create or replace function backfill._job_before_tune() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._refuse(format('job "%s" cannot be verified with verify = expression', new.name), 'The expressions read columns that they assign, or can return a different value each time.',
    'Use verify = auto.');
  return null;
end $$;

-- Returns the job's state for the control functions, or null if the caller may not see the job.
create or replace function backfill._state_of(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select state from backfill.job where name = job_name and backfill._may_see(enqueued_by)
$$;

-- Returns the text that backfill._other_table returns for a job, if the caller may see this job.
create or replace function backfill._replaced(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select backfill._other_table(target, relation) from backfill.job where name = job_name and backfill._may_see(enqueued_by)
$$;

-- Returns a text about the first partition or child that the job walked and whose name belongs to
-- another partition or child now, if the caller may see this job. Otherwise returns null.
create or replace function backfill._replaced_leaf(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select format('%s: %s', s.relation_name, backfill._other_table(s.relation_name, s.relation))
    from backfill.job j join backfill.slice s on s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.relation <> j.relation
    join pg_namespace n on n.nspname = (parse_ident(s.relation_name))[1] join pg_class c on c.relnamespace = n.oid and c.relname = (parse_ident(s.relation_name))[2] and c.oid <> s.relation
   where j.name = _replaced_leaf.job_name and backfill._may_see(j.enqueued_by) and c.oid in (select h.heap from backfill._heaps(j.relation) h)
   order by s.ordinal limit 1
$$;

-- Returns a sentence if a column that the job assigned was dropped, and another column now has its
-- name. Otherwise returns null, also if the column was only dropped or renamed.
create or replace function backfill._replaced_column(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select format('Column "%s" has number %s, and the job changed a column that had this name before.', a.attname, a.attnum)
    from backfill.job j cross join lateral jsonb_array_elements(j.plan -> 'assignments') s cross join lateral jsonb_array_elements_text(s -> 'columns') c
    join pg_attribute a on a.attrelid = j.relation and a.attname = c and a.attnum > 0 and not a.attisdropped
   where j.name = _replaced_column.job_name and backfill._may_see(j.enqueued_by) and jsonb_typeof(j.plan -> 'columns') = 'array' and not j.plan -> 'columns' @> to_jsonb(a.attnum)
   order by a.attnum limit 1
$$;

-- Inserts a command and returns the job's state. An error is raised again here, so that it does not
-- have a CONTEXT line for each trigger and inner function. The public functions that return a state
-- are plain SQL without settings. The server replaces a call of such a function by its expression,
-- so these functions add no CONTEXT line either.
create or replace function backfill._command(verb text, job_name text, reason text, options jsonb) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

create or replace function backfill.pause(name text, reason text default null) returns text
language sql volatile as $$ select backfill._command('pause', pause.name, pause.reason, null) $$;
comment on function backfill.pause(text, text) is 'Stops a job after the batch in flight; backfill.resume continues the job. Returns the job''s state.';

create or replace function backfill.resume(name text) returns text
language sql volatile as $$ select backfill._command('resume', resume.name, null, null) $$;
comment on function backfill.resume(text) is 'Continues a paused job from its checkpoint. Returns the job''s state.';

create or replace function backfill.cancel(name text, reason text default null) returns text
language sql volatile as $$ select backfill._command('cancel', cancel.name, cancel.reason, null) $$;
comment on function backfill.cancel(text, text) is 'Cancels a job after the batch in flight. Keeps the changes that are already committed. Returns the job''s state.';

create or replace function backfill.approve(name text) returns text
language sql volatile as $$ select backfill._command('approve', approve.name, null, null) $$;
comment on function backfill.approve(text) is 'Approves a job that was enqueued with needs_approval, so that it can start. Returns the job''s state.';

create or replace function backfill.retry(name text) returns text
language sql volatile as $$ select backfill._command('retry', retry.name, null, null) $$;
comment on function backfill.retry(text) is 'Continues a failed or cancelled job from its checkpoint, and tries its quarantined rows again. Returns the job''s state.';

create or replace function backfill.rerun(name text) returns text
language sql volatile as $$ select backfill._command('rerun', rerun.name, null, null) $$;
comment on function backfill.rerun(text) is 'Runs a finished job again from the beginning. Returns the job''s state.';

create or replace function backfill.tune(name text, options jsonb) returns text
language sql volatile as $$ select backfill._command('tune', tune.name, null, tune.options) $$;
comment on function backfill.tune(text, jsonb) is 'Changes options of a job, even while it is running. Returns the job''s state.';

create or replace function backfill.forget(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare state text; begin state := backfill._command('forget', forget.name, null, null); end $$;
comment on function backfill.forget(text) is 'Deletes a finished job and its history.';

create or replace function backfill.pause_all(reason text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare state text; begin state := backfill._command('pause_all', null, pause_all.reason, null); end $$;
comment on function backfill.pause_all(text) is 'Pauses all jobs of this database until resume_all is called. Batches in flight finish first.';

create or replace function backfill.resume_all() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare state text; begin state := backfill._command('resume_all', null, null, null); end $$;
comment on function backfill.resume_all() is 'Resumes the jobs of this database after pause_all.';

-- Waits until a job has ended. The procedure is meant for users of psql. The procedure cannot pin
-- its search_path, because a procedure with a pinned search_path cannot commit. So every name is
-- qualified. The procedure holds each snapshot for about 20 ms.
create or replace procedure backfill.wait(name text, timeout interval default '1 day')
language plpgsql as $$
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
comment on procedure backfill.wait(text, interval) is 'Waits until the job has succeeded. Raises BF004 if the job fails, is cancelled, or has not succeeded when the timeout ends.';
