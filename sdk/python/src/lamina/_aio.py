"""What the asyncio client needs of its surroundings; `_threads` has the same for the blocking one.

`dev.py generate` replaces this module by that one, so both have the same names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import grpc.aio

from . import _channel
from ._channel import CancelledHere
from ._wire import afslet_pb2 as pb
from .options import Readable, Tls

T = TypeVar("T")
RunT = TypeVar("RunT", bound="_Context")
Event = asyncio.Event
Channel = grpc.aio.Channel
sleep = asyncio.sleep
to_thread = asyncio.to_thread


class _Context(Protocol):
    """What `Opening` opens."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Opening(Generic[RunT]):
    """Something that is being opened: `await` it, or enter it with `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, RunT]) -> None:
        self._opening = opening
        self._opened: RunT | None = None

    def __await__(self) -> Generator[Any, None, RunT]:
        return self._opening.__await__()

    async def __aenter__(self) -> RunT:
        self._opened = await self._opening
        return self._opened

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)


def opening(coroutine: Coroutine[Any, Any, RunT]) -> Opening[RunT]:
    """Not begun before it is awaited or entered."""
    return Opening(coroutine)


class Timer:
    """Calls something once, later, unless cancelled."""

    def __init__(self, seconds: float, then: Callable[[], object]) -> None:
        self._handle = asyncio.get_running_loop().call_later(seconds, then)

    def cancel(self) -> None:
        """It is not called any more."""
        self._handle.cancel()


def channel(target: str | Sequence[str], tls: Tls | None) -> Channel:
    """A channel that connects when it is used."""
    address, options = _channel.target(target), _channel.options(tls)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, _channel.credentials(tls), options=options)


class Frames:
    """The messages of a call, with the status that it really ended with.

    grpc.aio forgets a server's status when a message is being written as it comes, and says `INTERNAL` instead, before or
    after it says the true one (https://github.com/grpc/grpc/issues/36066). So the first one is kept, and a second one waited for.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._frames: AsyncIterator[pb.ExecuteResponse] = aiter(call)
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    async def next(self, cancelled: Callable[[], bool]) -> pb.ExecuteResponse | None:
        """The next one, None at the end. `CancelledHere` when the call was cancelled, rather than this task."""
        try:
            return await anext(self._frames, None)
        except asyncio.CancelledError:
            # Python 3.10 does not tell who was cancelled.
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            if cancelling() if cancelling else not cancelled():
                raise
            raise CancelledHere from None
        except grpc.aio.AioRpcError as error:
            raise await self._true(error) from None

    def _ended(self, call: Any) -> None:
        # Older releases say each of them.
        if self._first is None or self._first.details() == FORGOTTEN:
            self._first = _status(call)

    async def _true(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        if error.details() != FORGOTTEN:
            return error
        for _ in range(FORGOTTEN_LOOKS):
            for status in (self._first, _status(self._call)):
                if status is not None and status.details() != FORGOTTEN:
                    return status
            await asyncio.sleep(FORGOTTEN_PAUSE)
        return error


# What grpc.aio says then. The true status is on its way: how often it is looked for, and the seconds between.
FORGOTTEN = "Internal error from Core"
FORGOTTEN_LOOKS = 200
FORGOTTEN_PAUSE = 0.005


def _status(call: Any) -> grpc.aio.AioRpcError | None:
    """The status that a call has now."""
    code = _now(call.code())
    if code is None:
        return None
    none = grpc.aio.Metadata()
    said = _now(call.initial_metadata()) or none, _now(call.trailing_metadata()) or none
    return grpc.aio.AioRpcError(code, *said, _now(call.details()))


def _now(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """What a coroutine gives that need not wait; None if it has to."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        given: T = end.value
        return given
    coroutine.close()
    return None


async def close(channel: Channel) -> None:
    """Ends a channel and its calls."""
    await channel.close()


async def pieces(content: Iterable[bytes] | AsyncIterable[bytes] | Readable, size: int) -> AsyncIterator[bytes]:
    """What an iterator or an open file gives."""
    if isinstance(content, Readable):
        while piece := await to_thread(content.read, size):
            yield piece
    elif isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
    else:
        for piece in content:
            yield piece
