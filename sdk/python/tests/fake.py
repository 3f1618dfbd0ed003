"""A server that keeps the contract, or breaks it as told: what the client is tested against.

Runs in a thread of its own, with an event loop of its own, so that blocking and asyncio clients meet the same. What a run
of an image does is a function in `scripts`, by the image's name; `host` runs the command on this machine, with
`/work` inside being a directory of its own.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from lamina._wire import afslet_pb2 as pb
from lamina._wire import afsproxy_pb2 as proxypb

T = TypeVar("T")
SECONDS = 30


@dataclass
class Put:
    """A file that a client sent."""

    begin: Any
    content: bytearray = field(default_factory=bytearray)
    ended: bool = False


class Stream:
    """One Execute call as a script sees it."""

    def __init__(self, requests: AsyncIterator[Any], context: Any, start: Any) -> None:
        self.requests = requests
        self.context = context
        self.start = start
        self.files: dict[str, Put] = {}
        self.chunks = 0
        self.sent = 0
        # How it ended: done, cancelled, or failed.
        self.over = threading.Event()
        self.outcome = ""

    async def send(self, **payload: Any) -> None:
        """One message."""
        await self.context.write(pb.ExecuteResponse(**payload))
        self.sent += 1

    async def accept(self, **more: Any) -> None:
        await self.send(accepted=pb.Accepted(accepted=True, node_id="node-1", request_id=self.start.request_id or "made", **more))

    async def refuse(self, code: grpc.StatusCode, message: str) -> None:
        await self.context.abort(code, message)

    async def take_files(self) -> None:
        """Reads what the client sends, to its end."""
        current: Put | None = None
        async for request in self.requests:
            kind = request.WhichOneof("payload")
            if kind == "file_begin":
                current = self.files[request.file_begin.path] = Put(request.file_begin)
            elif kind == "file_chunk" and current is not None:
                current.content += request.file_chunk.data
                self.chunks += 1
            elif kind == "file_end" and current is not None:
                current.ended, current = True, None
            else:
                await self.refuse(grpc.StatusCode.INVALID_ARGUMENT, f"{kind} came out of order")
        if current is not None:
            await self.refuse(grpc.StatusCode.INVALID_ARGUMENT, "a file has no end")

    async def log(self, data: bytes, source: str = "stdout") -> None:
        message = data.decode(errors="replace")
        await self.send(log=pb.LogMessage(source=source, message=message, raw=b"" if message.encode() == data else data))

    async def end(self, code: int = 0, diff: bytes | None = None, **more: Any) -> None:
        """The result, the diff, and the end."""
        await self.send(result=pb.Result(exit_code=code, **{"success": code == 0, "reason": pb.END_REASON_EXITED, **more}))
        if self.start.diff == pb.DIFF_MODE_NONE:
            diff = None
        if diff is not None:
            await self.send(tar_header=pb.TarHeader(name="diff.tar.gz"))
            for at in range(0, len(diff), 256 << 10):
                await self.send(tar_chunk=pb.TarChunk(data=diff[at : at + (256 << 10)]))
        await self.send(done=pb.Done(diff_bytes=len(diff or b"")))


Script = Callable[[Stream], Awaitable[None]]


class Fake:
    """The server. `address` is where it listens."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.scripts: dict[str, Script] = {"host": on_host}
        self.streams: list[Stream] = []
        self._stream_came = threading.Condition()
        self.status: list[Any] = []
        # Statuses of calls other than runs, given away one by one before an answer.
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.reconciled: list[Any] = []
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.address = self.do(self._start())

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Has the server's loop do something."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(SECONDS)

    def wait_for_stream(self, index: int) -> None:
        """Returns when so many streams came before and one more."""
        with self._stream_came:
            if not self._stream_came.wait_for(lambda: len(self.streams) > index, SECONDS):
                raise TimeoutError(f"no stream {index} within {SECONDS} seconds")

    def stop(self, grace: float | None = None) -> None:
        """Ends it, and its calls."""
        self.do(self._server.stop(grace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    async def _start(self) -> str:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_handlers(self),))
        if self._credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def execute(self, requests: AsyncIterator[Any], context: Any) -> None:
        first = await anext(aiter(requests))
        stream = Stream(requests, context, first.start)
        with self._stream_came:
            self.streams.append(stream)
            self._stream_came.notify_all()
        try:
            await self.scripts[first.start.image](stream)
            stream.outcome = "done"
        except asyncio.CancelledError:
            stream.outcome = "cancelled"
            raise
        except BaseException:
            stream.outcome = "failed"
            raise
        finally:
            stream.over.set()

    async def runtime(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        return pb.GetRuntimeStatusResponse(
            limit_cpu_cores=8, available_cpu_cores=6, used_cpu_cores=2, running_containers=2, node_id="node-1"
        )

    async def proxy_status(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._fail(context)
        for part in self.status:
            kind = part.WhichOneof("payload")
            if (kind != "layerstore" or request.include_layerstores) and (kind != "afslet" or request.include_afslets):
                yield part

    async def reconcile(self, request: Any, context: Any) -> Any:
        await self._fail(context)
        self.reconciled.append(request)
        target = proxypb.LayerstoreTarget(node_id="node-1", endpoint="10.0.0.1:7150")
        return proxypb.ReconcileImageReplicaResponse(
            image_key=f"{request.image}|{request.tag}|linux|amd64|",
            requested_replica=request.replica,
            ensured=True,
            layers=[proxypb.ReconciledLayerPlacement(digest="sha256:1", instances=[target])],
        )

    async def _fail(self, context: Any) -> None:
        if self.failures:
            await context.abort(*self.failures.pop(0))


def _handlers(fake: Fake) -> grpc.GenericRpcHandler:
    def call(make: Callable[..., Any], what: Any, request: Any, response: Any) -> Any:
        return make(what, request_deserializer=request.FromString, response_serializer=response.SerializeToString)

    methods = {
        "/afsletpb.Afslet/Execute": call(
            grpc.stream_stream_rpc_method_handler, fake.execute, pb.ExecuteRequest, pb.ExecuteResponse
        ),
        "/afsletpb.Afslet/GetRuntimeStatus": call(
            grpc.unary_unary_rpc_method_handler, fake.runtime, pb.GetRuntimeStatusRequest, pb.GetRuntimeStatusResponse
        ),
        "/afsproxy.v1.AfsProxy/Status": call(
            grpc.unary_stream_rpc_method_handler, fake.proxy_status, proxypb.StatusRequest, proxypb.StatusResponse
        ),
        "/afsproxy.v1.AfsProxy/ReconcileImageReplica": call(
            grpc.unary_unary_rpc_method_handler,
            fake.reconcile,
            proxypb.ReconcileImageReplicaRequest,
            proxypb.ReconcileImageReplicaResponse,
        ),
    }

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return methods.get(details.method)

    return Handlers()


async def on_host(stream: Stream) -> None:
    """Runs the command here, with `/work` as a directory that is its diff."""
    await stream.accept()
    await stream.take_files()
    with tempfile.TemporaryDirectory() as home:
        work = Path(home) / "work"
        work.mkdir()
        for path, put in stream.files.items():
            local = Path(home) / path.lstrip("/")
            local.parent.mkdir(parents=True, exist_ok=True)
            if put.begin.type == pb.FILE_TYPE_DIR:
                local.mkdir(exist_ok=True)
            elif put.begin.type == pb.FILE_TYPE_FILE:
                local.write_bytes(put.content)
                local.chmod(put.begin.mode or 0o644)
            else:
                local.symlink_to(put.begin.symlink_target)
        environment = dict(text.split("=", 1) for text in stream.start.env)
        process = await asyncio.create_subprocess_exec(
            *(word.replace("/work", str(work)) for word in [*stream.start.entrypoint, *stream.start.command]),
            cwd=work,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        limit = stream.start.timeout_ms / 1000 or SECONDS
        try:
            out, err = await asyncio.wait_for(process.communicate(), limit)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
            await stream.end(137, diff=tar_gz(), reason=pb.END_REASON_TIMED_OUT, error="the time limit was hit", signal=9)
            return
        for source, data in (("stdout", out), ("stderr", err)):
            if data:
                await stream.log(data, source)
        await stream.end(process.returncode or 0, diff=_packed(Path(home)))


def _packed(home: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(home / "work", "work")
    return made.getvalue()


def tar_gz(*members: tuple[tarfile.TarInfo, bytes], level: int = 1) -> bytes:
    """A tar.gz of members with their contents."""
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=level) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def member(path: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """A member's header."""
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode, info.mtime = kind, target, mode, 1_700_000_000
    return info
