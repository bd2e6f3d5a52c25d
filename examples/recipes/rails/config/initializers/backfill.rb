# db/structure.sql is the application's; schema backfill is installed by `backfilld migrate`.
ActiveRecord::Tasks::DatabaseTasks.structure_dump_flags = ["--exclude-schema=backfill"]
