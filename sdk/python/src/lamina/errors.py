"""What can go wrong, one class for each thing that a caller can do about it.

All are `LaminaError`. `message` is the server's own sentence; `code` the gRPC status it came with, empty when it arose
here. `started` says whether the command may have run: once it was accepted. Until then it cannot, because a command begins
when its client has ended its side of the stream, which ours does when it was accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from .models import Completed


class LaminaError(Exception):
    """Anything this package raises about a run or a call."""

    def __init__(self, message: str, *, code: str = "", started: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.started = started

    def __str__(self) -> str:
        return self.message


class InvalidArgument(LaminaError, ValueError):
    """The request cannot be right, or can never fit: change it."""


class NotFound(LaminaError):
    """There is no such thing."""


class ImageNotFound(NotFound):
    """The registry has no such image, or the stores no such flist."""


class PermissionDenied(LaminaError, PermissionError):
    """The registry refused, or this is not allowed here."""

    def __str__(self) -> str:
        return self.message


class Unauthenticated(LaminaError):
    """The server does not know who asks: see `Tls`."""


class ResourceExhausted(LaminaError):
    """There is no room now; it was tried for as long as `start_timeout` allows."""


class FailedPrecondition(LaminaError):
    """The cluster lacks what this needs."""


class Unavailable(LaminaError, ConnectionError):
    """Nobody answers, or who does takes no runs now."""

    def __str__(self) -> str:
        return self.message


class RunLost(Unavailable):
    """The connection ended before the run's result, or the diff that was asked for, came; the run was ended with it."""


class Timeout(LaminaError, TimeoutError):
    """It was not done in the time it had."""

    def __str__(self) -> str:
        return self.message


class Cancelled(LaminaError):
    """The run was cancelled here: by `cancel`, by leaving its context, or by closing the client."""


class ProtocolError(LaminaError):
    """What came is not what the contract allows: not a Lamina server, or its data was damaged."""


class ServerError(LaminaError):
    """Something is broken on the other side."""


class TooLarge(LaminaError):
    """A file is larger than it may be to be held in memory: read it in pieces, or raise the limit."""


class CommandFailed(LaminaError):
    """A command ended with another exit code than 0, and `check` was asked for. `completed` has all about it."""

    def __init__(self, completed: Completed) -> None:
        said = completed.error or f"exit code {completed.exit_code}"
        tail = completed.stderr.strip()[-500:]
        super().__init__(f"command failed: {said}" + (f"\n{tail}" if tail else ""), started=True)
        self.completed = completed


_BY_CODE: dict[grpc.StatusCode, type[LaminaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Timeout,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DATA_LOSS: ProtocolError,
}


def of_status(error: grpc.RpcError, *, image: bool = False, accepted: bool = False) -> LaminaError:
    """The error for a failed call. `image`: what may be missing is one; `accepted`: the run had been."""
    code, details = _code(error), _details(error)
    kind = _BY_CODE.get(code, ServerError)
    if kind is NotFound and image:
        kind = ImageNotFound
    if accepted and kind is Unavailable:
        kind = RunLost
    return kind(details or code.name, code=code.name, started=accepted)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code = getattr(error, "code", None)
    found = code() if callable(code) else None
    return found if isinstance(found, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return str((details() if callable(details) else None) or "")
