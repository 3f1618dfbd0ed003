# Made by `dev.py generate` from _async/inflate.py; do not edit.
"""Bytes of a gzip stream, in as many as are asked for: at most a piece of input and one of output are held."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ..errors import ProtocolError

OUTPUT_BYTES = 256 << 10
# zlib's sign for a gzip header.
GZIP = 16 + zlib.MAX_WBITS


class Inflated:
    """Reads from pieces of a gzip stream, which may be several in a row."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._inflate = zlib.decompressobj(GZIP)
        self._input: bytes = b""
        self._ready: bytes = b""
        self._at = 0
        self._begun = False

    def ended(self) -> bool:
        """Whether there is nothing more."""
        if self._at == len(self._ready):
            self._ready, self._at = self._more(), 0
        return not self._ready

    def some(self, most: int) -> bytes:
        """At least one byte, at most so many; none at the end."""
        self.ended()
        piece = self._ready[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def exactly(self, size: int) -> bytes:
        """So many bytes; `ProtocolError` when there are fewer."""
        parts: list[bytes] = []
        missing = size
        while missing:
            part = self.some(missing)
            if not part:
                raise ProtocolError("the diff is cut off", started=True)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Leaves so many bytes out."""
        while size:
            part = self.some(size)
            if not part:
                raise ProtocolError("the diff is cut off", started=True)
            size -= len(part)

    def drain(self) -> None:
        """To the end, so that its checksum is checked."""
        while self.some(OUTPUT_BYTES):
            pass

    def _more(self) -> bytes:
        """The next output, of bounded size; none at the end."""
        while True:
            if self._inflate.eof:
                self._input = self._inflate.unused_data or self._input
                self._inflate, self._begun = zlib.decompressobj(GZIP), False
            if not self._input:
                self._input = next(self._pieces, b"")
                if not self._input:
                    if self._begun:
                        raise ProtocolError("the diff is cut off", started=True)
                    return b""
            self._begun = True
            try:
                made = self._inflate.decompress(self._input, OUTPUT_BYTES)
            except zlib.error as error:
                raise ProtocolError(f"the diff is damaged: {error}", started=True) from None
            self._input = self._inflate.unconsumed_tail
            if made:
                return made
