-- The triggers of the tables of schema backfill. Triggers of the same table fire in the order of
-- their names.

create or replace trigger job_before_insert before insert on backfill.job for each row execute function backfill._job_before_insert();
create or replace trigger job_after_insert after insert on backfill.job for each row execute function backfill._job_after_insert();
create or replace trigger command_carry_out before insert on backfill.command for each row execute function backfill._carry_out_command();
create or replace trigger job_needs_slices before update of state on backfill.job for each row
  when (old.state in ('failed', 'cancelled') and new.state in ('running', 'verifying') and old.pruned_at >= old.finished_at)
  execute function backfill._job_needs_slices();
create or replace trigger event_after_insert after insert on backfill.event for each row execute function backfill._event_after_insert();
create or replace trigger job_before_tune before update of options on backfill.job for each row
  when (new.kind = 'update' and new.options ->> 'verify' = 'expression' and old.options ->> 'verify' is distinct from 'expression'
        and not (coalesce(new.plan ->> 'comparable', 'true')::boolean))
  execute function backfill._job_before_tune();
-- Because of its name, job_bounds fires after job_before_insert. So the options have been checked
-- when job_bounds compares them with the limits.
create or replace trigger job_bounds before insert on backfill.job for each row execute function backfill._job_bounds();
create or replace trigger command_bounds before insert on backfill.command for each row execute function backfill._command_bounds();
create or replace trigger event_before_insert before insert on backfill.event for each row execute function backfill._event_before_insert();
create or replace trigger signal_held after update on backfill.signal for each row
  when (old.holding <> new.holding or old.over <> new.over) execute function backfill._signal_changed();
create or replace trigger signal_holds after insert on backfill.signal for each row when (new.holding or new.over) execute function backfill._signal_changed();
create or replace trigger signal_is_gone after delete on backfill.signal for each row when (old.holding or old.over) execute function backfill._signal_changed();
create or replace trigger rollout_before_insert before insert on backfill.rollout for each row execute function backfill._rollout_before_insert();
create or replace trigger rollout_after_insert after insert on backfill.rollout for each row execute function backfill._rollout_after_insert();
create or replace trigger rollout_command_carry_out before insert on backfill.rollout_command for each row execute function backfill._carry_out_rollout_command();
