# Keeps schema backfill out of db/structure.sql. `backfilld migrate` installs the schema.
ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = ["--exclude-schema=backfill"]
