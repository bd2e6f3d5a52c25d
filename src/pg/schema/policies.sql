-- Row-level security policies. `create policy` has no `or replace`, so each policy is dropped
-- first, in the same transaction.

-- A role can submit a job only under its own name, and only with a run_as role that it may use.
drop policy if exists job_insert on backfill.job;
create policy job_insert on backfill.job for insert with check (enqueued_by = current_user and backfill._may_run_as(current_user, run_as));

drop policy if exists command_insert on backfill.command;
create policy command_insert on backfill.command for insert with check (actor = current_user);

drop policy if exists quota_read on backfill.quota;
create policy quota_read on backfill.quota for select using (true);
drop policy if exists quota_change on backfill.quota;
create policy quota_change on backfill.quota for update using (backfill._is_operator(current_user));

drop policy if exists rollout_insert on backfill.rollout;
create policy rollout_insert on backfill.rollout for insert with check (started_by = current_user);

drop policy if exists rollout_command_insert on backfill.rollout_command;
create policy rollout_command_insert on backfill.rollout_command for insert with check (actor = current_user);
