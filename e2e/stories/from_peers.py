"""A node reads an image's layers from another node, once the registry has lost them, and while discovery is stopped."""

import hashlib

from e2e import made
from e2e.story import SYSTEM, Story, pod

BYTES = 3_000_000
# Longer than a node's look at who holds a layer stays fresh, shorter than probes take to start discovery again.
STOPPED_SECONDS = 20
DISCOVERIES = "app.kubernetes.io/component=discovery"


def run(it: Story) -> None:
    first, *others = it.cluster.nodes()
    files = [{"low": made.noise(f"{it.namespace} low", BYTES)}, {"high": made.noise(f"{it.namespace} high", BYTES)}]
    reference = made.push(it.cluster, f"e2e/{it.namespace}:1", *files)
    wanted = {name: hashlib.sha256(content).hexdigest() for layer in files for name, content in layer.items()}
    read(it, "first", reference, first, wanted)
    made.lose_layers(it.cluster, f"e2e/{it.namespace}", *files)
    for number, node in enumerate(others):
        read(it, f"other-{number}", reference, node, wanted)
    it.say(f"{len(others)} nodes read what the registry has lost")
    without_discovery(it, reference, wanted)
    it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)
    it.unmounted()


def read(it: Story, name: str, reference: str, node: str, wanted: dict[str, str]) -> None:
    """A pod on a node reads every byte of the image."""
    it.apply(pod(name, {"lamina.dev/image": reference}, "cd /data && sha256sum low high", node=node))
    said = dict(reversed(line.split()) for line in it.finished(name).splitlines())
    it.check(said == wanted, f"{name} read {said} instead of {wanted}")


def without_discovery(it: Story, reference: str, wanted: dict[str, str]) -> None:
    """Images that are known are mounted, also where all replicas are stopped."""
    stop = [(node, pid) for node in it.cluster.nodes() for pid in discoveries(it, node)]
    it.check(bool(stop), "no replica of discovery runs")
    try:
        for node, pid in stop:
            it.on_node(node, f"kill -STOP {pid}")
        for number, node in enumerate(it.cluster.nodes()):
            read(it, f"alone-{number}", reference, node, wanted)
    finally:
        for node, pid in stop:
            it.on_node(node, f"kill -CONT {pid} || true")
    it.kubectl("-n", SYSTEM, "wait", "--for=condition=Ready", "--timeout=120s", "pod", "-l", DISCOVERIES, seconds=130)


def discoveries(it: Story, node: str) -> list[str]:
    """Processes of discovery's replicas on a node."""
    said = it.on_node(node, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^/usr/local/bin/lamina discovery ' "
                            "&& echo ${p#/proc/}; done; true")
    return said.split()

