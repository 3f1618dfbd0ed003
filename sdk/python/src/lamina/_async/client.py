"""The client: what can be asked of a proxy, or of one node."""

from __future__ import annotations

import logging
import os
import pathlib
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc

from .. import _aio as _io
from .. import _channel, _checks, _values, errors
from .._kept import Kept
from .._wire import afslet_pb2 as pb
from .._wire import afsproxy_pb2 as proxypb
from ..models import Completed, LogChunk, Replication, RuntimeStatus, Status
from ..options import Prepared, Retry, RunOptions, Tls, dispatch_retries, is_local, run_options, secrets, split_platform
from .diff import check_target
from .run import AsyncRun
from .upload import AsyncUpload

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")
_log = logging.getLogger("lamina")
OUTPUT_BYTES_MAX = 16 << 20
FILES_BYTES_MAX = 64 << 20


class AsyncClient:
    """Talks to a proxy, `HOST:PORT`; several addresses are used in turn. Unless given, `LAMINA_PROXY` or this machine's.

    `tls` is a `Tls` or a directory of certificates, unless given `LAMINA_TLS_DIR`; without any nothing is encrypted, and
    credentials are sent to this machine only, unless `insecure` says otherwise. Connects when first used. Safe
    to share between tasks or threads.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        tls: Tls | str | pathlib.PurePath | None = None,
        insecure: bool = False,
        retry: Retry | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._address = _channel.address(address)
        _checks.kind("tls", tls, (Tls, str, pathlib.PurePath, type(None)), "a Tls, or a directory of certificates")
        _checks.kind("retry", retry, (Retry, type(None)), "a Retry")
        _checks.milliseconds("start_timeout", start_timeout)
        tls = tls or os.environ.get("LAMINA_TLS_DIR") or None
        self._tls = Tls.directory(tls) if isinstance(tls, str | pathlib.PurePath) else tls
        self._private = self._tls is not None or insecure or is_local(self._address)
        self._retry = retry or Retry()
        self._start_timeout = start_timeout
        self._lock = threading.Lock()
        self._calls: _channel.Calls[_io.Channel] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends every run and call of this client."""
        with self._lock:
            calls, self._calls, self._closed = self._calls, None, True
        if calls is not None:
            await _io.close(calls.channel)

    def execute(
        self, image: str = "", command: Sequence[str] = (), *, diff: bool = True, **options: Unpack[RunOptions]
    ) -> _io.Opening[AsyncRun]:
        """Starts a command in a fresh copy of an image, and gives it once it was accepted.

        Use it as a context: leaving it ends the run. `command` follows the image's entrypoint, in place of its own command.
        Without `diff`, what it changes is neither packed nor sent. What was refused for want of room, or because a server goes
        away, is tried again as `Retry` says; what was accepted never is.
        """
        prepared = run_options(image, command, diff=diff, **options)
        return _io.opening(self._execute(prepared, diff))

    async def run(
        self,
        image: str = "",
        command: Sequence[str] = (),
        *,
        check: bool = False,
        outputs: Iterable[str] = (),
        save_diff: str | pathlib.PurePath | None = None,
        on_log: Callable[[LogChunk], object] | None = None,
        output_max: int = OUTPUT_BYTES_MAX,
        outputs_max: int = FILES_BYTES_MAX,
        **options: Unpack[RunOptions],
    ) -> Completed:
        """Runs a command to its end, and gives its exit code and what it wrote.

        `outputs` are files, or directories, whose contents are wanted if the command changed them, up to `outputs_max` bytes;
        `save_diff` is a local file for all changes instead. Of each output, the beginning and the end are kept, `output_max`
        bytes in all; `on_log` sees all of it, as it comes. `check` raises `CommandFailed` for what did not succeed.
        """
        wanted = _checks.words("outputs", outputs, "a list of paths")
        if on_log is not None and not callable(on_log):
            raise _checks.wrong("on_log", "a function", on_log)
        _checks.whole("output_max", output_max, 0)
        _checks.whole("outputs_max", outputs_max, 0)
        if wanted and save_diff is not None:
            raise errors.InvalidArgument("outputs and save_diff exclude each other: the diff comes once")
        if save_diff is not None:
            await _io.to_thread(check_target, save_diff)
        kept = {"stdout": Kept(output_max), "stderr": Kept(output_max)}
        async with self.execute(image, command, diff=bool(wanted) or save_diff is not None, **options) as run:
            async for chunk in run.logs():
                kept[chunk.source].add(chunk.data)
                if on_log is not None:
                    on_log(chunk)
            result = await run.result()
            if save_diff is not None:
                await run.diff.save(save_diff)
            completed = Completed(
                result=result,
                accepted=run.accepted,
                stdout_bytes=kept["stdout"].content(),
                stderr_bytes=kept["stderr"].content(),
                dropped_bytes=sum(one.dropped for one in kept.values()),
                files=await run.diff.files(wanted, outputs_max) if wanted else {},
            )
        return completed.check() if check else completed

    async def runtime_status(self, *, timeout: float = 30.0) -> RuntimeStatus:
        """Limits and use of what runs commands."""

        async def ask(seconds: float) -> RuntimeStatus:
            return _values.runtime(await self._connected().runtime_status(pb.GetRuntimeStatusRequest(), timeout=seconds))

        return await self._ask(ask, timeout)

    async def status(self, *, layerstores: bool = True, afslets: bool = True, timeout: float = 30.0) -> Status:
        """What is in the cluster, as a proxy sees it; what could not be asked is among its `problems`."""

        async def ask(seconds: float) -> Status:
            request = proxypb.StatusRequest(include_layerstores=layerstores, include_afslets=afslets)
            found = _values.StatusParts()
            async for part in self._connected().status(request, timeout=seconds):
                found.add(part)
            return found.status()

        return await self._ask(ask, timeout)

    async def reconcile_image(
        self, image: str, replicas: int, *, tag: str = "", platform: str = "", timeout: float = 600.0
    ) -> Replication:
        """Has all layers of an image on that many nodes, and says where they are. Needs a certificate for
        `client.lamina.internal`, where the proxy wants any.
        """
        _checks.text("image", image)
        _checks.text("tag", tag)
        if not image:
            raise errors.InvalidArgument("an image is required")
        replicas = _checks.whole("replicas", replicas, 0)
        system, architecture, variant = split_platform(platform)
        request = proxypb.ReconcileImageReplicaRequest(
            image=image,
            tag=tag,
            platform_os=system,
            platform_arch=architecture,
            platform_variant=variant,
            replica=replicas,
        )

        async def ask(seconds: float) -> Replication:
            return _values.replication(await self._connected().reconcile(request, timeout=seconds))

        return await self._ask(ask, timeout)

    async def _execute(self, prepared: Prepared, with_diff: bool) -> AsyncRun:
        """The first attempt that is accepted."""
        if not self._private and (said := secrets(prepared.request)):
            raise errors.InvalidArgument(
                f"{' and '.join(said)}: a secret, and this connection is not encrypted: give tls, or insecure=True"
            )
        start_timeout = prepared.start_timeout or self._start_timeout
        if not prepared.request.proxy_dispatch_max_retries:
            backoff = prepared.request.proxy_dispatch_backoff_ms / 1000
            prepared.request.proxy_dispatch_max_retries = dispatch_retries(start_timeout, backoff)
        limit = _Limit(min(start_timeout, prepared.deadline or start_timeout))
        end = _Limit(prepared.deadline)
        attempt = 1
        refusal: errors.LaminaError | None = None
        while True:
            try:
                return await self._attempt(prepared, with_diff, limit, end)
            except errors.LaminaError as error:
                pause = self._pause(error, attempt, limit)
                if pause is None:
                    if refusal is not None and isinstance(error, errors.Timeout):
                        # That time is over says less than what was wrong until then.
                        raise refusal from None
                    raise
                refusal = error
            _log.info("attempt %d to start a run failed, the next one is in %.2f s: %s", attempt, pause, refusal)
            await _io.sleep(pause)
            attempt += 1

    async def _attempt(self, prepared: Prepared, with_diff: bool, limit: _Limit, end: _Limit) -> AsyncRun:
        upload = AsyncUpload(prepared.request, prepared.files)
        call = self._connected().execute(upload.frames(), timeout=end.left())
        run = AsyncRun(call, upload, with_diff)
        message = f"the run was not accepted within {limit.seconds:g} s"
        try:
            timer = _io.Timer(limit.left() or 0.0, lambda: run.expire(message))
            try:
                await run.begin()
            finally:
                timer.cancel()
        except BaseException:
            run.cancel()
            raise
        return run

    async def _ask(self, ask: Callable[[float], Awaitable[T]], timeout: float) -> T:
        """A call that changes nothing, or may be repeated; tried again while nobody answers."""
        _checks.milliseconds("timeout", timeout)
        limit, attempt = _Limit(timeout), 1
        while True:
            try:
                return await ask(limit.left() or 0.0)
            except grpc.RpcError as error:
                failed = errors.of_status(error)
                pause = self._pause(failed, attempt, limit) if isinstance(failed, errors.Unavailable) else None
                if pause is None:
                    raise failed from None
            await _io.sleep(pause)
            attempt += 1

    def _pause(self, error: errors.LaminaError, attempt: int, limit: _Limit) -> float | None:
        """How long to wait until the next attempt; None when there is none."""
        again = isinstance(error, errors.ResourceExhausted | errors.Unavailable) and not error.started
        if not again or attempt >= self._retry.attempts:
            return None
        pause = random.uniform(0.0, self._retry.pause_max(attempt))
        left = limit.left()
        return pause if left is None or pause < left else None

    def _connected(self) -> _channel.Calls[_io.Channel]:
        """The calls of a channel, which is made when there is none."""
        with self._lock:
            if self._closed:
                raise errors.Cancelled("the client was closed")
            if self._calls is None:
                channel = _io.channel(self._address, self._tls)
                self._calls = _channel.Calls(channel)
            return self._calls


class _Limit:
    """An end in time, or none."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds or 0.0
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds until then, not below 0; None: no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
