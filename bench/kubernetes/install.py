"""B4: from `helm install` to the first pod that has read a file."""

import json
import statistics

from e2e import release
from e2e.cluster.provider import wait

from ..corpus import images
from ..method import cost_row
from .cluster import DRIVER, NODE, Bench, timed_pod, uptime
from .cold import pod

ROUNDS_MAX = 3


def run(bench: Bench) -> None:
    """The chart is there, so every image it runs is on the nodes; it is taken off and installed again."""
    reference = bench.convert(images.find("base"))
    ready, first = [], []
    for _ in range(min(bench.rounds, ROUNDS_MAX)):
        # Of pods that are gone kubelet may still unmount the volumes.
        wait("the nodes have no volumes", 60, lambda: not any(volumes(bench, node) for node in bench.cluster.nodes()))
        release.helm(bench.cluster, "uninstall", release.RELEASE, "--wait", "--timeout", "5m")
        started = uptime()
        bench.helm_install()
        ready.append(uptime() - started)
        first.append(ready[-1] + timed_pod(bench, pod(bench, "first", lamina(reference), "head -c 1 /data/etc/passwd > /dev/null"))[1])
    bench.add(cost_row("B4", "helm install until the first pod has read", statistics.median(first), "s", 60,
                       f"helm install --wait {statistics.median(ready):.1f} s of it; {min(first):.1f}-{max(first):.1f} s",
                       {"first read": first, "helm": ready}))


def volumes(bench: Bench, node: str) -> list[int]:
    """What each volume of a node took to be mounted."""
    return json.loads(bench.on(node, DRIVER, "volumes", NODE))["took_us"]


def lamina(reference: str) -> dict:
    """An inline volume."""
    return {"csi": {"driver": "csi.lamina.dev", "readOnly": True, "volumeAttributes": {"lamina.dev/image": reference}}}
