"""What the blocking client needs of its surroundings; the same names as `_aio` has."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import grpc

from . import _channel
from ._channel import CancelledHere
from ._wire import afslet_pb2 as pb
from .options import Readable, Tls

T = TypeVar("T")
P = ParamSpec("P")
Event = threading.Event
Channel = grpc.Channel
sleep = time.sleep


def to_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls it: whoever uses this client may be blocked."""
    return function(*args, **kwargs)


class Timer:
    """Calls something once, later, unless cancelled."""

    def __init__(self, seconds: float, then: Callable[[], object]) -> None:
        self._timer = threading.Timer(seconds, then)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """It is not called any more."""
        self._timer.cancel()


def channel(target: str | Sequence[str], tls: Tls | None) -> Channel:
    """A channel that connects when it is used."""
    address, options = _channel.target(target), _channel.options(tls)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, _channel.credentials(tls), options=options)


class Frames:
    """The messages of a call."""

    def __init__(self, call: Any) -> None:
        self._frames: Iterator[pb.ExecuteResponse] = iter(call)

    def next(self, cancelled: Callable[[], bool]) -> pb.ExecuteResponse | None:
        """The next one, None at the end. `CancelledHere` when the call was cancelled from here."""
        try:
            return next(self._frames, None)
        except grpc.RpcError:
            if cancelled():
                raise CancelledHere from None
            raise


def close(channel: Channel) -> None:
    """Ends a channel and its calls."""
    channel.close()


def pieces(content: Iterable[bytes] | AsyncIterable[bytes] | Readable, size: int) -> Iterator[bytes]:
    """What an iterator or an open file gives."""
    if isinstance(content, Readable):
        while piece := content.read(size):
            yield piece
    elif isinstance(content, AsyncIterable):
        raise TypeError("an asynchronous iterator needs AsyncClient")
    else:
        yield from content
