"""What is in the blocks of a tar that say what follows: headers, PAX records, maps of sparse files.

Formats: POSIX.1-2017 `pax`; "Storing Sparse Files" in the manual of GNU tar; GNU long names, which other servers may
write. Everything here is data from a stranger: sizes are bounded, numbers checked, and what is wrong is `ProtocolError`.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field

from .errors import ProtocolError

BLOCK = 512
# Records and long names: a path has at most 4,096 bytes, all attributes of a file 64 KiB each.
EXTRA_BYTES_MAX = 1 << 20
# Segments of one sparse file; servers write at most 65,536.
SEGMENTS_MAX = 1 << 17
# Of a 64-bit number.
DIGITS_MAX = 20

KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}
RECORDS, LONG_NAME, LONG_LINK, GLOBAL = b"x", b"L", b"K", b"g"
REMOVED, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass
class Head:
    """One header, with what the ones before it said about it."""

    kind: str
    path: str
    target: str
    mode: int
    uid: int
    gid: int
    mtime: float
    # Of a file as it is read, and of what is stored of it.
    size: int
    stored: int
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    # A map of segments comes before the content.
    mapped: bool = False


def raw(block: bytes) -> tarfile.TarInfo | None:
    """A header as it is; None for the end of the archive."""
    if not any(block):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ProtocolError(f"the diff is damaged: {error}", started=True) from None
    if info.size < 0:
        raise ProtocolError("the diff is damaged: an entry of negative size", started=True)
    return info


def head(info: tarfile.TarInfo, records: dict[str, bytes]) -> Head:
    """A header, corrected by the records before it."""
    kind = KINDS.get(info.type)
    if kind is None:
        raise ProtocolError(f"the diff has an entry of unknown type {info.type!r}", started=True)
    mapped = "GNU.sparse.major" in records
    if mapped and (records["GNU.sparse.major"], records.get("GNU.sparse.minor")) != (b"1", b"0"):
        raise ProtocolError("the diff has a sparse file of another format than 1.0", started=True)
    stored = _number(records, "size", info.size)
    path = _text(records, "GNU.sparse.name") or _text(records, "path") or info.name
    found = Head(
        kind=kind,
        path=path.removeprefix("./").rstrip("/") or ".",
        target=_text(records, "linkpath") or info.linkname,
        mode=info.mode & 0o7777,
        uid=_number(records, "uid", info.uid),
        gid=_number(records, "gid", info.gid),
        mtime=_time(records, info.mtime),
        size=_number(records, "GNU.sparse.realsize", stored) if mapped else stored,
        stored=stored,
        xattrs={name[len("SCHILY.xattr.") :]: value for name, value in records.items() if name.startswith("SCHILY.xattr.")},
        mapped=mapped,
    )
    if kind != "file":
        # Others have no content, whatever their size says, except what an odd writer puts there.
        found.size = found.stored = stored if kind == "hardlink" else 0
    return _whiteout(found)


def records(data: bytes) -> dict[str, bytes]:
    """PAX records: `LENGTH NAME=VALUE` and a line end, each."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        number, space, _ = data[at : at + 20].partition(b" ")
        if not space or not number.isdigit() or int(number) < len(number) + 3 or at + int(number) > len(data):
            raise ProtocolError("the diff is damaged: a record of wrong length", started=True)
        name, equals, value = data[at + len(number) + 1 : at + int(number) - 1].partition(b"=")
        if not equals:
            raise ProtocolError("the diff is damaged: a record without a value", started=True)
        found[name.decode("utf-8", "surrogateescape")] = value
        at += int(number)
    return found


def text(data: bytes) -> bytes:
    """A GNU long name."""
    return data.partition(b"\0")[0]


def numbers(lines: list[bytes]) -> list[int]:
    """The lines of a map."""
    if not all(line.isdigit() and len(line) <= DIGITS_MAX for line in lines):
        raise ProtocolError("the diff is damaged: a sparse file's map is no list of numbers", started=True)
    return [int(line) for line in lines]


def segments(numbers: list[int], size: int) -> list[tuple[int, int]]:
    """Offset and length of each segment: in order, none over another, none beyond the file."""
    found: list[tuple[int, int]] = []
    end = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or offset + length > size:
            raise ProtocolError("the diff is damaged: a sparse file's segments are out of order", started=True)
        end = offset + length
        if length:
            found.append((offset, length))
    return found


def _whiteout(found: Head) -> Head:
    directory, slash, name = found.path.rpartition("/")
    if name == OPAQUE:
        found.kind, found.path = "opaque", directory or "."
    elif name.startswith(REMOVED):
        found.kind, found.path = "removed", directory + slash + name[len(REMOVED) :]
    return found


def _text(records: dict[str, bytes], name: str) -> str:
    return records.get(name, b"").decode("utf-8", "surrogateescape")


def _number(records: dict[str, bytes], name: str, otherwise: int) -> int:
    if name not in records:
        return otherwise
    if not records[name].isdigit() or len(records[name]) > DIGITS_MAX:
        raise ProtocolError(f"the diff is damaged: {name} is not a number", started=True)
    return int(records[name])


def _time(records: dict[str, bytes], otherwise: float) -> float:
    try:
        return float(records["mtime"]) if "mtime" in records else float(otherwise)
    except ValueError:
        raise ProtocolError("the diff is damaged: mtime is not a number", started=True) from None
