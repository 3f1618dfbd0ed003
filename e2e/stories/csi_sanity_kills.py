"""The CSI conformance suite finds no fault while the driver's process is killed before each of its specs."""

import json
import re

from e2e.stories.csi_sanity import SCRATCH, SPECS_MIN, counts, sanity, suite
from e2e.story import Story

# Ends the driver's process on a node, by pid, as the kernel does when memory runs out.
KILL = r"""
ended=0
for folder in /proc/[0-9]*; do
  words=$(tr '\0' ' ' < $folder/cmdline 2>/dev/null) || continue
  case "$words" in */lamina-csi\ node\ *) kill -9 ${folder#/proc/} && ended=$((ended + 1));; esac
done
echo ended $ended
"""


def run(it: Story) -> None:
    with suite(it) as (node, command):
        specs = claimed(it, node, command)
        for number, spec in enumerate(specs, 1):
            # The container is started again some time after its process has ended.
            it.wait(f"the driver runs before spec {number}", lambda: "ended 1" in it.on_node(node, KILL), 60)
            said = sanity(it, node, [*command, "--ginkgo.focus", f"^{re.escape(spec)}$"])
            passed, failed, _ = counts(it, said)
            it.check((passed, failed) == (1, 0), f"after a kill: {spec}: {said[-4000:]}")
    it.say(f"{len(specs)} kills, {len(specs)} specs passed, 0 failed")
    it.check(len(specs) >= SPECS_MIN, f"only {len(specs)} specs ran")


def claimed(it: Story, node: str, command: list[str]) -> list[str]:
    """The specs that the suite runs with this driver, in its own words."""
    said = sanity(it, node, [*command, f"--ginkgo.json-report={SCRATCH}/report.json"])
    reports = json.loads(it.on_node(node, f"cat {SCRATCH}/report.json"))
    it.check(bool(reports) and reports[0]["SpecReports"], f"csi-sanity wrote no report: {said[-3000:]}")
    # A focus is compared with the suite's name and the spec's.
    return [f"{reports[0]['SuiteDescription']} {name}" for name in names(reports[0]["SpecReports"])]


def names(reports: list[dict]) -> list[str]:
    """Full texts of the specs that passed, each once."""
    passed = [one for one in reports if one["LeafNodeType"] == "It" and one["State"] == "passed"]
    return list(dict.fromkeys(" ".join([*(one["ContainerHierarchyTexts"] or []), one["LeafNodeText"]]) for one in passed))
