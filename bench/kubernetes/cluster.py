"""What every section shares: the cluster, a namespace, pods on one clock, the link to a node, a node emptied."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import time
from typing import Callable

import yaml

from e2e import release, story
from e2e.cluster import ClusterError, local, provider
from e2e.cluster.provider import run, wait

from ..corpus import images, registry
from ..corpus.paths import REPOSITORY
from ..method import Row

DRIVER = pathlib.Path(os.environ.get("LAMINA_BENCH_DRIVER") or REPOSITORY / "target/release/lamina-bench")
SYSTEM, NAMESPACE = release.SYSTEM, "bench"
CSI = f"/var/lib/kubelet/plugins/{story.DRIVER}/csi.sock"
NODE = "/run/lamina/node.sock"
# Ends a program of ours, by pid; kubelet starts its container again.
END = r"""
for folder in /proc/[0-9]*; do
  words=$(tr '\0' ' ' < $folder/cmdline 2>/dev/null) || continue
  case "$words" in "/usr/local/bin/PROGRAM node "*) kill -9 ${folder#/proc/};; esac
done
"""


class Bench:
    """One run on a cluster of two nodes: `made` converts, `empty` is measured."""

    def __init__(self, quick: bool, rounds: int):
        self.quick, self.rounds = quick, rounds
        self.cluster = provider()
        self.empty, self.made = self.cluster.nodes()
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Records something a reader of the table must know, once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"   note: {text}", flush=True)

    def add(self, row: Row) -> None:
        """Records a line of the table and shows it."""
        self.rows.append(row)
        interval = f" [{row.low:.3g}, {row.high:.3g}]" if row.low is not None else ""
        verdict = {True: "ok", False: "MISSED", None: ""}[row.met]
        print(f"   {row.id:4} {row.what}: {row.value:.3g} {row.unit}{interval} {row.target} {verdict} {row.note}", flush=True)

    def values(self) -> list[str]:
        """The chart's values: a store that both nodes share."""
        url = f"oci://{self.cluster.registry()[0]}/bench/packs?insecure=true"
        return [*release.values(self.cluster, release.ARCHIVE), "--set", f"stores[0].name=bench,stores[0].url={url}"]

    def helm_install(self) -> None:
        """The chart, until helm says that it is ready."""
        release.helm(self.cluster, "upgrade", "--install", release.RELEASE, str(release.CHART), "--create-namespace", "--wait",
                     "--timeout", "5m", *self.values())

    def install(self) -> None:
        """The chart and the namespace, where they are not there yet."""
        if not release.ARCHIVE.exists():
            raise ClusterError(f"{release.ARCHIVE} is missing: run make image")
        self.cluster.load_image(release.ARCHIVE)
        self.helm_install()
        if NAMESPACE not in self.kubectl("get", "namespaces", "-o", "name"):
            self.kubectl("create", "namespace", NAMESPACE)
        wait("the namespace has its account", 60, lambda: "default" in self.kubectl("get", "serviceaccounts", "-o", "name"), pause=0.3)

    def kubectl(self, *words: str, text: str | None = None, seconds: float = 120) -> str:
        """kubectl's output, in the benchmark's namespace."""
        return self.cluster.kubectl("-n", NAMESPACE, *words, text=text, seconds=seconds)

    def reference(self, image: images.Image) -> str:
        """The image as nodes name it, pushed when it is not there."""
        inside, outside = self.cluster.registry()
        registry.push(outside, image)
        return f"{inside}/{image.ref}"

    def on(self, node: str, *command: object, seconds: float = 900) -> str:
        """A command's output in a node."""
        return run(self.cluster.node_exec(node, [str(word) for word in command]), seconds)

    def convert(self, image: images.Image) -> str:
        """Has the image converted into the store, by the node that is not measured; its reference."""
        reference = self.reference(image)
        self.publish(self.made, reference, 1)
        return reference

    def publish(self, node: str, reference: str, times: int, *more: str) -> dict[str, list[float]]:
        """Publishes and unpublishes by CSI; seconds of each."""
        target = "/var/lib/kubelet/plugins/bench/mount"
        return json.loads(self.on(node, DRIVER, "publish", "--csi", CSI, "--node", NODE, "--image", reference, "--target", target,
                                  "--times", times, *more))

    def empty_node(self) -> None:
        """The measured node as if Lamina had just come to it, its server running again."""
        # Refused while kubelet has not yet unmounted what the pod before it had.
        wait("the node can be left", 60, self.leaves, pause=0.5)
        self.on(self.empty, "sh", "-c", END.replace("PROGRAM", "lamina"))
        wait("the node serves again", 90, lambda: self.answers("127.0.0.1:7151"))
        # Its container still has the directory of sockets that was removed.
        self.on(self.empty, "sh", "-c", END.replace("PROGRAM", "lamina-csi"))
        pods = ("-n", SYSTEM, "get", "pod", "-l", "app.kubernetes.io/component=csi", f"--field-selector=spec.nodeName={self.empty}")
        address = self.cluster.kubectl(*pods, "-o", "jsonpath={.items[0].status.podIP}")
        wait("the driver serves again", 90, lambda: self.answers(f"{address}:9808"))
        self.drop_caches()

    def leaves(self) -> bool:
        """Whether the measured node could be left."""
        with contextlib.suppress(ClusterError):
            self.on(self.empty, DRIVER, "leave", NODE)
            return True
        return False

    def answers(self, address: str) -> bool:
        """Whether a program on the measured node says that it is ready."""
        with contextlib.suppress(ClusterError):
            self.on(self.empty, "curl", "-sf", "-m", "2", f"http://{address}/readyz")
            return True
        return False

    def drop_caches(self) -> None:
        """Page cache, dentries and inodes of the machine, which all nodes share."""
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")

    def delete(self, *pods: str) -> None:
        """Deletes pods and waits."""
        self.kubectl("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=true", seconds=300)


def uptime() -> float:
    """The clock that every pod of this machine reads, too."""
    return float(pathlib.Path("/proc/uptime").read_text().split()[0])


def timed_pod(bench: Bench, spec: dict, then: Callable[[], object] = lambda: None, seconds: float = 600) -> tuple[float, float]:
    """Seconds from asking for a pod until its container runs, and until its work is done.

    The script of the pod prints the machine's uptime before and after its work, nothing else, and stays; `then` is done while
    it does.
    """
    name = spec["metadata"]["name"]
    started = uptime()
    bench.kubectl("create", "-f", "-", text=yaml.safe_dump(spec))
    try:
        wait(f"pod {name} has done its work", seconds, lambda: len(said(bench, name)) == 2, pause=0.3)
        times = said(bench, name)
        then()
    finally:
        bench.delete(name)
    return times[0] - started, times[1] - started


def said(bench: Bench, name: str) -> list[float]:
    """The times a pod has printed so far; an error when it has ended."""
    phase = bench.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")
    text = bench.kubectl("logs", name) if phase in ("Running", "Failed", "Succeeded") else ""
    if phase in ("Failed", "Succeeded"):
        raise ClusterError(f"pod {name} has ended: {text[-2000:]}")
    # Kubelet's own words come as the log, too, while a container begins ("unable to retrieve container logs").
    return [float(word) for word in text.split() if re.fullmatch(r"\d+\.\d+", word)]


class Link:
    """The way to a node, narrowed while the block runs; only on the local provider, where it is a cable of ours."""

    def __init__(self, cluster: local.Local, node: str, mbit: int):
        self.enter = ["nsenter", f"--target={local.first_process(cluster.plan, local.CONTROL)}", "--net", "--"]
        self.node, self.mbit = node, mbit

    def __enter__(self) -> "Link":
        # A burst of 5 ms at the rate; a queue of 50 ms, like a switch port.
        subprocess.run([*self.enter, "tc", "qdisc", "add", "dev", self.node, "root", "tbf", "rate", f"{self.mbit}mbit",
                        "burst", str(self.mbit * 625), "latency", "50ms"], check=True)
        return self

    def __exit__(self, *_) -> None:
        subprocess.run([*self.enter, "tc", "qdisc", "del", "dev", self.node, "root"], check=True)

    def bytes_in(self) -> int:
        """Bytes that went to the node so far."""
        shown = json.loads(run([*self.enter, "ip", "-s", "-j", "link", "show", "dev", self.node]))
        return shown[0]["stats64"]["tx"]["bytes"]


def settle(seconds: float = 1.0) -> None:
    """What a step left to be done in the background does not count for the next."""
    time.sleep(seconds)
