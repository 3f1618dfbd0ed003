"""B2: NodePublishVolume as kubelet calls it, of converted images that the node does not have."""

import statistics

from ..corpus import images
from ..method import Row, cost_row
from .cluster import Bench

# Publications per image: enough for a p99.
TIMES = 200
TIMES_QUICK = 100
BIG_TIMES = 20


def run(bench: Bench) -> None:
    """A middling image many times, the biggest some times."""
    bench.note("each publish of B2 asks the registry what the tag stands for, the store for the flist, and mounts; nothing of the image's"
               " flist is on the node before")
    times = TIMES_QUICK if bench.quick else TIMES
    one(bench, images.find("python-data"), times, "not on the node", 0.05, 0.2, "--forget")
    one(bench, images.find("python-data"), times, "on the node", None, None)
    one(bench, images.find("ml"), BIG_TIMES, "not on the node", 1, 1, "--forget")


def one(bench: Bench, image: images.Image, times: int, where: str, p50: float | None, p99: float | None, *more: str) -> None:
    """One image."""
    reference = bench.convert(image)
    # The first starts what is idle.
    bench.publish(bench.empty, reference, 1)
    taken = bench.publish(bench.empty, reference, times, *more)
    size = sum(path.lstat().st_size for path in images.native_tree(image).rglob("*") if path.is_file() and not path.is_symlink())
    what, seconds = f"publish of {image.name} ({size / 1e9:.2f} GB), converted, {where}", sorted(taken["publish"])
    bench.add(row(f"{what}: p50", statistics.median(seconds), p50, times, {"seconds": taken["publish"]}))
    bench.add(row(f"{what}: p99", percentile(seconds, 0.99), p99, times))
    bench.add(row(f"{what}: unpublish, p50", statistics.median(taken["unpublish"]), None, times))


def row(what: str, seconds: float, most: float | None, times: int, samples: dict | None = None) -> Row:
    """A time in milliseconds, with its target."""
    return cost_row("B2", what, seconds * 1e3, "ms", None if most is None else most * 1e3, f"of {times}", samples)


def percentile(ordered: list[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
