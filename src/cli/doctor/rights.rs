//! Checks the privileges of the control login, the roles of the public contract, the executors, and
//! the roles of the unfinished jobs.

use super::findings::Findings;
use super::query::{all, cell, one};
use crate::cli::migrate::ROLES_WANTING;
use crate::cli::session::grant;
use crate::cli::show::word;
use crate::config::database::Database;
use crate::error::{Error, Result};
use crate::pg::connect::{Session, within};
use crate::pg::pools::{CONTROL_LIMIT, Logins};
use crate::pg::row::Columns;

const LOGIN: &str = "
select session_user::text as login, (select rolsuper from pg_roles where rolname = session_user) as is_superuser,
       (select pg_has_role(r.oid, 'USAGE') from pg_roles r where r.rolname = 'pg_signal_backend') as may_signal,
       pg_get_userbyid(n.nspowner)::text as owner, coalesce(pg_has_role(n.nspowner, 'USAGE'), true) as is_owner
from (select 1) x left join pg_namespace n on n.nspname = 'backfill'";

pub(super) async fn login(session: &Session, database: &Database, found: &mut Findings) -> Result<()> {
    let row = one(session, LOGIN, &[]).await?;
    let login: String = cell(&row, "login")?;
    if cell(&row, "is_superuser")? {
        found.warn(
            "login",
            format!("\"{login}\" is a superuser: if its role has no executor, the functions that a job calls, and the triggers that it fires, run with all privileges"),
            "Connect as the table owner, or configure `executors` (see SECURITY.md).",
        );
    }
    if !database.executors.is_empty() && !cell::<bool>(&row, "may_signal")? {
        found.warn(
            "login",
            format!("\"{login}\" lacks pg_signal_backend: the daemon cannot terminate the session of an executor login if the code of a job has changed the password of this login, or if another daemon opened the session and the lease of that daemon has expired"),
            format!("As an administrator, run: {}", grant("pg_signal_backend", &login)),
        );
    }
    if cell(&row, "is_owner")? {
        let owner: Option<String> = cell(&row, "owner")?;
        found.ok(
            "login",
            match owner {
                Some(owner) if owner == login => format!("\"{login}\" owns schema backfill"),
                Some(owner) => format!("\"{login}\" is a member of \"{owner}\", which owns schema backfill"),
                None => format!("\"{login}\""),
            },
        );
    } else {
        let owner: String = cell(&row, "owner")?;
        if owner == login {
            // The session runs as another role, because of a setting of the login. The check of the
            // session's role reports this.
            return Ok(());
        }
        found.fail(
            "login",
            format!("\"{login}\" does not own schema backfill; its owner is \"{owner}\""),
            "The daemon must connect as the owner. A member of one of the backfill roles can enqueue or view jobs.",
        );
    }
    Ok(())
}

pub(super) async fn roles(session: &Session, found: &mut Findings) -> Result<()> {
    let wanting = all(session, ROLES_WANTING, &[]).await?;
    if wanting.is_empty() {
        found.ok("roles", "backfill_reader, backfill_submitter and backfill_operator exist");
        return Ok(());
    }
    let mut roles = Vec::new();
    let mut statements = Vec::new();
    for row in &wanting {
        let role: String = row.read(0)?;
        let exists: bool =
            cell(&one(session, "select to_regrole($1) is not null as exists", &[&role]).await?, "exists")?;
        if !exists {
            statements.push(format!("create role {role} nologin;"));
        }
        roles.push(role);
    }
    let first = if statements.is_empty() {
        String::new()
    } else {
        format!("As an administrator, run: {}\n", statements.join(" "))
    };
    found.warn(
        "roles",
        format!(
            "roles missing or without privileges on the schema: {}; until this is fixed, only the schema owner can do what these roles allow",
            roles.join(", ")
        ),
        format!("{first}Run: backfilld migrate"),
    );
    Ok(())
}

/// Lists the reasons why an executor login is not safe. Usually, the reason is a privilege that a
/// job gains if its code runs RESET ROLE to leave the role. Each reason has a remedy, usually the
/// statement that revokes the privilege. In this query `current_user` is the role and
/// `session_user` is the login.
const EXECUTOR: &str = "
with login as (select r.*, quote_ident(r.rolname) as quoted from pg_roles r where r.rolname = session_user),
asked as (select r.oid, quote_ident(r.rolname) as quoted from pg_roles r where r.rolname = current_user),
acl(kind, name, acl) as (
  select 'schema', 'backfill', n.nspacl from pg_namespace n where n.nspname = 'backfill'
  union all select 'table', c.oid::regclass::text, c.relacl from pg_class c where c.relnamespace = 'backfill'::regnamespace
  union all select 'table', c.oid::regclass::text, a.attacl from pg_class c join pg_attribute a on a.attrelid = c.oid where c.relnamespace = 'backfill'::regnamespace and a.attacl is not null
  union all select 'routine', p.oid::regprocedure::text, p.proacl from pg_proc p where p.pronamespace = 'backfill'::regnamespace)
select l.rolname::text as login, f.reason, f.remedy
from login l cross join asked k cross join lateral (
  select 'is a superuser' as reason, format('alter role %s nosuperuser;', l.quoted) as remedy where l.rolsuper
  union all
  select format('has the attribute %s', a.name), format('alter role %s no%s;', l.quoted, a.name)
    from (values ('createrole', l.rolcreaterole), ('createdb', l.rolcreatedb), ('replication', l.rolreplication), ('bypassrls', l.rolbypassrls)) a(name, has) where a.has
  union all
  select format('is also a member of %s', g.quoted), format('revoke %s from %s;', g.quoted, l.quoted)
    from (select distinct quote_ident(r.rolname) as quoted from pg_auth_members m join pg_roles r on r.oid = m.roleid where m.member = l.oid and m.roleid <> k.oid) g
  union all
  select format('is not a direct member of %s, but a member through another role', k.quoted), format('grant %s to %s;', k.quoted, l.quoted)
   where l.oid <> k.oid and not exists (select from pg_auth_members m where m.member = l.oid and m.roleid = k.oid)
  union all
  select 'is the role that the jobs run as', format('create role %1$s login; grant %2$s to %1$s; then configure the url of %1$s under `executors`', quote_ident(l.rolname || '_backfill'), k.quoted) where l.oid = k.oid
  union all
  select 'may become the owner of schema backfill', format('revoke %s from %s, or from the roles between them', quote_ident(pg_get_userbyid(n.nspowner)), l.quoted)
    from pg_namespace n where n.nspname = 'backfill' and l.oid <> n.nspowner and pg_has_role(l.oid, n.nspowner, 'MEMBER')
     and not exists (select from pg_auth_members m where m.member = l.oid and m.roleid = n.nspowner)
  union all
  select format('owns objects in the databases of this cluster (%s in total)', count(*)), format('in each database: reassign owned by %s to NEW_OWNER;', l.quoted)
    from pg_shdepend d where d.refclassid = 'pg_authid'::regclass and d.refobjid = l.oid and d.deptype = 'o' having count(*) > 0
  union all
  select format('may grant %s to any role (admin option)', k.quoted), format('revoke admin option for %s from %s;', k.quoted, l.quoted)
   where exists (select from pg_auth_members m where m.member = l.oid and m.roleid = k.oid and m.admin_option)
  union all
  select format('has privileges of its own on objects of this cluster (%s in total)', count(*)), format('first reassign the objects that the login owns, then in each database: drop owned by %s;', l.quoted)
    from pg_shdepend d where d.refclassid = 'pg_authid'::regclass and d.refobjid = l.oid and d.deptype = 'a' and l.oid <> k.oid
     and d.classid not in ('pg_auth_members'::regclass, 'pg_database'::regclass) having count(*) > 0
  union all
  select format('has privilege %s on database %s', x.privilege_type, quote_ident(d.datname)), format('revoke %s on database %s from %s;', x.privilege_type, quote_ident(d.datname), l.quoted)
    from pg_database d, aclexplode(d.datacl) x where x.grantee = l.oid and l.oid <> k.oid and x.privilege_type <> 'CONNECT'
  union all
  select format('has settings of its own: %s', string_agg(split_part(s.setting, '=', 1), ', ')), format('alter role %s reset all;', l.quoted)
    from pg_db_role_setting r, unnest(r.setconfig) s(setting) where r.setrole = l.oid and l.oid <> k.oid and split_part(s.setting, '=', 1) <> 'role' having count(*) > 0
  union all
  select format('is granted to %s', string_agg(distinct quote_ident(r.rolname), ', ')), format('revoke %s from %s;', l.quoted, string_agg(distinct quote_ident(r.rolname), ', '))
    from pg_auth_members m join pg_roles r on r.oid = m.member where m.roleid = l.oid and l.oid <> k.oid
     -- Since PostgreSQL 16, the creator of a role is a member of the role.
     and not r.rolcreaterole having count(*) > 0
  union all
  select format('has a privilege of its own on %s %s', a.kind, min(a.name)), format('revoke all on %s %s from %s;', a.kind, min(a.name), l.quoted)
    from acl a, aclexplode(a.acl) x where x.grantee = l.oid and l.oid <> k.oid group by a.kind) f";

/// Checks that each executor can connect, acts as its role, and has no privileges beyond those of
/// the role.
pub(super) async fn executors(database: &Database, found: &mut Findings) {
    let logins = Logins::new(database.clone());
    for executor in &database.executors {
        let role = &executor.run_as;
        let made = async {
            let session = logins.open_executor(role, "backfilld doctor").await?;
            let login: String = cell(&one(&session, "select session_user::text as login", &[]).await?, "login")?;
            let rows = all(&session, EXECUTOR, &[]).await?;
            let mut gains = Vec::new();
            for row in &rows {
                gains.push((cell::<String>(row, "reason")?, cell::<String>(row, "remedy")?));
            }
            // `pg_stat_ssl` shows the details of this session to the login, but not to the role.
            within(CONTROL_LIMIT, session.client.batch_execute("set role none")).await?;
            super::server::encryption(&session, &format!("executor for \"{role}\": "), found).await?;
            Ok::<_, Error>((login, gains))
        };
        match made.await {
            Ok((login, gains)) if gains.is_empty() => {
                found.ok(
                    "executor",
                    format!(
                        "jobs of \"{role}\" run as login \"{login}\", which has no privileges beyond those of this role"
                    ),
                );
            }
            Ok((login, gains)) => {
                for (reason, remedy) in gains {
                    let message = format!(
                        "executor for \"{role}\": login \"{login}\" {reason}; the code of a job can run RESET ROLE and then has all rights of the login"
                    );
                    found.fail("executor", message, remedy_for(role, &remedy));
                }
            }
            Err(error) => {
                found.fail(
                    "executor",
                    format!("executor for \"{role}\": {}", error.message),
                    error.hint.unwrap_or_default(),
                );
            }
        }
    }
}

/// Returns the hint for a login that is not safe as an executor. A `remedy` that takes privileges
/// from the login could break another application that uses the login. For such a remedy, the hint
/// also names the alternative, a separate login for the executor.
fn remedy_for(role: &str, remedy: &str) -> String {
    if remedy.starts_with("create ") || remedy.starts_with("grant ") || remedy.ends_with("reset all;") {
        return format!("As an administrator, run: {remedy}");
    }
    format!(
        "If nothing else uses the login, run this as an administrator: {remedy}\nOtherwise configure a separate login for the executor of role {role} (see SECURITY.md)."
    )
}

const JOBS: &str = "
select j.name, j.target, j.run_as::text as run_as, c.oid is not null as is_there,
       exists (select from pg_roles r where r.rolname = j.run_as) as has_role,
       (select array_remove(array[case when not has_schema_privilege(r.oid, c.relnamespace, 'usage') then format('usage on schema %I', n.nspname) end,
                               case when not has_any_column_privilege(r.oid, c.oid, 'select') then format('select on %s', j.target) end,
                               case when j.kind = 'delete' and not has_table_privilege(r.oid, c.oid, 'delete') then format('delete on %s', j.target)
                                    when j.kind <> 'delete' and not has_any_column_privilege(r.oid, c.oid, 'update') then format('update on %s', j.target) end], null)
          from pg_roles r, pg_namespace n where r.rolname = j.run_as and n.oid = c.relnamespace) as lacks,
       j.run_as = any ($1) or j.has_executor as has_executor,
       case when c.oid is not null and j.run_as = session_user then backfill._untrusted_roles(c.oid, session_user)::text[] else '{}' end as authors,
       j.id, c.oid as relation
from backfill._unfinished_jobs() j left join pg_class c on c.oid = j.relation order by j.id";
const KEY: &str = "select backfill._key_of_job($1)::text";

/// Checks the unfinished jobs. The table of each job must exist and have a usable key. The job's
/// role must exist and have the privileges to change the table. An executor must serve the role.
pub(super) async fn jobs(session: &Session, database: &Database, found: &mut Findings) -> Result<()> {
    let mut served: Vec<String> = database.executors.iter().map(|executor| executor.run_as.clone()).collect();
    if served.is_empty() {
        served.push(cell(&one(session, LOGIN, &[]).await?, "login")?);
    }
    let rows = all(session, JOBS, &[&served]).await?;
    let before = found.all.len();
    for row in &rows {
        let (name, target, role): (String, String, String) =
            (cell(row, "name")?, cell(row, "target")?, cell(row, "run_as")?);
        if !cell::<bool>(row, "is_there")? {
            found.fail(
                "jobs",
                format!("job \"{name}\": table {target} does not exist any more"),
                format!("Cancel the job: backfilld cancel {}", word(&name)),
            );
            continue;
        }
        if !cell::<bool>(row, "has_role")? {
            found.fail(
                "jobs",
                format!("job \"{name}\": role \"{role}\" does not exist any more"),
                format!("Cancel the job: backfilld cancel {}", word(&name)),
            );
            continue;
        }
        let lacks: Vec<String> = cell(row, "lacks")?;
        if !lacks.is_empty() {
            let statements: Vec<String> = lacks.iter().map(|privilege| grant(privilege, &role)).collect();
            let hint = format!("As the owner: {}", statements.join(" "));
            found.fail("jobs", format!("job \"{name}\": role \"{role}\" lacks {}", lacks.join(", ")), hint);
        }
        if !cell::<bool>(row, "has_executor")? {
            found.fail(
                "jobs",
                format!("job \"{name}\" runs as \"{role}\", for which no executor is configured"),
                "Add an executor for the role to the configuration, or enqueue with --run-as and a role that has an executor.",
            );
        }
        let authors: Vec<String> = cell(row, "authors")?;
        if database.executors.is_empty() && !authors.is_empty() {
            found.warn(
                "jobs",
                format!("job \"{name}\": code of {} runs with the privileges of \"{role}\"", authors.join(", ")),
                "Configure an executor for the owner of the table (see SECURITY.md).",
            );
        }
        if let Err(error) = within(CONTROL_LIMIT, session.client.query_one(KEY, &[&cell::<i64>(row, "id")?])).await {
            found.fail("jobs", format!("job \"{name}\": {}", error.message), error.hint.unwrap_or_default());
        }
    }
    if found.all.len() == before {
        let what = match rows.len() {
            0 => "no active jobs".to_owned(),
            1 => "1 active job checked, no problems".to_owned(),
            many => format!("{many} active jobs checked, no problems"),
        };
        found.ok("jobs", what);
    }
    Ok(())
}
