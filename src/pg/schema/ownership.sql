-- Returns a message, a detail and a hint in each of these cases: schema backfill contains code or
-- data that the current role does not own; it uses code of another role; a table of another role
-- refers to or inherits from one of its tables; another role may create objects in it. Otherwise,
-- or if the schema is absent, returns no row. Reads only the catalog. The session must have
-- search_path = pg_catalog, pg_temp, because the SQL operators below are not schema-qualified.
with me as (
  select r.oid, r.rolname as name, format('%I', r.rolname) as quoted from pg_roles r where r.rolname = current_user),
place as (
  select n.oid, n.nspowner as owner, n.nspacl as acl from pg_namespace n where n.nspname = 'backfill'),
-- The objects of the schema. The list covers each catalog that has a column that refers to a
-- schema. Parsers and templates have no owner, and only a superuser can create them.
part(classid, objid, owner) as (
  select 'pg_namespace'::regclass, p.oid, p.owner from place p
  union all select 'pg_class'::regclass, x.oid, x.relowner from place p join pg_class x on x.relnamespace = p.oid
  union all select 'pg_type'::regclass, x.oid, x.typowner from place p join pg_type x on x.typnamespace = p.oid
  union all select 'pg_proc'::regclass, x.oid, x.proowner from place p join pg_proc x on x.pronamespace = p.oid
  union all select 'pg_operator'::regclass, x.oid, x.oprowner from place p join pg_operator x on x.oprnamespace = p.oid
  union all select 'pg_opclass'::regclass, x.oid, x.opcowner from place p join pg_opclass x on x.opcnamespace = p.oid
  union all select 'pg_opfamily'::regclass, x.oid, x.opfowner from place p join pg_opfamily x on x.opfnamespace = p.oid
  union all select 'pg_collation'::regclass, x.oid, x.collowner from place p join pg_collation x on x.collnamespace = p.oid
  union all select 'pg_conversion'::regclass, x.oid, x.conowner from place p join pg_conversion x on x.connamespace = p.oid
  union all select 'pg_statistic_ext'::regclass, x.oid, x.stxowner from place p join pg_statistic_ext x on x.stxnamespace = p.oid
  union all select 'pg_ts_config'::regclass, x.oid, x.cfgowner from place p join pg_ts_config x on x.cfgnamespace = p.oid
  union all select 'pg_ts_dict'::regclass, x.oid, x.dictowner from place p join pg_ts_dict x on x.dictnamespace = p.oid
  union all select 'pg_ts_parser'::regclass, x.oid, null from place p join pg_ts_parser x on x.prsnamespace = p.oid
  union all select 'pg_ts_template'::regclass, x.oid, null from place p join pg_ts_template x on x.tmplnamespace = p.oid
  union all select 'pg_extension'::regclass, x.oid, x.extowner from place p join pg_extension x on x.extnamespace = p.oid
  union all select 'pg_default_acl'::regclass, x.oid, x.defaclrole from place p join pg_default_acl x on x.defaclnamespace = p.oid
  union all select 'pg_constraint'::regclass, x.oid, coalesce(c.relowner, t.typowner)
    from place p join pg_constraint x on x.connamespace = p.oid left join pg_class c on c.oid = x.conrelid left join pg_type t on t.oid = x.contypid),
-- The objects of the schema, and the rules, triggers, policies and defaults of its tables and
-- views.
code(classid, objid) as (
  select p.classid, p.objid from part p
  union all select 'pg_rewrite'::regclass, x.oid from part p join pg_rewrite x on x.ev_class = p.objid where p.classid = 'pg_class'::regclass
  union all select 'pg_trigger'::regclass, x.oid from part p join pg_trigger x on x.tgrelid = p.objid where p.classid = 'pg_class'::regclass and not x.tgisinternal
  union all select 'pg_policy'::regclass, x.oid from part p join pg_policy x on x.polrelid = p.objid where p.classid = 'pg_class'::regclass
  union all select 'pg_attrdef'::regclass, x.oid from part p join pg_attrdef x on x.adrelid = p.objid where p.classid = 'pg_class'::regclass),
-- The objects on which this code depends. pg_depend does not list built-in functions and operators.
used(classid, objid, refclassid, refobjid, owner) as (
  select c.classid, c.objid, d.refclassid, d.refobjid,
         case d.refclassid when 'pg_proc'::regclass then (select x.proowner from pg_proc x where x.oid = d.refobjid)
                           when 'pg_operator'::regclass then (select x.oprowner from pg_operator x where x.oid = d.refobjid)
                           when 'pg_type'::regclass then (select x.typowner from pg_type x where x.oid = d.refobjid)
                           when 'pg_class'::regclass then (select x.relowner from pg_class x where x.oid = d.refobjid)
                           when 'pg_opclass'::regclass then (select x.opcowner from pg_opclass x where x.oid = d.refobjid)
                           when 'pg_collation'::regclass then (select x.collowner from pg_collation x where x.oid = d.refobjid)
                           when 'pg_extension'::regclass then (select x.extowner from pg_extension x where x.oid = d.refobjid) end
    from code c join pg_depend d on d.classid = c.classid and d.objid = c.objid
   -- Objects with lower OIDs were created by initdb.
   where d.refobjid >= 16384
  union all
  select 'pg_trigger'::regclass, t.oid, 'pg_proc'::regclass, f.oid, f.proowner
    from part p join pg_trigger t on t.tgrelid = p.objid join pg_proc f on f.oid = t.tgfoid
   where p.classid = 'pg_class'::regclass and not t.tgisinternal),
found(rank, item) as (
  select case p.classid when 'pg_namespace'::regclass then 1 when 'pg_class'::regclass then 2 when 'pg_proc'::regclass then 2 else 4 end,
         format('%s (owner %s)', pg_describe_object(p.classid, p.objid, 0), coalesce(quote_ident(pg_get_userbyid(p.owner)), 'none'))
    from part p, me
   where p.owner is distinct from me.oid
     -- Row types, indexes and constraints belong to the owner of their table, and array types to
     -- the owner of their element type. Listing them would only make the list of objects longer.
     and not (p.classid = 'pg_type'::regclass and exists (select from pg_type t where t.oid = p.objid and (t.typrelid <> 0 or t.typelem <> 0 and t.typcategory = 'A')))
     and not (p.classid = 'pg_class'::regclass and exists (select from pg_class c where c.oid = p.objid and c.relkind in ('i', 'I')))
     and p.classid <> 'pg_constraint'::regclass
  union
  select 3, format('%s, which uses %s (owner %s)', pg_describe_object(u.classid, u.objid, 0), pg_describe_object(u.refclassid, u.refobjid, 0), pg_get_userbyid(u.owner))
    from used u, me
   where u.owner <> me.oid and not exists (select from part p where p.classid = u.refclassid and p.objid = u.refobjid)
  union
  -- A change to one of our rows could run the triggers of a table whose foreign key refers to this
  -- row.
  select 3, format('%s, which refers to %s (owner %s)', pg_describe_object('pg_constraint'::regclass, k.oid, 0), p.objid::regclass, pg_get_userbyid(c.relowner))
    from part p join pg_constraint k on k.confrelid = p.objid and k.contype = 'f' join pg_class c on c.oid = k.conrelid, me
   where p.classid = 'pg_class'::regclass and c.relowner <> me.oid
  union
  select 3, format('%s, which inherits from %s (owner %s)', pg_describe_object('pg_class'::regclass, c.oid, 0), p.objid::regclass, pg_get_userbyid(c.relowner))
    from part p join pg_inherits i on i.inhparent = p.objid join pg_class c on c.oid = i.inhrelid, me
   where p.classid = 'pg_class'::regclass and c.relowner <> me.oid
  union
  select 1, format('the privilege CREATE on schema backfill (held by %s)', case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
    from place p cross join lateral aclexplode(p.acl) a, me
   where a.privilege_type = 'CREATE' and a.grantee <> p.owner and a.grantee <> me.oid),
listed as (
  select f.item, f.rank, row_number() over (order by f.rank, f.item collate "C") as n, count(*) over () as total from found f)
select format('role "%s" does not own everything in schema backfill', me.name) as message,
       format('Found: %s%s. Code of another role would run with the privileges of this login.', string_agg(l.item, '; ' order by l.n) filter (where l.n <= 5), case when max(l.total) > 5 then format('; and %s more', max(l.total) - 5) end) as detail,
       format('If another role is the rightful owner of the whole schema, connect as that role. Otherwise look at each object, and drop or rename it. If you trust its content, give it to this login, for example: alter schema backfill owner to %1$s; revoke all on schema backfill from other_role; alter table ... owner to %1$s;', me.quoted) as hint
  from listed l, me
 group by me.name, me.quoted
