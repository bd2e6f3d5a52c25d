-- Against input that means harm: a lexer that reads as the server does, and bounds on what one role may ask for.

-- Splits a fragment of SQL into tokens with their depth of parentheses. Refuses what could reach beyond the
-- fragment: unbalanced parentheses, open quotes and comments, a semicolon, a parameter. It must end a quote where the
-- server ends it: what is a string here and code there could hold anything.
create or replace function backfill._lex(fragment text, what text) returns table (kind text, body text, depth integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  -- As the server has it: every character beyond ASCII is a letter.
  first_letter constant text := '[^\u0001-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_letter     constant text := '[^\u0001-\u0023\u0025-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  no_dollar    constant text := '[^\u0001-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]';
  a_tag        constant text := '^\$(?:' || first_letter || no_dollar || '*)?\$';
  blank        constant text := '[ \t\n\r\f\v]';
  total constant integer := length(fragment);
  -- A long text is taken in pieces: each look costs as much as what is looked at.
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
    perform backfill._refuse(format('%s is %s kB long', what, octet_length(fragment) / 1024), 'It may have 64.', 'Put the logic into a function, and call that.');
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
      -- What may go on beyond the look is looked at whole.
      exit when length(look) = total - begins - used + 1 or (length(body) < length(look) - 1 and kind <> 'escapes');
      look := substr(fragment, begins + used);
    end loop;
    if body is null and kind = 'space' then
      perform backfill._refuse(format('%s has a comment that does not end', what), format('It starts at: %s', left(look, 40)), 'Close it with */.');
    elsif body is null then
      perform backfill._refuse(format('%s has a quote that does not end', what), format('It starts at: %s', left(look, 40)), 'Close the quote.');
    elsif body = ';' then
      perform backfill._refuse(format('%s holds a semicolon', what), 'A semicolon ends a statement, and each batch is one statement.', 'Leave it out, with what follows it.');
    elsif body = '$' then
      perform backfill._refuse(format('%s holds a parameter', what), 'Nobody is there to give it a value.', 'Write the value itself.');
    elsif kind = 'escapes' then
      -- The server takes it on in the next quote, and there backslashes escape too.
      if substr(look, length(body) + 1) ~ ('^(?:' || blank || '|--[^\n\r]*)*''') then
        perform backfill._refuse(format('%s has a string with escapes that goes on in a second quote', what), format('It starts at: %s', left(look, 40)), 'Write it as one string, or join two with ||.');
      end if;
      kind := 'string';
    elsif kind = 'close' then
      if right(stack, 1) is distinct from (case body when ')' then '(' else '[' end) then
        perform backfill._refuse(format('%s has a "%s" that closes nothing', what, body), format('What follows it: %s', coalesce(nullif(left(substr(look, 2), 40), ''), '(the end)')), 'Open what is closed, or leave it out.');
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
    perform backfill._refuse(format('%s has a "%s" that is never closed', what, right(stack, 1)), format('It was: %s', left(fragment, 200)), 'Close what is opened.');
  end if;
end $$;

-- What one role may ask for. Operators are not bound by it, and may change it. Exactly one row.
create table backfill.quota (
  only_row         boolean primary key default true check (only_row),
  -- Jobs that have not ended.
  live_jobs        integer not null default 10000 check (live_jobs >= 0),
  jobs_per_minute  integer not null default 600 check (jobs_per_minute >= 0),
  -- The highest max_row_errors: rows with their errors are kept in the database.
  max_row_errors   integer not null default 10000 check (max_row_errors >= 0)
);
insert into backfill.quota default values;
alter table backfill.quota enable row level security;
create policy quota_read on backfill.quota for select using (true);
create policy quota_change on backfill.quota for update using (backfill._is_operator(current_user));

create index job_live_of on backfill.job (enqueued_by) where state in ('queued', 'running', 'paused', 'verifying');
create index job_enqueued on backfill.job (enqueued_by, enqueued_at);

create function backfill._check_bounds(actor name, options jsonb, what text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  q backfill.quota;
begin
  select * into q from backfill.quota;
  if octet_length(options::text) > 10000 then
    perform backfill._refuse(format('options has %s bytes', octet_length(options::text)), 'It may have 10000.', 'Leave out what the job does not need.');
  elsif octet_length(what) > 4000 then
    perform backfill._refuse(format('reason has %s bytes', octet_length(what)), 'It may have 4000: a sentence for whoever reads it at night.', 'Shorten it.');
  elsif jsonb_typeof(options -> 'max_row_errors') = 'number' and (options ->> 'max_row_errors')::numeric > q.max_row_errors and not backfill._is_operator(actor) then
    perform backfill._refuse(format('option "max_row_errors" is %s', options ->> 'max_row_errors'), format('For role "%s" the most is %s: each such row is kept with its error.', actor, q.max_row_errors),
      'Mend the rows or the expression, or ask a member of backfill_operator (update backfill.quota set max_row_errors = ...).');
  end if;
end $$;

create function backfill._job_bounds() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- However long the queue is.
set enable_seqscan = off as $$
declare
  q backfill.quota;
  n bigint;
begin
  perform backfill._check_bounds(new.enqueued_by, new.options, null);
  if octet_length(new.settings::text) > 10000 or octet_length(new.key::text) > 4000 then
    perform backfill._refuse('the search_path, or the key, has thousands of characters', 'They are kept with the job.', 'Set a shorter search_path in this session.');
  elsif backfill._is_operator(new.enqueued_by) then
    return new;
  end if;
  select * into q from backfill.quota;
  select count(*) into n from (select from backfill.job j where j.enqueued_by = new.enqueued_by and j.state in ('queued', 'running', 'paused', 'verifying') limit q.live_jobs) x;
  if n >= q.live_jobs then
    perform backfill._refuse(format('role "%s" has %s jobs that have not ended', new.enqueued_by, n), 'That is the most that one role may have.',
      'Wait for them or cancel some, or ask a member of backfill_operator (update backfill.quota set live_jobs = ...).');
  end if;
  select count(*) into n from (select from backfill.job j where j.enqueued_by = new.enqueued_by and j.enqueued_at > now() - interval '1 minute' limit q.jobs_per_minute) x;
  if n >= q.jobs_per_minute then
    perform backfill._refuse(format('role "%s" has enqueued %s jobs within a minute', new.enqueued_by, n), 'That is the most that one role may.',
      'Wait a minute, or ask a member of backfill_operator (update backfill.quota set jobs_per_minute = ...). One job can fill several columns, and all partitions of a table.');
  end if;
  return new;
end $$;
-- After job_before_insert, which has looked at the options.
create trigger job_bounds before insert on backfill.job for each row execute function backfill._job_bounds();

-- Before command_carry_out. What a job does is its submitter's choice, and the rights are those of run_as: who has lost
-- them since must not start it again, with functions that are still theirs to change.
create function backfill._command_bounds() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_run_as name;
  v_most bigint := (select q.live_jobs from backfill.quota q);
  n bigint;
begin
  perform backfill._check_bounds(new.actor, new.options, new.reason);
  if new.verb in ('retry', 'rerun') and not backfill._is_operator(new.actor) then
    select count(*) into n from (select from backfill.job j
      where j.enqueued_by = (select x.enqueued_by from backfill.job x where x.name = new.job_name) and j.state in ('queued', 'running', 'paused', 'verifying') limit v_most) x;
    if n >= v_most then
      perform backfill._refuse(format('the submitter of job "%s" has %s jobs that have not ended', new.job_name, n), 'That is the most that one role may have.',
        'Wait for them or cancel some, or ask a member of backfill_operator (update backfill.quota set live_jobs = ...).');
    end if;
  end if;
  if new.verb in ('retry', 'rerun', 'resume') and not backfill._is_operator(new.actor) then
    select j.run_as into v_run_as from backfill.job j where j.name = new.job_name and exists (select from pg_roles r where r.rolname = j.enqueued_by and pg_has_role(new.actor, r.oid, 'MEMBER'));
    if found and not backfill._may_run_as(new.actor, v_run_as) then
      raise exception using errcode = '42501', message = format('role "%s" may not %s job "%s"', new.actor, new.verb, new.job_name),
        detail = format('It has the rights of "%s", which "%s" is not a member of any longer.', v_run_as, new.actor),
        hint = format('Ask a member of backfill_operator, or an administrator: grant %I to %I;', v_run_as, new.actor);
    end if;
  end if;
  return new;
end $$;
create trigger command_bounds before insert on backfill.command for each row execute function backfill._command_bounds();

-- Whether the submitter could enqueue the job now: rights may have been taken away while it waited.
create function backfill._still_may(job bigint) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select * into j from backfill.job x where x.id = _still_may.job;
  if not exists (select from pg_roles r where r.rolname = j.enqueued_by) then
    perform backfill._refuse(format('role "%s", which enqueued the job, does not exist any longer', j.enqueued_by), format('The job would have the rights of "%s".', j.run_as),
      'backfill.forget it, and enqueue it as another role if it is still wanted.');
  elsif not backfill._may_run_as(j.enqueued_by, j.run_as) then
    perform backfill._refuse(format('role "%s" may not act as "%s" any longer', j.enqueued_by, j.run_as), 'It could when it enqueued the job.',
      format('grant %I to %I; then backfill.retry. Or backfill.forget the job, and enqueue it as another role.', j.run_as, j.enqueued_by));
  end if;
end $$;

-- What each role may use. Monitoring may read.
create or replace function backfill._grant_all() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r text;
  missing text[] := '{}';
  f record;
begin
  lock table backfill.schema_version in share row exclusive mode;
  -- A function that a later migration made is everybody's until this. Not without need: it writes a row for each
  -- function, and two at once would fail.
  if exists (select from pg_proc p where p.pronamespace = 'backfill'::regnamespace and (p.proacl is null or exists (select from aclexplode(p.proacl) a where a.grantee = 0))) then
    revoke all on all routines in schema backfill from public;
  end if;
  foreach r in array array['backfill_reader', 'backfill_submitter', 'backfill_operator', 'pg_monitor'] loop
    if not exists (select from pg_roles where rolname = r) then
      begin
        execute format('create role %I nologin', r);
      exception
        when duplicate_object or unique_violation then null; -- Another database's migration was faster.
        when insufficient_privilege then missing := missing || r; continue;
      end;
    end if;
    execute format('grant usage on schema backfill to %I', r);
    execute format('grant select on backfill.jobs, backfill.slices, backfill.events, backfill.row_errors, backfill.workers, backfill.signals, backfill.quota to %I', r);
    execute format('grant execute on function backfill.assert_complete(text, boolean), backfill._refuse(text, text, text), backfill._sees_all(), backfill._is_operator(name), backfill._state_of(text), backfill._provable(text) to %I', r);
    execute format('grant execute on procedure backfill.wait(text, interval) to %I', r);
  end loop;
  foreach r in array array['backfill_submitter', 'backfill_operator'] loop
    continue when r = any (missing);
    for f in select p.oid::regprocedure as signature, p.prokind from pg_proc p join pg_namespace n on n.oid = p.pronamespace
              where n.nspname = 'backfill' and p.proname = any (array['enqueue', 'enqueue_delete', '_enqueue', 'preview', 'pause', 'resume', 'cancel', 'approve', 'retry', 'rerun', 'tune', 'forget', 'pause_all', 'resume_all',
                '_caller_settings', '_may_run_as', '_lex', '_assignments', '_update_sql', '_key_of', '_check_target', '_check_options', '_not_in_effect', '_stored_options', '_try_plan', '_resolve_run_as', '_executor_note',
                '_compare_spec', '_same_or_raise', '_incomparable', '_right_hint',
                '_check_name', '_filter_of', '_check_arguments', '_check_run_as', '_check_spec', '_check_job', '_work_sql', '_heaps', '_referring', '_cascades',
                '_preview', '_preview_text', '_values_text', '_sample', '_after', '_price', '_recent_rate']) loop
      execute format('grant execute on function %s to %I', f.signature, r);
    end loop;
    execute format('grant insert (name, kind, relation, target, set_sql, filter_sql, key, priority, run_at, run_as, run_as_asked, needs_approval, options, settings) on backfill.job to %I', r);
    execute format('grant insert (verb, job_name, reason, options) on backfill.command to %I', r);
  end loop;
  if to_regrole('backfill_operator') is not null then
    grant update (live_jobs, jobs_per_minute, max_row_errors) on backfill.quota to backfill_operator;
  end if;
  return missing;
end $$;
