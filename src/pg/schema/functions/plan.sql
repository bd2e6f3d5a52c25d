-- Stores a plan and ends the claim of the planning slice. The argument `slices` is [{"ordinal",
-- "lower", "upper", "rows"}], in which each bound is an array of text or null. A slice of a leaf
-- also has {"relation", "relation_name", "leaf"}, and has no upper bound if the leaf was empty. If
-- the target has no leaves and was empty, the array `slices` has no elements.
create or replace function backfill._save_plan(slice bigint, token uuid, plan jsonb, slices jsonb, rows_estimated bigint, snapshot text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
begin
  update backfill.job x set plan = _save_plan.plan, rows_estimated = _save_plan.rows_estimated, planned_snapshot = snapshot::pg_snapshot where x.id = j.id;
  perform backfill._add_ranges(j, slices, 0);
  perform backfill._end_slice(slice);
  perform backfill._record_event(j.id, 'planned', format('about %s rows in %s', to_char(rows_estimated, 'FM999,999,999,999,999,990'), case jsonb_array_length(slices) when 1 then '1 slice' else jsonb_array_length(slices) || ' slices' end) || coalesce('; batches run at REPEATABLE READ, because ' || (plan ->> 'unseen'), ''), plan);
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Returns the properties of the leaf of a slice (slice.leaf) to the holder of the slice.
create or replace function backfill._leaf(slice bigint, token uuid) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select s.leaf from backfill.slice s join backfill.lease l on l.slice_id = s.id where s.id = _leaf.slice and l.token = _leaf.token
$$;

-- Stores the ranges of a leaf that was attached since planning, and ends the claim in which the
-- daemon found the ranges. The claimed slice becomes the first range.
create or replace function backfill._save_leaf(slice bigint, token uuid, slices jsonb, rows_estimated bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  n integer := (select max(x.ordinal) from backfill.slice x where x.job_id = j.id and x.run = j.run and x.generation = j.generation and x.kind = 'walk');
begin
  perform backfill._drop_lease(slice);
  update backfill.slice s set upper = r.upper, leaf = r.leaf, rows_estimated = r.rows
    from jsonb_to_recordset(slices) as r(ordinal integer, upper text[], leaf jsonb, rows bigint) where r.ordinal = 0 and s.id = _save_leaf.slice;
  if (select s.upper is null from backfill.slice s where s.id = _save_leaf.slice) then
    update backfill.checkpoint c set done = true where c.slice_id = _save_leaf.slice;
    perform backfill._end_slice(slice);
  end if;
  perform backfill._add_ranges(j, (select coalesce(jsonb_agg(e), '[]') from jsonb_array_elements(slices) e where (e ->> 'ordinal')::integer > 0), n);
  update backfill.job x set rows_estimated = x.rows_estimated + _save_leaf.rows_estimated where x.id = j.id;
  perform backfill._schedule_slices(j.id);
  perform backfill._settle(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Ends a claim whose leaf is no longer part of the target. Returns null and leaves the claim
-- unchanged in each of the following cases:
-- - The slice has no leaf.
-- - The leaf is still part of the target.
-- - The target itself no longer exists or was replaced.
create or replace function backfill._end_gone_leaf(slice bigint, token uuid) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  s backfill.slice;
begin
  select * into s from backfill.slice x where x.id = _end_gone_leaf.slice;
  if not coalesce((j.plan ->> 'spread')::boolean, false) or s.relation is null
     or backfill._other_table(j.target, j.relation) is not null
     or exists (select from backfill._leaves(j.relation) l where l.leaf = s.relation) then
    return null;
  end if;
  perform set_config('synchronous_commit', 'on', true);
  perform backfill._drop_lease(slice);
  update backfill.slice x set state = 'gone', finished_at = clock_timestamp() where x.id = _end_gone_leaf.slice;
  perform backfill._record_event(j.id, 'leaf_gone', format('%s was detached or dropped: slice %s is closed', s.relation_name, s.ordinal), jsonb_build_object('slice', s.id));
  if s.kind = 'walk' then
    perform backfill._add_new_leaves(j.id);
  end if;
  perform backfill._settle(j.id);
  return backfill._state_of(j.name);
end $$;

-- Returns whether the holder of a slice should split the slice. The conditions are:
-- - The job is running.
-- - Fewer than `wanted` slices of the job are in progress. A slice with an expired lease counts as
--   in progress, because a worker is about to take it over.
-- - No slice of the walk is waiting for a worker, or for a later time (ready or held).
-- - No other slice has many more remaining rows.
-- - The slice has at least 5,000 remaining rows. Otherwise the split would cost more than it saves.
create or replace function backfill._may_split(slice bigint, token uuid, wanted integer) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.lease l on l.job_id = x.id where l.slice_id = _may_split.slice and l.token = _may_split.token;
  return j.state = 'running' and j.desired_state = 'running'
    and wanted > (select count(*) from backfill.lease l where l.job_id = j.id)
    and not exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state in ('ready', 'held'))
    -- A slice may be split if it has at least 80 % as many remaining rows as the slice with the
    -- most remaining rows. If only the largest slice could be split, two slices that progress at
    -- the same rate might never be split: at each check, each holder could see the other slice as
    -- the larger one.
    and coalesce((select max(r.remaining) filter (where r.id = _may_split.slice) >= greatest(5000, 0.8 * max(r.remaining))
                    from (select s.id, s.rows_estimated - c.rows_scanned as remaining
                            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                           where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state = 'leased'
                             and s.rows_estimated is not null and not c.done) r), false);
end $$;

-- Splits a slice at a key that the slice's holder found between the position and the upper bound.
-- About `rows` of the remaining rows are on each side of the key. The split ends the claim and
-- gives the checkpoint a new token, which fences the next batch of the holder. Otherwise a holder
-- that did not receive the result would continue to the old upper bound, and process rows that now
-- belong to another slice.
create or replace function backfill._split(slice bigint, token uuid, at text[], rows bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job := backfill._fence(slice, token);
  s backfill.slice;
  c backfill.checkpoint;
  n integer;
  made bigint;
begin
  perform set_config('synchronous_commit', 'on', true);
  select * into c from backfill.checkpoint x where x.slice_id = _split.slice and x.token = _split.token for update;
  select * into s from backfill.slice x where x.id = _split.slice;
  if c.done is not false or s.kind <> 'walk' or _split.at is null or _split.at = s.upper or _split.at is not distinct from c.position then
    raise exception using errcode = 'BF006', message = format('slice %s cannot be split at %s', slice, _split.at);
  end if;
  perform backfill._drop_lease(slice);
  select max(x.ordinal) + 1 into n from backfill.slice x where x.job_id = j.id and x.run = s.run and x.generation = s.generation and x.kind = s.kind;
  insert into backfill.slice (job_id, kind, run, generation, ordinal, relation, relation_name, lower, upper, leaf, rows_estimated, protocol, run_as, priority)
  values (s.job_id, s.kind, s.run, s.generation, n, s.relation, s.relation_name, _split.at, s.upper, s.leaf, _split.rows, s.protocol, s.run_as, s.priority)
  returning id into made;
  insert into backfill.checkpoint (slice_id, token, position) values (made, gen_random_uuid(), _split.at);
  update backfill.slice x set upper = _split.at, rows_estimated = c.rows_scanned + _split.rows where x.id = s.id;
  perform backfill._record_event(j.id, 'split', format('slice %s was split: slice %s is its second half', s.ordinal, n), jsonb_build_object('slice', s.ordinal, 'new', n, 'at', _split.at, 'rows', _split.rows));
  perform backfill._schedule_slices(j.id);
  perform backfill._notify_daemons();
  return backfill._state_of(j.name);
end $$;

-- Returns the task of a verifying slice: whether the slice compares rows with the expressions or
-- with the filter, and the snapshot that was taken at planning.
create or replace function backfill._proof(slice bigint) returns table (by_expression boolean, planned text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select s.proof is not distinct from 'expression', j.planned_snapshot::text
    from backfill.slice s join backfill.job j on j.id = s.job_id where s.id = _proof.slice
$$;
