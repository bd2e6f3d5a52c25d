select case when not pg_catalog.pg_is_in_recovery()
            then pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::pg_catalog.int8 end as primary_lsn,
       pg_catalog.quote_ident(current_user) as role,
       pg_catalog.pg_has_role('pg_read_all_stats', 'member') as member,
       pg_catalog.current_setting('server_version_num')::pg_catalog.int4 as version,
       r.pid, r.application_name, pg_catalog.host(r.client_addr) as client_addr, r.client_port, r.state,
       pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0')::pg_catalog.int8 as replay_lsn,
       exists (select from pg_catalog.pg_replication_slots s
               where s.active_pid = r.pid and s.slot_type = 'logical') as logical
from (values (1)) as one (n)
left join pg_catalog.pg_stat_replication r on true
order by r.application_name, r.pid
