-- The tables of schema backfill. The tables are private and have singular names. The public views
-- over them have plural names (views.sql).

create table backfill.schema_version (
  version                integer     primary key,
  -- The schema version of the oldest binary that can work with this version.
  min_compatible_version integer     not null,
  applied_at             timestamptz not null default now()
);

-- The hash of the text that was run last, for each file of functions, views, triggers and policies.
-- An upgrade runs a file again if its hash differs from the stored hash. If a table changed, the
-- upgrade also runs the file of views again.
create table backfill.schema_text (
  name text primary key,
  hash text not null
);

create table backfill.job (
  id                bigint generated always as identity primary key,
  name              text        not null unique,
  kind              text        not null default 'update' check (kind in ('update', 'delete')),
  relation          oid         not null,
  target            text        not null,
  set_sql           text,
  filter_sql        text,
  key               name[],
  priority          integer     not null default 0,
  run_at            timestamptz not null default now(),
  run_as            name        not null,
  -- The run_as argument of the caller. If it is null, run_as was derived. When a daemon with a
  -- single URL registers, it changes run_as of each queued job if run_as was derived and no
  -- executor runs jobs as this role.
  run_as_asked      name,
  -- A submitter may not insert into this column, so the value cannot be forged.
  enqueued_by       name        not null default current_user,
  needs_approval    boolean     not null default false,
  approved_at       timestamptz,
  approved_by       name,
  options           jsonb       not null default '{}',
  -- search_path, TimeZone, DateStyle and IntervalStyle of the caller. The job runs under these
  -- settings.
  settings          jsonb       not null default '{}',
  state             text        not null default 'queued'
                    check (state in ('queued', 'running', 'paused', 'verifying', 'succeeded', 'failed', 'cancelled')),
  desired_state     text        not null default 'running' check (desired_state in ('running', 'paused', 'cancelled')),
  state_reason      text,
  -- Increases with each tune, retry and rerun, so that a worker notices new options. The call with
  -- which a batch moves the checkpoint returns the revision.
  revision          integer     not null default 0,
  -- The column `run` increases with each rerun, and with a retry of a job that has no plan. The
  -- column `generation` is 1 for the walk of a run, and increases with each sweep.
  run               integer     not null default 1,
  generation        integer     not null default 1,
  plan              jsonb,
  planned_snapshot  pg_snapshot,
  rows_estimated    bigint,
  -- The totals of a finished run. While a run is active, its totals are computed from its
  -- checkpoints.
  rows_scanned      bigint,
  rows_changed      bigint,
  rows_unresolved   bigint      not null default 0,
  rows_quarantined  bigint      not null default 0,
  error             text,
  hint              text,
  -- {"error", "hint"} for readers who may not see the job's rows. If this column is null, these
  -- readers see the columns error and hint unchanged.
  redacted          jsonb,
  enqueued_at       timestamptz not null default now(),
  -- When the job last entered the queue, or when a pause of the queued job ended.
  queued_at         timestamptz not null default now(),
  started_at        timestamptz,
  finished_at       timestamptz,
  verified_at       timestamptz,
  -- Time at which the job's window opens again. If the time is null or has passed, the window is
  -- open, as far as the queue knows. A daemon writes this time, because only daemons evaluate the
  -- cron expression of the window.
  closed_until      timestamptz,
  -- Time at which retention last removed the job's slices, events and row errors.
  pruned_at         timestamptz,
  constraint job_name_check check (name ~ '^[A-Za-z0-9._:/-]{1,200}$'),
  constraint job_spec_check check ((kind = 'update') = (set_sql is not null)),
  constraint job_delete_check check (kind <> 'delete' or coalesce(btrim(filter_sql, E' \t\n\r'), '') <> '')
);
create index job_live on backfill.job (state, id) where state in ('queued', 'running', 'paused', 'verifying');
create index job_stopping on backfill.job (id) where state in ('queued', 'running', 'verifying') and desired_state <> 'running';
create index job_live_of on backfill.job (enqueued_by) where state in ('queued', 'running', 'paused', 'verifying');
create index job_enqueued on backfill.job (enqueued_by, enqueued_at);
create index job_ended on backfill.job (finished_at) include (state) where state in ('succeeded', 'failed', 'cancelled');
create index job_to_prune on backfill.job (finished_at) where finished_at is not null and (pruned_at is null or pruned_at < finished_at);
create index job_rerun on backfill.job (id) where run > 1;
alter table backfill.job enable row level security;

-- Each slice has its own claim, lease, fencing token and checkpoint. Planning and verification are
-- claimed in the same way as the walk.
create table backfill.slice (
  id             bigint generated always as identity primary key,
  job_id         bigint   not null references backfill.job on delete cascade,
  kind           text     not null check (kind in ('plan', 'walk', 'verify')),
  run            integer  not null default 1,
  generation     integer  not null default 1,
  ordinal        integer  not null default 0,
  -- The table that holds the rows of the slice: the job's table, or one of its partitions or
  -- children. Both columns are null for a planning slice.
  relation       oid,
  relation_name  text,
  lower          text[],
  upper          text[],
  -- held: the slice cannot be claimed now, for example because of run_at, a missing approval, a
  --   pause or not_before.
  -- ready: a worker can claim the slice.
  -- leased: a worker has claimed the slice.
  -- done: the slice is finished.
  -- gone: the table of the slice is no longer part of the job's table, or it was attached after
  --   planning and is skipped.
  state          text     not null default 'held' check (state in ('held', 'ready', 'leased', 'done', 'gone')),
  run_as         name     not null,
  priority       integer  not null default 0,
  -- Time at which a held slice becomes ready without a command. It is null if the slice waits for a
  -- command such as approve or resume.
  due_at         timestamptz,
  attempts       integer  not null default 0,
  started_at     timestamptz,
  finished_at    timestamptz,
  -- Only daemons that support this version of the protocol or a later one can claim the slice.
  protocol       integer  not null default 1,
  -- The slice cannot be claimed before this time, because it waits for locked rows or for a retry.
  not_before     timestamptz,
  -- The reason why the slice has been waiting since its last holder released it, once as a value of
  -- jobs.waiting_reason and once as a text for people. Both are null while the slice is claimed.
  waiting_reason text,
  waiting_text   text,
  -- For this leaf, these properties replace those in the job's plan: OID, name, key, column
  -- numbers, fingerprint, upper bound.
  leaf           jsonb,
  rows_estimated bigint,
  -- The kind of verification of a verifying slice: filter or expression.
  proof          text,
  unique (job_id, run, generation, kind, ordinal)
);
-- A claim reads only the first entries for each role that the daemon serves, however long the queue
-- is.
create index slice_ready on backfill.slice (run_as, priority, job_id, ordinal, id) where state = 'ready';
create index slice_due on backfill.slice (due_at) where state = 'held' and due_at is not null;
create index slice_open on backfill.slice (job_id) where state in ('held', 'ready', 'leased');

-- The durable low watermark of a slice, in one narrow row. Only batches, claims and releases update
-- the row. Leases are in another table, so that a heartbeat never waits for a batch. Only slice_id
-- is indexed, so that updates of this table are HOT while the page has room.
create table backfill.checkpoint (
  slice_id        bigint  not null references backfill.slice on delete cascade,
  token           uuid    not null,
  done            boolean not null default false,
  position        text[],
  rows_scanned    bigint  not null default 0,
  rows_changed    bigint  not null default 0,
  rows_unresolved bigint  not null default 0,
  batches         bigint  not null default 0,
  -- The transaction that last moved the checkpoint.
  moved_in        xid8
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create unique index checkpoint_slice on backfill.checkpoint (slice_id);

create table backfill.lease (
  slice_id        bigint      primary key references backfill.slice on delete cascade,
  job_id          bigint      not null,
  token           uuid        not null,
  holder          uuid        not null,
  run_as          name        not null,
  claimed_at      timestamptz not null,
  expires_at      timestamptz not null,
  -- The duration of the lease, from the configuration of its holder.
  ttl             interval    not null default '6 s',
  -- The session in which the holder runs its batches. A takeover terminates this session.
  backend_pid     integer,
  backend_start   timestamptz,
  rows_per_second double precision,
  waiting_reason  text,
  waiting_text    text,
  throttled_by    text,
  throttled_text  text,
  -- The fraction of the last few seconds during which batches ran, 0 to 1.
  time_share      double precision,
  -- rows_per_second, averaged over about a minute.
  steady_rows_per_second double precision
) with (fillfactor = 50);
create index lease_job on backfill.lease (job_id);

-- Rows that the walk has passed but that must still be tried. There are two reasons:
-- - Another session had locked the row when a batch passed it. The transaction that moves the
--   checkpoint also inserts the row here, so a crash does not lose the row.
-- - The row was quarantined, and the job was retried.
create table backfill.deferred_row (
  id       bigint      generated always as identity primary key,
  slice_id bigint      not null references backfill.slice on delete cascade,
  key      text[]      not null,
  attempts integer     not null default 1,
  first_at timestamptz not null default clock_timestamp()
);
create index deferred_row_slice on backfill.deferred_row (slice_id, id);

-- Rows that could not be changed, with their error. A row is quarantined until resolved_at is set.
create table backfill.row_error (
  job_id      bigint      not null references backfill.job on delete cascade,
  relation    text        not null,
  key         jsonb       not null,
  sqlstate    text        not null,
  message     text        not null,
  attempts    integer     not null default 1,
  first_at    timestamptz not null default clock_timestamp(),
  last_at     timestamptz not null default clock_timestamp(),
  resolved_at timestamptz,
  -- The slice and the key values (as text) by which a retry finds the row again.
  slice_id    bigint      references backfill.slice on delete set null,
  position    text[]
);
-- The index is on a hash of the key. The key as JSON (with column names and quotes) may be too long
-- for an index entry.
create unique index row_error_row on backfill.row_error (job_id, relation, md5(key::text));
create index row_error_open on backfill.row_error (job_id) where resolved_at is null;
create index row_error_slice on backfill.row_error (slice_id);

-- The daemons that serve this database. A daemon that does not exit cleanly stays in the table for
-- about an hour.
create table backfill.worker (
  id                uuid        primary key,
  host              text        not null,
  pid               integer     not null,
  version           text        not null,
  run_as            name[]      not null,
  started_at        timestamptz not null default clock_timestamp(),
  heartbeat_at      timestamptz not null default clock_timestamp(),
  expires_at        timestamptz not null,
  -- The time from a heartbeat to expires_at.
  ttl               interval    not null default '6 s',
  -- Time at which the database's window opens again for this daemon. If the time is null or has
  -- passed, the window is open.
  closed_until      timestamptz,
  -- The fraction of the time during which the batches of a slice may run. It is null while the
  -- daemon has no slice.
  duty_cycle        double precision,
  -- The duty cycle that the budgets alone would allow. It is 0 while the daemon has no slice. It is
  -- also 0 if there are no budgets. It is null until the daemon first publishes its signals.
  budget_duty_cycle double precision
);

-- Maps an executor's login (session_user) to the role that its jobs run as. The checks that a batch
-- calls use session_user, because SET ROLE cannot change session_user.
create table backfill.executor (
  login         name        primary key,
  run_as        name        not null,
  one_url       boolean     not null default false,
  is_superuser  boolean     not null default false,
  -- The configuration's trust_table_owners.
  trusts_owners boolean     not null default false,
  registered_at timestamptz not null default now()
);
create index executor_run_as on backfill.executor (run_as);

create table backfill.event (
  id          bigint generated always as identity primary key,
  at          timestamptz not null default clock_timestamp(),
  job_id      bigint references backfill.job on delete cascade,
  kind        text        not null,
  actor       name        not null default session_user,
  message     text        not null,
  -- The message for readers who may not see the job's rows. If this column is null, these readers
  -- see the text of the column `message`.
  redacted    text,
  detail      jsonb,
  -- Copies of two columns of the job. The values of these columns never change. With these copies,
  -- the view of events needs no join with thousands of jobs.
  name        text,
  enqueued_by name
);
create index event_job on backfill.event (job_id, id);
create index event_kind on backfill.event (job_id, kind, id);
create index event_at on backfill.event (at, id);
create index event_name on backfill.event (name, at, id);

create table backfill.signal (
  signal      text        not null,
  source      text        not null,
  kind        text        not null,
  value       double precision,
  "limit"     double precision,
  utilization double precision,
  holding     boolean     not null default false,
  reason      text,
  sampled_at  timestamptz not null default clock_timestamp(),
  -- Whether the signal measures a load that is over its limit. Once a load is over its limit, it
  -- counts as over until its value is well below the limit.
  over        boolean     not null default false,
  primary key (signal, source)
);

-- The emergency stop, separate from the pause of each job. The table has exactly one row.
create table backfill.switch (
  only_row   boolean primary key default true check (only_row),
  paused_all boolean not null default false,
  reason     text,
  set_by     name,
  set_at     timestamptz
);
insert into backfill.switch default values;
analyze backfill.switch;

-- The commands of callers (pause, cancel, ...). No row is ever stored, because the trigger
-- command_carry_out executes the command instead. The default of `actor` is evaluated as the
-- caller, and submitters may not insert into `actor`, so its value cannot be forged.
create table backfill.command (
  verb     text  not null,
  job_name text,
  reason   text,
  options  jsonb,
  actor    name  not null default current_user
);
alter table backfill.command enable row level security;

-- The limits for each role that is not an operator. The table has exactly one row. Operators may
-- update it.
create table backfill.quota (
  only_row        boolean primary key default true check (only_row),
  -- Maximum number of unfinished jobs of one role.
  live_jobs       integer not null default 10000 check (live_jobs >= 0),
  jobs_per_minute integer not null default 600 check (jobs_per_minute >= 0),
  -- The largest value of the option max_row_errors.
  max_row_errors  integer not null default 10000 check (max_row_errors >= 0)
);
insert into backfill.quota default values;
-- Jobs that were deleted with backfill.forget within a minute after they were enqueued. They still
-- count for jobs_per_minute.
create table backfill.forgotten_job (
  enqueued_by name        not null,
  enqueued_at timestamptz not null
);
alter table backfill.quota enable row level security;
comment on table backfill.quota is 'Limits for each role that is not an operator. The table has one row. Operators may update it.';
comment on column backfill.quota.only_row is 'Always true, because the table has one row.';
comment on column backfill.quota.live_jobs is 'Maximum number of unfinished jobs of one role.';
comment on column backfill.quota.jobs_per_minute is 'Maximum number of jobs that one role may enqueue in a minute.';
comment on column backfill.quota.max_row_errors is 'The largest value of the option max_row_errors that a role may set for a job.';
