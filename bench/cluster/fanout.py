"""C1: many nodes read all of one image at once, each behind a cable of its own."""

import json
import statistics
import time

from ..corpus import images
from ..method import cost_row
from .nodes import Node, cluster, place, push, together

IMAGE = "spread"
# All nodes work on the same cores: with faster cables those would be what is measured.
MBIT = 50
NODES = (1, 8, 32)
NODES_QUICK = (1, 4)


def run(bench) -> None:
    """Each number of nodes, fresh ones every round."""
    push(images.find(IMAGE))
    size = sum(layer.size for layer in images.build(images.find(IMAGE)))
    bench.notes.append(f"the image has {size / 2**20:.0f} MiB in 4 layers that nothing makes smaller; cables carry {MBIT} Mbit/s each way, the"
                       " registry's is not shaped")
    asked = bench.options.nodes
    for count in map(int, asked.split(",")) if asked else NODES_QUICK if bench.quick else NODES:
        seconds, origin = zip(*[once(count) for _ in range(bench.rounds)])
        least = size * 8 / (MBIT * 1e6)
        bench.rows.append(cost_row("C1", f"{count} nodes read all of it: time of the last one, by bytes over the cable's speed",
                                   statistics.median(seconds) / least, "x", 1.15, f"{least:.1f} s at least; {min(seconds):.1f}-{max(seconds):.1f} s",
                                   {f"{count} nodes": list(seconds)}))
        bench.rows.append(cost_row("C1", f"{count} nodes: bytes the registry sent, by bytes of the image", statistics.median(origin) / size, "x", 1.05,
                                   samples={f"{count} nodes": list(origin)}))


def once(count: int) -> tuple[float, int]:
    """Seconds until the last node has read everything, and bytes the registry sent."""
    with place() as here, cluster(here.network, here.work, count, MBIT, here.at) as nodes:
        sent = here.origin.traffic()[1]
        started = time.monotonic()
        read = together(nodes, lambda node: read_all(node, f"{here.at}/{images.find(IMAGE).ref}"))
        took = time.monotonic() - started
        wrong = [one for one in read if one != images_bytes()]
        if wrong:
            raise RuntimeError(f"nodes read {wrong} bytes instead of {images_bytes()}")
        print(f"   {count} nodes: {took:.1f} s", flush=True)
        return took, here.origin.traffic()[1] - sent


def read_all(node: Node, image: str) -> int:
    """Mounts the image and reads every byte; how many there were."""
    node.mount(image, "all")
    return json.loads(node.driver("all", node.target("all")))["bytes"]


def images_bytes() -> int:
    """Bytes of the image's files."""
    return sum(count * mebibytes << 20 for _, count, mebibytes, _ in (recipe.args for recipe in images.find(IMAGE).recipes))
