"""The Python SDK: ask a question, get typed events; `dbp` is its command."""

from dbp_client.client import AskOptions, AsyncClient, ListOptions, RequestEvent
from dbp_client.errors import AccessDenied, BadRequest, Conflict, LimitReached, NotFound, OutOfTime, Unreachable
from dbp_client.sync import Client
from svc_common.errors import ErrorReason, ServiceError
from svc_common.settings import CommonSettings

__all__ = [
    "AccessDenied",
    "AskOptions",
    "AsyncClient",
    "BadRequest",
    "Client",
    "CommonSettings",
    "Conflict",
    "ErrorReason",
    "LimitReached",
    "ListOptions",
    "NotFound",
    "OutOfTime",
    "RequestEvent",
    "ServiceError",
    "Unreachable",
]
