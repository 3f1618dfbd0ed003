"""The CSI conformance suite finds no fault with the real driver and real mounts."""

import collections
import contextlib
import json
import re
import shlex
import subprocess
from typing import Iterator

import yaml

from e2e.cluster import tools
from e2e.story import DRIVER, SYSTEM, Failed, Story

# Of 103; the others are about what the driver does not claim.
SPECS_MIN = 37
# A word of the suite's own text: why the driver does not offer it.
REASONS = {
    "Snapshot": "what a volume shows never changes and has a digest: the digest is the snapshot",
    "GroupControllerService": "groups are of snapshots",
    "ublishVolume": "nothing is attached: every node reads the content itself (attachRequired: false)",
    "Modify": "the content of a volume is what it is; another content is another volume",
    "ExpandVolume": "a volume is as large as what it shows",
    "tageVolume": "one mount is a publication of milliseconds; all pods of a node share its page cache without staging",
    "VolumeHealth": "the condition is in NodeGetVolumeStats; the calls of CSI 1.13 are not spoken",
    "StorageHealth": "as VolumeHealth",
    "CreateVolume not supported": "specs for drivers without a controller",
}
KUBELET = "/var/lib/kubelet"
SCRATCH = f"{KUBELET}/plugins/sanity"


def run(it: Story) -> None:
    with suite(it) as (node, command):
        said, report = reported(it, node, command)
    passed, failed, skipped = counts(it, said)
    it.say(f"{passed} passed, {failed} failed, {skipped} skipped")
    it.check(failed == 0, said[-8000:])
    it.check(passed >= SPECS_MIN, f"only {passed} specs ran")
    specs = report["SpecReports"]
    pending = [name(one) for one in specs if one["LeafNodeType"] == "It" and one["State"] == "pending"]
    it.say(f"{len(pending)} pending, upstream switched off: {'; '.join(pending)}")
    found = skips(specs)
    it.check(sum(found.values()) == skipped, f"{skipped} skipped, and in the report {found}")
    for word, reason in REASONS.items():
        it.check(found[word] > 0, f"nothing is skipped for {word!r} any more")
        it.say(f"  {found[word]} skipped, {word}: {reason}")


def skips(reports: list[dict]) -> collections.Counter:
    """How many specs were skipped for each of REASONS: by its own message, or else by its name. Each is counted once."""
    found: collections.Counter = collections.Counter()
    for one in reports:
        if one["LeafNodeType"] == "It" and one["State"] == "skipped":
            said = one.get("Failure", {}).get("Message", "")
            word = next((word for text in (said, name(one)) for word in REASONS if word in text), None)
            if word is None:
                raise Failed(f"skipped without a reason: {name(one)}: {said}")
            found[word] += 1
    return found


def name(spec: dict) -> str:
    """A spec's full text."""
    return " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])


@contextlib.contextmanager
def suite(it: Story) -> Iterator[tuple[str, list[str]]]:
    """The node and the command line that runs the suite on it; what it needs there goes with the block."""
    node, controller = controller_socket(it)
    parameters = yaml.safe_dump({"lamina.dev/image": it.images["busybox"]})
    it.on_node(node, f"mkdir -p {SCRATCH} && printf %s {shlex.quote(parameters)} > {SCRATCH}/parameters.yaml")
    try:
        yield node, [
            str(tools.program("csi-sanity")), "--csi.endpoint", f"unix://{KUBELET}/plugins/{DRIVER}/csi.sock",
            "--csi.controllerendpoint", f"unix://{controller}", "--csi.testvolumeparameters", f"{SCRATCH}/parameters.yaml",
            "--csi.mountdir", f"{SCRATCH}/mount", "--csi.stagingdir", f"{SCRATCH}/stage", "--ginkgo.no-color", "--ginkgo.v"]
    finally:
        it.on_node(node, f"rm -rf {SCRATCH}")


def sanity(it: Story, node: str, command: list[str]) -> str:
    """What the suite says."""
    return subprocess.run(it.cluster.node_exec(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=900, check=False).stdout


def reported(it: Story, node: str, command: list[str]) -> tuple[str, dict]:
    """What the suite says, and its report."""
    said = sanity(it, node, [*command, f"--ginkgo.json-report={SCRATCH}/report.json"])
    reports = json.loads(it.on_node(node, f"cat {SCRATCH}/report.json"))
    it.check(bool(reports) and bool(reports[0]["SpecReports"]), f"csi-sanity wrote no report: {said[-3000:]}")
    return said, reports[0]


def counts(it: Story, said: str) -> tuple[int, int, int]:
    """Specs that passed, failed and were skipped."""
    found = re.search(r"(\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped", said)
    it.check(found is not None, f"csi-sanity did not finish: {said[-3000:]}")
    passed, failed, _, skipped = map(int, found.groups())
    return passed, failed, skipped


def controller_socket(it: Story) -> tuple[str, str]:
    """A node and the path on it of the controller service's socket, which lies in an emptyDir of its pod."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=controller", "--field-selector=status.phase=Running")["items"]
    it.check(bool(pods), "no controller runs")
    node, uid = pods[0]["spec"]["nodeName"], pods[0]["metadata"]["uid"]
    return node, it.on_node(node, f"ls {KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/*/csi.sock").strip()
