-- Rollouts: the staged life of a column.
create table backfill.rollout (
  id             bigint generated always as identity primary key,
  name           text        not null unique,
  kind           text        not null check (kind in ('add_column')),
  relation       oid         not null,
  -- Schema and name of the table, both quoted.
  target         text        not null,
  spec           jsonb       not null,
  -- The settings of the session that started the rollout, as in backfill.job.
  settings       jsonb       not null default '{}',
  -- The owner of the table. All statements of the rollout run as this role.
  run_as         name        not null,
  started_by     name        not null default current_user,
  -- The last stage that the daemons reach without a further call of rollout_advance. If this value
  -- is lower than the next stage, a call raises it to the next stage.
  until          text        not null default 'constrained',
  -- The last stage that a call of rollout_advance has confirmed.
  confirmed      text        not null default 'planned',
  stage          text        not null default 'planned',
  state          text        not null default 'running' check (state in ('running', 'waiting', 'failed', 'rolling_back', 'rolled_back', 'done')),
  desired_state  text        not null default 'running' check (desired_state in ('running', 'paused')),
  state_reason   text,
  -- Whether the rollout is being rolled back. The value stays true if the rollback fails.
  backwards      boolean     not null default false,
  -- When the stage began.
  since          timestamptz not null default clock_timestamp(),
  started_at     timestamptz not null default clock_timestamp(),
  finished_at    timestamptz,
  waiting_reason text,
  waiting_text   text,
  error          text,
  hint           text,
  -- The error and hint of a statement that failed, and the ID of this statement. The rollout is
  -- marked as failed, with this error and hint, after the constraint or unique index has been
  -- dropped.
  pending_error  text,
  pending_hint   text,
  pending_statement bigint,
  -- The job of the current stage.
  job_id         bigint,
  -- Number of the new column, once it exists.
  attnum         smallint,
  -- The schema of the table before the rollout.
  fingerprint    text        not null default '',
  -- The daemon that runs a statement of the rollout, with its fencing token.
  holder         uuid,
  token          uuid,
  expires_at     timestamptz,
  -- The session of the statement. It is terminated when another daemon continues the rollout.
  backend_pid    integer,
  backend_start  timestamptz,
  -- No daemon claims the rollout before this time.
  due_at         timestamptz not null default clock_timestamp(),
  constraint rollout_name_check check (name ~ '^[A-Za-z0-9._:/-]{1,150}$'),
  constraint rollout_stage_check check (stage in ('planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted')),
  constraint rollout_confirmed_check check (confirmed in ('planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted')),
  constraint rollout_until_check check (until in ('planned', 'expanded', 'syncing', 'backfilled', 'verified', 'constrained', 'switched', 'contracted'))
);
create index rollout_due on backfill.rollout (due_at) where state in ('running', 'rolling_back', 'waiting');
alter table backfill.rollout enable row level security;

-- One row for each statement that a rollout has begun.
create table backfill.rollout_statement (
  id         bigint generated always as identity primary key,
  rollout_id bigint      not null references backfill.rollout on delete cascade,
  stage      text        not null,
  ordinal    integer     not null,
  -- The partition that the statement changes, or 0 if it changes the table of the rollout.
  part       oid         not null default 0,
  -- Whether the statement undoes the statement of this stage and ordinal.
  undo       boolean     not null default false,
  sql        text        not null,
  undo_sql   text,
  lock       text        not null,
  -- Whether the statement cannot run in a transaction block.
  alone      boolean     not null,
  started_at timestamptz not null default clock_timestamp(),
  attempts   integer     not null default 1,
  begun_at   timestamptz,
  locked_at  timestamptz,
  waited     interval,
  held       interval,
  -- Time from the start of the commit until the daemon received the answer.
  committed  interval,
  done_at    timestamptz,
  error      text,
  unique (rollout_id, stage, ordinal, part, undo)
);

-- The verbs of the public functions. A trigger carries out each inserted row and stores nothing.
create table backfill.rollout_command (
  verb         text not null,
  rollout_name text not null,
  reason       text,
  actor        name not null default current_user
);
alter table backfill.rollout_command enable row level security;

-- What the job compares the rows with, if it changes none: the expression of a rollout, or the
-- constraints that a rollout is about to add. Only rollouts create such jobs.
alter table backfill.job add column compares text check (compares in ('expression', 'constraints'));
