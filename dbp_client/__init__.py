"""The Python SDK: ask a question, get typed events; `dbp` is its command."""

from dbp_client.client import AsyncClient
from dbp_client.sync import Client
from svc_common.errors import ErrorReason, ServiceError

__all__ = ["AsyncClient", "Client", "ErrorReason", "ServiceError"]
