"""D6: a command on an image that its node does not have."""

import contextlib
import shutil
import statistics
import subprocess
import time

from ..cluster.network import Machine
from ..cluster.nodes import Node, cluster, place, push
from ..corpus import images
from ..method import Row, cost_row, interleave
from ..setup import drop_caches
from .afslets import afslet, execute

IMAGE = "python-data"
MBIT = 200
STORE = "bench/unknown-packs"
NOBODY, STORED, PEER, PULLED = "nobody has it", "its packs are in a store", "another node has it", "all of it downloaded and unpacked first"


def run(bench) -> None:
    """On an empty node every time."""
    image = images.find(IMAGE)
    push(image)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(place(MBIT))
        holder, = stack.enter_context(cluster(here.network, here.work, 1, MBIT, here.at))
        reference, store = f"{here.at}/{image.ref}", f"oci://{here.at}/{STORE}?insecure=true"
        machine = here.network.machine("runner", MBIT)
        holder.mount(reference, "held")
        writer = Node("writer", here.network.machine("writer"), here.work, [], here.at, store)
        stack.callback(writer.leave)
        writer.start()
        writer.mount(reference, "written")

        def on(discovery: list[str], packs: str | None):
            return lambda: once(Node("runner", machine, here.work, discovery, here.at, packs), reference, image)

        samples = interleave({NOBODY: on([], None), STORED: on([], store), PEER: on(holder.discovery, None),
                              PULLED: lambda: pulled(machine, here, image)}, bench.rounds)
    for name, seconds in samples.by_variant.items():
        bench.rows.append(cost_row("D6", f"{IMAGE}, first Execute: {name}", statistics.median(seconds), "s", None, f"{min(seconds):.2f}-{max(seconds):.2f} s",
                                   {name: seconds}))
    value, low, high = samples.ratio(PULLED, NOBODY)
    bench.rows.append(Row("D6", "sooner than all of it downloaded and unpacked first", value, "x", ">= 4", value >= 4, low, high))
    value, low, high = samples.ratio(PEER, STORED)
    bench.rows.append(Row("D6", "through another node by through the store", value, "x", "<= 1.05", value <= 1.05, low, high))
    bench.notes.append(f"cables carry {MBIT} Mbit/s each way; `import pandas` by an afslet, from the call to the end of its stream; downloading is"
                       " `curl | tar` of each layer and the command in a chroot, less than a container engine does")


def once(node: Node, reference: str, image: images.Image) -> float:
    """Seconds of an empty node's first run."""
    try:
        node.start()
        node.waits_for_others()
        with afslet(node):
            drop_caches()
            began = time.monotonic()
            execute(node, reference, "--count", 1, "--memory-mb", 1024, "--", *image.command)
            return time.monotonic() - began
    finally:
        node.leave()


def pulled(machine: Machine, here, image: images.Image) -> float:
    """Seconds until the command ended on what `curl | tar` unpacked."""
    target = here.work / "pulled"
    target.mkdir()
    drop_caches()
    began = time.monotonic()
    for layer in images.build(image):
        url = f"http://{here.at}/v2/demo/{image.name}/blobs/{layer.digest}"
        script = f"set -o pipefail; curl -sfL {url} | tar -xzp --numeric-owner --keep-directory-symlink -C {target}"
        subprocess.run([*machine.prefix, "bash", "-c", script], check=True)
    subprocess.run(["chroot", target, *image.command], check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    shutil.rmtree(target)
    return took
