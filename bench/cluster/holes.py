"""C6: reads through other nodes while half of them are black holes."""

import contextlib
import json
import pathlib
import statistics
import tempfile

from ..corpus import images, registry
from ..corpus.paths import CACHE
from ..method import Row, cost_row
from ..setup import drop_caches
from .network import Network
from .nodes import Node, cluster, serve_registry, together

IMAGE = "spread"
MBIT = 200
HOLDERS = 8
READS = 1000
ALL, HALF, NONE = "all answer", "half of them are black holes", "without other nodes"


def run(bench) -> None:
    """Every round has nodes of its own."""
    image = images.find(IMAGE)
    with registry.serve() as address:
        registry.push(address, image)
    found = {ALL: [], HALF: [], NONE: []}
    for number in range(bench.rounds):
        for name, one in once(image, number + 1, 2 if bench.quick else HOLDERS).items():
            found[name].append(one)
    for name, all_of in found.items():
        p99 = [one["p99_ms"] for one in all_of]
        slowest = max(one["max_ms"] for one in all_of)
        middle = statistics.median(one["p50_ms"] for one in all_of)
        bench.rows.append(cost_row("C6", f"random reads of 128 KiB, p99: {name}", statistics.median(p99), "ms", None,
                                   f"{min(p99):.0f}-{max(p99):.0f} ms; p50 {middle:.1f} ms, slowest {slowest:.0f} ms", {name: p99}))
    worst = statistics.median(one["p99_ms"] for one in found[HALF])
    ratio = worst / statistics.median(one["p99_ms"] for one in found[NONE])
    bench.rows.append(Row("C6", "p99 with black holes by p99 without other nodes", ratio, "x", "<= 2", ratio <= 2))
    bench.notes.append(f"{HOLDERS} nodes have all of it, {READS} reads by one process; cables carry {MBIT} Mbit/s each way; the nodes are cut off"
                       " after a quarter of the reads, and discovery is not told")


def once(image: images.Image, seed: int, holders: int) -> dict[str, dict]:
    """One node's reads of each kind."""
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-", dir=CACHE / "bench", ignore_cleanup_errors=True)))
        network = stack.enter_context(Network())
        at = stack.enter_context(serve_registry(network.machine("registry")))
        reference = f"{at}/{image.ref}"
        nodes = stack.enter_context(cluster(network, work, holders, None, at))

        def hold(node: Node) -> None:
            node.mount(reference, "hold")
            node.driver("all", node.target("hold"))

        together(nodes, hold)
        return {
            ALL: reader(network, work, nodes, at, "all", reference, seed, False),
            HALF: reader(network, work, nodes, at, "half", reference, seed, True),
            NONE: alone(network, work, at, reference, seed),
        }


def reader(network: Network, work: pathlib.Path, nodes: list[Node], at: str, name: str, reference: str, seed: int, cut: bool) -> dict:
    """An empty node of the cluster."""
    node = Node(f"reader-{name}", network.machine(f"reader-{name}", MBIT), work, nodes[0].discovery, at)
    lost = nodes[: len(nodes) // 2] if cut else []
    try:
        node.start()
        node.waits_for_others()
        node.mount(reference, "read")
        read(node, READS // 4, seed + 1000)
        for one in lost:
            one.machine.cut()
        return read(node, READS, seed)
    finally:
        for one in lost:
            one.machine.join()
        node.leave()


def alone(network: Network, work: pathlib.Path, at: str, reference: str, seed: int) -> dict:
    """A node outside of the cluster, which reads the registry's packs."""
    store = f"oci://{at}/bench/holes-packs?insecure=true"
    maker = Node("maker", network.machine("maker"), work, [], at, store)
    node = Node("alone", network.machine("alone", MBIT), work, [], at, store)
    try:
        maker.start()
        maker.mount(reference, "make")
        node.start()
        node.mount(reference, "read")
        read(node, READS // 4, seed + 1000)
        return read(node, READS, seed)
    finally:
        node.leave()
        maker.leave()


def read(node: Node, count: int, seed: int) -> dict:
    """Reads of one process."""
    drop_caches()
    return json.loads(node.driver("latency", node.target("read"), "--count", count, "--seed", seed))
