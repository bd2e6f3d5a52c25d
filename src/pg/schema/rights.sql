-- Each migration to a new version runs this file last. Roles get access to the schema only through
-- the functions _grant_all and _grant_executor.

revoke all on all tables in schema backfill from public;
revoke all on all routines in schema backfill from public;

do $$
declare
  r name;
  t record;
begin
  -- Default privileges of the login may give these privileges to other roles. With one of these
  -- privileges, a role can make the login execute the role's code.
  for t in select distinct c.oid::regclass as name, a.grantee from pg_class c cross join lateral aclexplode(c.relacl) a
            where c.relnamespace = 'backfill'::regnamespace and c.relkind in ('r', 'v') and a.privilege_type in ('TRIGGER', 'REFERENCES') and a.grantee <> c.relowner loop
    execute format('revoke trigger, references on %s from %s cascade', t.name, case t.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(t.grantee)) end);
  end loop;
  perform backfill._grant_all();
  for r in select distinct e.run_as from backfill.executor e join pg_roles x on x.rolname = e.run_as where e.run_as <> current_user loop
    perform backfill._grant_executor(r);
  end loop;
end $$;
