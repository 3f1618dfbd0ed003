"""C2: the first work on a node that has nothing, with all data from one other node, and from the registry."""

import contextlib
import pathlib
import statistics
import tempfile
import time

from ..corpus import images, registry
from ..corpus.paths import CACHE
from ..method import Row, cost_row, interleave
from ..setup import drop_caches
from ..work import first_work
from .network import Network
from .nodes import Node, cluster, serve_registry

IMAGE = "python-data"
MBIT = 200
# Packs of the image, as a shared store of all nodes would have them.
STORE = "bench/peer-packs"


def run(bench) -> None:
    """One other node and the registry are behind the same cables; the node that begins is a new one every time."""
    image = images.find(IMAGE)
    with registry.serve() as address:
        registry.push(address, image)
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-", dir=CACHE / "bench", ignore_cleanup_errors=True)))
        network = stack.enter_context(Network())
        origin = network.machine("registry", MBIT)
        at = stack.enter_context(serve_registry(origin))
        reference, store = f"{at}/{image.ref}", f"oci://{at}/{STORE}"
        holder, = stack.enter_context(cluster(network, work, 1, MBIT, at))
        # The only node of its cluster is the one that pulls; what it writes to the store is for the other way.
        holder.mount(reference, "held")
        writer = Node("writer", network.machine("writer"), work, [], at, store)
        stack.callback(writer.leave)
        writer.start()
        writer.mount(reference, "written")
        reader, sent = network.machine("reader", MBIT), {"peer": [], "registry": []}

        def first(way: str, discovery: list[str], more: str | None) -> float:
            node = Node("reader", reader, work, discovery, at, more)
            try:
                node.start()
                node.waits_for_others()
                drop_caches()
                before, started = origin.traffic()[1], time.monotonic()
                node.mount(reference, "first")
                first_work(image, node.target("first"))
                took = time.monotonic() - started
                sent[way].append(origin.traffic()[1] - before)
                return took
            finally:
                node.leave()

        samples = interleave({"peer": lambda: first("peer", holder.discovery, None), "registry": lambda: first("registry", [], store)}, bench.rounds)
    value, low, high = samples.ratio("peer", "registry")
    bench.rows.append(Row("C2", f"{IMAGE}: cold `import pandas` through one other node, by through the registry", value, "x", "<= 1.05", value <= 1.05,
                          low, high, f"{samples.median('peer'):.2f} s and {samples.median('registry'):.2f} s", samples.by_variant))
    share = statistics.median(sent["peer"]) / statistics.median(sent["registry"])
    bench.rows.append(cost_row("C2", "bytes the registry sent meanwhile, by what it sends without other nodes", share, "x", 0.01,
                               f"{statistics.median(sent['peer']) / 2**20:.2f} MiB", sent))
