-- Creates the content of the demo's primary. The image runs this file once, as the superuser in
-- database app.
create role replicator login replication password 'demo';
create role backfill_reader nologin;
create role backfill_submitter nologin;
create role backfill_operator nologin;
-- This role owns the tables, and the daemon connects as this role. It is not a superuser. Otherwise
-- each trigger that a job fires would run as a superuser.
create role owner login password 'demo' in role pg_read_all_stats, backfill_operator;
grant create on database app to owner;
create extension pg_stat_statements;

create table public.orders (
  id          bigint primary key,
  customer_id int not null,
  total       numeric(12,2) not null,
  status      text not null,
  created_at  timestamptz not null default now(),
  total_cents bigint
);
insert into public.orders (id, customer_id, total, status, created_at)
select n, 1 + n % 50000, (n * 7919 % 1000000) / 100.0, 'paid', now() - n * interval '1 second'
  from generate_series(1::bigint, 1000000) n;
alter table public.orders owner to owner;
analyze public.orders;
