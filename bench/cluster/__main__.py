"""python3 -m bench.cluster [--quick] [--rounds N] [--only SECTION[,SECTION]]: measures nodes that serve each other.

Sections: discovery (C4), transfer (C3), start (C2, C5), holes (C6), fanout (C1). A section that fails is reported and
does not keep the others from running. docs/benchmarks-cluster.md is written from the newest results of each section in bench/results.

With LAMINA and LAMINA_BENCH in the environment (the programs to use, of any profile) nothing is built, and what comes out
is shown and not kept: to try a section.
"""

import sys

from .. import told
from . import discovery, fanout, holes, page, start, transfer

SECTIONS = {"discovery": discovery.run, "transfer": transfer.run, "start": start.run, "holes": holes.run,
            "fanout": fanout.run}


def main() -> int:
    """0 when every section ran."""
    parser = told.arguments("bench.cluster", __doc__)
    parser.add_argument("--nodes", help="how many nodes, separated by commas, for fanout")
    return told.measure(parser.parse_args(), SECTIONS, page.PAGE)


if __name__ == "__main__":
    sys.exit(main())
