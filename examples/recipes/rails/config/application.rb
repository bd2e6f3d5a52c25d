# The smallest application that has the database tasks of Rails.
require "rails"
require "active_record/railtie"

class Shop < Rails::Application
  config.root = File.expand_path("..", __dir__)
  config.eager_load = false
  config.logger = Logger.new(IO::NULL)
  config.active_record.schema_format = :sql if ENV["SCHEMA_FORMAT"] == "sql"
end
