-- What was proven, and of which rows.

-- What a verifying slice proves: 'filter', no row of its range needs work any longer; 'expression', each row has what
-- its expressions say. With the slice, so that a tune in the middle does not make one proof of two halves.
alter table backfill.slice add column proof text;

-- Whether a row that has this xmin was written after the snapshot. An xmin is the lower half of a transaction's number:
-- of those that it may be, the latest that has begun. What is frozen keeps its number, and is taken for later only if it
-- was written a whole turn of the counter earlier, to within the length of the job. The snapshot lists no
-- subtransactions; so from the oldest one that was under way at planning on, nothing is known to have been committed.
create function backfill._since(written xid, planned pg_snapshot) returns boolean
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

-- What executors call. Each later version adds its own names here.
create or replace function backfill._grant_executor(run_as name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  f regprocedure;
begin
  -- A grant writes a row of the catalog, and two at once would fail.
  lock table backfill.schema_version in share row exclusive mode;
  execute format('grant usage on schema backfill to %I', run_as);
  for f in select p.oid from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'backfill' and p.proname = any (array['advance', 'advance_aside', 'return_aside', 'unchanged', 'not_rewritten', 'same_triggers', 'suppressible', 'all_changed',
              'key_text', '_server', '_fingerprint', '_since']) loop
    execute format('grant execute on function %s to %I', f, run_as);
  end loop;
end $$;

-- Which proof the job asks for: 'auto' is filter where that can tell, else coverage. 'expression' is never made
-- another: a job that can't be compared was refused, or fails.
create or replace function backfill._verify_kind(j backfill.job) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when w.kind in ('none', 'coverage') then w.kind
    -- A row that is gone can't be compared.
    when w.kind = 'expression' and j.kind = 'update' then 'expression'
    -- A sweep would change rows twice whose new value matches the filter again: n = n + 1 where n < 5.
    when j.filter_sql is not null and not coalesce((j.plan ->> 'self_reading')::boolean, false) then 'filter'
    else 'coverage' end
    from (select coalesce(j.options ->> 'verify', j.plan #>> '{defaults,verify}', 'auto')) w(kind)
$$;

-- "1 row differs", "2 rows differ" are for the caller; this is the number with its noun.
create function backfill._rows(n bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select format('%s row%s', n, case when n <> 1 then 's' end) $$;

-- Rows whose columns are not what set says.
create function backfill._differs(relation oid, set_sql text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('(%s)', string_agg(format(E'%s is distinct from (\n%s\n)%s',
    case when cardinality(a.columns) = 1 then quote_ident(a.columns[1])
         else format('row(%s)', (select string_agg(quote_ident(u.c), ', ' order by u.n) from unnest(a.columns) with ordinality u(c, n))) end, btrim(a.expression, E' \t\n\r'),
    -- As the assignment casts it: a number that was put into a text is no number any more.
    (select '::' || format_type(t.atttypid, t.atttypmod) from pg_attribute t
      where t.attrelid = _differs.relation and t.attname = a.columns[1] and not t.attisdropped and cardinality(a.columns) = 1)), ' or '))
    from backfill._assignments(set_sql) a
$$;

-- As in 0007, and what a verification finds is told apart: rows written since planning, and rows that were missed.
create or replace function backfill._settle(job_id bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
  live boolean;
  waits boolean;
  gap text;
  remaining bigint;
  refused bigint;
  missed bigint;
  v_proof text;
  changed bigint;
  told text;
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
    select exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.state not in ('done', 'gone')) into waits;
    if waits then
      return;
    end if;
    gap := backfill._coverage_gap(j.id);
    if gap is not null then
      perform backfill._end(j.id, 'failed', false, 'the walk has a gap: ' || gap, 'This is a defect of backfilld: please report it with the rows of backfill.slices and backfill.events of this job.');
      return;
    end if;
    refused := backfill._count_refused(j.id);
    if refused > 0 then
      perform backfill._end(j.id, 'failed', false, format('%s row%s can''t be changed: %s', refused, case when refused > 1 then 's' end,
               (select e.message || case when refused > 1 then ' (the first of them)' else '' end from backfill.row_error e left join backfill.slice s on s.id = e.slice_id
                 where e.job_id = j.id and e.resolved_at is null and s.state is distinct from 'gone' order by e.first_at, e.key::text limit 1)),
        'All others are done. backfill.row_errors has them, each with its error: mend them, then backfill.retry takes just those.');
      return;
    end if;
    v_proof := backfill._verify_kind(j);
    if v_proof = 'expression' and not coalesce((j.plan ->> 'comparable')::boolean, false) then
      perform backfill._end(j.id, 'failed', false, 'every row was passed, and verify is "expression", but these expressions can''t be compared',
        'They read what they assign, or may give another value each time. Use backfill.tune(name, ''{"verify": "auto"}''), then backfill.retry.');
      return;
    end if;
    case v_proof
      when 'none' then
        perform backfill._end(j.id, 'succeeded', false);
      when 'coverage' then
        perform backfill._end(j.id, 'succeeded', true);
      else
        if backfill._add_slices(j.id, 'verify', j.generation) = 0 then
          perform backfill._end(j.id, 'succeeded', true);
          return;
        end if;
        update backfill.slice s set proof = v_proof, needs = case when v_proof = 'expression' then greatest(s.needs, 2) else s.needs end
         where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify';
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
    -- Of a verification rows_changed are those that it found, and rows_unresolved those of them that have not been
    -- written since planning.
    select coalesce(sum(c.rows_changed), 0), coalesce(sum(c.rows_unresolved), 0), coalesce(max(s.proof), 'filter') into remaining, missed, v_proof
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'verify';
    if remaining = 0 then
      perform backfill._end(j.id, 'succeeded', true);
      return;
    end if;
    if missed = 0 and not coalesce((j.plan ->> 'comparable')::boolean, false)
       and remaining <= (select coalesce(sum(c.rows_unresolved), 0) from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                          where s.job_id = j.id and s.run = j.run and s.kind = 'walk') then
      -- Their new value matched the filter again when it was written: counted as unresolved, and no failure.
      perform backfill._end(j.id, 'succeeded', true);
      return;
    end if;
    told := case when coalesce((j.plan ->> 'filter_varies')::boolean, false) then 'the filter looks at the clock or at other rows, so nobody can tell since when'
                 else format('%s written since planning, %s missed', backfill._rows(remaining - missed), missed) end;
    if missed > 0 then
      perform backfill._note(j.id, 'missed', format('%s still need%s work and %s not been written since planning: passed over by the walk, which is a defect of backfilld, or changed behind its back (what they are compared with is another, say a function)',
        backfill._rows(missed), case when missed = 1 then 's' end, case when missed = 1 then 'has' else 'have' end), jsonb_build_object('rows', missed));
    end if;
    select coalesce(sum(c.rows_changed), 0) into changed
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk';
    if v_proof = 'expression' and j.filter_sql is not null and j.generation > 1 and changed = 0 then
      -- A sweep changes only what the filter lets it change.
      perform backfill._end(j.id, 'failed', false,
        format('%s differ%s from what set says and %s not match the filter, so the job may not change %s', backfill._rows(remaining), case when remaining = 1 then 's' end,
               case when remaining = 1 then 'does' else 'do' end, case when remaining = 1 then 'it' else 'them' end),
        format('Look: select * from %s where %s limit 20; Mend them, or enqueue a job without the filter; then backfill.retry. If they are right as they are: backfill.tune(name, ''{"verify": "auto"}''), then backfill.retry.', j.target, backfill._differs(j.relation, j.set_sql)));
    elsif j.generation <= 3 then
      -- Rows that came, or were written again, since their place was passed: sweep the range for them.
      perform backfill._add_slices(j.id, 'walk', j.generation + 1);
      update backfill.job set state = 'running', generation = j.generation + 1 where id = j.id;
      perform backfill._note(j.id, 'sweep', format('%s %s after the walk (%s): sweep %s of 3', backfill._rows(remaining),
          case when v_proof = 'expression' then case when remaining = 1 then 'differs from what set says' else 'differ from what set says' end
               else case when remaining = 1 then 'matches the filter' else 'match the filter' end end, told, j.generation),
        jsonb_build_object('rows', remaining, 'written_since_planning', remaining - missed, 'missed', missed));
      perform backfill._arrange(j.id);
      perform backfill._wake();
    else
      perform backfill._end(j.id, 'failed', false, format('%s still need%s work after 3 sweeps: %s', backfill._rows(remaining), case when remaining = 1 then 's' end, told),
        case when v_proof = 'expression' then 'The application, or a trigger, keeps writing other values than set says: make them agree, then backfill.retry.'
             when coalesce((j.plan ->> 'filter_varies')::boolean, false)
               then 'The filter looks at the clock or at other rows, so rows may begin to match by themselves: compare with a constant in a new job. Or have it proven by coverage, that each row was passed: backfill.tune(name, ''{"verify": "coverage"}''), then backfill.retry.'
             else 'The application keeps writing rows that match the filter: make it fill the column itself, then backfill.retry.' end);
    end if;
  end if;
end $$;

-- A proof by comparison of what can't be compared: a plan that is there already knows.
create function backfill._job_before_tune() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backfill._refuse(format('job "%s" can''t be verified by its expressions', new.name), 'They read what they assign, or may give another value each time.',
    'Leave verify at "auto".');
  return null;
end $$;
create trigger job_before_tune before update of options on backfill.job for each row
  when (new.kind = 'update' and new.options ->> 'verify' = 'expression' and old.options ->> 'verify' is distinct from 'expression'
        and not (coalesce(new.plan ->> 'comparable', 'true')::boolean))
  execute function backfill._job_before_tune();

-- Options that every release accepts and this one can't carry out yet. What asks for nothing is not told.
create or replace function backfill._not_in_effect(options jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%s = %s', o.key, o.value), ', ' order by o.key)
    from jsonb_each(options) o
   where o.value <> 'null' and (o.key = 'max_growth_bytes'
      or o.key = 'walk' and o.value #>> '{}' = 'interleaved')
$$;

-- Why the expressions can't be compared with what they assigned, as far as their text tells; the planner sees the rest.
-- Only what is certain: a word may be many things, a column's name is one where nothing else could stand.
create function backfill._incomparable(set_sql text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with assigned as (select array_agg(c) as columns from backfill._assignments(set_sql) a, unnest(a.columns) c),
  token as (
    select l.kind, l.body, case l.kind when 'word' then lower(l.body) when 'quoted' then replace(substr(l.body, 2, length(l.body) - 2), '""', '"') end as name,
           lag(l.kind) over w as kind_before, lag(l.body) over w as before, lead(l.kind) over w as kind_after, lead(l.body) over w as after, lead(l.body, 2) over w as after_that
      from backfill._assignments(set_sql) with ordinality a(columns, expression, n), backfill._lex(a.expression, 'set') with ordinality l(kind, body, depth, m)
     where l.kind <> 'space'
    window w as (partition by a.n order by l.m))
  select case
    when exists (select from token t where t.kind = 'word' and t.name = 'select') then 'A subquery may find other rows each time.'
    else (select format('Column "%s" is assigned, and read as well: its old value is gone.', t.name) from token t, assigned
           where t.name = any (assigned.columns)
             and (t.kind_before is null or t.kind_before = 'open' or t.kind_before = 'other' and t.before not in ('.', ':'))
             and (t.kind_after is null or t.kind_after = 'close' or t.kind_after = 'other' and t.after <> '.' and not (t.after = '=' and t.after_that = '>') and not (t.after = ':' and t.after_that = '='))
           limit 1)
    end
$$;

create or replace function backfill._check_arguments(kind text, relation oid, set_sql text, filter_sql text, options jsonb, operator_ok boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_reason text;
begin
  if relation is null then
    perform backfill._refuse('target is null', 'A job needs a table to work on.', 'Name the table, for example target => ''public.orders''.');
  elsif kind = 'update' and set_sql is null then
    perform backfill._refuse('set is null', 'A job needs an assignment.', 'For example: set => ''total_cents = round(total * 100)::bigint''.');
  elsif kind = 'delete' and filter_sql is null then
    perform backfill._refuse('a delete needs a filter', format('Without one it would delete every row of %s, batch by batch.', relation::regclass),
      format('Say which rows, for example filter => ''archived_at is not null''; to empty the table: truncate %s.', relation::regclass));
  elsif length(set_sql) > 65536 or length(filter_sql) > 65536 then
    perform backfill._refuse('set or filter is longer than 65536 characters', 'It is sent with each batch.', 'Put the expression into a function and call it.');
  end if;
  perform backfill._check_options(options, filter_sql, operator_ok);
  if kind = 'delete' and options ->> 'verify' = 'expression' then
    perform backfill._refuse('option "verify" is "expression", and the job deletes', 'A row that is gone can''t be compared with anything.', 'Leave verify at "auto": no row may be left that matches the filter.');
  end if;
  if kind = 'update' and options ->> 'verify' = 'expression' then
    v_reason := backfill._incomparable(set_sql);
    if v_reason is not null then
      perform backfill._refuse('option "verify" is "expression", and these expressions can''t be compared', v_reason,
        'Leave verify at "auto": it proves that every row was passed, and with a filter that no row matches it any more.');
    end if;
  end if;
end $$;

-- SQL as its tokens, so that blanks, line breaks, comments and the case of words make no difference. A blank stays
-- where it parts two tokens that would else be one: 1 .5, or < -.
create function backfill._tokens(fragment text, what text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with token as (
    select l.kind, l.body, l.n, lag(l.kind, 1, '') over w as before, lag(l.kind, 2, '') over w as before_that, lag(l.body, 2, '') over w as body_before_that
      from (select x.kind, min(x.n) as n, string_agg(x.body, '' order by x.n) as body
              -- Blanks and comments that follow one another are one.
              from (select t.*, sum(case when t.kind = 'space' and t.previous = 'space' then 0 else 1 end) over (order by t.n) as part
                      from (select y.kind, y.body, y.n, lag(y.kind, 1, '') over (order by y.n) as previous from backfill._lex(fragment, what) with ordinality y(kind, body, depth, n)) t) x
             group by x.part, x.kind) l
    window w as (order by l.n))
  select coalesce(array_agg(case when t.before = 'space' and t.before_that = 'other' and t.kind = 'other' and (t.body ~ '[0-9.]') = (t.body_before_that ~ '[0-9.]') then ' ' else '' end
                            || case t.kind when 'word' then lower(t.body) else t.body end order by t.n) filter (where t.kind <> 'space'), '{}')
    from token t
$$;

create function backfill._same_sql(a text, b text, what text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  -- Most often they are; and then nothing is taken apart.
  if a is not distinct from b then
    return true;
  elsif a is null or b is null then
    return false;
  end if;
  return backfill._tokens(a, what) = backfill._tokens(b, what);
end $$;

-- Whether the session may know of a job that this role enqueued: for functions that have their owner's rights, where
-- current_user says nothing.
create function backfill._may_see(enqueued_by name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where (r.rolname in (enqueued_by, 'backfill_reader', 'backfill_operator', 'pg_monitor') or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'backfill'))
                                          and pg_has_role(session_user, r.oid, 'MEMBER'))
$$;

-- What the control functions answer, and nobody learns of a job that it can't see.
create or replace function backfill._state_of(job_name text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select state from backfill.job where name = job_name and backfill._may_see(enqueued_by)
$$;

-- The stored job of this name beside a new spec: its id and state, and the first difference, if any.
create or replace function backfill._compare_spec(job_name text, kind text, relation oid, set_sql text, filter_sql text, key name[], run_as_asked name)
returns table (id bigint, state text, difference text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select j.id, case when d.difference is null or backfill._may_see(j.enqueued_by) then j.state end, d.difference
    from backfill.job j cross join lateral (select case
      -- Somebody else's spec is not for the caller's eyes: only that the name is taken.
      when not backfill._may_see(j.enqueued_by)
           and ((j.kind, j.relation, j.key, j.run_as_asked) is distinct from (_compare_spec.kind, _compare_spec.relation, _compare_spec.key, _compare_spec.run_as_asked)
                or not backfill._same_sql(j.set_sql, _compare_spec.set_sql, 'set') or not backfill._same_sql(j.filter_sql, _compare_spec.filter_sql, 'filter'))
        then format('it was enqueued by "%s"', j.enqueued_by)
      when j.kind <> _compare_spec.kind then format('kind was "%s", is "%s"', j.kind, _compare_spec.kind)
      when j.relation <> _compare_spec.relation and j.target = (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = _compare_spec.relation)
        then format('target was another table named %s, which has been replaced since', j.target)
      when j.relation <> _compare_spec.relation then format('target was %s, is %s', j.target, _compare_spec.relation::regclass)
      when j.run_as_asked is distinct from _compare_spec.run_as_asked
        then format('run_as was %s, is %s', coalesce(quote_ident(j.run_as_asked), 'null'), coalesce(quote_ident(_compare_spec.run_as_asked), 'null'))
      when j.key is distinct from _compare_spec.key then format('key was %s, is %s', coalesce(j.key::text, 'the primary key'), coalesce(_compare_spec.key::text, 'the primary key'))
      when not backfill._same_sql(j.set_sql, _compare_spec.set_sql, 'set') then format('set was <%s>, is <%s>', j.set_sql, _compare_spec.set_sql)
      when not backfill._same_sql(j.filter_sql, _compare_spec.filter_sql, 'filter') then format('filter was <%s>, is <%s>', coalesce(j.filter_sql, 'null'), coalesce(_compare_spec.filter_sql, 'null'))
    end as difference) d
   where j.name = job_name
$$;

create or replace function backfill._same_or_raise(job_name text, id bigint, state text, difference text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if difference is not null then
    raise exception using errcode = 'BF002', message = format('a job named "%s" exists with another spec', job_name),
      detail = difference || '.', hint = 'Choose another name, or remove the old job with backfill.forget after it has ended.';
  end if;
  -- Many clients hide notices, and a deploy that believes its job to be under way would wait for ever.
  if state in ('failed', 'cancelled') then
    raise warning using message = format('job "%s" exists and has %s: enqueueing it again does not start it', job_name, case state when 'failed' then state else 'been cancelled' end),
      hint = format('select backfill.retry(%L) goes on from its checkpoint, select backfill.rerun(%L) starts it again from the beginning.', job_name, job_name);
  elsif state = 'succeeded' then
    raise notice 'job "%" exists and has ended: %', job_name, state;
  end if;
  return id;
end $$;

-- The role that the job will have, if the caller may give it.
create or replace function backfill._check_run_as(asked name) returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_run_as name := backfill._resolve_run_as(current_user, asked);
begin
  if not exists (select from pg_roles r where r.rolname = v_run_as) then
    perform backfill._refuse(format('role "%s" does not exist', v_run_as), 'The job would run with its rights.', 'Name an existing role in run_as, or leave it out.');
  elsif not backfill._may_run_as(current_user, v_run_as) then
    perform backfill._refuse(format('role "%s" may not run jobs as "%s"', current_user, v_run_as), 'Enqueueing gives nobody more rights than they had.', format('As an administrator: grant %I to %I%s; or leave run_as out.', v_run_as, current_user, case when current_setting('server_version_num')::int >= 160000 then ' with set true' end));
  end if;
  return v_run_as;
end $$;

-- What the role of a job lacks on a table, and who gives it.
create function backfill._right_hint(kind text, target text, run_as name) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
  return format('The job would run as role "%s"%s, and that role lacks the right: %s%s.', run_as, case when run_as <> current_user then ', the daemon''s own or the one in run_as' end,
    coalesce(lacks, 'grant it what the message names'),
    case when c.owner <> run_as then format('; or let a daemon run jobs as the owner of the table (executors in its configuration) and enqueue with run_as => %L', c.owner) end);
end $$;

-- The rest: what the table, and the server, say to it. Answers with the key, as _key_of does, and the assigned columns.

-- What is needed to look at the whole table of a job: for nobody but the role that enqueued it, whose expressions
-- these are. With anybody else's rights they are not evaluated.
create function backfill._provable(job_name text, out spec jsonb, out refusal text)
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

-- With the columns that came since.
create or replace view backfill._visible with (security_barrier) as
select j.* from backfill.job j
 where (select backfill._sees_all()) or j.enqueued_by in (select r.rolname from pg_catalog.pg_roles r where pg_catalog.pg_has_role(r.oid, 'MEMBER'));

create or replace view backfill.jobs with (security_barrier) as
select j.id, j.name, j.kind, j.state, j.desired_state,
       case
         when j.state = 'paused' then null
         when j.needs_approval and j.approved_at is null then 'approval'
         when j.state = 'queued' and j.run_at > pg_catalog.clock_timestamp() then 'run_at'
         when j.closed_until > pg_catalog.clock_timestamp() then 'window'
         when (select w.paused_all from backfill.switch w) then 'paused_all'
         when l.reason is not null then l.reason
         when j.state = 'running' and a.waits then 'locked_rows'
         when l.live > 0 then null
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp())
           then case when exists (select from backfill.executor e where e.run_as = j.run_as) then 'daemon' else 'executor' end
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and j.run_as = any (x.run_as)) then 'executor'
         when not exists (select from backfill.worker x where x.expires_at > pg_catalog.clock_timestamp() and j.run_as = any (x.run_as)
                             and (x.closed_until is null or x.closed_until <= pg_catalog.clock_timestamp())) then 'window'
         else t.reason
       end as waiting_reason,
       case when j.closed_until > pg_catalog.clock_timestamp() and j.state <> 'paused' then pg_catalog.format('the window opens at %s', j.closed_until)
            else coalesce(l.waiting_text, case when l.live = 0 then t.text end) end as waiting_text,
       j.target, j.run_as, j.enqueued_by,
       coalesce(j.rows_scanned, p.scanned, 0) as rows_scanned,
       coalesce(j.rows_changed, p.changed, 0) as rows_changed,
       coalesce(p.unresolved, 0)::bigint as rows_unresolved,
       j.rows_quarantined,
       j.rows_estimated,
       case when p.slices > 0 and p.slices = p.finished then 100.0::float8
            when j.rows_estimated > 0 then least(99.9::float8, 100.0 * coalesce(p.scanned, 0) / j.rows_estimated)
            else 0.0::float8 end as percent_done,
       l.rows_per_second,
       -- None beyond ten years: a rate that has fallen to nothing tells no time.
       case when j.state = 'running' and j.rows_estimated > 0 and greatest(0, j.rows_estimated - coalesce(p.scanned, 0)) < l.rows_per_second * 3e8
            then pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => greatest(0, j.rows_estimated - coalesce(p.scanned, 0)) / l.rows_per_second) end as eta,
       (j.options ->> 'deadline')::timestamptz as deadline,
       j.error, j.hint, j.enqueued_at, j.started_at, j.finished_at, j.verified_at,
       j.set_sql as set, j.filter_sql as filter, j.options, j.priority, j.run_at, j.state_reason as reason
  from backfill._visible j
  left join lateral (
    select pg_catalog.count(*) filter (where s.generation = 1) as slices, pg_catalog.count(*) filter (where s.generation = 1 and s.state in ('done', 'gone')) as finished,
           (pg_catalog.sum(c.rows_scanned) filter (where s.generation = 1))::bigint as scanned, pg_catalog.sum(c.rows_changed)::bigint as changed, pg_catalog.sum(c.rows_unresolved)::bigint as unresolved
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and j.plan is not null) p on true
  left join lateral (
    select pg_catalog.count(*) as live, pg_catalog.sum(x.rows_per_second) as rows_per_second,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_reason) end as reason,
           case when pg_catalog.count(*) = pg_catalog.count(x.waiting_reason) then pg_catalog.min(x.waiting_text) end as waiting_text
      from backfill.lease x where x.job_id = j.id and x.expires_at > pg_catalog.clock_timestamp()) l on true
  -- What those ran into who gave their slices back.
  left join lateral (
    select pg_catalog.min(s.waiting_reason) as reason, pg_catalog.min(s.waiting_text) as text
      from backfill.slice s where s.job_id = j.id and s.run = j.run and s.state in ('ready', 'held') and s.waiting_reason is not null) t on true
  -- All that is left of the walk is rows that others have locked.
  left join lateral (
    select pg_catalog.bool_and(c.done and exists (select from backfill.set_aside y where y.slice_id = s.id)) as waits
      from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
     where s.job_id = j.id and s.run = j.run and s.kind = 'walk' and s.state not in ('done', 'gone') and j.state = 'running') a on true
 where j.state in ('queued', 'running', 'paused', 'verifying')
union all
select j.id, j.name, j.kind, j.state, j.desired_state, null, null, j.target, j.run_as, j.enqueued_by,
       coalesce(j.rows_scanned, 0), coalesce(j.rows_changed, 0), j.rows_unresolved, j.rows_quarantined, j.rows_estimated,
       case when j.state = 'succeeded' then 100.0::float8
            when j.rows_estimated > 0 then least(99.9::float8, 100.0 * coalesce(j.rows_scanned, 0) / j.rows_estimated)
            else 0.0::float8 end,
       null, null, (j.options ->> 'deadline')::timestamptz,
       j.error,
       coalesce(j.hint, case when j.state = 'succeeded' and j.rows_unresolved > 0 then pg_catalog.format(
         'rows_unresolved: of so many rows the new value matches the filter again. That is no failure: each was changed, and the filter can''t tell it from one that was not. To look at them: select * from %s where (%s) limit 20;', j.target, j.filter_sql) end),
       j.enqueued_at, j.started_at, j.finished_at, j.verified_at,
       j.set_sql, j.filter_sql, j.options, j.priority, j.run_at, j.state_reason
  from backfill._visible j where j.state in ('succeeded', 'failed', 'cancelled');

do $$
declare
  r name;
begin
  for r in select distinct e.run_as from backfill.executor e join pg_roles x on x.rolname = e.run_as where e.run_as <> current_user loop
    perform backfill._grant_executor(r);
  end loop;
end $$;
