"""What `python3 -m bench.cluster` and `python3 -m bench.execution` share: options, sections one after the other, their page."""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
import traceback

from .corpus.paths import REPOSITORY
from .report import line, machine
from .sections import Page

# Of each measure, unless asked otherwise.
ROUNDS = 5


class Bench:
    """One section's run: what is asked for, and what came out."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.quick = options, options.quick
        self.rounds = options.rounds or (2 if options.quick else options.rounds_usual)
        self.rows, self.notes = [], []


def end(number: int, _) -> None:
    """Ends in order: every block that made something removes it. Who asks twice is not heard again."""
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, signal.SIG_IGN)
    sys.exit(128 + number)


def arguments(name: str, about: str, rounds: int = ROUNDS) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(prog=f"python3 -m {name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and less of everything")
    parser.add_argument("--rounds", type=int, help=f"rounds of each measure, instead of {rounds} (2 with --quick)")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.set_defaults(rounds_usual=rounds)
    return parser


def measure(options: argparse.Namespace, sections: dict, page: Page) -> int:
    """0 when every section ran, whatever the numbers say; 1 when one failed.

    With LAMINA and LAMINA_BENCH in the environment nothing is built, and what comes out is shown and not kept.
    """
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, end)
    is_trial = {"LAMINA", "LAMINA_BENCH"} <= os.environ.keys()
    if not is_trial:
        subprocess.run(["cargo", "build", "--release", "-q", "-p", "lamina-bench", "-p", "lamina-cli"], cwd=REPOSITORY, check=True)
    failed, before = [], machine()
    for name in options.only.split(",") if options.only else list(sections):
        print(f"-- {name} (load {os.getloadavg()[0]:.1f})", flush=True)
        bench, started, why = Bench(options), time.monotonic(), None
        try:
            sections[name](bench)
        except Exception as error:  # noqa: BLE001: whatever went wrong, say it and go on
            traceback.print_exc()
            failed.append(name)
            why = f"{type(error).__name__}: {error}"
        for row in bench.rows:
            print(line(dataclasses.asdict(row)), flush=True)
        if not is_trial:
            page.keep(bench, name, before, time.monotonic() - started, why)
            page.write()
    print(f"{len(failed)} sections failed" + ("" if is_trial else f"; {page.path.relative_to(REPOSITORY)}"))
    return 1 if failed else 0
