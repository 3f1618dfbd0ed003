"""C2 and C5: the first work on a node that has nothing, with all data from one other node, and from the registry."""

import contextlib
import pathlib
import shutil
import statistics
import subprocess
import time

from ..corpus import images
from ..method import Row, cost_row, interleave
from ..setup import drop_caches
from ..work import first_work
from .network import Machine
from .nodes import Node, cluster, place, push

IMAGE = "python-data"
MBIT = 200
# Packs of the image, as a shared store of all nodes would have them.
STORE = "bench/start-packs"
# From the end of a start to what it read being known to discovery.
TELL_SECONDS = 5
PEER, LEARNT, LAZY, PULLED = "one other node", "one other node, with what it learnt", "the registry's packs", "the registry's layers, all of them first"


def run(bench) -> None:
    """One other node and the registry are behind the same cables; the node that begins is a new one every time."""
    image = images.find(IMAGE)
    push(image)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(place(MBIT))
        work, network, origin, at = here.work, here.network, here.origin, here.at
        store = f"oci://{at}/{STORE}?insecure=true"
        holder, = stack.enter_context(cluster(network, work, 1, MBIT, at))
        starts = Starts(image, f"{at}/{image.ref}", origin, network.machine("reader", MBIT), work)
        # The only node of its cluster is the one that pulls; what the other writes to the store is for the other way.
        holder.mount(starts.reference, "held")
        writer = Node("writer", network.machine("writer"), work, [], at, store)
        stack.callback(writer.leave)
        writer.start()
        writer.mount(starts.reference, "written")

        def through(name: str, discovery: list[str], more: str | None):
            return lambda: starts.lazily(name, Node("reader", starts.reader, work, discovery, at, more))

        ways = {PEER: through(PEER, holder.discovery, None), LAZY: through(LAZY, [], store), PULLED: lambda: starts.pulled(at)}
        samples = interleave(ways, bench.rounds)
        # Afterwards: nobody forgets what is learnt here.
        starts.lazily("teacher", Node("reader", starts.reader, work, holder.discovery, at), unmount=True)
        samples.by_variant |= interleave({LEARNT: through(LEARNT, holder.discovery, None)}, bench.rounds).by_variant
    _rows(bench, samples, starts.found)


def _rows(bench, samples, found: dict[str, list[dict]]) -> None:
    for name in (PEER, LEARNT, LAZY, PULLED):
        low, high = samples.spread(name)
        received = statistics.median(one["received"] for one in found[name]) / 1e6
        bench.rows.append(cost_row("C2", f"{IMAGE}, first work through {name}", samples.median(name), "s", None,
                                   f"{low:.2f}-{high:.2f} s, {received:.1f} MB over the node's cable", samples.by_variant))
    value, low, high = samples.ratio(PEER, LAZY)
    bench.rows.append(Row("C2", "through one other node by through the registry's packs", value, "x", "<= 1.05", value <= 1.05, low, high))
    sent = {name: statistics.median(one["origin"] for one in found[name]) for name in (PEER, LAZY)}
    bench.rows.append(cost_row("C2", "bytes the registry sent meanwhile, by what it sends without other nodes", sent[PEER] / sent[LAZY], "x", 0.01,
                               f"{sent[PEER] / 1e3:.0f} kB"))
    for name, least in ((LEARNT, 0.95), (PEER, 0.85)):
        shares = [one["local"] for one in found[name]]
        value = statistics.median(shares)
        bench.rows.append(Row("C5", f"bytes that were here before they were read: {name}", value, "", f">= {least}", value >= least,
                              note=f"{min(shares):.3f}-{max(shares):.3f} of the bytes that the kernel asked for", samples={name: shares}))
    bench.notes.append(f"every cable carries {MBIT} Mbit/s each way")


class Starts:
    """First starts of one image on one machine, and what each cost."""

    def __init__(self, image: images.Image, reference: str, origin: Machine, reader: Machine, work: pathlib.Path):
        self.image, self.reference, self.origin, self.reader, self.work = image, reference, origin, reader, work
        self.found: dict[str, list[dict]] = {}

    def lazily(self, name: str, node: Node, unmount: bool = False) -> float:
        """On an empty node, which ends without telling anybody unless it is to unmount before."""
        try:
            node.start()
            node.waits_for_others()
            drop_caches()
            received, sent, began = self.reader.traffic()[0], self.origin.traffic()[1], time.monotonic()
            node.mount(self.reference, "first")
            first_work(self.image, node.target("first"))
            took = time.monotonic() - began
            shown = node.shown("first")
            self._note(name, received, sent, shown["bytes_read_local"] / max(shown["bytes_read"], 1))
            if unmount:
                node.umount("first")
                time.sleep(TELL_SECONDS)
            return took
        finally:
            node.leave()

    def pulled(self, at: str) -> float:
        """Every layer downloaded and unpacked, one after the other, then the work."""
        target = self.work / "pulled"
        target.mkdir()
        drop_caches()
        received, sent, began = self.reader.traffic()[0], self.origin.traffic()[1], time.monotonic()
        for layer in images.build(self.image):
            url = f"http://{at}/v2/demo/{self.image.name}/blobs/{layer.digest}"
            script = f"set -o pipefail; curl -sfL {url} | tar -xzp --numeric-owner --keep-directory-symlink -C {target}"
            subprocess.run([*self.reader.prefix, "bash", "-c", script], check=True)
        first_work(self.image, target)
        took = time.monotonic() - began
        self._note(PULLED, received, sent, 0)
        shutil.rmtree(target)
        return took

    def _note(self, name: str, received: int, sent: int, local: float) -> None:
        one = {"received": self.reader.traffic()[0] - received, "origin": self.origin.traffic()[1] - sent, "local": local}
        self.found.setdefault(name, []).append(one)
