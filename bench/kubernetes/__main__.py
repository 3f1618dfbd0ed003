"""python3 -m bench.kubernetes [--quick] [--rounds N] [--only SECTION[,SECTION]]: measures on the test cluster that is up.

Sections: install (B4), publish (B2), cold (B1), pods (B3), operator (B5). The chart is installed with the image of
`make image` and a store in the cluster's registry. A section that fails is reported and does not keep the others from
running. docs/benchmarks-kubernetes.md is written from the newest results of each section in bench/results.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback

from ..corpus.paths import REPOSITORY
from ..report import machine
from . import cold, install, operator, page, pods, publish
from .cluster import DRIVER, Bench

SECTIONS = {"install": install.run, "publish": publish.run, "cold": cold.run, "pods": pods.run, "operator": operator.run}


def main() -> int:
    """0 when every section ran, whatever the numbers say; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python3 -m bench.kubernetes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, without the biggest image")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of 9 (3 with --quick)")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--note", help="what a reader must know about this run, such as how the programs were built")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sections = options.only.split(",") if options.only else list(SECTIONS)
    if not os.environ.get("LAMINA_BENCH_DRIVER"):
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "lamina-bench"], cwd=REPOSITORY, check=True)
    bench, failed, before = Bench(options.quick, options.rounds or (3 if options.quick else 9)), {}, machine()
    if not DRIVER.exists():
        sys.exit(f"{DRIVER} is missing")
    bench.install()
    for name in sections:
        print(f"-- {name} (load {os.getloadavg()[0]:.1f})", flush=True)
        bench.rows, bench.notes, started = [], [options.note] if options.note else [], time.monotonic()
        try:
            SECTIONS[name](bench)
        except Exception as error:  # noqa: BLE001: whatever went wrong, say it and go on
            traceback.print_exc()
            failed[name] = type(error).__name__
        except SystemExit:
            failed[name] = "told to end"
            raise
        finally:
            # Kept as soon as it is there: what comes later may fail.
            page.PAGE.keep(bench, name, before, time.monotonic() - started, failed.get(name))
            page.PAGE.write()
    print(f"{len(failed)} sections failed; docs/benchmarks-kubernetes.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
