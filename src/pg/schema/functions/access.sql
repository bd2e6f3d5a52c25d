-- Returns the settings of the caller's session, for a job or a preview. The function does not pin
-- its search_path, because it must see the search_path of the caller. It returns the effective
-- schemas of the search_path, because "$user" would stand for another role in the session that runs
-- the job.
create or replace function backfill._caller_settings() returns jsonb
language sql stable as $$
  select pg_catalog.jsonb_build_object(
    'search_path', (select pg_catalog.string_agg(pg_catalog.quote_ident(s), ', ' order by n)
                      from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality as u(s, n)),
    'TimeZone', pg_catalog.current_setting('TimeZone'),
    'DateStyle', pg_catalog.current_setting('DateStyle'),
    'IntervalStyle', pg_catalog.current_setting('IntervalStyle'))
$$;

-- Returns whether the role actor may run jobs as the role run_as. PostgreSQL 16 and later
-- distinguish the privilege to SET ROLE from membership. Earlier versions check only membership.
create or replace function backfill._may_run_as(actor name, run_as name) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles where rolname = _may_run_as.run_as) or not exists (select from pg_roles where rolname = _may_run_as.actor) then
    return false;
  end if;
  return pg_has_role(actor, run_as, case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end);
end $$;

create or replace function backfill._is_operator(actor name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where r.rolname = 'backfill_operator' and pg_has_role(actor, r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(actor, n.nspowner, 'MEMBER'))
$$;

-- Returns whether the current role sees all jobs in the public views. The views run with their
-- owner's privileges, so they filter by role:
-- - The owner of the schema sees all jobs. So do members of backfill_reader, backfill_operator and
--   pg_monitor.
-- - Any other role sees the jobs that were enqueued by a role of which it is a member.
-- - Only operators and members of the job's run_as see the rows of view row_errors.
create or replace function backfill._sees_all() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where r.rolname in ('backfill_reader', 'backfill_operator', 'pg_monitor') and pg_has_role(r.oid, 'MEMBER'))
      or exists (select from pg_namespace n where n.nspname = 'backfill' and pg_has_role(n.nspowner, 'MEMBER'))
$$;

-- Returns whether the session user may see a job that the role `enqueued_by` enqueued. The callers
-- of this function run with their owner's privileges, so current_user would be the owner.
create or replace function backfill._may_see(enqueued_by name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where (r.rolname in (enqueued_by, 'backfill_reader', 'backfill_operator', 'pg_monitor') or r.oid = (select n.nspowner from pg_namespace n where n.nspname = 'backfill'))
                                          and pg_has_role(session_user, r.oid, 'MEMBER'))
$$;

create or replace function backfill._resolve_run_as(actor name, asked name) returns name
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  own name;
begin
  if asked is not null then
    return asked;
  end if;
  if exists (select from backfill.executor e where e.run_as = actor) then
    return actor;
  end if;
  -- A daemon with a single url writes a row to backfill.executor. The row remains after the
  -- daemon's configuration has been changed to use executors. So while any daemon is running, such
  -- a row counts only if a running daemon serves the row's role.
  select e.run_as into own from backfill.executor e
   where e.one_url and backfill._may_run_as(actor, e.run_as)
     and (not exists (select from backfill.worker w where w.expires_at > clock_timestamp())
          or exists (select from backfill.worker w where w.expires_at > clock_timestamp() and e.run_as = any (w.run_as)))
   order by e.login limit 1;
  return coalesce(own, actor);
end $$;

-- Returns the role that the job will run as. Raises an error if the caller may not run jobs as this
-- role.
create or replace function backfill._check_run_as(asked name) returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_run_as name := backfill._resolve_run_as(current_user, asked);
begin
  if not exists (select from pg_roles r where r.rolname = v_run_as) then
    perform backfill._refuse(format('role "%s" does not exist', v_run_as), 'The job would run as this role.', 'Correct the name of the role: run_as => ''ROLE''. Without this argument, the job runs as your own role, or as the role of the daemon if the daemon has a single url and your role is a member of the role of the daemon.');
  elsif not backfill._may_run_as(current_user, v_run_as) then
    perform backfill._refuse(format('role "%s" may not run jobs as "%s"', current_user, v_run_as), format('Role "%s" is not a member of "%s".', current_user, v_run_as),
      case when (select r.rolsuper from pg_roles r where r.rolname = v_run_as) then 'That role is a superuser. Name the owner of the table: run_as => ''OWNER''. Without this argument, the job runs as your own role, or as the role of the daemon if the daemon has a single url and your role is a member of the role of the daemon.'
           else format('Leave out run_as => ''%1$s''. Or, as an administrator, run: grant %1$I to %2$I%3$s; This gives "%2$s" all privileges of "%1$s".', v_run_as, current_user, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end) end);
  end if;
  return v_run_as;
end $$;

-- Returns a hint for a job whose role lacks a privilege on a table or its schema. The hint contains
-- the GRANT statement if the missing privilege can be determined. It also suggests running the job
-- as the owner of the table, if the caller is a member of the owner's role and the owner is not a
-- superuser.
create or replace function backfill._right_hint(kind text, target text, run_as name) returns text
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
  return format('The job would run as role "%s"%s, which lacks a privilege. As an administrator: %s%s.', run_as, case when run_as <> current_user then ' (the role of the daemon, or the one in run_as)' end,
    coalesce(lacks, 'grant it the privilege that the message names'),
    case when c.owner <> run_as and not (select r.rolsuper from pg_roles r where r.rolname = c.owner) and pg_has_role(current_user, c.owner, 'MEMBER') then format('; or let a daemon run jobs as the owner of the table (executors in the configuration of the daemon), and then enqueue the job with run_as => %L', c.owner) end);
end $$;

-- Checks that the submitter of a job may still run jobs as the job's role (run_as). While the job
-- waited, the submitter's membership in this role may have been revoked.
create or replace function backfill._check_submitter_rights(job bigint) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j backfill.job;
begin
  select * into j from backfill.job x where x.id = _check_submitter_rights.job;
  if not exists (select from pg_roles r where r.rolname = j.enqueued_by) then
    perform backfill._refuse(format('role "%s", which enqueued the job, does not exist any more', j.enqueued_by), format('The job would run as "%s".', j.run_as),
      'Delete the job with backfill.forget. If another role enqueues a new job, that job begins with the first row. Give it a filter that excludes the rows that are already changed.');
  elsif not backfill._may_run_as(j.enqueued_by, j.run_as) then
    perform backfill._refuse(format('role "%s" is not a member of "%s" any more', j.enqueued_by, j.run_as), 'It was a member when it enqueued the job.',
      format('Grant the role again (grant %I to %I%s;), then run backfill.retry. Or delete the job with backfill.forget. If another role enqueues a new job, that job begins with the first row. Give it a filter that excludes the rows that are already changed.', j.run_as, j.enqueued_by, case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' end));
  end if;
end $$;

-- Refuses to plan the statement of a job as the owner of schema backfill while the daemon uses
-- executors. The server evaluates immutable functions while it plans. These functions belong to
-- roles that the owner of the schema might not trust.
create or replace function backfill._check_planner() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from pg_namespace n where n.nspname = 'backfill' and n.nspowner = to_regrole(quote_ident(current_user)))
     and backfill._has_executors() then
    perform backfill._refuse(format('role "%s" owns schema backfill and must not plan the statements of jobs', current_user),
      'The server evaluates immutable functions while it plans. They would run with the privileges of this role.',
      'Connect as another role: a member of backfill_submitter and of the role that the job runs as.');
  end if;
end $$;

-- Returns whether the daemon that registered last uses executors.
create or replace function backfill._has_executors() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce((select not e.one_url from backfill.executor e order by e.registered_at desc limit 1), false)
$$;

-- Returns each role whose code would run with the privileges of the login if a session of the login
-- changed rows of the table. Such a role meets at least one of these conditions:
-- - It owns the table, a partition, parent or child of the table, or a table that refers to it with
--   a foreign key.
-- - It may create triggers on one of these tables, or foreign keys that refer to them.
-- - It owns the type of a column of these tables.
-- - It owns a function, operator, operator class or type that a trigger, constraint, default,
--   index, policy or partition key of these tables uses.
--
-- The result contains neither superusers nor roles that may act as the login, because these roles
-- would gain no privileges. A function in the last item can call functions of other roles. The
-- result does not contain these other roles.
create or replace function backfill._untrusted_roles(relation oid, login name) returns name[]
language plpgsql stable set search_path = pg_catalog, pg_temp
-- The planner overestimates the cost of recursive queries, so the server would compile them (JIT),
-- which would take seconds.
set jit = off as $$
declare
  v_login oid := (select r.oid from pg_roles r where r.rolname = login);
  tables oid[] := array(
    with recursive tree(relid) as (
      select relation
      union
      select x.relid from tree t cross join lateral (
        select h.inhrelid from pg_inherits h where h.inhparent = t.relid
        union all select a.relid from pg_partition_ancestors(t.relid) a
        union all select k.conrelid from pg_constraint k where k.confrelid = t.relid and k.contype = 'f') x(relid))
    select relid from tree);
  authors oid[];
begin
  -- All objects on which the following depend: the triggers, constraints, defaults, indexes,
  -- policies and partition keys of the tables, and the domains of their columns. Domains without a
  -- constraint are included, because they can get one later.
  with recursive used(classid, objid) as (
    select o.classid, o.objid
      from (select 'pg_trigger'::regclass::oid, g.oid from pg_trigger g where g.tgrelid = any (tables)
            union all select 'pg_constraint'::regclass, k.oid from pg_constraint k where k.conrelid = any (tables)
            union all select 'pg_attrdef'::regclass, d.oid from pg_attrdef d where d.adrelid = any (tables)
            union all select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = any (tables)
            union all select 'pg_class'::regclass, p.partrelid from pg_partitioned_table p where p.partrelid = any (tables)
            union all select 'pg_policy'::regclass, p.oid from pg_policy p where p.polrelid = any (tables)
            union all select 'pg_type'::regclass, a.atttypid from pg_attribute a where a.attrelid = any (tables) and not a.attisdropped and a.attnum > 0) o(classid, objid)
    union
    select x.classid, x.objid from used u cross join lateral (
      select d.refclassid, d.refobjid from pg_depend d where d.classid = u.classid and d.objid = u.objid
         and d.refclassid = any (array['pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_cast'::regclass])
      union all select 'pg_constraint'::regclass, k.oid from pg_constraint k where u.classid = 'pg_type'::regclass and k.contypid = u.objid
      union all select 'pg_type'::regclass, y.typelem from pg_type y where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typelem <> 0
      union all select 'pg_type'::regclass, y.typbasetype from pg_type y where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typbasetype <> 0
      union all select 'pg_type'::regclass, r.rngsubtype from pg_range r where u.classid = 'pg_type'::regclass and u.objid in (r.rngtypid, r.rngmultitypid)
      union all select 'pg_type'::regclass, a.atttypid from pg_type y join pg_attribute a on a.attrelid = y.typrelid where u.classid = 'pg_type'::regclass and y.oid = u.objid and y.typtype = 'c' and not a.attisdropped) x(classid, objid))
  select array(
    select c.relowner from pg_class c where c.oid = any (tables)
    union select x.grantee from pg_class c cross join lateral aclexplode(c.relacl) x where c.oid = any (tables) and x.privilege_type in ('TRIGGER', 'REFERENCES')
    union select x.grantee from pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = any (tables) and a.attacl is not null and x.privilege_type = 'REFERENCES'
    union select y.typowner from used u join pg_type y on u.classid = 'pg_type'::regclass and y.oid = u.objid
    union select f.proowner from used u join pg_proc f on u.classid = 'pg_proc'::regclass and f.oid = u.objid
    union select o.oprowner from used u join pg_operator o on u.classid = 'pg_operator'::regclass and o.oid = u.objid
    union select f.proowner from used u join pg_operator o on u.classid = 'pg_operator'::regclass and o.oid = u.objid join pg_proc f on f.oid in (o.oprcode, o.oprrest, o.oprjoin)
    union select o.opcowner from used u join pg_opclass o on u.classid = 'pg_opclass'::regclass and o.oid = u.objid) into authors;
  return (select coalesce(array_agg(coalesce(r.rolname, 'public') order by r.rolname), '{}')
            from unnest(authors) a(oid) left join pg_roles r on r.oid = a.oid
           where r.oid is null or not r.rolsuper and r.oid <> v_login and not pg_has_role(r.oid, v_login, 'MEMBER'));
end $$;

-- If the daemon has only one login, refuses a job that would run code of other roles with the
-- privileges of this login, unless the configuration trusts these roles.
create or replace function backfill._check_owners(relation oid, run_as name) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  untrusted name[];
begin
  if exists (select from backfill.executor e where e.run_as = _check_owners.run_as and e.one_url and not e.trusts_owners) then
    untrusted := backfill._untrusted_roles(relation, run_as);
    if untrusted <> '{}' then
      perform backfill._refuse(format('a job on table %s would run code of %s with the privileges of "%s"', relation::regclass, backfill._role_list(untrusted), run_as),
        format('The daemon has one url, so each job runs as "%s". Triggers and functions of the table run as this role, too. A role can add such code if it owns the table or an object that the table uses, or has the privilege TRIGGER or REFERENCES on the table (GRANT ALL includes both).', run_as),
        format('Revoke these privileges, or configure an executor for the owner of the table (executors). Or, if you accept that these roles can do everything that "%s" can do, set trust_table_owners: true for the database, and reload the configuration of the daemon (SIGHUP).', run_as));
    end if;
  end if;
end $$;

create or replace function backfill._role_list(roles name[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when cardinality(roles) = 1 then 'role ' else 'roles ' end || (select string_agg(format('"%s"', r), ', ' order by n) from unnest(roles[1:5]) with ordinality u(r, n))
         || case when cardinality(roles) > 5 then format(' and %s more', cardinality(roles) - 5) else '' end
$$;

-- Returns the warning that enqueue raises if no daemon would run the job now, or if code of other
-- roles would run with the privileges of the daemon's only login. The function runs with its
-- owner's privileges, because submitters cannot read the tables of daemons and executors.
create or replace function backfill._executor_note(run_as name, relation oid) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case
    when not exists (select from backfill.worker w where w.expires_at > clock_timestamp())
      then 'no daemon is running on this database; the job stays queued until one starts'
    when (select s.paused_all from backfill.switch s) then 'all jobs are paused; the job stays queued until a member of backfill_operator resumes them'
    when not exists (select from backfill.executor e where e.run_as = _executor_note.run_as)
      then format('no daemon runs jobs as role "%s"; the job stays queued until one does (waiting_reason executor)', run_as)
    when exists (select from backfill.executor e where e.run_as = _executor_note.run_as and e.one_url and e.trusts_owners)
      then (select format('triggers and functions of table %s will run with the privileges of "%s"%s, and %s can change these triggers and functions', relation::regclass, run_as,
                          case when (select bool_or(e.is_superuser) from backfill.executor e where e.run_as = _executor_note.run_as) then ', a superuser' else '' end, backfill._role_list(u.roles))
              from (select backfill._untrusted_roles(relation, run_as)) u(roles) where u.roles <> '{}')
  end
$$;

-- Returns whether a text can be converted to UTF-8. The daemon reads all texts in UTF-8. If a text
-- of the queue cannot be converted, the server raises an error and returns no part of the result,
-- so one such text could stop the claims of all jobs. convert_to also checks the bytes of the text.
-- This matters in a database in SQL_ASCII, and for the name of a role that was created in a
-- database in another encoding.
create or replace function backfill._is_utf8(what text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  perform convert_to(what, 'UTF8');
  return true;
exception when untranslatable_character or character_not_in_repertoire then
  return false;
end $$;

-- Returns a text unchanged if it can be converted to UTF-8. Otherwise returns it with each
-- non-ASCII byte replaced by its octal number, for example \201, and with each backslash doubled.
create or replace function backfill._readable(what text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return case when what is null or backfill._is_utf8(what) then what else encode(decode(replace(what, '\', '\\'), 'escape'), 'escape') end;
end $$;

-- Refuses a row of a table, or the arguments of a call, if one of the values cannot be converted to
-- UTF-8.
create or replace function backfill._check_utf8(stored jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not backfill._is_utf8(stored::text) then
    perform backfill._refuse(
      format('%s cannot be converted to UTF-8', (select string_agg(case e.key when 'set_sql' then 'set' when 'filter_sql' then 'filter' when 'job_name' then 'name' else e.key end, ', ' order by e.key)
                                                   from jsonb_each(stored) e where not backfill._is_utf8(e.value::text))),
      format('The daemon reads all texts in UTF-8. The encoding of the database is %s, and a byte of the text has no equivalent in UTF-8.', getdatabaseencoding()),
      'Write the text without this byte. For example, call a function that returns the value. If the text is the name of a table, column, schema or role, rename it.');
  end if;
end $$;

create or replace function backfill._check_bounds(actor name, options jsonb, what text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  q backfill.quota;
begin
  select * into q from backfill.quota;
  if octet_length(options::text) > 10000 then
    perform backfill._refuse(format('options has %s bytes', octet_length(options::text)), 'The limit is 10000 bytes.', 'Leave out options that the job does not need.');
  elsif octet_length(what) > 4000 then
    perform backfill._refuse(format('reason has %s bytes', octet_length(what)), 'The limit is 4000 bytes.', 'Shorten the reason.');
  elsif jsonb_typeof(options -> 'max_row_errors') = 'number' and (options ->> 'max_row_errors')::numeric > q.max_row_errors and not backfill._is_operator(actor) then
    perform backfill._refuse(format('option "max_row_errors" is %s', options ->> 'max_row_errors'), format('The limit for role "%s" is %s. There is a limit because backfilld stores each quarantined row with its error.', actor, q.max_row_errors),
      'Fix the rows or the expression, or ask a member of backfill_operator to raise the limit (update backfill.quota set max_row_errors = ...).');
  end if;
end $$;

-- Marks the current transaction, which is about to add an unfinished job of a role. Returns the
-- number of such marks that other open transactions hold. Each mark stands for one job that its
-- transaction may add, and that no query can see yet. Without the marks, concurrent transactions
-- could each add as many jobs as the quota allows.
--
-- A mark is an advisory lock with a random number, so no session waits for another session's lock.
-- Any role can take advisory locks. So a mark counts only if its session may act as the role.
-- Otherwise a role could use up the quota of another role. The server has a limited number of locks
-- (max_locks_per_transaction), so one transaction may hold at most 200 marks.
create or replace function backfill._mark_new_job(submitter name) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  most constant integer := 200;
  v_role oid := (select r.oid from pg_roles r where r.rolname = submitter);
  -- The locks of an application probably do not use this number.
  v_class bigint := v_role::bigint # 1811939328;
  own bigint;
  others bigint;
begin
  for i in 1..20 loop
    exit when pg_try_advisory_xact_lock(v_class::bit(32)::integer, (random() * 2147483647)::integer);
  end loop;
  select count(*) filter (where l.pid = pg_backend_pid()), count(*) filter (where l.pid <> pg_backend_pid()) into own, others
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
   where l.locktype = 'advisory' and l.objsubid = 2 and l.granted and l.classid::bigint = v_class
     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     and (l.pid = pg_backend_pid() or pg_has_role(a.usesysid, v_role, 'MEMBER'));
  if own > most then
    perform backfill._refuse(format('this transaction has already added %s jobs of role "%s"', most, submitter), 'That is the limit for one transaction.', 'Commit the transaction, then continue in another transaction.');
  end if;
  return others;
end $$;

-- Returns the part of a quota's error message that states the number of jobs.
create or replace function backfill._jobs_text(n bigint, uncommitted bigint, what text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%s %s', n, what) || case when uncommitted > 0 then format(' and %s more in open transactions', uncommitted) else '' end
$$;

-- Returns whether row-level security can hide rows of a table from a role.
create or replace function backfill._row_security_hides(relation oid, role name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.relrowsecurity and not (r.rolsuper or r.rolbypassrls)
         and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'USAGE'))
    from pg_class c, pg_roles r where c.oid = relation and r.rolname = role
$$;
