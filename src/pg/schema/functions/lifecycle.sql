-- The state machine of a job. _settle locks a job and moves it to its next state. _schedule_slices
-- decides which slices can be claimed. The caller of _schedule_slices must have locked the job.

-- Sets the state of each unclaimed slice of a job's current run:
-- - ready, if the slice can be claimed now
-- - held, with due_at, if the slice can be claimed later without a command
-- - held, without due_at, if the slice can be claimed only after a command
create or replace function backfill._schedule_slices(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Removes the lease of a slice, if the slice has one, and gives its checkpoint a new token. From
-- then on, all calls of the previous holder are fenced.
create or replace function backfill._drop_lease(slice_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from backfill.lease l where l.slice_id = _drop_lease.slice_id;
  update backfill.checkpoint c set token = gen_random_uuid() where c.slice_id = _drop_lease.slice_id;
  update backfill.slice s set state = 'held' where s.id = _drop_lease.slice_id and s.state = 'leased';
end $$;

-- Stores the totals of a run with the job, because retention removes the slices of the run later.
create or replace function backfill._store_totals(job_id bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backfill.job j set rows_scanned = t.scanned, rows_changed = t.changed, rows_unresolved = t.unresolved
    from (select coalesce(sum(c.rows_scanned) filter (where s.generation = 1), 0) as scanned, coalesce(sum(c.rows_changed), 0) as changed,
                 coalesce(sum(c.rows_unresolved), 0) as unresolved
            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
            join backfill.job x on x.id = s.job_id and x.run = s.run
           where s.job_id = _store_totals.job_id and s.kind = 'walk'
          having count(*) > 0) t
   where j.id = _store_totals.job_id
$$;

-- Ends a job's current run. The argument redacted is {"error", "hint"} for readers who may not see
-- the job's rows, if the two redacted texts differ from error and hint.
create or replace function backfill._end_job(job_id bigint, final_state text, verified boolean, error text default null, hint text default null, redacted jsonb default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Returns the kind of verification of a job, which depends on its option verify:
-- - none, coverage: the same as the option.
-- - auto, filter: filter if the filter can verify the job, otherwise coverage.
-- - expression: for a delete, the same kind as for auto. For an update, always expression. If the
--   expressions of an update cannot be compared, the job is refused, or it fails.
-- A job that only compares always verifies by the filter.
create or replace function backfill._verify_kind(j backfill.job) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
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

-- Verifies the coverage of the current generation (the walk or its last sweep). In each table, the
-- ranges of the slices must follow each other without a gap, from the start of the table to its
-- planned upper bound. Each range must have been walked to its end. Leaves that are no longer part
-- of the target do not count. Returns null if the verification succeeds, otherwise a description of
-- the gap.
create or replace function backfill._coverage_gap(job_id bigint) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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

-- Copies the walked ranges of the current generation for another pass (a verification or a sweep).
-- Returns the number of new slices.
create or replace function backfill._add_slices(job_id bigint, kind text, generation integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Adds the slices of a plan, or of a leaf that was attached after planning. A job that only
-- compares has nothing to walk, so its slices are done at once, and the verification begins.
create or replace function backfill._add_ranges(j backfill.job, slices jsonb, ordinal_from integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Adds slices for leaves that were attached since planning, once all slices of the walk have
-- finished. The job does not guarantee that the rows of these leaves are changed, because the
-- leaves were not part of the target at planning. It walks the leaves nevertheless, because a user
-- who attaches a table to the target of a backfill expects the rows of this table to be filled. The
-- job skips these leaves:
-- - foreign tables
-- - every new leaf, if the job only compares rows
-- - every new leaf, if the expressions read columns that they assign. A new leaf may hold rows that
--   the job changed in another leaf before they moved. The walk would change these rows twice.
--
-- If a leaf was detached and is attached again, its slices continue at their checkpoints.
create or replace function backfill._add_new_leaves(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Moves a job to its next state once its slices have finished: from the walk to the verification,
-- and from the verification to a sweep or to the end. Completes a requested pause or cancel once no
-- slice of the job has a valid lease. The rows that a verification found are of two kinds: rows
-- that were written since planning, and rows that the walk missed.
create or replace function backfill._settle(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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

-- Refuses a retry of a failed or cancelled job if retention has removed the slices of the job. A
-- retry continues from the checkpoints, which are removed with the slices. A new start from the
-- beginning could change rows twice.
create or replace function backfill._job_needs_slices() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'BF005', message = format('job "%s" cannot continue from its checkpoint', old.name),
    detail = format('The job finished on %s, and retention removed its slices on %s.', old.finished_at::date, old.pruned_at::date),
    hint = backfill._name_job('To run it again from the beginning, run backfill.rerun. This changes rows a second time, unless the filter excludes the rows that are already changed.', old.name);
end $$;
