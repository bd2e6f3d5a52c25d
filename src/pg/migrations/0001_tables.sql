-- The state that survives. Tables are singular and private; the public views (0005) are plural.

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
  -- As given; null was resolved to run_as, and may be again when the daemon first registers.
  run_as_asked      name,
  -- Not among the columns that a submitter may insert, so it can't be forged.
  enqueued_by       name        not null default current_user,
  needs_approval    boolean     not null default false,
  approved_at       timestamptz,
  approved_by       name,
  options           jsonb       not null default '{}',
  -- search_path, TimeZone, DateStyle, IntervalStyle of the caller: the job runs under them.
  settings          jsonb       not null default '{}',
  state             text        not null default 'queued'
                    check (state in ('queued', 'running', 'paused', 'verifying', 'succeeded', 'failed', 'cancelled')),
  desired_state     text        not null default 'running' check (desired_state in ('running', 'paused', 'cancelled')),
  state_reason      text,
  -- Grows with every change that a walker must notice (tune); the checkpoint call returns it.
  revision          integer     not null default 0,
  -- Grows with rerun; generation grows with each sweep of one run.
  run               integer     not null default 1,
  generation        integer     not null default 1,
  plan              jsonb,
  planned_snapshot  pg_snapshot,
  rows_estimated    bigint,
  -- Totals of an ended run; while it lives they are the sum of its checkpoints.
  rows_scanned      bigint,
  rows_changed      bigint,
  rows_unresolved   bigint      not null default 0,
  rows_quarantined  bigint      not null default 0,
  error             text,
  hint              text,
  enqueued_at       timestamptz not null default now(),
  started_at        timestamptz,
  finished_at       timestamptz,
  verified_at       timestamptz,
  constraint job_name_check check (name ~ '^[A-Za-z0-9._:/-]{1,200}$'),
  constraint job_spec_check check ((kind = 'update') = (set_sql is not null))
);
create index job_live on backfill.job (state, id) where state in ('queued', 'running', 'paused', 'verifying');

create index job_stopping on backfill.job (id) where state in ('queued', 'running', 'verifying') and desired_state <> 'running';

-- The unit of claim, lease, fence and checkpoint. Planning and verifying are claimed like walking.
create table backfill.slice (
  id            bigint generated always as identity primary key,
  job_id        bigint   not null references backfill.job on delete cascade,
  kind          text     not null check (kind in ('plan', 'walk', 'verify')),
  run           integer  not null default 1,
  generation    integer  not null default 1,
  ordinal       integer  not null default 0,
  relation      oid,
  relation_name text,
  lower         text[],
  upper         text[],
  -- held: waits for its job (run_at, approval, pause); ready: may be claimed; leased: somebody works on it.
  state         text     not null default 'held' check (state in ('held', 'ready', 'leased', 'done', 'gone')),
  run_as        name     not null,
  priority      integer  not null default 0,
  -- When a held slice becomes ready by itself; null if it waits for somebody (approval, pause).
  due_at        timestamptz,
  attempts      integer  not null default 0,
  started_at    timestamptz,
  finished_at   timestamptz,
  unique (job_id, run, generation, kind, ordinal)
);
-- A claim reads the first entry for each role that the daemon serves, however long the queue is.
create index slice_ready on backfill.slice (run_as, priority, job_id, ordinal, id) where state = 'ready';

create index slice_due on backfill.slice (due_at) where state = 'held' and due_at is not null;

-- The durable low watermark of a slice: one narrow row, updated by every batch, and by nothing else but a change
-- of holder. Leases live elsewhere so that a heartbeat never waits for a batch, and only slice_id is indexed so
-- that an update stays within its page while there is room.
create table backfill.checkpoint (
  slice_id        bigint  not null references backfill.slice on delete cascade,
  token           uuid    not null,
  done            boolean not null default false,
  position        text[],
  -- What a walk strategy needs beyond its position; null for the plain walk.
  walk_state      jsonb,
  rows_scanned    bigint  not null default 0,
  rows_changed    bigint  not null default 0,
  rows_unresolved bigint  not null default 0,
  batches         bigint  not null default 0
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create unique index checkpoint_slice on backfill.checkpoint (slice_id);

create table backfill.lease (
  slice_id       bigint      primary key references backfill.slice on delete cascade,
  job_id         bigint      not null,
  token          uuid        not null,
  holder         uuid        not null,
  run_as         name        not null,
  claimed_at     timestamptz not null,
  expires_at     timestamptz not null,
  -- The executor connection of the holder: a takeover terminates it.
  backend_pid    integer,
  backend_start  timestamptz,
  rows_per_second double precision,
  waiting_reason text,
  waiting_text   text
) with (fillfactor = 50);

create table backfill.worker (
  id           uuid        primary key,
  host         text        not null,
  pid          integer     not null,
  version      text        not null,
  run_as       name[]      not null,
  started_at   timestamptz not null default clock_timestamp(),
  heartbeat_at timestamptz not null default clock_timestamp(),
  expires_at   timestamptz not null
);

-- session_user -> the role whose rights its jobs have. The boundary is session_user: SET ROLE can't change it.
create table backfill.executor (
  login         name        primary key,
  run_as        name        not null,
  one_url       boolean     not null default false,
  is_superuser  boolean     not null default false,
  registered_at timestamptz not null default now()
);
create index executor_run_as on backfill.executor (run_as);

create table backfill.event (
  id      bigint generated always as identity primary key,
  at      timestamptz not null default clock_timestamp(),
  job_id  bigint references backfill.job on delete cascade,
  kind    text        not null,
  actor   name        not null default session_user,
  message text        not null,
  detail  jsonb
);
create index event_job on backfill.event (job_id, id);

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
  primary key (job_id, relation, key)
);

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
  primary key (signal, source)
);

-- The emergency stop, apart from each job's own pause. Exactly one row.
create table backfill.switch (
  only_row   boolean primary key default true check (only_row),
  paused_all boolean not null default false,
  reason     text,
  set_by     name,
  set_at     timestamptz
);
insert into backfill.switch default values;

-- What a caller asks for (pause, cancel, ...). A row is never stored: the trigger in 0003 carries it out. The
-- column default is evaluated as the caller, and submitters may not insert into `actor`: it can't be forged.
create table backfill.command (
  verb     text  not null,
  job_name text,
  reason   text,
  options  jsonb,
  actor    name  not null default current_user
);
