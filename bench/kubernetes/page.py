"""bench/results/kubernetes-*.json for programs, docs/benchmarks-kubernetes.md for people.

One result file a section and run; the page shows the newest of each section that did not fail.
"""

import dataclasses
import datetime
import json
import os
import pathlib

from e2e.cluster.tools import VERSIONS

from ..corpus.paths import REPOSITORY
from ..report import line

RESULTS = REPOSITORY / "bench/results"
PAGE = REPOSITORY / "docs/benchmarks-kubernetes.md"
TITLES = {
    "cold": "B1. A pod's first useful work with nothing local",
    "publish": "B2. Publishing a converted image",
    "pods": "B3. A hundred pods on one node",
    "install": "B4. From helm install to the first read",
    "operator": "B5. A thousand Flists at once",
}
HOW = {
    "cold": "One pod on an empty node, by turns with the image as a Lamina volume (converted before, in a store in the same registry; the"
            " node left and empty), as an image volume that kubelet pulls (KEP-4639; removed from containerd before), and as a folder of"
            " the node with the page cache dropped. Time from `kubectl create` until the work is done.",
    "publish": "`NodePublishVolume` on the driver's socket, as kubelet calls it.",
    "pods": "Publish times are the node server's own; memory is the proportional set size.",
    "install": "Container images are on the nodes; the volume's image is converted.",
    "operator": "All of one converted image. Calls are what the API server counted for Flists and events.",
}


def keep(bench, section: str, machine: dict, seconds: float, failed: str | None) -> pathlib.Path:
    """Writes the results of one section."""
    now = datetime.datetime.now(datetime.timezone.utc)
    result = {
        "date": now.isoformat(timespec="seconds"), "section": section, "quick": bench.quick, "seconds": round(seconds), "rounds": bench.rounds,
        "machine": machine, "cluster": VERSIONS, "load_after": [round(load, 2) for load in os.getloadavg()], "failed": failed,
        "notes": bench.notes, "rows": [dataclasses.asdict(row) for row in bench.rows],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"kubernetes-{section}-{now:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n")
    return path


def write() -> None:
    """Writes the page from what is kept."""
    PAGE.write_text(text({section: found for section in TITLES if (found := newest(section))}))


def newest(section: str) -> tuple[str, dict] | None:
    """The name and content of a section's result: the newest that did not fail, or else the newest."""
    results = [(path.name, json.loads(path.read_text())) for path in sorted(RESULTS.glob(f"kubernetes-{section}-*.json"))]
    return next((one for one in reversed(results) if not one[1]["failed"]), results[-1] if results else None)


def text(results: dict[str, tuple[str, dict]]) -> str:
    """The page."""
    lines = [
        "# Benchmarks on Kubernetes", "",
        "Written by `make bench-k8s`; do not edit. Measured on the test cluster (`docs/cluster.md`): two nodes and the control plane share one",
        "machine, so absolute times are context, and pods start slower than on machines of their own. Variants run by turns in random order;",
        "in brackets the bootstrap 95 % interval of the ratio of medians. Every sample is in the file named under each table.", "",
        "Again: `make bench-k8s`, or on a cluster that is up `python3 -m bench.kubernetes --only cold --rounds 3`.", "",
    ]
    for section, (name, result) in results.items():
        about = result["machine"]
        lines += [f"## {TITLES[section]}", "", HOW[section], "", "| measure | result | target | | remarks |", "|---|---|---|---|---|"]
        lines += [line(row) for row in result["rows"]]
        lines += ["", f"{result['date']}, commit {about['commit']}, {result['rounds']} rounds, {result['seconds']} s; {about['cpu']},"
                  f" {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}; Kubernetes {result['cluster']['kubernetes']}, containerd"
                  f" {result['cluster']['containerd']}; load average {about['load'][0]} before, {result['load_after'][0]} after."
                  f" Samples: `bench/results/{name}`.", ""]
        lines += [f"- {note}" for note in result["notes"]] + [""] * bool(result["notes"])
        if result["failed"]:
            lines += [f"The section failed: {result['failed']}", ""]
    return "\n".join(lines)
