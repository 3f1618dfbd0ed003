"""The beginning and the end of a long output, in bounded memory; and lines out of pieces."""

from __future__ import annotations

from collections.abc import Iterator

from .models import LogChunk, LogLine, Source

LINE_BYTES_MAX = 1 << 20


class Kept:
    """At most `limit` bytes: the first half and the last half of what was written. Twice as many while it goes on."""

    def __init__(self, limit: int) -> None:
        self._half = max(0, limit) // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._all = 0

    def add(self, data: bytes) -> None:
        """Takes the next piece."""
        self._all += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            self._trim()

    def content(self) -> bytes:
        """What was kept."""
        self._trim()
        return bytes(self._head + self._tail)

    @property
    def dropped(self) -> int:
        """How many bytes are missing in the middle of it."""
        return max(0, self._all - 2 * self._half)

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._half)]


class Lines:
    """Cuts each source's pieces at line ends."""

    def __init__(self) -> None:
        self._begun: dict[Source, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def add(self, chunk: LogChunk) -> Iterator[LogLine]:
        """The lines that end in this piece; what is too long without an end, too."""
        begun = self._begun[chunk.source]
        first, *others = chunk.data.split(b"\n")
        begun += first
        for other in others:
            yield self._take(chunk.source)
            begun += other
        if len(begun) > LINE_BYTES_MAX:
            yield self._take(chunk.source)

    def end(self) -> Iterator[LogLine]:
        """Last lines that have no end."""
        for source, rest in self._begun.items():
            if rest:
                yield self._take(source)

    def _take(self, source: Source) -> LogLine:
        begun = self._begun[source]
        line = LogLine(source, begun.decode(errors="replace"))
        begun.clear()
        return line
