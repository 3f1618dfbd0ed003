#!/usr/bin/env python3
"""Runs the whole test suite, stage by stage, and ends with one line that sums everything.

    scripts/test.py              every stage
    scripts/test.py vm lint      only these, in the order below

The vm stage boots other kernels under software emulation: on two cores it takes ten minutes, twice
as long as all others together.

A stage passes or fails as its command says; single tests are counted from its output. A stage
that fails without naming a failed test counts as one failure, so nothing is lost from the sum.
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

RUST = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
PYTHON_RAN = re.compile(r"^Ran (\d+) tests? in")
PYTHON_BAD = re.compile(r"(failures|errors|skipped)=(\d+)")


@dataclasses.dataclass
class Count:
    """How many tests passed, failed, and were not run."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def line(self, text: str) -> None:
        """Adds what one line of output reports."""
        if found := RUST.match(text):
            passed, failed, ignored = map(int, found.groups())
            self.passed, self.failed, self.skipped = self.passed + passed, self.failed + failed, self.skipped + ignored
        elif found := PYTHON_RAN.match(text):
            self.passed += int(found[1])
        elif text.startswith(("FAILED (", "OK (")):
            for kind, number in PYTHON_BAD.findall(text):
                self.passed -= int(number)
                if kind == "skipped":
                    self.skipped += int(number)
                else:
                    self.failed += int(number)


# Stages whose own success counts as one passed test.
CHECKS = {"lint"}
STAGES = {
    "lint": ["make", "lint"],
    "python": [sys.executable, "-m", "unittest", "discover", "-t", ".", "-s", "."],
    "sdk": [sys.executable, "sdk/python/dev.py", "test"],
    "rust": ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"],
    "vm": ["vmtest/suite"],
}


def main(names: list[str]) -> int:
    """0 when every stage passed."""
    total, stages = Count(), []
    for name in [stage for stage in STAGES if stage in (names or STAGES)]:
        print(f"\n==== {name}", flush=True)
        count, code, seconds = run(name)
        stages.append(f"  {name:8} {count.passed:5} passed {count.failed:3} failed {count.skipped:3} skipped  {seconds:5.0f} s"
                      f"{'' if code == 0 else f'  (status {code})'}")
        total = Count(total.passed + count.passed, total.failed + count.failed, total.skipped + count.skipped)
    print("\n" + "\n".join(stages))
    if total.skipped:
        print(f"{total.skipped} skipped: see above for what they need")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed else 0


def run(name: str) -> tuple[Count, int, float]:
    """Runs a stage with its output shown; counts, exit status and duration."""
    count, started = Count(), time.monotonic()
    # A test that needs the kernel and is refused by it fails here; alone it may skip.
    environment = {**os.environ, "LAMINA_TEST_KERNEL": "1"}
    with subprocess.Popen(STAGES[name], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for raw in process.stdout:
            text = raw.decode(errors="replace").rstrip()
            print(text, flush=True)
            count.line(text)
    if process.returncode and not count.failed:
        count.failed = 1
    if not process.returncode and name in CHECKS:
        count.passed += 1
    return count, process.returncode, time.monotonic() - started


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in STAGES]
    if unknown:
        sys.exit(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    sys.exit(main(sys.argv[1:]))
