with _bf_bound as materialized (
  select "id" as k0 from only public.t where true and "id" operator(pg_catalog.<=) (($6::pg_catalog.text[])[1]::bigint) order by "id" offset $5::pg_catalog.int8 - 1 limit 1),
_bf_end as materialized (
  select k0, $5::pg_catalog.int8 as scanned, false as done from _bf_bound
  union all
  select ($6::pg_catalog.text[])[1]::bigint as k0, (select pg_catalog.count(*) from only public.t where true and "id" operator(pg_catalog.<=) (($6::pg_catalog.text[])[1]::bigint)), true where not exists (select from _bf_bound)),
_bf_rows as (
  update only public.t set "n" = (
 n + 1
)
  where true and "id" operator(pg_catalog.<=) (select k0 from _bf_end)
  returning null::pg_catalog.int4 as unresolved)
select a.at_place, a.desired, a.revision, s.key, s.scanned, s.changed, s.done, extract(epoch from pg_catalog.clock_timestamp() operator(pg_catalog.-) pg_catalog.statement_timestamp())::pg_catalog.float8 as took
from (select array[k0::pg_catalog.text] as key, e.scanned, e.done, r.changed, r.unresolved
        from _bf_end e cross join (select pg_catalog.count(*) as changed, pg_catalog.count(unresolved) as unresolved from _bf_rows) r) s
cross join lateral backfill.advance($1::pg_catalog.int8, $2::pg_catalog.uuid, $3::pg_catalog.text::pg_catalog.tid, $4::pg_catalog.text[], s.key, s.scanned, s.changed, s.unresolved, s.done) a
where (select backfill.unchanged({relation}::pg_catalog.oid, 'public.t', array[1, 3]::pg_catalog.int2[], array[1]::pg_catalog.int2[], '1 id 20 -1 0 , 3 n 23 -1 0 '))
