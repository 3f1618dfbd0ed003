"""What calls give: plain values, all immutable."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from . import errors

Source = Literal["stdout", "stderr"]


class EndReason(enum.Enum):
    """What ended a run."""

    UNKNOWN = "unknown"
    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    NOT_RUN = "not run"
    LOG_LIMIT = "log limit"
    DRAINED = "drained"
    NOT_KEPT = "not kept"


@dataclass(frozen=True, slots=True)
class LogChunk:
    """What the command wrote, as it wrote it: not cut at line ends."""

    source: Source
    data: bytes

    @property
    def text(self) -> str:
        """As UTF-8; what is not is replaced."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without its end. One of more than 1 MiB comes in pieces."""

    source: Source
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used. Times in seconds; 0 where a node does not know."""

    wall: float = 0.0
    cpu: float = 0.0
    memory_peak_bytes: int = 0
    # From the request until the command ran, and the part of it for the image.
    startup: float = 0.0
    image: float = 0.0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run ran on with its changes over it, as a flist: `flist` of another run."""

    digest: str
    entries: int = 0
    # Sum of the files' sizes; bytes in stores, compressed and without duplicates. Both are of all of it, what the run ran on
    # included.
    bytes: int = 0
    bytes_stored: int = 0
    # That hold it, without credentials.
    stores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    exit_code: int
    success: bool = True
    error: str = ""
    reason: EndReason = EndReason.UNKNOWN
    signal: int = 0
    usage: Usage = Usage()
    # With the option `keep`, of a run that succeeded.
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where a run runs, and on what."""

    node: str = ""
    request_id: str = ""
    flist_digest: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """A run that ended, with what it wrote."""

    result: Result
    accepted: Accepted
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""
    # Bytes of logs that were not kept, from the middle of what was written.
    dropped_bytes: int = 0
    # The files asked for by `outputs`, of those that the command left changed or new.
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def exit_code(self) -> int:
        """The command's own, or 126, 127, 128 + signal."""
        return self.result.exit_code

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.result.success

    @property
    def error(self) -> str:
        """Empty, or why it did not succeed: how it ended, and after "; " each limit that it hit on the way."""
        return self.result.error

    @property
    def reason(self) -> EndReason:
        """What ended it."""
        return self.result.reason

    @property
    def usage(self) -> Usage:
        """What it used."""
        return self.result.usage

    @property
    def kept(self) -> Kept | None:
        """With the option `keep`, of a run that succeeded: what it left."""
        return self.result.kept

    @property
    def stdout(self) -> str:
        """Standard output as UTF-8; what is not is replaced."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as UTF-8; what is not is replaced."""
        return self.stderr_bytes.decode(errors="replace")

    def check(self) -> Completed:
        """Itself, or raises `CommandFailed`."""
        if not self.ok:
            raise errors.CommandFailed(self)
        return self


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """Limits and use of what runs commands: of one node, or of all behind a proxy."""

    running: int
    limit_cpu: int
    limit_memory_mb: int
    used_cpu: int
    used_memory_mb: int
    available_cpu: int
    available_memory_mb: int
    node: str = ""
    version: str = ""
    draining: bool = False
    warm_images: tuple[str, ...] = ()
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that a node keeps."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Layerstore:
    """A node that keeps layers."""

    node: str
    endpoint: str
    # Seconds since the Unix epoch.
    last_seen: int
    cache_bytes_max: int
    layers: tuple[Layer, ...]
    cached_images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Afslet:
    """A node that runs commands, as its proxy sees it. `error` says why it is not `reachable`."""

    endpoint: str
    reachable: bool
    error: str
    runtime: RuntimeStatus


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be asked, and why."""

    source: str
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """What is in the cluster. The numbers count everything, the lists have what was asked for."""

    layerstore_count: int = 0
    afslet_count: int = 0
    afslet_reachable: int = 0
    layer_count: int = 0
    layerstores: tuple[Layerstore, ...] = ()
    afslets: tuple[Afslet, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """The nodes that have one layer: name and address."""

    digest: str
    nodes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Replication:
    """What became of bringing an image's layers to nodes."""

    image_key: str
    before: int
    requested: int
    ensured: bool
    layers: tuple[Placement, ...]
