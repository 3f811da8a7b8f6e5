"""The errors Bedrock Runtime models, each with the HTTP status it has before a stream.

ServiceError        a modelled (or any named) error; before the stream an HTTP error, in it an exception frame
UnmodelledFrame     an error frame the service model does not know; only inside a stream
OddEvent            an event that is not as the service model has it, after which the stream ends; only inside a stream
ConnectionDropped   the connection is to be closed without an answer
"""

from __future__ import annotations

from local_bedrock.calls import Json

STATUS_OF_ERROR = {
    "AccessDeniedException": 403,
    "InternalServerException": 500,
    "ModelErrorException": 424,
    "ModelNotReadyException": 429,
    "ModelStreamErrorException": 424,
    "ModelTimeoutException": 408,
    "ResourceNotFoundException": 404,
    "ServiceQuotaExceededException": 400,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "ValidationException": 400,
}

STATUS_OF_MODEL_ERROR = 424


class ServiceError(Exception):
    """An error Bedrock answers with, by its shape name. The status defaults to the modelled one, else 500."""

    def __init__(self, name: str, message: str, *, status: int | None = None, retry_after: str | None = None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status or STATUS_OF_ERROR.get(name, 500)
        self.retry_after = retry_after

    @property
    def stream_name(self) -> str:
        """The name in a stream's `:exception-type` header."""
        return self.name[:1].lower() + self.name[1:]

    def body(self) -> dict[str, Json]:
        # An error of the model itself says which status the model's own service had answered with.
        original: dict[str, Json] = {"originalStatusCode": self.status} if self.status == STATUS_OF_MODEL_ERROR else {}
        return {"message": self.message, **original}


class UnmodelledFrame(Exception):
    """Ends a stream with an `:message-type=error` frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class OddEvent(Exception):
    """Ends a stream with an event as it is given here."""

    def __init__(self, event_type: str, body: Json) -> None:
        super().__init__(f"odd {event_type}")
        self.event_type = event_type
        self.body = body


class ConnectionDropped(Exception):
    """The connection is closed here, whatever was still to come."""


def invalid(message: str) -> ServiceError:
    """A refused request."""
    return ServiceError("ValidationException", message)
