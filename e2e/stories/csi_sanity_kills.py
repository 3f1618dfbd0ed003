"""The CSI conformance suite finds no fault while the driver's process and the node server are killed before each of its specs."""

import re

from e2e.stories import node_pod_deleted as kills
from e2e.stories.csi_sanity import SPECS_MIN, counts, name, reported, sanity, suite
from e2e.story import SYSTEM, Story


def run(it: Story) -> None:
    with suite(it) as (node, command):
        specs = claimed(it, node, command)
        for number, spec in enumerate(specs, 1):
            killed(it, node, number)
            said = sanity(it, node, [*command, "--ginkgo.focus", f"^{re.escape(spec)}$"])
            passed, failed, _ = counts(it, said)
            it.check((passed, failed) == (1, 0), f"after a kill: {spec}: {said[-4000:]}")
    it.say(f"{len(specs)} kills of each, {len(specs)} specs passed, 0 failed")
    it.check(len(specs) >= SPECS_MIN, f"only {len(specs)} specs ran")


def killed(it: Story, node: str, number: int) -> None:
    """Kills both. The suite waits for the driver; what the driver says while there is no node server is for kubelet to try again."""
    it.wait("the node server is ready", lambda: starts(it, node) >= 0, 120)
    before = starts(it, node)
    for process in ("node", "csi"):
        # The container is started again some time after its process has ended.
        it.wait(f"{process} runs before spec {number}", lambda process=process: kills.ended(it, node, process), 120)
    it.wait(f"the node server runs again before spec {number}", lambda: starts(it, node) > before, 120)


def starts(it: Story, node: str) -> int:
    """How often a node's node server was started again by now; -1 while it is not ready."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=node", f"--field-selector=spec.nodeName={node}")["items"]
    status, = (status for item in pods for status in item["status"]["containerStatuses"])
    return status["restartCount"] if status["ready"] else -1


def claimed(it: Story, node: str, command: list[str]) -> list[str]:
    """The specs that the suite runs with this driver, in its own words."""
    _, report = reported(it, node, command)
    # A focus is compared with the suite's name and the spec's.
    return [f"{report['SuiteDescription']} {one}" for one in names(report["SpecReports"])]


def names(reports: list[dict]) -> list[str]:
    """Full texts of the specs that passed, each once."""
    passed = [one for one in reports if one["LeafNodeType"] == "It" and one["State"] == "passed"]
    return list(dict.fromkeys(map(name, passed)))
