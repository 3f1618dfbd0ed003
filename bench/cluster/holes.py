"""C6: reads through other nodes while half of them are black holes."""

import json
import statistics

from ..corpus import images
from ..method import Row, cost_row
from ..setup import drop_caches
from .nodes import Node, Place, cluster, place, push, together

IMAGE = "spread"
MBIT = 200
HOLDERS = 8
READS = 1000
ALL, HALF, NONE = "all answer", "half of them are black holes", "without other nodes"


def run(bench) -> None:
    """Every round has nodes of its own."""
    image = images.find(IMAGE)
    push(image)
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
    with place() as here, cluster(here.network, here.work, holders, None, here.at) as nodes:
        reference = f"{here.at}/{image.ref}"

        def hold(node: Node) -> None:
            node.mount(reference, "hold")
            node.driver("all", node.target("hold"))

        together(nodes, hold)
        return {
            ALL: reader(here, nodes, "all", reference, seed, False),
            HALF: reader(here, nodes, "half", reference, seed, True),
            NONE: alone(here, reference, seed),
        }


def reader(here: Place, nodes: list[Node], name: str, reference: str, seed: int, cut: bool) -> dict:
    """An empty node of the cluster."""
    node = Node(f"reader-{name}", here.network.machine(f"reader-{name}", MBIT), here.work, nodes[0].discovery, here.at)
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


def alone(here: Place, reference: str, seed: int) -> dict:
    """A node outside of the cluster, which reads the registry's packs."""
    store = f"oci://{here.at}/bench/holes-packs?insecure=true"
    maker = Node("maker", here.network.machine("maker"), here.work, [], here.at, store)
    node = Node("alone", here.network.machine("alone", MBIT), here.work, [], here.at, store)
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
