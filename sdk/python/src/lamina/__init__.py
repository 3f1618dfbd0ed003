"""Lamina: commands in fresh sandboxes made of container images.

`Client` blocks, `AsyncClient` is the same for asyncio. Both talk to a proxy of a cluster, or to one node.
"""

from ._async.client import AsyncClient
from ._async.diff import AsyncDiff, AsyncDiffEntry
from ._async.run import AsyncRun
from ._sync.client import Client
from ._sync.diff import Diff, DiffEntry
from ._sync.run import Run
from .errors import (
    Cancelled,
    CommandFailed,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    LaminaError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    ResourceExhausted,
    RunLost,
    ServerError,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from .models import (
    Accepted,
    Afslet,
    Completed,
    EndReason,
    Kept,
    Layer,
    Layerstore,
    LogChunk,
    LogLine,
    Placement,
    Problem,
    Replication,
    Result,
    RuntimeStatus,
    Status,
    Usage,
)
from .options import AFSLET_NAME, PROXY_NAME, Content, Directory, Entry, File, Files, Retry, RunOptions, Symlink, Tls

__version__ = "0.1.0"

__all__ = [
    "AFSLET_NAME",
    "PROXY_NAME",
    "Accepted",
    "Afslet",
    "AsyncClient",
    "AsyncDiff",
    "AsyncDiffEntry",
    "AsyncRun",
    "Cancelled",
    "Client",
    "CommandFailed",
    "Completed",
    "Content",
    "Diff",
    "DiffEntry",
    "Directory",
    "EndReason",
    "Entry",
    "FailedPrecondition",
    "File",
    "Files",
    "ImageNotFound",
    "InvalidArgument",
    "Kept",
    "LaminaError",
    "Layer",
    "Layerstore",
    "LogChunk",
    "LogLine",
    "NotFound",
    "PermissionDenied",
    "Placement",
    "Problem",
    "ProtocolError",
    "Replication",
    "ResourceExhausted",
    "Result",
    "Retry",
    "Run",
    "RunLost",
    "RunOptions",
    "RuntimeStatus",
    "ServerError",
    "Status",
    "Symlink",
    "Timeout",
    "Tls",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]
