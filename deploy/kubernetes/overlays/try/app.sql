-- Creates a million orders with a new, empty column, and the login that owns the table. The login
-- is not a superuser.
create role backfill_reader nologin;
create role backfill_submitter nologin;
create role backfill_operator nologin;
create role owner login password 'try' in role pg_read_all_stats, backfill_operator;
grant create on database app to owner;
create table public.orders (id bigint generated always as identity primary key, total numeric not null, total_cents bigint);
insert into public.orders (total) select round((random() * 100)::numeric, 2) from generate_series(1, 1000000);
alter table public.orders owner to owner;
analyze public.orders;
