# Made by `dev.py generate` from _async/diff.py; do not edit.
"""What a run changed, as a stream that can be read once: entry by entry, or as the tar.gz that it is.

At most a few pieces of it are in memory, whatever its size. Nothing of it is written anywhere but where `save` is
told to.
"""

from __future__ import annotations

import os
import pathlib
import secrets
from collections.abc import Generator, Iterator, Callable, Iterable
from typing import IO

from .. import _threads as _io
from .. import _checks
from .. import _tarhead as tar
from ..errors import InvalidArgument, NotFound, ProtocolError, TooLarge
from .inflate import Inflated

PIECE_BYTES = 256 << 10
READ_BYTES_MAX = 64 << 20


class DiffEntry:
    """One file, link, directory, device, or removal among the changes.

    `kind` is file, directory, symlink, hardlink, fifo, character device, block device, removed (the image's entry of that name
    is gone) or opaque (all that the image has in this directory is hidden). `path` has no leading slash.
    """

    def __init__(self, head: tar.Head, data: Inflated) -> None:
        self.kind = head.kind
        self.path = head.path
        # Of links.
        self.target = head.target
        self.mode = head.mode
        self.uid = head.uid
        self.gid = head.gid
        self.mtime = head.mtime
        self.size = head.size
        self.xattrs = head.xattrs
        self._data = data
        self._mapped = head.mapped
        # Stored bytes that were not read yet, and what fills their last block.
        self._left = head.stored
        self._padding = -head.stored % tar.BLOCK
        self._begun = self._over = False

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path!r}, {self.size} bytes>"

    def segments(self) -> Generator[tuple[int, bytes], None, None]:
        """The content as offset and bytes, without the holes of a sparse file. Only until the next entry, and once."""
        if self._begun:
            raise RuntimeError("this entry was read before, or the stream has gone on")
        self._begun = True
        for offset, length in self._map():
            done = 0
            while done < length:
                if self._over:
                    raise RuntimeError("the stream has gone on to the next entry")
                piece = self._data.some(min(length - done, PIECE_BYTES))
                if not piece:
                    raise ProtocolError("the diff is cut off", started=True)
                self._left -= len(piece)
                yield offset + done, piece
                done += len(piece)

    def chunks(self) -> Generator[bytes, None, None]:
        """The content, holes as zeros. Only until the next entry, and once."""
        at = 0
        for offset, piece in self.segments():
            for zeros in _zeros(offset - at):
                yield zeros
            yield piece
            at = offset + len(piece)
        for zeros in _zeros(self.size - at):
            yield zeros

    def read(self, limit: int = READ_BYTES_MAX) -> bytes:
        """All of it; `TooLarge` beyond the limit. Only until the next entry, and once."""
        if self.size > limit:
            raise TooLarge(f"{self.path} has {self.size} bytes, more than {limit}", started=True)
        return b"".join([piece for piece in self.chunks()])

    def _map(self) -> list[tuple[int, int]]:
        """Where the stored bytes belong. In front of a sparse file's is a list of numbers, a line each, in whole blocks."""
        if not self._mapped:
            return [(0, self._left)]
        numbers: list[int] = []
        rest = b""
        while not numbers or len(numbers) < 1 + 2 * numbers[0]:
            if self._left < tar.BLOCK or len(numbers) > 1 + 2 * tar.SEGMENTS_MAX or len(rest) > tar.DIGITS_MAX:
                raise ProtocolError("the diff is damaged: a sparse file's map does not end", started=True)
            *lines, rest = (rest + self._data.exactly(tar.BLOCK)).split(b"\n")
            self._left -= tar.BLOCK
            numbers += tar.numbers(lines)
        segments = tar.segments(numbers[1 : 1 + 2 * numbers[0]], self.size)
        if sum(length for _, length in segments) != self._left:
            raise ProtocolError("the diff is damaged: a sparse file's map does not fit it", started=True)
        return segments

    def skip(self) -> None:
        """To where the next entry begins; done by the stream itself."""
        self._begun = self._over = True
        self._data.skip(self._left + self._padding)
        self._left = self._padding = 0


class Diff:
    """The changes of one run. Iterate over it, or `save` it, or `read` files of it: it comes once."""

    def __init__(self, pieces: Callable[[], Generator[bytes, None, None]]) -> None:
        self._pieces = pieces
        self._begun = False
        # Known at its end: changes that cannot be in it, such as sockets, and the first of their names.
        self.left_out = 0
        self.left_out_names: tuple[str, ...] = ()

    def chunks(self) -> Generator[bytes, None, None]:
        """The tar.gz as it comes; nothing when the run was asked for none."""
        if self._begun:
            raise RuntimeError("the diff comes once, and was read before")
        self._begun = True
        return self._pieces()

    def __iter__(self) -> Iterator[DiffEntry]:
        """Every entry; what was not read of one is skipped."""
        data = Inflated(self.chunks())
        while not data.ended() and (head := _head(data)) is not None:
            entry = DiffEntry(head, data)
            yield entry
            entry.skip()
        data.drain()

    def save(self, path: str | pathlib.PurePath) -> int:
        """Writes the tar.gz to a file, whole or not at all, and gives its size."""
        whole = pathlib.Path(path)
        part = whole.with_name(f".{whole.name}.{secrets.token_hex(8)}.part")
        size = 0
        try:
            # Here, not in a thread: one that opened after this was cancelled would leave a file.
            with part.open("xb") as file:
                for piece in self.chunks():
                    _io.to_thread(file.write, piece)
                    size += len(piece)
                _io.to_thread(_settle, file)
            _io.to_thread(part.replace, whole)
        finally:
            part.unlink(missing_ok=True)
        return size

    def read(self, path: str, limit: int = READ_BYTES_MAX) -> bytes:
        """The content of one file; `NotFound` when it was not changed. The stream ends there for others."""
        for entry in self:
            if entry.path == _inside(path):
                if entry.kind == "hardlink":
                    raise _elsewhere(entry)
                if entry.kind == "file":
                    return entry.read(limit)
        raise NotFound(f"{path} is not a file among the changes", started=True)

    def files(self, paths: Iterable[str], limit: int = READ_BYTES_MAX) -> dict[str, bytes]:
        """The contents of those of these files, and of all files in those of these directories, that were changed.

        By path with a leading slash. `TooLarge` when they have more bytes than `limit` in all.
        """
        wanted = [_inside(path) for path in paths]
        found: dict[str, bytes] = {}
        for entry in self:
            if not any(_is_below(entry.path, path) for path in wanted):
                continue
            if entry.kind == "file":
                found["/" + entry.path] = content = entry.read(limit)
                limit -= len(content)
            elif entry.kind == "hardlink":
                if "/" + entry.target not in found:
                    raise _elsewhere(entry)
                found["/" + entry.path] = found["/" + entry.target]
        return found

    def finished(self, left_out: int, names: Iterable[str]) -> None:
        """What the server said at its end."""
        self.left_out, self.left_out_names = left_out, tuple(names)


def _head(data: Inflated) -> tar.Head | None:
    """The next entry's header, with all that is said before it; None at the end."""
    said: dict[str, bytes] = {}
    while (info := tar.raw(data.exactly(tar.BLOCK))) is not None:
        if info.type not in (tar.RECORDS, tar.LONG_NAME, tar.LONG_LINK, tar.GLOBAL):
            return tar.head(info, said)
        if info.size > tar.EXTRA_BYTES_MAX:
            raise ProtocolError("the diff is damaged: records without end", started=True)
        extra = data.exactly(info.size)
        data.skip(-info.size % tar.BLOCK)
        if info.type == tar.RECORDS:
            said.update(tar.records(extra))
        elif info.type != tar.GLOBAL:
            said["path" if info.type == tar.LONG_NAME else "linkpath"] = tar.text(extra)
    return None


def _elsewhere(entry: DiffEntry) -> NotFound:
    return NotFound(f"/{entry.path} is another name of /{entry.target}, which has the content: ask for that", started=True)


def _inside(path: str) -> str:
    """As entries are named."""
    return path.strip("/") or "."


def _is_below(path: str, directory: str) -> bool:
    return directory in (".", path) or path.startswith(directory + "/")


def _zeros(count: int) -> Iterable[bytes]:
    while count > 0:
        piece = min(count, PIECE_BYTES)
        yield bytes(piece)
        count -= piece


def check_target(path: str | pathlib.PurePath) -> None:
    """Says of a file to be saved to, before anything runs, that it cannot be."""
    _checks.kind("save_diff", path, (str, pathlib.PurePath), "a local path")
    whole = pathlib.Path(path)
    if not whole.parent.is_dir():
        raise InvalidArgument(f"save_diff: there is no directory {whole.parent}")
    if not whole.name or (whole.exists() and not whole.is_file()):
        raise InvalidArgument(f"save_diff: {whole} is no file")
    if not os.access(whole.parent, os.W_OK | os.X_OK):
        raise InvalidArgument(f"save_diff: no file can be made in {whole.parent}")


def _settle(file: IO[bytes]) -> None:
    """Has it on disk, before it gets its name."""
    file.flush()
    os.fsync(file.fileno())
