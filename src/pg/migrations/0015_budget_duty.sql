-- Of a daemon's duty the others are told what budgets leave of it: what it hears of load is its own affair.
alter table backfill.worker add column budget_duty double precision;

-- Tells a daemon's duty, and what budgets alone would leave it; answers with the mean of what they leave the others. A
-- release that tells no more than its duty (0013) counts with that.
create function backfill._share_pace(worker uuid, duty double precision, budget_duty double precision) returns double precision
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update backfill.worker w set duty = _share_pace.duty, budget_duty = coalesce(_share_pace.budget_duty, 0)
   where w.id = _share_pace.worker
     and (w.duty, w.budget_duty) is distinct from (_share_pace.duty, coalesce(_share_pace.budget_duty, 0));
  return (select avg(case when w.budget_duty is null then w.duty else nullif(w.budget_duty, 0) end)
            from backfill.worker w where w.id <> _share_pace.worker and w.expires_at > clock_timestamp());
end $$;
