"""A run that was accepted: its logs, then its result, then its diff, in the order in which they come.

Who asks for something passes over what comes before it: `result` drops logs that were not read, `diff` waits for the
result. Nothing is read ahead of who asks, so that a reader who pauses makes the command wait in the end. One task or
thread reads at a time. Leaving the context ends the run, if it has not ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from .. import _aio as _io
from .. import _values, errors
from .._channel import CancelledHere
from .._kept import Lines
from .._wire import afslet_pb2 as pb
from ..models import Accepted, LogChunk, LogLine, Result
from .diff import AsyncDiff
from .upload import AsyncUpload

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._channel import ExecuteCall


class AsyncRun:
    """Made by `execute`."""

    def __init__(self, call: ExecuteCall, upload: AsyncUpload, with_diff: bool) -> None:
        self._call = call
        self._frames = _io.Frames(call)
        self._upload = upload
        self._with_diff = with_diff
        # Whether it was accepted in time; what says that it was not may come from another thread at any moment.
        self._deciding = threading.Lock()
        self._accepted: Accepted | None = None
        self._result: Result | None = None
        self._reading = False
        self._over = False
        # Why the call was cancelled, if it was from here.
        self._why: errors.LaminaError | None = None
        self.diff = AsyncDiff(self._tar)
        upload.attach(call.cancel)

    @property
    def accepted(self) -> Accepted:
        """Where it runs, and on what."""
        return self._accepted or Accepted()

    async def logs(self) -> AsyncGenerator[LogChunk, None]:
        """What the command writes, as it does."""
        while self._result is None:
            frame = await self._next()
            if frame.HasField("log"):
                yield _values.log(frame.log)

    async def lines(self) -> AsyncGenerator[LogLine, None]:
        """The same line by line; what is not UTF-8 is replaced."""
        lines = Lines()
        async for chunk in self.logs():
            for line in lines.add(chunk):
                yield line
        for line in lines.end():
            yield line

    async def result(self) -> Result:
        """How it ended, once it has."""
        while self._result is None:
            await self._next()
        if not self._with_diff:
            # It has come, and no end of the stream takes it back.
            with contextlib.suppress(errors.LaminaError):
                async for _ in self._tar():
                    pass
        return self._result

    def cancel(self) -> None:
        """Ends it; who reads gets `Cancelled`. Nothing happens when it has ended."""
        self._stop(errors.Cancelled("the run was cancelled", started=self._accepted is not None))

    async def begin(self) -> None:
        """Waits until it is accepted; `execute` does."""
        frame = await self._receive()
        if frame is None or not frame.accepted.accepted:
            said = "nothing" if frame is None else frame.WhichOneof("payload") or "something unknown"
            raise errors.ProtocolError(f"a run begins with its acceptance, and here came {said}")
        with self._deciding:
            if self._why is not None:
                raise self._why
            self._accepted = _values.accepted(frame.accepted)
        self._upload.accepted()

    def expire(self, message: str) -> None:
        """Ends it because it was not accepted in time. Nothing happens when it was."""
        with self._deciding:
            if self._accepted is None:
                self._stop(errors.Timeout(message))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.cancel()

    async def _next(self) -> pb.ExecuteResponse:
        """The next message before or with the result."""
        frame = await self._receive()
        if frame is None:
            raise errors.RunLost("the run ended without a result", started=True)
        if frame.HasField("result"):
            self._result = _values.result(frame.result)
        elif frame.WhichOneof("payload") not in ("log", None):
            raise self._disorder(frame)
        return frame

    async def _tar(self) -> AsyncGenerator[bytes, None]:
        """The diff's bytes, up to the end of the stream."""
        while self._result is None:
            await self._next()
        size = 0
        while not self._over:
            frame = await self._receive()
            if frame is None:
                raise errors.RunLost("the diff was cut off", started=True)
            if frame.HasField("tar_chunk"):
                size += len(frame.tar_chunk.data)
                if frame.tar_chunk.data:
                    yield frame.tar_chunk.data
            elif frame.HasField("done"):
                await self._done(frame.done, size)
            elif frame.WhichOneof("payload") not in ("tar_header", None):
                raise self._disorder(frame)

    async def _done(self, done: pb.Done, size: int) -> None:
        if done.diff_bytes not in (0, size):
            raise errors.ProtocolError(f"the diff has {size} bytes, and {done.diff_bytes} were said", started=True)
        self.diff.finished(done.left_out, done.left_out_names)
        # The status that ends the call, so that it ends in good order.
        while await self._receive() is not None:
            pass

    async def _receive(self) -> pb.ExecuteResponse | None:
        """The next message; None at the end of the stream."""
        if self._why is not None:
            raise self._why
        if self._over:
            return None
        if self._reading:
            raise RuntimeError("another task or thread is reading this run")
        self._reading = True
        frame: pb.ExecuteResponse | None = None
        try:
            frame = await self._frames.next(lambda: self._why is not None or self._upload.error is not None)
        except CancelledHere:
            raise self._cancelled() from self._upload.error
        except grpc.RpcError as error:
            raise self._cancelled(error) from self._upload.error
        except BaseException:
            # An interrupt, say: the call has not ended by itself, and what it said is lost.
            self.cancel()
            raise
        finally:
            self._reading = False
            if frame is None:
                self._end()
        return frame

    def _cancelled(self, error: grpc.RpcError | None = None) -> Exception:
        """What to raise for a call that failed."""
        if self._upload.error is not None:
            return self._upload.error
        if self._why is None and error is not None:
            return errors.of_status(error, image=True, accepted=self._accepted is not None)
        return self._why or errors.Cancelled("the client was closed", started=self._accepted is not None)

    def _stop(self, why: errors.LaminaError) -> None:
        if not self._over:
            self._why = why
            self._end()

    def _end(self) -> None:
        # First of all: the end of the upload would pass for the end of all files. A call that has ended stays as it is.
        self._call.cancel()
        self._upload.over()
        self._over = True

    def _disorder(self, frame: pb.ExecuteResponse) -> errors.ProtocolError:
        return errors.ProtocolError(f"{frame.WhichOneof('payload')} came out of order", started=True)
