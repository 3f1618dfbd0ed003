"""C2 and C5: a first start on an empty node, through another node, through the registry, and after pulling everything."""

import contextlib
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

from ..corpus import images, registry
from ..corpus.paths import CACHE
from ..method import Row, cost_row
from ..setup import drop_caches
from ..work import first_work
from .network import Machine, Network
from .nodes import Node, discovery

IMAGE = "python-data"
MBIT = 200
# Another node tells what a start read as soon as it is unmounted.
TELL_SECONDS = 3
PEER, KNOWN, LAZY, PULLED = "one other node has it", "the same, and started it before", "the registry's packs", "pulled and unpacked"


def run(bench) -> None:
    """Every round has nodes of its own."""
    image = images.find(IMAGE)
    with registry.serve() as address:
        registry.push(address, image)
    found: dict[str, list[dict]] = {name: [] for name in (PEER, KNOWN, LAZY, PULLED)}
    for _ in range(bench.rounds):
        for name, one in once(image).items():
            found[name].append(one)
    seconds = {name: [one["seconds"] for one in all_of] for name, all_of in found.items()}
    for name, times in seconds.items():
        received = statistics.median(one["received"] for one in found[name]) / 1e6
        bench.rows.append(cost_row("C2", f"{IMAGE}, first work on an empty node: {name}", statistics.median(times), "s", None,
                                   f"{min(times):.2f}-{max(times):.2f} s, {received:.1f} MB over the node's cable", {name: times}))
    ratio = statistics.median(seconds[PEER]) / statistics.median(seconds[LAZY])
    bench.rows.append(cost_row("C2", "through one node by through the registry", ratio, "x", 1.05))
    origin = max(one["origin"] for name in (PEER, KNOWN) for one in found[name])
    bench.rows.append(cost_row("C2", "bytes the registry sent for a start through another node, at most", origin / 1e3, "kB", 100,
                               "manifest and config, with all headers"))
    for name, least in ((KNOWN, 0.95), (PEER, 0.85)):
        shares = [one["local"] for one in found[name]]
        value = statistics.median(shares)
        bench.rows.append(Row("C5", f"reads of a first start whose data was here already: {name}", value, "", f">= {least}", value >= least,
                              note=f"{min(shares):.3f}-{max(shares):.3f}; of the kernel's reads, which pages read ahead are not", samples={name: shares}))
    bench.notes.append(f"the node's cable carries {MBIT} Mbit/s each way, those of the registry and of the other node are not shaped")


def once(image: images.Image) -> dict[str, dict]:
    """One start of each kind."""
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="start-", dir=CACHE / "bench") as directory, Network() as network, contextlib.ExitStack() as undo:
        work, origin = pathlib.Path(directory), network.machine("registry")
        at = f"{origin.address}:{undo.enter_context(registry.serve('0.0.0.0', origin.prefix)).rsplit(':', 1)[1]}"
        known = undo.enter_context(discovery(network.machine("discovery"), work))
        store = [f"--store=oci://{at}/packs?insecure=true"]

        def node(name: str, mbit: int | None, cluster: bool) -> Node:
            made = Node(name, network.machine(name, mbit), work, [known] if cluster else [], at, () if cluster else store)
            undo.callback(made.leave)
            made.start()
            return made

        reference, result = f"{at}/{image.ref}", {}
        holder = node("holder", None, True)
        holder.mount(reference, "hold")
        for name in (PEER, KNOWN):
            reader = node(f"reader-{len(result)}", MBIT, True)
            result[name] = start(reader, reference, image, origin)
            time.sleep(TELL_SECONDS)
        converter = node("converter", None, False)
        converter.mount(reference, "make")
        result[LAZY] = start(node("lazy", MBIT, False), reference, image, origin)
        result[PULLED] = pull(network.machine("pulling", MBIT), at, image, work / "pulled")
        return result


def start(node: Node, reference: str, image: images.Image, origin: Machine) -> dict:
    """Mounts it and does its first work."""
    drop_caches()
    received, sent, began = node.machine.traffic()[0], origin.traffic()[1], time.monotonic()
    node.mount(reference, "start")
    first_work(image, node.target("start"))
    seconds = time.monotonic() - began
    shown = node.shown("start")
    found = {"seconds": seconds, "received": node.machine.traffic()[0] - received, "origin": origin.traffic()[1] - sent,
             "local": shown["reads_local"] / max(shown["reads"], 1)}
    node.umount("start")
    return found


def pull(machine: Machine, at: str, image: images.Image, target: pathlib.Path) -> dict:
    """Every layer downloaded and unpacked, one after the other, then the first work."""
    target.mkdir()
    drop_caches()
    received, began = machine.traffic()[0], time.monotonic()
    for layer in images.build(image):
        url = f"http://{at}/v2/demo/{image.name}/blobs/{layer.digest}"
        script = f"set -o pipefail; curl -sfL {url} | tar -xzp --numeric-owner --keep-directory-symlink -C {target}"
        subprocess.run([*machine.prefix, "bash", "-c", script], check=True)
    first_work(image, target)
    found = {"seconds": time.monotonic() - began, "received": machine.traffic()[0] - received}
    shutil.rmtree(target)
    return found
