"""A hundred pods with volumes of few images run on one node at once, end, and leave nothing behind.

E2E_PODS sets their number.
"""

import os

from e2e.story import Story, pod

PODS = int(os.environ.get("E2E_PODS", "100"))
LABEL = "one-of-many"
# A file of each image.
FILES = {"base": "usr/bin/dpkg", "busybox": "bin/busybox", "pause": "pause", "coredns": "coredns"}
MOUNTED = "awk '$5 ~ \"/volumes/kubernetes.io~csi/.*/mount$\"' /proc/self/mountinfo | wc -l"


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    inside = it.cluster.registry()[0]
    images = {name: it.images.get(name, f"{inside}/{name}:1") for name in FILES}
    names = [f"pod-{number}" for number in range(PODS)]
    shows = {name: list(FILES)[at % len(FILES)] for at, name in enumerate(names)}
    pods = [pod(name, {"lamina.dev/image": images[shows[name]]}, script(FILES[shows[name]]), node=node) for name in names]
    for one in pods:
        one["metadata"]["labels"] = {"story": LABEL}
    it.apply(*pods)
    it.running(*names, seconds=900)
    mounted = int(it.on_node(node, MOUNTED))
    it.check(mounted == PODS, f"{mounted} volumes are mounted for {PODS} pods")
    sums = read(it)
    it.check(set(sums) == set(names), f"{len(sums)} of {PODS} pods have read")
    for image in FILES:
        found = {sums[name] for name in names if shows[name] == image}
        it.check(len(found) == 1 and len(found.pop()) == 64, f"pods read different bytes of {image}")
    it.say(f"{PODS} pods run")
    it.kubectl("delete", "pod", "-l", f"story={LABEL}", "--wait=true", "--timeout=600s", seconds=610)
    it.unmounted(node, seconds=300)


def script(file: str) -> str:
    """Reads a part of a file, says so, and stays until it is told to end."""
    return f"head -c 1000000 /data/{file} | sha256sum | cut -c1-64; exec sleep 100000"


def read(it: Story) -> dict[str, str]:
    """What each pod said, in one question."""
    said = it.kubectl("logs", "-l", f"story={LABEL}", "--prefix", f"--max-log-requests={PODS}", seconds=300)
    # [pod/pod-1/main] sum
    lines = [line.split() for line in said.splitlines()]
    return {words[0].split("/")[1]: words[1] for words in lines if len(words) == 2}
