"""Messages of the wire as the plain values that callers get."""

from __future__ import annotations

from ._wire import afslet_pb2 as pb
from ._wire import afsproxy_pb2 as proxy
from ._wire import node_pb2 as node
from .models import (
    Accepted,
    Afslet,
    EndReason,
    Kept,
    Layer,
    Layerstore,
    LogChunk,
    Placement,
    Problem,
    Replication,
    Result,
    RuntimeStatus,
    Status,
    Usage,
)

REASONS = {
    pb.END_REASON_EXITED: EndReason.EXITED,
    pb.END_REASON_SIGNALLED: EndReason.SIGNALLED,
    pb.END_REASON_TIMED_OUT: EndReason.TIMED_OUT,
    pb.END_REASON_OUT_OF_MEMORY: EndReason.OUT_OF_MEMORY,
    pb.END_REASON_NOT_RUN: EndReason.NOT_RUN,
    pb.END_REASON_LOG_LIMIT: EndReason.LOG_LIMIT,
    pb.END_REASON_DRAINED: EndReason.DRAINED,
    pb.END_REASON_NOT_KEPT: EndReason.NOT_KEPT,
}
MICRO = 1e-6


def accepted(said: pb.Accepted) -> Accepted:
    """Where it runs."""
    return Accepted(said.node_id, said.request_id, said.flist_digest)


def log(said: pb.LogMessage) -> LogChunk:
    """What was written; servers without `raw` send text."""
    return LogChunk(
        "stderr" if said.source == "stderr" else "stdout", said.raw or said.message.encode("utf-8", "surrogateescape")
    )


def result(said: pb.Result) -> Result:
    """How it ended."""
    return Result(
        said.exit_code,
        said.success,
        said.error,
        REASONS.get(said.reason, EndReason.UNKNOWN),
        said.signal,
        usage(said.usage),
        kept(said.kept) if said.HasField("kept") else None,
    )


def kept(said: node.FlistInfo) -> Kept:
    """What was kept."""
    return Kept(said.digest, said.entries, said.bytes, said.bytes_stored, tuple(said.stores))


def usage(said: pb.Usage) -> Usage:
    """What it used."""
    return Usage(
        wall=said.wall_us * MICRO,
        cpu=said.cpu_us * MICRO,
        memory_peak_bytes=said.memory_peak_bytes,
        startup=said.startup_us * MICRO,
        image=said.image_us * MICRO,
        log_bytes=said.log_bytes,
    )


def runtime(said: pb.GetRuntimeStatusResponse) -> RuntimeStatus:
    """Limits and use."""
    return RuntimeStatus(
        running=said.running_containers,
        limit_cpu=said.limit_cpu_cores,
        limit_memory_mb=said.limit_memory_mb,
        used_cpu=said.used_cpu_cores,
        used_memory_mb=said.used_memory_mb,
        available_cpu=said.available_cpu_cores,
        available_memory_mb=said.available_memory_mb,
        node=said.node_id,
        version=said.version,
        draining=said.draining,
        warm_images=tuple(said.warm_images),
        completed=said.completed,
        failed=said.failed,
    )


def afslet(said: proxy.AfsletInstance) -> Afslet:
    """A node that runs commands."""
    runtime = RuntimeStatus(
        running=said.running_containers,
        limit_cpu=said.limit_cpu_cores,
        limit_memory_mb=said.limit_memory_mb,
        used_cpu=said.used_cpu_cores,
        used_memory_mb=said.used_memory_mb,
        available_cpu=said.available_cpu_cores,
        available_memory_mb=said.available_memory_mb,
        node=said.node_id,
        version=said.version,
        draining=said.draining,
    )
    return Afslet(said.endpoint, said.reachable, said.error, runtime)


def layerstore(said: proxy.LayerstoreInstance) -> Layerstore:
    """A node that keeps layers."""
    return Layerstore(
        node=said.node_id,
        endpoint=said.endpoint,
        last_seen=said.last_seen_unix,
        cache_bytes_max=said.cache_max_bytes,
        layers=tuple(Layer(layer.digest, layer.afs_size) for layer in said.layers),
        cached_images=tuple(said.cached_images),
    )


def problem(said: proxy.StatusError) -> Problem:
    """What could not be asked."""
    return Problem(said.source, said.message)


def replication(said: proxy.ReconcileImageReplicaResponse) -> Replication:
    """What became of it."""
    return Replication(
        image_key=said.image_key,
        before=said.current_replica,
        requested=said.requested_replica,
        ensured=said.ensured,
        layers=tuple(
            Placement(layer.digest, tuple((at.node_id, at.endpoint) for at in layer.instances)) for layer in said.layers
        ),
    )


class StatusParts:
    """A status that comes in parts."""

    def __init__(self) -> None:
        self._summary = proxy.StatusSummary()
        self._layerstores: list[Layerstore] = []
        self._afslets: list[Afslet] = []
        self._problems: list[Problem] = []

    def add(self, part: proxy.StatusResponse) -> None:
        """Takes the next part."""
        match part.WhichOneof("payload"):
            case "summary":
                self._summary = part.summary
            case "layerstore":
                self._layerstores.append(layerstore(part.layerstore))
            case "afslet":
                self._afslets.append(afslet(part.afslet))
            case "error":
                self._problems.append(problem(part.error))
            case _:
                pass

    def status(self) -> Status:
        """All of it."""
        return Status(
            layerstore_count=self._summary.layerstore_instances,
            afslet_count=self._summary.afslet_instances,
            afslet_reachable=self._summary.afslet_reachable,
            layer_count=self._summary.total_layers,
            layerstores=tuple(self._layerstores),
            afslets=tuple(self._afslets),
            problems=tuple(self._problems),
        )
