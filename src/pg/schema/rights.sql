-- Each migration runs this file last. Roles get access to the schema only through the functions
-- _grant_all and _grant_executor.

revoke all on all tables in schema backfill from public;
revoke all on all routines in schema backfill from public;

do $$
declare
  r name;
begin
  perform backfill._grant_all();
  for r in select distinct e.run_as from backfill.executor e join pg_roles x on x.rolname = e.run_as where e.run_as <> current_user loop
    perform backfill._grant_executor(r);
  end loop;
end $$;
