from jobs_svc.tables import metadata
from svc_common import alembic_env

alembic_env.run(metadata)
