"""python3 -m bench [--quick] [--rounds N] [--only SECTION[,SECTION]]: measures and writes the results.

Sections: warm (A1-A4, A12), daemon (A10, A11, A13), cold (A5-A7), convert (A8, A9). A section
that fails is reported as failed and does not keep the others from running. Needs root.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback

from . import cold, convert, daemon, report, warm
from .corpus.paths import REPOSITORY
from .setup import Bench

SECTIONS = {"warm": warm.run, "daemon": daemon.run, "cold": cold.run, "convert": convert.run}


def main() -> int:
    """0 when every section ran, whatever the numbers say; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller images")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of 9 (3 with --quick)")
    parser.add_argument("--only", help="sections, separated by commas")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("benchmarks mount, drop caches and shape links: run them as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sections = options.only.split(",") if options.only else list(SECTIONS)
    subprocess.run(["cargo", "build", "--release", "-q", "-p", "lamina-bench"], cwd=REPOSITORY, check=True)
    before, started, failed = report.machine(), time.monotonic(), {}
    with Bench(options.quick, options.rounds) as bench:
        for name in sections:
            print(f"-- {name} (load {os.getloadavg()[0]:.1f})", flush=True)
            try:
                SECTIONS[name](bench)
            except Exception as error:  # noqa: BLE001: whatever went wrong, say it and go on
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}"
        path = report.write(bench, before, time.monotonic() - started, failed, sections, sections == list(SECTIONS))
    missed = sum(row.met is False for row in bench.rows)
    print(f"\n{sum(row.met is True for row in bench.rows)} targets met, {missed} missed, {len(failed)} sections failed; "
          f"{'docs/benchmarks.md and ' if sections == list(SECTIONS) else ''}{path.relative_to(REPOSITORY)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
