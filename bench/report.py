"""Writes what a run found: docs/benchmarks.md for people, bench/results/*.json for programs."""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess

from . import nydus
from .corpus.paths import REPOSITORY

TITLES = {
    "A1": "Warm sequential reads, relative to ext4 (above 1: faster)",
    "A2": "Warm random reads, mmap and small files, relative to ext4",
    "A3": "Walking a tree, relative to ext4",
    "A4": "Page-cache-cold reads of local data, relative to ext4",
    "A5": "First useful work with nothing local",
    "A6": "Bytes and round trips for that",
    "A7": "Reading a whole image lazily",
    "A8": "Converting",
    "A9": "Stored bytes",
    "A10": "Mount-ready time",
    "A11": "Memory of the daemons",
    "A12": "Daemon CPU during warm reads",
    "A13": "Stall when a daemon is killed",
}

# What is known of the distance to the targets; measured by profiling, to be revised with the code.
LIMITS = {
    "A1": "The kernel serves all of it. With four readers on two cores the order of runs matters more than the file system.",
    "A2": "Large reads fill the page cache with large folios: a mount whose data is all local gets the read-ahead of the cache's disk. One"
          " that lacks data keeps the kernel's 128 KiB, and its warm random reads cost up to a third more than where a disk has 8 MiB.",
    "A5": "Without a profile the import and library graph in the flist leads the way; the rest is demand misses of library code"
          " (one round trip each) and, on the shaped link, whole chunks for pages.",
    "A6": "Chunks average 64 KiB and code is touched in pages: in units of 64 KiB the touched bytes are 1.5 times the pages. Libraries"
          " up to 8 MiB are taken whole.",
    "A8": "A third is zstd, a quarter inflating, an eighth SHA-256 of both streams (digest and diff id): nydus-image does the same work.",
    "A9": "zstd 3 on chunks of 64 KiB packs about as well as gzip on whole layers: what is saved is what deduplication saves.",
}


def machine() -> dict:
    """What the numbers were made on."""
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {
        "kernel": platform.release(), "cpu": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / (1 << 20), 1), "load": [round(load, 2) for load in os.getloadavg()],
        "commit": _output("git", "-C", REPOSITORY, "describe", "--always", "--dirty"),
        "versions": {
            "rustc": _output("rustc", "--version"), "mkfs.erofs": _output("mkfs.erofs", "-V"),
            "nydus-rs": nydus.VERSION, "python": platform.python_version(),
        },
    }


def _output(*command) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError:
        return "not installed"
    return ((result.stdout or result.stderr).splitlines() or [""])[0].strip()


def write(bench, before: dict, seconds: float, failed: dict[str, str], sections: list[str], complete: bool) -> pathlib.Path:
    """Writes both files; the page is for runs of all sections only, so that a partial one loses nothing."""
    now = datetime.datetime.now(datetime.timezone.utc)
    result = {
        "date": now.isoformat(timespec="seconds"), "quick": bench.quick, "seconds": round(seconds), "rounds": bench.rounds,
        "sections": sections, "machine": before, "load_after": [round(load, 2) for load in os.getloadavg()],
        "failed": failed, "notes": bench.notes, "rows": [dataclasses.asdict(row) for row in bench.rows],
    }
    folder = REPOSITORY / "bench/results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{now:%Y%m%d-%H%M%S}{'-quick' if bench.quick else ''}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n")
    if complete:
        (REPOSITORY / "docs/benchmarks.md").write_text(table(result, path.relative_to(REPOSITORY)))
    return path


def table(result: dict, path: pathlib.Path) -> str:
    """The page."""
    about = result["machine"]
    lines = [
        "# Benchmarks", "",
        "Written by `make bench`; do not edit. Ratios come from interleaved rounds in random order on one machine; in brackets",
        "the bootstrap 95 % interval of the ratio of medians. Absolute times are context: other machines give others.", "",
        f"- {result['date']}, {'quick run, ' if result['quick'] else ''}{result['rounds']} rounds, {result['seconds']} s, commit {about['commit']}",
        f"- {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']};"
        f" load average {about['load'][0]} before, {result['load_after'][0]} after",
        "- " + ", ".join(f"{name} {version.removeprefix(name).strip()}" for name, version in about["versions"].items()),
        f"- every sample: `{path}`",
        "- again: `make bench` (all, about an hour), `make bench-quick` (under ten minutes), `python3 -m bench --only warm`", "",
    ]
    by_id: dict[str, list] = {}
    for row in result["rows"]:
        by_id.setdefault(row["id"], []).append(row)
    for id in sorted(by_id, key=lambda id: int(id[1:])):
        lines += [f"## {id}. {TITLES[id]}", ""]
        lines += [LIMITS[id], ""] if id in LIMITS else []
        lines += [ "| measure | result | target | | remarks |", "|---|---|---|---|---|"]
        lines += [line(row) for row in by_id[id]]
        lines.append("")
    if result["notes"] or result["failed"]:
        lines += ["## What this run could not do, and how it mounted", ""]
        lines += [f"- section {name} failed: {reason}" for name, reason in result["failed"].items()]
        lines += [f"- {note}" for note in result["notes"]]
        lines.append("")
    return "\n".join(lines)


def line(row: dict) -> str:
    """A row of a table."""
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else ""
    verdict = {True: "met", False: "**missed**", None: ""}[row["met"]]
    unit = "" if row["unit"] == "x" else f" {row['unit']}"
    return f"| {row['what']} | {row['value']:.3g}{unit}{interval} | {row['target']} | {verdict} | {row['note']} |"
