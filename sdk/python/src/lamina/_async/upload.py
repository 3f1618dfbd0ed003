"""The client's half of a run's stream: `start`, then the files, piece by piece as the server takes them.

Nothing is held but one piece. What can be read again goes out at once, up to `EAGER_BYTES`, so that small runs wait
for nothing; the rest, and what can be read only once, waits for the server to have accepted the run: until then
it may be sent again, elsewhere.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, BinaryIO

from .. import _aio as _io
from .._wire import afslet_pb2 as pb
from ..errors import InvalidArgument
from ..options import Directory, Entry, File, Symlink, seconds

PIECE_BYTES = 256 << 10
# Less than a proxy keeps to send it to another node.
EAGER_BYTES = 512 << 10
# To the contract a mode of 0 says nothing; with the type beside it, it says that nobody may.
TYPE_BITS = {pb.FILE_TYPE_FILE: stat.S_IFREG, pb.FILE_TYPE_DIR: stat.S_IFDIR}
# Where the platform has them: a FIFO's writer is not waited for, and no link is followed.
NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)


class _Over(Exception):
    """Nobody wants the rest."""


class AsyncUpload:
    """What one attempt at a run sends."""

    def __init__(self, start: pb.StartRequest, files: Mapping[str, Entry]) -> None:
        self._start = start
        self._files = files
        self._accepted = _io.Event()
        self._over = False
        self._sent = 0
        # What reading the caller's files raised.
        self.error: Exception | None = None
        self._attached = _io.Event()
        self._cancel: Callable[[], object] | None = None

    def attach(self, cancel: Callable[[], object]) -> None:
        """Says what ends the call. Sending may have begun, in another thread."""
        self._cancel = cancel
        self._attached.set()

    def accepted(self) -> None:
        """Lets what waits go on."""
        self._accepted.set()

    def over(self) -> None:
        """The call has ended, or was cancelled: nothing waits any more, and nothing more is read."""
        self._over = True
        self._accepted.set()
        self._attached.set()

    async def frames(self) -> AsyncGenerator[pb.ExecuteRequest, None]:
        """Every message in order."""
        yield pb.ExecuteRequest(start=self._start)
        try:
            for path, entry in self._files.items():
                async for frame in self._entry(path, entry):
                    yield frame
            # With the end of the stream the command begins. Whoever has not accepted by now never had it run.
            await self._go_ahead()
        except _Over:
            # The call takes no end of its stream any more.
            return
        except Exception as error:
            self.error = error
            # Before it could look as if all had been sent.
            await self._attached.wait()
            if self._cancel is not None:
                self._cancel()

    async def _entry(self, path: str, entry: Entry) -> AsyncGenerator[pb.ExecuteRequest, None]:
        if isinstance(entry, File):
            if isinstance(entry.content, pathlib.PurePath):
                async for frame in self._local(path, entry, pathlib.Path(entry.content)):
                    yield frame
                return
            yield await self._begin(path, pb.FILE_TYPE_FILE, entry, 0o644 if entry.mode is None else entry.mode)
            async for frame in self._content(path, entry):
                yield frame
        elif isinstance(entry, Directory):
            yield await self._begin(path, pb.FILE_TYPE_DIR, entry, entry.mode)
        else:
            yield await self._begin(path, pb.FILE_TYPE_SYMLINK, entry, 0o777, target=entry.target)
        yield pb.ExecuteRequest(file_end=pb.FileEntryEnd())

    async def _begin(self, path: str, kind: pb.FileType, entry: Entry, mode: int, target: str = "") -> pb.ExecuteRequest:
        await self._may_send(len(path) + 64)
        begin = pb.FileEntryBegin(
            path=path,
            type=kind,
            mode=mode or TYPE_BITS[kind],
            uid=entry.uid,
            gid=entry.gid,
            mtime_unix=seconds(entry.mtime),
            symlink_target=target,
        )
        return pb.ExecuteRequest(file_begin=begin)

    async def _content(self, path: str, entry: File) -> AsyncGenerator[pb.ExecuteRequest, None]:
        content = entry.content
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, bytes | bytearray | memoryview):
            async for frame in self._split(path, content):
                yield frame
            return
        if isinstance(content, pathlib.PurePath):
            raise TypeError("a local path is sent as what it is")
        await self._go_ahead()
        async for piece in _io.pieces(content, PIECE_BYTES):
            async for frame in self._split(path, piece):
                yield frame

    async def _split(self, path: str, content: Any) -> AsyncGenerator[pb.ExecuteRequest, None]:
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(f"files[{path!r}] must give bytes, not {type(content).__name__}")
        view = memoryview(content).cast("B")  # pyright: ignore[reportUnknownArgumentType]
        for at in range(0, len(view), PIECE_BYTES):
            piece = bytes(view[at : at + PIECE_BYTES])
            await self._may_send(len(piece))
            yield pb.ExecuteRequest(file_chunk=pb.FileChunk(data=piece))

    async def _local(self, path: str, entry: File, local: pathlib.Path) -> AsyncGenerator[pb.ExecuteRequest, None]:
        """What is at a path of this machine. A link that the caller names is followed, those in directories are not."""
        found = await _io.to_thread(local.stat)
        if not stat.S_ISDIR(found.st_mode):
            async for frame in self._local_file(path, entry, local, found):
                yield frame
            return
        waiting = [(path, local, found)]
        while waiting:
            path, local, found = waiting.pop()
            attributes = Directory(_mode(found), entry.uid, entry.gid, _mtime(entry, found))
            async for frame in self._entry(path, attributes):
                yield frame
            below: list[tuple[str, pathlib.Path, os.stat_result]] = []
            for name, status in await _io.to_thread(_listed, local):
                inside, outside = f"{path.rstrip('/')}/{name}", local / name
                if stat.S_ISDIR(status.st_mode):
                    below.append((inside, outside, status))
                elif stat.S_ISLNK(status.st_mode):
                    link = Symlink(str(outside.readlink()), entry.uid, entry.gid, _mtime(entry, status))
                    async for frame in self._entry(inside, link):
                        yield frame
                else:
                    attributes_of_file = File(outside, None, entry.uid, entry.gid, entry.mtime)
                    async for frame in self._local_file(inside, attributes_of_file, outside, status, NOFOLLOW):
                        yield frame
            waiting.extend(reversed(below))

    async def _local_file(
        self, path: str, entry: File, local: pathlib.Path, found: os.stat_result, flags: int = 0
    ) -> AsyncGenerator[pb.ExecuteRequest, None]:
        # Some devices do something when they are opened, and what was found may have been exchanged until then.
        _check(local, found)
        with await _io.to_thread(_opened, local, flags) as file:
            found = os.fstat(file.fileno())
            _check(local, found)
            mode = _mode(found) if entry.mode is None else entry.mode
            attributes = File(b"", mode, entry.uid, entry.gid, _mtime(entry, found))
            yield await self._begin(path, pb.FILE_TYPE_FILE, attributes, mode)
            while piece := await _io.to_thread(file.read, PIECE_BYTES):
                await self._may_send(len(piece))
                yield pb.ExecuteRequest(file_chunk=pb.FileChunk(data=piece))
        yield pb.ExecuteRequest(file_end=pb.FileEntryEnd())

    async def _may_send(self, size: int) -> None:
        self._sent += size
        if self._sent > EAGER_BYTES:
            await self._go_ahead()

    async def _go_ahead(self) -> None:
        await self._accepted.wait()
        if self._over:
            raise _Over


def _listed(directory: pathlib.Path) -> list[tuple[str, os.stat_result]]:
    """What is in a directory, by name."""
    with os.scandir(directory) as found:
        return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in found)


def _opened(local: pathlib.Path, flags: int) -> BinaryIO:
    """A file for reading."""
    try:
        return open(local, "rb", opener=lambda path, reading: os.open(path, reading | flags | NONBLOCK))
    except OSError as error:
        # A link, a directory, a socket.
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise InvalidArgument(f"{local} is no file any more") from error
        raise


def _check(local: pathlib.Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidArgument(f"only files, directories and links can be sent, and {local} is none")


def _mode(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)


def _mtime(entry: File, found: os.stat_result) -> float:
    return found.st_mtime if entry.mtime is None else entry.mtime
