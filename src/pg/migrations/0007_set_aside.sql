-- Rows that can't be changed now, or at all: set aside in the batch's own transaction, and returned to. And what
-- lets a daemon of the last release work beside one of this one.

-- The version of the protocol that a daemon must speak to work on the slice: 1 is the first release's.
alter table backfill.slice add column needs integer not null default 1;

-- A slice that waits for rows which others have locked is not offered again before.
alter table backfill.slice add column not_before timestamptz;

-- When the job's window opens again; in the past, or null: it is open. A daemon says so, for it knows the calendar.
alter table backfill.job add column closed_until timestamptz;
-- The same for all that a daemon does in the database.
alter table backfill.worker add column closed_until timestamptz;

-- Why its last holder gave it back, in the words of `waiting_reason`, and in words; nothing while somebody works on it.
alter table backfill.slice add column waiting_reason text, add column waiting_text text;

-- Rows that were passed without being changed and are to be returned to: others had them locked, or a retry asked
-- for them. Written in the transaction that passes them, so no crash loses them.
create table backfill.set_aside (
  id       bigint      generated always as identity primary key,
  slice_id bigint      not null references backfill.slice on delete cascade,
  key      text[]      not null,
  attempts integer     not null default 1,
  first_at timestamptz not null default clock_timestamp()
);
create index set_aside_slice on backfill.set_aside (slice_id, id);

-- Where a retry finds the row again.
alter table backfill.row_error add column slice_id bigint references backfill.slice on delete set null;
alter table backfill.row_error add column position text[];
-- Keys may be as long as an index entry; their text with names and quotes would be longer.
alter table backfill.row_error drop constraint row_error_pkey;
create unique index row_error_row on backfill.row_error (job_id, relation, md5(key::text));
create index row_error_open on backfill.row_error (job_id) where resolved_at is null;

create or replace function backfill._arrange(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  open boolean;
begin
  select * into j from backfill.job where id = _arrange.job_id;
  open := j.state in ('queued', 'running', 'verifying') and j.desired_state = 'running'
          and (not j.needs_approval or j.approved_at is not null);
  update backfill.slice s
     set state = case when open and greatest(j.run_at, s.not_before, j.closed_until) <= clock_timestamp() then 'ready' else 'held' end,
         due_at = case when open and greatest(j.run_at, s.not_before, j.closed_until) > clock_timestamp() then greatest(j.run_at, s.not_before, j.closed_until) end,
         priority = j.priority, run_as = j.run_as
   where s.job_id = _arrange.job_id and s.run = j.run and s.state in ('held', 'ready')
     -- Of an earlier passage only what is to be returned to.
     and (s.generation = j.generation or s.kind = 'walk' and exists (select from backfill.set_aside a where a.slice_id = s.id));
end $$;

-- Gives the caller's worker a slice: an expired lease first, else the first that is ready by priority and age.
-- Commits synchronously, whatever the session says: a claim that is lost in a crash could be issued twice.
create function backfill._claim(worker uuid, run_as name[], ttl interval, speaks integer) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  j backfill.job;
  s backfill.slice;
  old backfill.lease;
  v_token uuid := gen_random_uuid();
  answer jsonb;
begin
  perform set_config('synchronous_commit', 'on', true);
  if (select w.paused_all from backfill.switch w) then
    return null;
  end if;

  for c in
    select l.slice_id, l.job_id from backfill.lease l join backfill.slice x on x.id = l.slice_id
     where l.expires_at < clock_timestamp() and l.run_as = any (_claim.run_as) and x.needs <= _claim.speaks order by l.expires_at limit 20
  loop
    select * into j from backfill.job x where x.id = c.job_id for update skip locked;
    continue when not found;
    select * into old from backfill.lease l where l.slice_id = c.slice_id and l.expires_at < clock_timestamp() for update skip locked;
    continue when not found;
    -- A stopped client is not seen by the server: end its session, so that it holds no lock of ours any longer (P6).
    begin
      perform pg_terminate_backend(a.pid) from pg_stat_activity a where a.pid = old.backend_pid and a.backend_start = old.backend_start;
    exception when insufficient_privilege then
      null; -- An executor's session: its own statement_timeout ends it within a second.
    end;
    if j.state in ('succeeded', 'failed', 'cancelled') or j.desired_state <> 'running' then
      perform backfill._drop_lease(c.slice_id);
      perform backfill._settle(c.job_id);
      continue;
    end if;
    select * into s from backfill.slice x where x.id = c.slice_id;
    exit;
  end loop;

  if s.id is null then
    for c in
      select r.* from unnest(_claim.run_as) as u(role)
      cross join lateral (
        select x.id, x.job_id, x.kind, x.priority, x.ordinal from backfill.slice x
         where x.run_as = u.role and x.state = 'ready' and x.needs <= _claim.speaks order by x.priority, x.job_id, x.ordinal, x.id limit 64) r
      order by r.priority, r.job_id, r.ordinal, r.id
    loop
      if c.kind = 'plan' then
        select * into j from backfill.job x where x.id = c.job_id for update skip locked;
        continue when not found;
      end if;
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
  insert into backfill.lease as l (slice_id, job_id, token, holder, run_as, claimed_at, expires_at)
  values (s.id, s.job_id, v_token, worker, s.run_as, clock_timestamp(), clock_timestamp() + ttl)
  on conflict (slice_id) do update set token = excluded.token, holder = excluded.holder, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at,
     backend_pid = null, backend_start = null, rows_per_second = null, waiting_reason = null, waiting_text = null;
  insert into backfill.checkpoint as k (slice_id, token, position) values (s.id, v_token, s.lower)
  on conflict (slice_id) do update set token = excluded.token;
  if old.slice_id is not null then
    perform backfill._note(s.job_id, 'takeover', format('lease of slice %s expired: taken over', s.ordinal), jsonb_build_object('slice', s.id, 'from', old.holder, 'to', worker));
  end if;

  select jsonb_build_object(
      'slice', s.id, 'job', x.id, 'kind', s.kind, 'ordinal', s.ordinal, 'generation', s.generation, 'token', v_token, 'takeover', old.slice_id is not null, 'attempts', s.attempts + 1,
      'lower', to_jsonb(s.lower), 'upper', to_jsonb(s.upper), 'position', to_jsonb(k.position), 'done', k.done, 'tid', k.ctid::text,
      'rows_scanned', k.rows_scanned, 'rows_changed', k.rows_changed, 'aside', (select count(*) from backfill.set_aside a where a.slice_id = s.id),
      'name', x.name, 'relation', x.relation::bigint, 'target', x.target, 'set', x.set_sql, 'filter', x.filter_sql, 'key', to_jsonb(x.key),
      'run_as', x.run_as, 'run', x.run, 'leaf', s.relation::bigint, 'options', x.options, 'settings', x.settings, 'revision', x.revision, 'plan', x.plan)
    into answer
    from backfill.job x, backfill.checkpoint k where x.id = s.job_id and k.slice_id = s.id;
  return answer;
end $$;

-- A daemon of the first release: it is offered what it understands.
create or replace function backfill._claim(worker uuid, run_as name[], ttl interval) returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp as $$ select backfill._claim(worker, run_as, ttl, 1) $$;

-- A row that no batch can change: kept with its error, for people and for a retry. refused: {"position", "key",
-- "sqlstate", "message"}; a row that a trigger left as it was has no sqlstate of its own. Raises when there are more
-- of them than the job allows: the batch is undone, and the job fails with this sentence.
create function backfill._refuse_row(job bigint, slice bigint, refused jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  v_relation text := (select coalesce(s.relation_name, x.target) from backfill.slice s join backfill.job x on x.id = s.job_id where s.id = _refuse_row.slice);
  v_state text := coalesce(refused ->> 'sqlstate', '09000');
  v_message text := coalesce(left(refused ->> 'message', 2000), 'a BEFORE trigger of the table left the row as it was (it returned null, or the old row)');
  most bigint;
  n bigint;
begin
  select * into j from backfill.job x where x.id = _refuse_row.job;
  insert into backfill.row_error as e (job_id, relation, key, sqlstate, message, slice_id, position)
  values (_refuse_row.job, v_relation, refused -> 'key', v_state, v_message, _refuse_row.slice, array(select jsonb_array_elements_text(refused -> 'position')))
  on conflict (job_id, relation, md5(key::text)) do update
     set attempts = e.attempts + 1, last_at = clock_timestamp(), sqlstate = excluded.sqlstate, message = excluded.message, resolved_at = null,
         slice_id = excluded.slice_id, position = excluded.position;
  n := backfill._count_refused(_refuse_row.job);
  most := coalesce(j.options ->> 'max_row_errors', j.plan #>> '{defaults,max_row_errors}', '100')::numeric::bigint;
  if n > most then
    raise exception using errcode = 'BF001',
      message = case when most = 0 then format('row %s of %s can''t be changed: %s', refused ->> 'key', v_relation, v_message)
                     else format('more than %s rows can''t be changed; the last is %s of %s: %s', most, refused ->> 'key', v_relation, v_message) end,
      detail = format('SQLSTATE %s; max_row_errors is %s.', v_state, most),
      hint = 'Mend the rows (backfill.row_errors has those before) or the expression, or raise max_row_errors with backfill.tune; then backfill.retry goes on from here.';
  elsif n = 1 and j.rows_quarantined = 0 then
    perform backfill._note(_refuse_row.job, 'row_error', format('a row of %s can''t be changed: %s; the walk goes on, backfill.row_errors has it and those that follow', v_relation, v_message));
  end if;
end $$;

-- Those of a leaf that is gone are nobody's any more, until it comes back; those that a retry has yet to try again
-- may be sound by now.
create function backfill._count_refused(job bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n bigint := (select count(*) from backfill.row_error e left join backfill.slice s on s.id = e.slice_id
                where e.job_id = _count_refused.job and e.resolved_at is null and s.state is distinct from 'gone'
                  and not exists (select from backfill.set_aside a where a.slice_id = e.slice_id and a.key = e.position));
begin
  update backfill.job x set rows_quarantined = n where x.id = _count_refused.job and x.rows_quarantined <> n;
  return n;
end $$;

-- A retry takes the rows that could not be changed, each in the slice that met it.
create function backfill._return_to_refused(job_id bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  n bigint;
begin
  insert into backfill.set_aside (slice_id, key)
  select e.slice_id, e.position from backfill.row_error e join backfill.slice s on s.id = e.slice_id
   where e.job_id = _return_to_refused.job_id and e.resolved_at is null and s.state <> 'gone'
     and not exists (select from backfill.set_aside a where a.slice_id = e.slice_id and a.key = e.position)
   order by e.slice_id, e.position;
  get diagnostics n = row_count;
  update backfill.slice s set state = 'held', needs = greatest(s.needs, 2), not_before = null, finished_at = null
   where s.job_id = _return_to_refused.job_id and s.state = 'done' and s.kind = 'walk' and exists (select from backfill.set_aside a where a.slice_id = s.id);
  return n;
end $$;

-- As advance, and rows are left behind in the same transaction. locked: [[text of each key column]], to be returned
-- to; refused: see _refuse_row.
create function backfill.advance_aside(slice bigint, token uuid, place tid, from_position text[], to_position text[],
                                       scanned bigint, changed bigint, unresolved bigint, done boolean, locked jsonb, refused jsonb)
returns table (at_place text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_job bigint;
  r jsonb;
begin
  if jsonb_array_length(coalesce(advance_aside.refused, '[]')) > 0 then
    -- Before the checkpoint: that is the order in which everybody locks.
    select s.job_id into v_job from backfill.slice s where s.id = advance_aside.slice;
    perform from backfill.job x where x.id = v_job for no key update;
  end if;
  return query select a.at_place, a.desired, a.revision
    from backfill.advance(advance_aside.slice, advance_aside.token, advance_aside.place, advance_aside.from_position, advance_aside.to_position,
                          advance_aside.scanned, advance_aside.changed, advance_aside.unresolved, advance_aside.done) a;
  insert into backfill.set_aside (slice_id, key)
  select advance_aside.slice, array(select jsonb_array_elements_text(l.value)) from jsonb_array_elements(coalesce(advance_aside.locked, '[]')) l;
  for r in select x.value from jsonb_array_elements(coalesce(advance_aside.refused, '[]')) x loop
    perform backfill._refuse_row(v_job, advance_aside.slice, r);
  end loop;
end $$;

-- The rows that were set aside are tried again: tried minus locked are done with, and those among them that still
-- can't be changed are refused ([{"id", and as in _refuse_row}]). A slice that is done but for such rows.
create function backfill.return_aside(slice bigint, token uuid, place tid, tried bigint[], changed bigint, unresolved bigint, locked bigint[], refused jsonb)
returns table (at_place text, desired text, revision integer)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_job bigint;
  v_place tid;
  v_run_as name;
  n bigint;
  r jsonb;
begin
  select s.job_id, s.run_as into v_job, v_run_as from backfill.slice s where s.id = return_aside.slice;
  if not exists (select from backfill.executor e where e.run_as = v_run_as and e.login = session_user) then
    raise exception using errcode = 'BF006', message = format('fenced: login "%s" does not run slice %s', session_user, return_aside.slice);
  end if;
  perform from backfill.job x where x.id = v_job for no key update;
  update backfill.checkpoint c
     set rows_changed = c.rows_changed + return_aside.changed, rows_unresolved = c.rows_unresolved + return_aside.unresolved, batches = c.batches + 1
   where c.slice_id = return_aside.slice and c.token = return_aside.token and c.done and c.xmin <> pg_current_xact_id()::xid
  returning c.ctid into v_place;
  if v_place is null then
    raise exception using errcode = 'BF006', message = format('fenced: slice %s has another holder', return_aside.slice);
  end if;
  update backfill.set_aside a set attempts = a.attempts + 1 where a.slice_id = return_aside.slice and a.id = any (return_aside.locked);
  get diagnostics n = row_count;
  with gone as (
    delete from backfill.set_aside a
     where a.slice_id = return_aside.slice and a.id = any (return_aside.tried) and a.id <> all (coalesce(return_aside.locked, '{}'))
    returning a.id, a.key),
  resolved as (
    update backfill.row_error e set resolved_at = clock_timestamp()
      from gone g where e.job_id = v_job and e.slice_id = return_aside.slice and e.position = g.key and e.resolved_at is null
       and not exists (select from jsonb_array_elements(coalesce(return_aside.refused, '[]')) f where (f.value ->> 'id')::bigint = g.id))
  select n + count(*) into n from gone;
  -- Compare and set: a row that is not there any more was done by a batch whose answer was lost.
  if n <> cardinality(return_aside.tried) then
    raise exception using errcode = 'BF006', message = format('fenced: rows that slice %s had set aside are gone', return_aside.slice);
  end if;
  for r in select x.value from jsonb_array_elements(coalesce(return_aside.refused, '[]')) x loop
    perform backfill._refuse_row(v_job, return_aside.slice, r);
  end loop;
  perform backfill._count_refused(v_job);
  if not exists (select from backfill.set_aside a where a.slice_id = return_aside.slice) then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  return query
    select v_place::text, case when j.state in ('succeeded', 'failed', 'cancelled') then 'cancelled'
                               when j.desired_state <> 'running' then j.desired_state
                               when w.paused_all then 'paused_all' else 'running' end, j.revision
      from backfill.job j, backfill.switch w where j.id = v_job;
end $$;

-- What a slice has set aside, in the order of the walk. After the last one that was tried.
create function backfill._set_aside(slice bigint, token uuid, after bigint, most integer) returns table (id bigint, key text[])
language sql stable set search_path = pg_catalog, pg_temp as $$
  select a.id, a.key from backfill.set_aside a join backfill.lease l on l.slice_id = a.slice_id and l.token = _set_aside.token
   where a.slice_id = _set_aside.slice and a.id > _set_aside.after order by a.id limit _set_aside.most
$$;

-- Where a trigger may leave a row as it is, a batch counts what it found against what it changed. Fewer: it is undone,
-- and done again in the form that tells the rows apart.
create function backfill.all_changed(matched bigint, changed bigint) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if matched > changed then
    raise exception using errcode = 'BF007', message = format('%s of %s rows were left as they were', matched - changed, matched);
  end if;
  return true;
end $$;

-- Whether a row trigger of the table may leave a row as it is. Asked when a batch is prepared, and held against the
-- answer then in each batch: a trigger that came meanwhile would hide its rows. Triggers of constraints fire after the
-- row; a partition's copy of a trigger counts as internal until 14, and is as good as the trigger itself.
create function backfill.suppressible(relation oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_trigger t where t.tgrelid = relation and t.tgenabled in ('O', 'A') and t.tgtype & 3 = 3 and t.tgtype & 24 <> 0);
end $$;

create function backfill.same_triggers(relation oid, suppressible boolean) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if backfill.suppressible(relation) <> suppressible then
    raise exception using errcode = '0A000', message = 'the triggers of the table have changed';
  end if;
  return true;
end $$;


create or replace function backfill._command() returns trigger
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
      update backfill.job set options = wanted, revision = revision + 1, closed_until = case when not new.options ? 'window' then closed_until end where id = j.id;
      if new.options ? 'slices' and j.plan is not null and not ended then
        raise notice 'the job is cut into its slices already: slices counts from the next rerun';
      end if;
      perform backfill._note(j.id, 'tune', format('options are now %s', wanted), new.options, new.actor);
    when 'retry' then
      if j.plan is null then
        perform backfill._run_again(j);
      else
        update backfill.job set state = 'running', desired_state = 'running', state_reason = null, error = null, hint = null, finished_at = null, verified_at = null, rows_scanned = null, rows_changed = null, revision = revision + 1 where id = j.id;
        if backfill._return_to_refused(j.id) > 0 then
          null; -- Those first; what is proven comes after.
        -- A verdict is found anew; the walk goes on where it stopped.
        elsif exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify') then
          perform backfill._add_slices(j.id, 'walk', j.generation + 1);
          update backfill.job set generation = j.generation + 1 where id = j.id;
        end if;
      end if;
      perform backfill._note(j.id, 'retry', 'retried, on from the checkpoint' || (select coalesce(format(', and %s rows that could not be changed', nullif(count(*), 0)), '') from backfill.row_error e where e.job_id = j.id and e.resolved_at is null), null, new.actor);
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

create or replace function backfill._run_again(j backfill.job) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Who still holds a slice of the ended run is fenced before the new one begins.
  perform backfill._drop_lease(l.slice_id) from (select x.slice_id from backfill.lease x where x.job_id = j.id order by x.slice_id) l;
  -- Every row is met again.
  delete from backfill.row_error e where e.job_id = j.id;
  delete from backfill.set_aside a using backfill.slice s where s.id = a.slice_id and s.job_id = j.id;
  update backfill.job
     set run = j.run + 1, generation = 1, state = 'queued', desired_state = 'running', state_reason = null, plan = null, planned_snapshot = null, rows_estimated = null,
         rows_scanned = null, rows_changed = null, rows_unresolved = 0, rows_quarantined = 0, error = null, hint = null,
         started_at = null, finished_at = null, verified_at = null, revision = revision + 1
   where id = j.id;
  insert into backfill.slice (job_id, kind, run, run_as, priority) values (j.id, 'plan', j.run + 1, j.run_as, j.priority);
end $$;

create or replace function backfill._finish(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  perform 1 from backfill.checkpoint c where c.slice_id = _finish.slice and c.token = _finish.token and c.done;
  if not found then
    raise exception using errcode = 'BF006', message = format('slice %s is not at its end', slice);
  end if;
  if exists (select from backfill.set_aside a where a.slice_id = _finish.slice) then
    -- Some rows are still locked by others: the slice is offered again in a while, and its worker is free meanwhile.
    perform backfill._drop_lease(slice);
    update backfill.slice s
       set needs = greatest(s.needs, 2),
           not_before = clock_timestamp() + case when (select min(a.first_at) from backfill.set_aside a where a.slice_id = s.id) > clock_timestamp() - interval '1 minute'
                                                 then interval '1 second' else interval '5 seconds' end
     where s.id = _finish.slice;
    perform backfill._arrange(j.id);
    perform backfill._settle(j.id);
    return backfill._state_of(j.name);
  end if;
  perform backfill._done(slice);
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

-- Ends the session of a claim, where the control login may: one that its own login can't end, for the job's code has changed
-- that login's password, say.
create function backfill._end_session(slice bigint, token uuid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- First which one it is: in a condition the server may call the function for every other session.
  v_pid integer := (select a.pid from backfill.lease l join pg_stat_activity a on a.pid = l.backend_pid and a.backend_start = l.backend_start
                     where l.slice_id = _end_session.slice and l.token = _end_session.token);
begin
  return coalesce(pg_terminate_backend(v_pid), false);
exception when insufficient_privilege then
  return false;
end $$;

-- Gives a slice back because of a trouble that may pass.
-- It is not offered again before `pause` is over: who comes next has other slices to work on meanwhile.
create function backfill._give_back(slice bigint, token uuid, reason text, trouble text, pause interval) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._fence(slice, token);
  update backfill.slice s
     set waiting_reason = _give_back.reason, waiting_text = left(_give_back.trouble, 1000), not_before = clock_timestamp() + nullif(_give_back.pause, '0')
   where s.id = _give_back.slice;
  return backfill._release(slice, token);
end $$;

-- What the statements of a batch call. Each later version adds its own names here.
create function backfill._grant_executor(run_as name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  f regprocedure;
begin
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'backfill' and p.proname = any (array['advance', 'advance_aside', 'return_aside', 'unchanged', 'not_rewritten', 'same_triggers', 'suppressible', 'all_changed',
              'key_text', '_server', '_fingerprint']) loop
    execute format('grant execute on function %s to %I', f, run_as);
  end loop;
end $$;

create or replace function backfill._register_executor(login name, run_as name, one_url boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backfill.executor as e (login, run_as, one_url, is_superuser)
  values (login, run_as, one_url, (select r.rolsuper from pg_roles r where r.rolname = _register_executor.login))
  on conflict on constraint executor_pkey do update set run_as = excluded.run_as, one_url = excluded.one_url, is_superuser = excluded.is_superuser, registered_at = now()
   where (e.run_as, e.one_url, e.is_superuser) is distinct from (excluded.run_as, excluded.one_url, excluded.is_superuser);
  if run_as <> current_user then
    perform backfill._grant_executor(run_as);
  end if;
  if one_url then
    -- Jobs that were enqueued before any daemon came and left run_as open: they run as the one login where their
    -- submitters may use it.
    with moved as (
      update backfill.job j set run_as = _register_executor.run_as
       where j.state = 'queued' and j.run_as_asked is null and j.run_as <> _register_executor.run_as
         and not exists (select from backfill.executor e where e.run_as = j.run_as)
         and backfill._may_run_as(j.enqueued_by, _register_executor.run_as)
      returning j.id)
    update backfill.slice s set run_as = _register_executor.run_as from moved m where s.job_id = m.id;
  end if;
end $$;

revoke all on all tables in schema backfill from public;
revoke all on all routines in schema backfill from public;
