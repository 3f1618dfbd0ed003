"""D5: memory of sandboxes whose commands wait."""

import pathlib
import re
import statistics

from ..cluster.nodes import Node, cluster, place, push
from ..corpus import images
from ..method import cost_row
from ..setup import drop_caches
from .afslets import afslet, at, waiting

IMAGE = "base"
COUNT, COUNT_QUICK = 1000, 100
# Says that it runs, and waits.
COMMAND = ("/bin/sh", "-c", "echo on; exec sleep 1000")


def run(bench) -> None:
    """All sandboxes at once, and as many of the command alone."""
    image = images.find(IMAGE)
    push(image)
    count = COUNT_QUICK if bench.quick else COUNT
    sandboxed, plain = [], []
    with place() as here, cluster(here.network, here.work, 1, None, here.at) as (node,):
        with afslet(node, f"--runs-max={count}", f"--cpu={count}", f"--memory={count * 32}", "--warm=0"):
            reference = f"{here.at}/{image.ref}"
            _held(node, reference, 2)
            for _ in range(bench.rounds):
                sandboxed.append(_held(node, reference, count))
                plain.append(_held(node, reference, count, "--plain"))
    beyond = [one - other for one, other in zip(sandboxed, plain)]
    bench.rows.append(cost_row("D5", f"memory of each of {count} sandboxes at once, beyond the command", statistics.median(beyond), "MiB", 2,
                               f"{min(beyond):.2f}-{max(beyond):.2f} MiB; the command alone {statistics.median(plain):.2f} MiB", {"beyond": beyond}))
    bench.notes.append("what the machine has less available (MemAvailable), the kernel's memory included")


def _held(node: Node, reference: str, count: int, *more: str) -> float:
    """MiB of each."""
    drop_caches()
    before = available()
    with waiting(node.machine.prefix, "hold", "--at", at(node), "--image", reference, "--count", count, "--jobs", 16, "--memory-mb", 16, "--no-diff", *more,
                 "--", *COMMAND):
        drop_caches()
        return (before - available()) / count


def available() -> float:
    """MiB of memory that programs could have."""
    return int(re.search(r"^MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)[1]) / 1024
