"""docs/benchmarks-execution.md."""

import re
import subprocess

from ..corpus.paths import REPOSITORY
from ..sections import Page


def _version(*command: str) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return "not installed"
    found = re.search(r"\d+\.\d+(\.\d+)?", said)
    return found[0] if found else "unknown"


PAGE = Page(
    prefix="execution",
    path=REPOSITORY / "docs/benchmarks-execution.md",
    head=[
        "# Benchmarks of running commands", "",
        "Written by `make bench-execution`; do not edit. Everything is on one machine, so absolute times are context.", "",
        "Again: `make bench-execution`, or `python3 -m bench.execution --only runs`.",
    ],
    titles={"runs": "D1, D2. A command that does nothing", "dispatch": "D3. Runs through a proxy", "files": "D4. Files in, changes out",
            "held": "D5. Memory of sandboxes", "unknown": "D6. An image that the node does not have"},
    how={
        "runs": "`/bin/true` of a warm image, asked of an afslet by gRPC and awaited to the end of its stream: limits set, logs and changes handed back. The"
                " bare launcher clones into the same namespaces, mounts an overlay on a tmpfs, joins a cgroup in each hierarchy, runs the program and"
                " waits: the least that gives a program as much. All ways in every round, in an order that is drawn anew for each.",
        "dispatch": "A proxy before two afslets that answer at once and run nothing, called over loopback without TLS.",
        "files": "One big file put into a run, and the same file handed back as a change in a tar.gz.",
        "held": "Sandboxes whose command waits, all at the same time, against as many processes of that command.",
        "unknown": "The first run on a node that has nothing, with the image's first work as the command.",
    },
    versions={"runc": _version("runc", "--version"), "crun": _version("crun", "--version"), "bubblewrap": _version("bwrap", "--version")},
)
