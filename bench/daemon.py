"""A10, A11 and A13: time to a ready mount, memory of the daemons, stalls when they are killed."""

import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import time

from .corpus import images
from .method import cost_row, interleave
from .setup import DRIVER, Bench, wait_for

READERS = 64


def run(bench: Bench) -> None:
    """All three sections."""
    ready(bench, "tree25k", 5)
    if not bench.quick:
        ready(bench, "tree1m", 10)
    memory(bench, 20 if bench.quick else 100)
    for role in ("agent", "mountd"):
        stall(bench, role, prefetched=False)
        stall(bench, role, prefetched=True)


def ready(bench: Bench, name: str, at_most_ms: float) -> None:
    """A10: mounts of a flist already checked on this node, daemons running."""
    flist, target = bench.flist(images.find(name)), bench.work / "mnt-ready"
    inside, outside = [], []
    with bench.instance("ready") as lamina:
        for _ in range(bench.rounds + 1):
            started = time.monotonic()
            lamina.mount(flist, target)
            outside.append((time.monotonic() - started) * 1e3)
            info = lamina.stats(target)
            inside.append(info["ready_us"] / 1e3)
            lamina.umount(target)
    bench.add(cost_row("A10", f"mount-ready, {info['entries']} entries", statistics.median(inside[1:]), "ms", at_most_ms,
                       f"first on this node {inside[0]:.1f} ms; the whole command {statistics.median(outside[1:]):.1f} ms", {"ms": inside}))


def memory(bench: Bench, count: int) -> None:
    """A11: proportional set sizes with one and with many different flists mounted."""
    flist = bench.flist(images.find("tree25k"))
    with bench.instance("memory") as lamina:
        for number in range(count):
            copy = bench.work / f"copy-{number}.fl"
            # Another tag makes another flist: nothing is shared between these mounts.
            bench.tools.call("config", flist, "--set-tag", f"copy={number}", "--out", copy)
            lamina.mount(copy, bench.work / "many" / str(number))
            if number == 0:
                first = _memory(lamina.processes())
        last = _memory(lamina.processes())
    per_mount = (last["mountd"] - first["mountd"]) / (count - 1) / (1 << 20)
    bench.add(cost_row("A11", "mount daemon, memory per mount", per_mount, "MiB", 4, f"{last['mountd'] / (1 << 20):.1f} MiB with {count}", last))
    bench.add(cost_row("A11", f"agent with {count} mounts", last["agent"] / (1 << 20), "MiB", 64, samples=last))
    bench.add(cost_row("A11", f"holder with {count} mounts", last["holder"] / (1 << 20), "MiB", None, samples=last))


def _memory(processes: dict[str, int]) -> dict[str, int]:
    found = {}
    for role, pid in processes.items():
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        found[role] = int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024
    return found


def stall(bench: Bench, role: str, prefetched: bool) -> None:
    """A13: the longest any of 64 readers waited, without and with SIGKILL of a daemon."""
    flist, kind = bench.flist(images.find("big")), "local" if prefetched else "missing"
    target, seconds = bench.work / "mnt-stall", 2 if bench.quick else 5

    def once(victim: str | None) -> float:
        with bench.instance("stall") as lamina:
            lamina.empty_cache()
            lamina.mount(flist, target, "--no-prefetch")
            if prefetched:
                lamina.call("prefetch", target)
            return _longest(lamina, target / "big", victim, seconds)

    samples = interleave({"undisturbed": lambda: once(None), "killed": lambda: once(role)}, max(2, bench.rounds // 2))
    extra = max(0.0, samples.median("killed") - samples.median("undisturbed")) * 1e3
    low, high = (bound * 1e3 for bound in samples.spread("undisturbed"))
    # Zero means: not beyond what 64 readers on these cores do to each other anyway.
    at_most = high - low if prefetched else 100
    bench.add(cost_row("A13", f"SIGKILL of the {role}: stall of readers of {kind} data", extra, "ms", at_most,
                       f"longest wait {samples.median('killed') * 1e3:.0f} ms with, {low:.0f}-{high:.0f} ms without", samples.by_variant))


def _longest(lamina, path: pathlib.Path, role: str | None, seconds: float) -> float:
    readers = subprocess.Popen([DRIVER, "stall", path, "--jobs", str(READERS), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True)
    if role:
        # Early enough that data is still missing, late enough that all readers are at work.
        time.sleep(0.2)
        victim = lamina.processes()[role]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: lamina.processes().get(role) not in (None, victim), 10, f"a new {role}")
    out, _ = readers.communicate(timeout=seconds + 120)
    report = json.loads(out)
    if report["errors"]:
        raise RuntimeError(f"{report['errors']} reads failed while the {role} was killed")
    return report["longest_seconds"]
