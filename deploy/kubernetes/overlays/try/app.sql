-- Creates a million orders with a new, empty column, the role that owns the table, and three
-- logins: the control login of the daemon, the executor login for jobs of the owner, and a
-- submitter. None of them is a superuser.
create role backfill_reader nologin;
create role backfill_submitter nologin;
create role backfill_operator nologin;
create role app_owner nologin;
create role backfilld login password 'try' in role pg_read_all_stats, pg_signal_backend;
create role app_owner_backfill login noinherit password 'try' in role app_owner;
create role app login password 'try' in role app_owner, backfill_submitter;
grant create on database app to backfilld;
create table public.orders (id bigint generated always as identity primary key, total numeric not null, total_cents bigint);
insert into public.orders (total) select round((random() * 100)::numeric, 2) from generate_series(1, 1000000);
alter table public.orders owner to app_owner;
analyze public.orders;
