-- As in 0008, but a slice whose holder is gone is one of those under way: somebody is about to take it over. A daemon that cut
-- its own slice for a free hand of its own let the lost one lie.
create or replace function backfill._may_split(slice bigint, token uuid, wanted integer) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select x.* into j from backfill.job x join backfill.lease l on l.job_id = x.id where l.slice_id = _may_split.slice and l.token = _may_split.token;
  return j.state = 'running' and j.desired_state = 'running'
    and wanted > (select count(*) from backfill.lease l where l.job_id = j.id)
    and not exists (select from backfill.slice s where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state in ('ready', 'held'))
    -- Nearly the largest will do: of two that go on in step each finds itself behind the other when it asks.
    and coalesce((select max(r.remaining) filter (where r.id = _may_split.slice) >= greatest(5000, 0.8 * max(r.remaining))
                    from (select s.id, s.rows_estimated - c.rows_scanned as remaining
                            from backfill.slice s join backfill.checkpoint c on c.slice_id = s.id
                           where s.job_id = j.id and s.run = j.run and s.generation = j.generation and s.kind = 'walk' and s.state = 'leased'
                             and s.rows_estimated is not null and not c.done) r), false);
end $$;
