from budget_svc.tables import metadata
from svc_common.alembic_env import run

run(metadata)
