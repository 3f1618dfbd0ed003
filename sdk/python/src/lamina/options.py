"""What callers say: how to reach a server, what to run, which files to put in. Checked here, before anything is sent."""

from __future__ import annotations

import ipaddress
import json
import numbers
import pathlib
import time
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, runtime_checkable

from . import _checks
from ._wire import afslet_pb2 as pb
from ._wire import node_pb2
from .errors import InvalidArgument

PROXY_NAME = "proxy.lamina.internal"
# As many as a proxy's own default.
DISPATCH_RETRIES_MAX = 20
AFSLET_NAME = "afslet.lamina.internal"


@runtime_checkable
class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


# Text is sent as UTF-8. What can be read once only is read once the run was accepted. `AsyncClient` takes asynchronous
# iterators, too.
Content: TypeAlias = bytes | bytearray | memoryview | str | pathlib.PurePath | Iterable[bytes] | AsyncIterable[bytes] | Readable
# All of them, as far as a look tells.
CONTENT = (pathlib.PurePath, Iterable, AsyncIterable, Readable)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file with its attributes. `mtime` is in seconds since the epoch; unless given, it is the local file's, or now.

    Servers know whole seconds, and take 0 for now: it is sent as 1.
    """

    content: Content
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory, empty or there already."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link."""

    target: str
    uid: int = 0
    gid: int = 0
    mtime: float | None = None


Entry: TypeAlias = File | Directory | Symlink
# By path inside. A local path may be a directory: everything in it is sent, links as links.
Files: TypeAlias = Mapping[str, Entry | Content]


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS: our certificate and key, whom we believe, and the name that the server's certificate must have."""

    ca: bytes
    cert: bytes | None = None
    key: bytes | None = None
    server_name: str = PROXY_NAME

    @classmethod
    def directory(cls, path: str | pathlib.PurePath, server_name: str = PROXY_NAME) -> Tls:
        """From `ca.crt`, `tls.crt` and `tls.key`, as `lamina certify` and Kubernetes write them."""
        home = pathlib.Path(path)
        ca, cert, key = ((home / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
        return cls(ca, cert, key, server_name)


@dataclass(frozen=True, slots=True)
class Retry:
    """How what did not start is tried again: pauses drawn at random up to `backoff`, doubled each time up to `backoff_max`.

    It ends with `start_timeout`, or after `attempts`.
    """

    attempts: int = 1000
    backoff: float = 0.1
    backoff_max: float = 5.0

    def pause_max(self, attempt: int) -> float:
        """The longest pause after that many attempts."""
        return min(self.backoff_max, self.backoff * 2.0 ** min(attempt - 1, 30))


class RunOptions(TypedDict, total=False):
    """What `execute` and `run` take beside image and command."""

    # Put into the root file system before the command runs.
    files: Files | None
    # Processors and mebibytes it may use, and that are reserved for it.
    cpu: int
    memory_mb: int
    # Seconds the command may run; None: as long as the node allows.
    timeout: float | None
    # Beside the image's.
    env: Mapping[str, str] | None
    # In place of the image's.
    entrypoint: Sequence[str]
    workdir: str
    user: str
    # "none": a loopback of its own. "host": the node's, where that is allowed.
    network: Literal["none", "host"]
    # Capabilities beside none, by name ("CHOWN", "CAP_SETUID"); those that a node does not lend are refused.
    cap_add: Sequence[str]
    # Mebibytes of changes; processes and threads. 0: the node's default.
    disk_mb: int
    pids_max: int
    # A docker config.json for the image's registry, as bytes, as text, as the file's path or as a dictionary.
    docker_config: bytes | str | pathlib.PurePath | Mapping[str, Any] | None
    # Another tag, or a digest; os/arch[/variant].
    tag: str
    platform: str
    # Run on this flist (64 hex digits) in place of an image, read from these stores.
    flist: str
    stores: Sequence[str]
    # Stores that get what the run leaves, as a flist, if it succeeds; stores that hold what it runs on.
    keep: Sequence[str]
    keep_base: Sequence[str]
    # Resolve the tag anew; run on this node only.
    refresh: bool
    node: str
    # For logs and events; made if empty.
    request_id: str
    # How often the proxy itself looks again for a place, and the seconds between, times the attempt's number. None: as often
    # as there is time for; then the client asks again.
    dispatch_retries: int | None
    dispatch_backoff: float
    # Seconds until it must have been accepted, all retries included; the client's unless given.
    start_timeout: float
    # Seconds until all of it must be over, its diff included; None: as long as it takes.
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can be asked for."""

    request: pb.StartRequest
    files: Mapping[str, Entry]
    start_timeout: float | None
    deadline: float | None


def run_options(
    image: str,
    command: Sequence[str],
    *,
    files: Files | None = None,
    cpu: int = 1,
    memory_mb: int = 512,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] = (),
    workdir: str = "",
    user: str = "",
    network: Literal["none", "host"] = "none",
    cap_add: Sequence[str] = (),
    disk_mb: int = 0,
    pids_max: int = 0,
    docker_config: bytes | str | pathlib.PurePath | Mapping[str, Any] | None = None,
    tag: str = "",
    platform: str = "",
    flist: str = "",
    stores: Sequence[str] = (),
    keep: Sequence[str] = (),
    keep_base: Sequence[str] = (),
    refresh: bool = False,
    node: str = "",
    request_id: str = "",
    dispatch_retries: int | None = None,
    dispatch_backoff: float = 0.05,
    start_timeout: float | None = None,
    deadline: float | None = None,
    diff: bool = True,
) -> Prepared:
    """`InvalidArgument` for what cannot be right; servers check the rest."""
    _checks.milliseconds("start_timeout", start_timeout)
    _checks.milliseconds("deadline", deadline)
    said = {"image": image, "workdir": workdir, "user": user, "tag": tag, "platform": platform, "flist": flist, "node": node}
    for what, text in {**said, "request_id": request_id}.items():
        _checks.text(what, text)
    if not image and not flist:
        raise InvalidArgument("an image or a flist is required")
    if flist and platform:
        raise InvalidArgument("platform: a flist is of one platform, that of the image it was made of")
    if network not in ("none", "host"):
        raise InvalidArgument(f'network must be "none" or "host", not {network!r}')
    system, architecture, variant = split_platform(platform)
    request = pb.StartRequest(
        image=image,
        tag=tag,
        command=_words("command", command),
        entrypoint=_words("entrypoint", entrypoint),
        cpu_cores=_checks.whole("cpu", cpu, 1),
        memory_mb=_checks.whole("memory_mb", memory_mb, 1),
        timeout_ms=_checks.milliseconds("timeout", timeout),
        env=[_variable(name, value) for name, value in _checks.mapping("env", env).items()],
        working_dir=workdir,
        user=user,
        network=pb.NETWORK_HOST if network == "host" else pb.NETWORK_NONE,
        cap_add=_words("cap_add", cap_add),
        disk_mb=_checks.whole("disk_mb", disk_mb, 0),
        pids_max=_checks.whole("pids_max", pids_max, 0),
        docker_config_json=_docker_config(docker_config),
        force_local_fetch=bool(refresh),
        node_id=node,
        request_id=request_id,
        # Proxies take 0 for their default.
        proxy_dispatch_max_retries=0
        if dispatch_retries is None
        else _checks.whole("dispatch_retries", dispatch_retries, 0) or -1,
        proxy_dispatch_backoff_ms=_checks.milliseconds("dispatch_backoff", dispatch_backoff, zero=True),
        diff=pb.DIFF_MODE_UNSPECIFIED if diff else pb.DIFF_MODE_NONE,
        platform_os=system,
        platform_arch=architecture,
        platform_variant=variant,
    )
    if flist:
        request.flist.CopyFrom(node_pb2.FlistSource(digest=flist, stores=_stores("stores", stores)))
    if keep:
        request.keep.CopyFrom(pb.Keep(stores=_stores("keep", keep), base_stores=_stores("keep_base", keep_base)))
    elif keep_base:
        raise InvalidArgument("keep_base is of what is kept: name the stores that keep it in keep")
    entries = {path: entry_of(path, given) for path, given in _checks.mapping("files", files).items()}
    return Prepared(request, entries, start_timeout, deadline)


def dispatch_retries(start_timeout: float, backoff: float) -> int:
    """How often a proxy can look for a place so that its refusal comes before our patience ends; -1 for not at all."""
    retries, waited = 0, 0.0
    while retries < DISPATCH_RETRIES_MAX and waited + backoff * (retries + 1) <= start_timeout / 2:
        retries += 1
        waited += backoff * retries
    return retries or -1


def secrets(request: pb.StartRequest) -> list[str]:
    """The options that say a secret."""
    said = {"docker_config": bool(request.docker_config_json)}
    given = {"stores": request.flist.stores, "keep": request.keep.stores, "keep_base": request.keep.base_stores}
    said |= {name: any("@" in url.partition("://")[2].partition("/")[0] for url in urls) for name, urls in given.items()}
    return [name for name, is_said in said.items() if is_said]


def split_platform(platform: str) -> tuple[str, str, str]:
    """The parts of os/arch[/variant]; empty ones mean the node's own."""
    _checks.text("platform", platform)
    parts = platform.split("/") if platform else []
    if len(parts) == 1 or len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"platform must be os/arch[/variant], not {platform!r}")
    system, architecture, variant = (*parts, "", "", "")[:3]
    return system, architecture, variant


def entry_of(path: str, given: Entry | Content) -> Entry:
    """What is to be at a path, with its attributes."""
    _checks.text("a path in files", path)
    if not path or "\0" in path or ".." in path.split("/"):
        raise InvalidArgument(f"not a path inside: {path!r}")
    entry = given if isinstance(given, File | Directory | Symlink) else File(given)
    at = f"files[{path!r}]"
    for what, number in (("uid", entry.uid), ("gid", entry.gid)):
        _checks.whole(f"{at}.{what}", number, 0)
    if isinstance(entry, Symlink):
        _checks.text(f"{at}.target", entry.target)
    elif entry.mode is not None:
        _checks.whole(f"{at}.mode", entry.mode, 0)
    if isinstance(entry, File):
        _checks.kind(at, entry.content, CONTENT, "bytes, text, a local path, an open file or an iterator of bytes")
    if entry.mtime is not None:
        _checks.kind(f"{at}.mtime", entry.mtime, numbers.Real, "a number of seconds")
    return entry


def seconds(mtime: float | None) -> int:
    """A time as the wire has it, to which 0 is none: a second later then; now unless given."""
    return int(time.time() if mtime is None else mtime) or 1


def is_local(address: str | Sequence[str]) -> bool:
    """Whether all of these addresses are of this machine."""
    addresses = [address] if isinstance(address, str) else address
    return all(_is_local(one) for one in addresses)


def _is_local(address: str) -> bool:
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(what: str, words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise InvalidArgument(f'{what} is a list of words; for a shell line say ["sh", "-c", {words!r}]')
    return _checks.words(what, words, "a list of words")


def _stores(what: str, urls: Sequence[str]) -> list[str]:
    return _checks.words(what, urls, "a list of stores")


def _variable(name: str, value: str) -> str:
    _checks.text("a name in env", name)
    _checks.text(f"env[{name!r}]", value)
    if not name or "=" in name or "\0" in name + value:
        raise InvalidArgument(f"not a variable: {name!r}")
    return f"{name}={value}"


def _docker_config(given: bytes | str | pathlib.PurePath | Mapping[str, Any] | None) -> bytes:
    if given is None:
        return b""
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, pathlib.PurePath):
        return pathlib.Path(given).read_bytes()
    return json.dumps(_checks.mapping("docker_config", given)).encode()
