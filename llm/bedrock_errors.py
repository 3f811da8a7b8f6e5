"""What can go wrong with a model call, and what each kind of failure means for trying again.

`ModelCallError` is the only exception of `llm.bedrock`; `error_from` makes it of what boto3, botocore and urllib3 raise.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.eventstream import ParserError

_log = logging.getLogger(__name__)


class Kind(Enum):
    """What happened to an attempt."""

    THROTTLED = auto()
    NOT_READY = auto()
    SERVER_FAULT = auto()
    STREAM_BROKEN = auto()
    """An error inside a response that had begun."""
    LOST = auto()
    """The connection broke, or nothing came for too long."""
    UNREACHABLE = auto()
    """No connection could be made, so nothing was sent."""
    MODEL_FAILED = auto()
    """The model failed or took too long on this input."""
    QUOTA = auto()
    TOO_LONG = auto()
    """The input does not fit the model's context window."""
    GONE = auto()
    """The model is unknown, at the end of its life, or not callable under this id."""
    UNFIT = auto()
    """The model does not take such a request; another may."""
    DENIED = auto()
    """These credentials may not use the model."""
    UNPRICED = auto()
    """The budget service knows no price for it, so nothing may be sent."""
    INVALID = auto()
    """The request itself is wrong: no model will take it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do next.

    `retry`: the same model may answer in a moment. `fallback`: another may. `rest`: when its tries are used up, leave it alone for
    some seconds. `shun`: it will not answer anybody for minutes.
    """

    retry: bool = False
    fallback: bool = True
    rest: bool = False
    shun: bool = False


POLICIES: Mapping[Kind, Policy] = {
    Kind.THROTTLED: Policy(retry=True, rest=True),
    Kind.NOT_READY: Policy(retry=True, rest=True),
    Kind.SERVER_FAULT: Policy(retry=True),
    Kind.STREAM_BROKEN: Policy(retry=True),
    Kind.LOST: Policy(retry=True),
    Kind.UNREACHABLE: Policy(retry=True),
    Kind.MODEL_FAILED: Policy(),
    Kind.QUOTA: Policy(),
    Kind.TOO_LONG: Policy(),
    Kind.GONE: Policy(shun=True),
    Kind.UNFIT: Policy(),
    Kind.DENIED: Policy(shun=True),
    Kind.UNPRICED: Policy(shun=True),
    Kind.INVALID: Policy(fallback=False),
}

# By shape name; a stream spells the same names with a small first letter.
_KIND_OF_CODE = {
    "throttlingexception": Kind.THROTTLED,
    "toomanyrequestsexception": Kind.THROTTLED,
    "modelnotreadyexception": Kind.NOT_READY,
    "internalserverexception": Kind.SERVER_FAULT,
    "serviceunavailableexception": Kind.SERVER_FAULT,
    "modelstreamerrorexception": Kind.STREAM_BROKEN,
    "modelerrorexception": Kind.MODEL_FAILED,
    "modeltimeoutexception": Kind.MODEL_FAILED,
    "servicequotaexceededexception": Kind.QUOTA,
    "resourcenotfoundexception": Kind.GONE,
    "accessdeniedexception": Kind.DENIED,
    "unrecognizedclientexception": Kind.DENIED,
    "invalidsignatureexception": Kind.DENIED,
    "expiredtokenexception": Kind.DENIED,
    "validationexception": Kind.INVALID,
}

# A validation error is told apart by its text, for want of a code of its own.
_TOO_LONG = re.compile(
    r"(input|prompt|context).{0,80}(too long|too large|too many|exceed)|too many (input|total) tokens|exceed.{0,60}context",
    re.I,
)
_NOT_CALLABLE = re.compile(r"on-demand throughput|model identifier is invalid|end of (its )?life|legacy", re.I)
_UNFIT = re.compile(
    r"\b(deprecated|unsupported|(not|n't) (be )?(supported|specified|allowed)).{0,40} (for|by|on|with|in) this model"
    r"|\bthis model (doesn't|does not|can't|cannot) (support|accept|take)",
    re.I,
)
_PARAMETER = re.compile(r"parameter (?:in )?([\w.\[\]]{1,100})")


class ModelCallError(Exception):
    """An attempt at a model call that failed.

    `begun`: the response had begun, or may have, so what it cost is unknown; else it cost nothing. `retry_after` is the endpoint's
    hint in seconds. The message is for people and holds no secrets.
    """

    def __init__(self, kind: Kind, message: str, *, begun: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.begun = begun
        self.retry_after = retry_after

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]


# All that a call may raise by the fault of the network, the endpoint or the credentials; anything else is a bug of ours.
EXPECTED = (boto.BotoCoreError, boto.ClientError, ParserError, urllib3.exceptions.HTTPError, OSError, RecursionError)


def error_from(error: Exception, *, is_sent: bool, in_stream: bool) -> ModelCallError:
    """What one of `EXPECTED` means. It came after the request was sent, or may have been; after the response had begun."""
    match error:
        case boto.ClientError():
            return _from_response(error, in_stream)
        case boto.NoCredentialsError() | boto.PartialCredentialsError() | boto.CredentialRetrievalError():
            return ModelCallError(Kind.DENIED, "there are no AWS credentials to call the model with", begun=False)
        case boto.EndpointConnectionError() | boto.ConnectTimeoutError() | boto.ProxyConnectionError():
            return ModelCallError(Kind.UNREACHABLE, "the model endpoint cannot be reached", begun=False)
        case boto.SSLError() if not is_sent:
            return ModelCallError(Kind.UNREACHABLE, "no safe connection to the model endpoint", begun=False)
        case boto.ParamValidationError():  # its text quotes the request, after the name of what is wrong
            name = _PARAMETER.search(str(error))
            message = f"boto3 refuses the request: {name[1] if name else 'a parameter'} is not as it must be"
            return ModelCallError(Kind.INVALID, message, begun=False)
    return ModelCallError(Kind.LOST, f"the connection to the model broke ({type(error).__name__})", begun=is_sent)


def _from_response(error: boto.ClientError, in_stream: bool) -> ModelCallError:
    response: Mapping[str, Any] = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    text = str(response.get("Error", {}).get("Message", ""))
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    known = _KIND_OF_CODE.get(code.lower())
    kind = known or (Kind.STREAM_BROKEN if in_stream else _kind_of_status(status))
    if kind is Kind.INVALID:
        kind = _kind_of_refusal(text)
    if kind is Kind.DENIED:  # its text names accounts and roles
        _log.warning("access to the model is denied: %s", text)
        text = "access to the model is denied"
    hint = _seconds(metadata.get("HTTPHeaders", {}).get("retry-after"))
    # Who answers for Bedrock with a server error that is none of its own, a proxy, does not know whether the model ran.
    begun = in_stream or (known is None and status >= 500)
    return ModelCallError(kind, f"{code or 'an error without a name'}: {text}"[:500], begun=begun, retry_after=hint)


def _kind_of_refusal(text: str) -> Kind:
    if _TOO_LONG.search(text):
        return Kind.TOO_LONG
    if _NOT_CALLABLE.search(text):
        return Kind.GONE
    return Kind.UNFIT if _UNFIT.search(text) else Kind.INVALID


def _kind_of_status(status: int) -> Kind:
    if status == 429:
        return Kind.THROTTLED
    if status in (401, 403):
        return Kind.DENIED
    if status == 404:
        return Kind.GONE
    return Kind.SERVER_FAULT if status >= 500 else Kind.INVALID


def _seconds(header: str | None) -> float | None:
    """A Retry-After header in seconds; its other form, a date, is not used by Bedrock."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
