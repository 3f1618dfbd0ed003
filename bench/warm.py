"""A1-A4 and A12: reads and walks of local data, against the same tree on ext4."""

import contextlib
import json
import pathlib
import subprocess

from . import nydus
from .corpus import images
from .method import Row, cost_row, interleave, speed_row
from .setup import Bench, cpu_seconds, drive, drop_caches, overlay


def run(bench: Bench) -> None:
    """All sections on local data."""
    with contextlib.ExitStack() as stack:
        lamina = stack.enter_context(bench.instance("warm"))
        roots = {name: local(bench, lamina, stack, name) for name in trees(bench)}
        big = {variant: root / "big" for variant, root in roots["big"].items()}
        reads(bench, big)
        small(bench, roots["python-data"])
        for name in trees(bench)[2:]:
            walks(bench, name, roots[name])
        cold_local(bench, big)
        daemon_cpu(bench, lamina, big["lamina"])


def trees(bench: Bench) -> list[str]:
    """The images whose trees are read: a big file, small files, then trees to walk."""
    return ["big", "python-data", "tree25k"] + ([] if bench.quick else ["tree100k"])


def local(bench: Bench, lamina, stack, name: str) -> dict:
    """Where the image's tree is, by variant, with all data on this machine."""
    image = images.find(name)
    roots = {"native": images.native_tree(image)}
    flist, target = bench.flist(image), bench.work / "mnt" / name
    lamina.mount(flist, target)
    lamina.call("prefetch", target)
    # Complete blobs may be given to the kernel directly, which is decided when mounting.
    lamina.umount(target)
    lamina.mount(flist, target)
    bench.note(f"mount mode of {name}: {lamina.stats(target)['mode']}")
    roots["lamina"] = target
    for variant in ("native", "lamina"):
        roots[f"{variant}+overlay"] = stack.enter_context(overlay(roots[variant], bench.work / "overlay" / f"{name}-{variant}"))
    if mounted := nydus.mount(bench, stack, image):
        roots["nydusd"] = mounted
    return roots


def compare(bench: Bench, id: str, what: str, target: float, roots: dict, measure, prepare=None) -> None:
    """One measure on every variant; rows for ours direct, ours below overlayfs, and peers."""

    def sample(root):
        if prepare:
            prepare()
        return measure(root)["seconds"]

    if not prepare:
        for root in roots.values():
            measure(root)
    variants = {name: (lambda root=root: sample(root)) for name, root in roots.items()}
    samples = interleave(variants, bench.rounds, native="native")
    bench.add(speed_row(id, what, samples, "lamina", "native", target))
    if "lamina+overlay" in roots:
        bench.add(speed_row(id, f"{what}, both below overlayfs", samples, "lamina+overlay", "native+overlay", target))
    if "nydusd" in roots:
        value, low, high = samples.ratio("native", "nydusd")
        bench.add(Row(id, f"{what}: nydusd", value, "x", "", None, low, high, "peer"))


def reads(bench: Bench, big: dict) -> None:
    """A1 and the single-file half of A2."""
    passes = 2 if bench.quick else 4
    for block in (128 << 10, 1 << 20):
        for jobs in (1, 4):
            compare(bench, "A1", f"warm sequential {block >> 10}K, {jobs} job{'s' * (jobs > 1)}", 0.97, big,
                    lambda path: drive("seq", path, "--block", block, "--jobs", jobs, "--passes", passes))
    compare(bench, "A2", "warm 4K random", 0.95, big, lambda path: drive("random", path, "--count", 200_000))
    compare(bench, "A2", "warm mmap touch", 0.95, big, lambda path: drive("mmap", path, "--count", 1_000_000))


    if not bench.quick:
        # The same with a tool we did not write, as a check of the driver.
        compare(bench, "A1", "warm sequential 128K, measured by fio", 0.97, big, lambda path: _fio(path, "read", "128k", "2g"))
        compare(bench, "A2", "warm 4K random, measured by fio", 0.95, big, lambda path: _fio(path, "randread", "4k", "512m"))


def _fio(path: pathlib.Path, pattern: str, block: str, amount: str) -> dict:
    command = ["fio", "--name=bench", f"--filename={path}", "--readonly", f"--rw={pattern}", f"--bs={block}", f"--io_size={amount}",
               "--ioengine=psync", "--invalidate=0", "--output-format=json"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return {"seconds": json.loads(result.stdout)["jobs"][0]["read"]["runtime"] / 1e3}


def small(bench: Bench, roots: dict) -> None:
    """The small-file half of A2."""
    compare(bench, "A2", "warm open+read+close of small files", 0.95, roots, lambda root: drive("small", root, "--count", 5000))


def walks(bench: Bench, name: str, roots: dict) -> None:
    """A3."""
    direct = {variant: root for variant, root in roots.items() if "overlay" not in variant}
    compare(bench, "A3", f"walk of {name}, dentries dropped", 1.1, direct, lambda root: drive("walk", root), lambda: drop_caches(2))
    compare(bench, "A3", f"walk of {name}, warm", 1.1, direct, lambda root: drive("walk", root))


def cold_local(bench: Bench, big: dict) -> None:
    """A4: nothing in the page cache, everything on the local disk."""
    direct = {variant: root for variant, root in big.items() if "overlay" not in variant}
    count = 2000 if bench.quick else 5000
    compare(bench, "A4", "page-cache-cold sequential 1M", 0.9, direct, lambda path: drive("seq", path, "--block", 1 << 20), drop_caches)
    compare(bench, "A4", "page-cache-cold 4K random", 0.9, direct, lambda path: drive("random", path, "--count", count), drop_caches)
    compare(bench, "A4", "page-cache-cold 4K random, 64 readers", 0.9, direct,
            lambda path: drive("random", path, "--count", count // 20, "--jobs", 64), drop_caches)


def daemon_cpu(bench: Bench, lamina, path) -> None:
    """A12: what our processes use while warm data is read."""
    drive("seq", path)
    daemons = lamina.processes().values()
    before = sum(map(cpu_seconds, daemons))
    read = drive("seq", path, "--passes", 8)["bytes"] + drive("random", path, "--count", 300_000)["bytes"]
    used = sum(map(cpu_seconds, daemons)) - before
    bench.add(cost_row("A12", "daemon CPU per GiB of warm reads", used / (read / (1 << 30)), "s", 0.0,
                       "clock tick 10 ms", {"cpu_seconds": used, "bytes": read}))
