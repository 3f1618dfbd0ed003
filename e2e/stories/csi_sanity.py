"""The CSI conformance suite finds no fault with the real driver and real mounts."""

import contextlib
import re
import shlex
import subprocess
from typing import Iterator

import yaml

from e2e.cluster import tools
from e2e.story import DRIVER, SYSTEM, Story

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
        said = sanity(it, node, command)
    passed, failed, skipped = counts(it, said)
    it.say(f"{passed} passed, {failed} failed, {skipped} skipped")
    it.check(failed == 0, said[-8000:])
    it.check(passed >= SPECS_MIN, f"only {passed} specs ran")
    for text in sorted(set(re.findall(r"\[SKIPPED\] (?!\[|in )(.*)", said))):
        it.check(any(word in text for word in REASONS), f"skipped without a reason: {text}")
    for word, reason in REASONS.items():
        it.say(f"  skipped {word}: {reason}")


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
