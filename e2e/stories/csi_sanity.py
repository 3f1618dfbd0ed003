"""The CSI conformance suite finds no fault with the real driver and real mounts."""

import re
import shlex
import subprocess

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


def run(it: Story) -> None:
    node, controller = controller_socket(it)
    parameters = yaml.safe_dump({"lamina.dev/image": it.images["busybox"]})
    it.on_node(node, f"printf %s {shlex.quote(parameters)} > /tmp/sanity.yaml && mkdir -p {KUBELET}/plugins/sanity")
    command = [str(tools.program("csi-sanity")), "--csi.endpoint", f"unix://{KUBELET}/plugins/{DRIVER}/csi.sock",
               "--csi.controllerendpoint", f"unix://{controller}", "--csi.testvolumeparameters", "/tmp/sanity.yaml",
               "--csi.mountdir", f"{KUBELET}/plugins/sanity/mount", "--csi.stagingdir", f"{KUBELET}/plugins/sanity/stage",
               "--ginkgo.no-color", "--ginkgo.v"]
    done = subprocess.run(it.cluster.node_exec(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=900, check=False)
    it.on_node(node, f"rm -rf /tmp/sanity.yaml {KUBELET}/plugins/sanity")
    found = re.search(r"(\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped", done.stdout)
    it.check(found is not None, f"csi-sanity did not finish: {done.stdout[-3000:]}")
    passed, failed, _, skipped = map(int, found.groups())
    it.say(f"{passed} passed, {failed} failed, {skipped} skipped")
    it.check(failed == 0, done.stdout[-8000:])
    it.check(passed >= SPECS_MIN, f"only {passed} specs ran")
    for text in sorted(set(re.findall(r"\[SKIPPED\] (?!\[|in )(.*)", done.stdout))):
        it.check(any(word in text for word in REASONS), f"skipped without a reason: {text}")
    for word, reason in REASONS.items():
        it.say(f"  skipped {word}: {reason}")


def controller_socket(it: Story) -> tuple[str, str]:
    """A node and the path on it of the controller service's socket, which lies in an emptyDir of its pod."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=controller", "--field-selector=status.phase=Running")["items"]
    it.check(bool(pods), "no controller runs")
    node, uid = pods[0]["spec"]["nodeName"], pods[0]["metadata"]["uid"]
    return node, it.on_node(node, f"ls {KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/*/csi.sock").strip()
