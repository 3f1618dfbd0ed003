"""How both clients connect."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import grpc

from . import _checks
from ._wire import afslet_pb2 as pb
from ._wire import afsproxy_pb2 as proxypb
from .errors import InvalidArgument
from .options import Tls

ChannelT = TypeVar("ChannelT")
DEFAULT = "127.0.0.1:7180"
# Servers send at most 4 MiB; room for what surrounds it.
MESSAGE_BYTES_MAX = 8 << 20
# Calls go to all addresses of a name in turn: several proxies behind one headless service.
SERVICE = '{"loadBalancingConfig": [{"round_robin": {}}]}'


# Typing knows asynchronous and blocking calls apart, and the source of both does not: what `_io` makes of them is typed again.
ExecuteCall = Any


class Calls(Generic[ChannelT]):
    """The calls of a channel."""

    def __init__(self, channel: ChannelT) -> None:
        self.channel = channel
        # Both kinds of channels make calls by the same names.
        make: Any = channel
        self.execute = make.stream_stream(
            "/afsletpb.Afslet/Execute", pb.ExecuteRequest.SerializeToString, pb.ExecuteResponse.FromString
        )
        self.runtime_status = make.unary_unary(
            "/afsletpb.Afslet/GetRuntimeStatus",
            pb.GetRuntimeStatusRequest.SerializeToString,
            pb.GetRuntimeStatusResponse.FromString,
        )
        self.status = make.unary_stream(
            "/afsproxy.v1.AfsProxy/Status", proxypb.StatusRequest.SerializeToString, proxypb.StatusResponse.FromString
        )
        self.reconcile = make.unary_unary(
            "/afsproxy.v1.AfsProxy/ReconcileImageReplica",
            proxypb.ReconcileImageReplicaRequest.SerializeToString,
            proxypb.ReconcileImageReplicaResponse.FromString,
        )


class CancelledHere(Exception):
    """A call was cancelled by this side."""


def address(given: str | Sequence[str] | None) -> str | Sequence[str]:
    """What was given, or the environment says, or the default."""
    chosen = given or os.environ.get("LAMINA_PROXY") or DEFAULT
    for one in [chosen] if isinstance(chosen, str) else _checks.words("address", chosen, "HOST:PORT, or a list of them"):
        host, _, port = one.rpartition(":")
        numeric = ":" not in host or host.startswith("[")
        if not one.startswith(("unix:", "dns:")) and not (host and numeric and port.isdigit()):
            raise InvalidArgument(f"an address is HOST:PORT or [HOST]:PORT, not {one!r}")
    target(chosen)
    return chosen


def target(given: str | Sequence[str]) -> str:
    """As gRPC writes it. Several addresses must be numbers: it resolves one name only."""
    if isinstance(given, str):
        return given
    if len(given) == 1:
        return given[0]
    try:
        versions = {ipaddress.ip_address(one.rpartition(":")[0].strip("[]")).version for one in given}
    except ValueError as error:
        raise InvalidArgument(f"several addresses are IP:PORT each, a name may have several of them: {error}") from None
    if len(versions) != 1:
        raise InvalidArgument("several addresses must be of one IP version")
    return f"ipv{versions.pop()}:{','.join(given)}"


def options(tls: Tls | None) -> list[tuple[str, int | str]]:
    """Bounds on what is received, quick reconnecting, and a look whether a silent server lives."""
    chosen: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also how long one attempt may take.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", SERVICE),
    ]
    if tls is not None:
        chosen.append(("grpc.ssl_target_name_override", tls.server_name))
    return chosen


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """For a channel."""
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
