# A standard env.py, with offline mode and transaction_per_migration (see docs/recipes/alembic.md).
import os

from alembic import context
from sqlalchemy import create_engine, pool

url = os.environ["SQLALCHEMY_URL"]

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
