"""python3 -m bench.execution [--quick] [--rounds N] [--only SECTION[,SECTION]]: measures commands run by afslets.

Sections: runs (D1, D2), dispatch (D3), files (D4), held (D5), unknown (D6). A section that fails is reported and does not
keep the others from running. docs/benchmarks-execution.md is written from the newest results of each section in bench/results.

With LAMINA and LAMINA_BENCH in the environment (the programs to use, of any profile) nothing is built, and what comes out
is shown and not kept: to try a section.
"""

import sys

from .. import told
from . import dispatch, files, held, page, runs, unknown

SECTIONS = {"runs": runs.run, "dispatch": dispatch.run, "files": files.run, "held": held.run, "unknown": unknown.run}
# Milliseconds vary more than seconds do; all sections together still take less than eight minutes.
ROUNDS = 9


def main() -> int:
    """0 when every section ran."""
    return told.measure(told.arguments("bench.execution", __doc__, ROUNDS).parse_args(), SECTIONS, page.PAGE)


if __name__ == "__main__":
    sys.exit(main())
