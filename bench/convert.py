"""A8 and A9: what converting costs, and what the result takes in a store."""

import os
import pathlib
import shutil
import subprocess

from . import nydus
from .corpus import images
from .corpus.paths import LAYERS
from .lamina import PROGRAM
from .method import Row, cost_row, interleave
from .setup import Bench


def run(bench: Bench) -> None:
    """Both sections."""
    for name in ["python-data"] + ([] if bench.quick else ["ml", "web"]):
        speed(bench, images.find(name))
    stored(bench)


def speed(bench: Bench, image: images.Image) -> None:
    """A8: compressed source bytes per CPU second, and peak memory."""
    reference, layers = bench.reference(image), images.build(image)
    source = sum(layer.size for layer in layers)
    peaks = []

    def lamina() -> float:
        store = bench.work / "convert-store"
        shutil.rmtree(store, ignore_errors=True)
        cpu, peak = _usage([PROGRAM, "convert", reference, "-o", bench.work / "convert.fl", "-s", f"dir://{store}"])
        peaks.append(peak)
        return cpu

    def peer() -> float:
        out = bench.work / "convert-nydus"
        shutil.rmtree(out, ignore_errors=True)
        return nydus.convert(image, out)[1]

    variants = {"lamina": lamina}
    if nydus.converted(bench, image):
        variants["nydus-image"] = peer
    samples = interleave(variants, max(2, bench.rounds // 3))
    for name in variants:
        seconds = samples.median(name)
        bench.add(cost_row("A8", f"convert {image.name}: {name}, CPU", seconds, "s", None, f"{source / 1e6 / seconds:.1f} MB of gzip per core-second"))
    if "nydus-image" in variants:
        value, low, high = samples.ratio("nydus-image", "lamina")
        bench.add(Row("A8", f"convert {image.name}: source bytes per core-second, over nydus-image", value, "x", ">= 2", value >= 2, low, high,
                      samples=samples.by_variant))
    flight = min(len(layers), os.cpu_count() or 1)
    bench.add(cost_row("A8", f"convert {image.name}: peak memory per layer in flight", max(peaks) / flight / (1 << 20), "MiB", 64,
                       f"{max(peaks) / (1 << 20):.0f} MiB whole process, {flight} layers counted"))


def _usage(command: list) -> tuple[float, int]:
    """CPU seconds and peak resident bytes of a command."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[1]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def stored(bench: Bench) -> None:
    """A9: versions of images and packages in one store, against registries and erofs."""
    chosen = [images.find(name) for name in ("python-data:1", "python-data:2")]
    if not bench.quick:
        chosen = [image for image in images.ALL if image.name not in ("big", "tree25k", "tree100k", "tree1m", "odd")]
    store = bench.work / "stored"
    for image in chosen:
        bench.tools.convert(bench.reference(image), bench.work / "stored.fl", f"dir://{store}")
    ours = _size(store)
    blobs = {layer.digest: layer.size for image in chosen for layer in images.build(image)}
    each = sum(layer.size for image in chosen for layer in images.build(image))
    what = f"{len(chosen)} images"
    bench.add(cost_row("A9", f"stored bytes of {what}, over OCI gzip of every image", ours / each, "x", 0.35, f"{ours / 1e6:.0f} of {each / 1e6:.0f} MB"))
    bench.add(cost_row("A9", f"stored bytes of {what}, over OCI gzip with shared layers counted once", ours / sum(blobs.values()), "x", None,
                       f"{ours / 1e6:.0f} of {sum(blobs.values()) / 1e6:.0f} MB"))
    _against_erofs(bench, chosen[:2] if bench.quick else [images.find(f"versions:{n}") for n in range(1, 11)])


def _against_erofs(bench: Bench, chosen: list) -> None:
    """The same files as one deduplicated, compressed EROFS (it needs all of them at once)."""
    farm, store, out = bench.work / "farm", bench.work / "farm-store", bench.work / "farm.erofs"
    for image in chosen:
        # Only the layer that differs: equal layers would dedup as whole blobs anyway.
        layer = images.build(image)[-1]
        shutil.copytree(LAYERS / layer.key / "tree", farm / f"{image.name}-{image.tag}", symlinks=True)
    subprocess.run(["mkfs.erofs", "-zlz4hc,9", "-C65536", "-Ededupe", "--quiet", out, farm], check=True, stdout=subprocess.DEVNULL)
    bench.tools.call("pack", farm, "-o", bench.work / "farm.fl", "-s", f"dir://{store}")
    ours, theirs = _size(store) + (bench.work / "farm.fl").stat().st_size, out.stat().st_size
    shutil.rmtree(farm)
    bench.add(cost_row("A9", f"{len(chosen)} versions of one layer, over mkfs.erofs -Ededupe", ours / theirs, "x", 0.85,
                       f"{ours / 1e6:.0f} MB (zstd) of {theirs / 1e6:.0f} MB (lz4hc: mkfs.erofs of Debian 12 has no zstd)"))


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
