"""python3 -m bench.cluster [--quick] [--rounds N] [--only SECTION[,SECTION]]: measures nodes that serve each other.

Sections: discovery (C4), transfer (C3), start (C2, C5), holes (C6), fanout (C1). A section that fails is reported and
does not keep the others from running. docs/benchmarks-cluster.md is written from the newest results of each section in bench/results.

With LAMINA and LAMINA_BENCH in the environment (the programs to use, of any profile) nothing is built, and what comes out
is shown and not kept: to try a section.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
import traceback

from ..corpus.paths import REPOSITORY
from ..report import line, machine
from . import discovery, fanout, holes, page, start, transfer

SECTIONS = {"discovery": discovery.run, "transfer": transfer.run, "start": start.run, "holes": holes.run,
            "fanout": fanout.run}


class Bench:
    """One run."""

    def __init__(self, quick: bool, rounds: int, nodes: tuple[int, ...] | None):
        self.quick, self.rounds, self.nodes = quick, rounds, nodes
        self.rows, self.notes = [], []


def end(number: int, _) -> None:
    """Ends in order: every block that made something removes it. Who asks twice is not heard again."""
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    """0 when every section ran, whatever the numbers say; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and nodes")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of 5 (2 with --quick)")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--nodes", help="how many nodes, separated by commas, for fanout")
    options = parser.parse_args()
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, end)
    is_trial = {"LAMINA", "LAMINA_BENCH"} <= os.environ.keys()
    if not is_trial:
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "lamina-bench", "-p", "lamina-cli"], cwd=REPOSITORY, check=True)
    nodes = tuple(map(int, options.nodes.split(","))) if options.nodes else None
    failed, before = [], machine()
    for name in options.only.split(",") if options.only else list(SECTIONS):
        print(f"-- {name} (load {os.getloadavg()[0]:.1f})", flush=True)
        bench, started, why = Bench(options.quick, options.rounds or (2 if options.quick else 5), nodes), time.monotonic(), None
        try:
            SECTIONS[name](bench)
        except Exception as error:  # noqa: BLE001: whatever went wrong, say it and go on
            traceback.print_exc()
            failed.append(name)
            why = f"{type(error).__name__}: {error}"
        for row in bench.rows:
            print(line(dataclasses.asdict(row)), flush=True)
        if not is_trial:
            page.PAGE.keep(bench, name, before, time.monotonic() - started, why)
            page.PAGE.write()
    print(f"{len(failed)} sections failed" + ("" if is_trial else "; docs/benchmarks-cluster.md"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
