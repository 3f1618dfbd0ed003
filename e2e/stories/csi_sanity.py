"""The CSI conformance suite finds no fault with the real driver and real mounts."""

import re
import shlex
import subprocess

import yaml

from e2e.cluster import tools
from e2e.story import DRIVER, SYSTEM, Story

SPECS_MIN = 70
KUBELET = "/var/lib/kubelet"


def run(it: Story) -> None:
    node, controller = controller_socket(it)
    parameters = yaml.safe_dump({"lamina.dev/image": it.images["busybox"]})
    it.on_node(node, f"printf %s {shlex.quote(parameters)} > /tmp/sanity.yaml && mkdir -p {KUBELET}/pods/sanity {KUBELET}/plugins/sanity")
    command = [str(tools.program("csi-sanity")), "--csi.endpoint", f"unix://{KUBELET}/plugins/{DRIVER}/csi.sock",
               "--csi.controllerendpoint", f"unix://{controller}", "--csi.testvolumeparameters", "/tmp/sanity.yaml",
               "--csi.mountdir", f"{KUBELET}/pods/sanity/mount", "--csi.stagingdir", f"{KUBELET}/plugins/sanity/stage",
               "--ginkgo.no-color", "--ginkgo.v"]
    done = subprocess.run(it.cluster.node_exec(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=900, check=False)
    it.on_node(node, f"rm -rf /tmp/sanity.yaml {KUBELET}/pods/sanity {KUBELET}/plugins/sanity")
    found = re.search(r"(\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped", done.stdout)
    it.check(found is not None, f"csi-sanity did not finish: {done.stdout[-3000:]}")
    passed, failed, _, skipped = map(int, found.groups())
    it.say(f"{passed} passed, {failed} failed, {skipped} skipped")
    for reason in sorted(set(re.findall(r"\[SKIPPED\] (.*)", done.stdout))):
        it.say(f"  skipped: {reason}")
    it.check(failed == 0, done.stdout[-8000:])
    it.check(passed + skipped >= SPECS_MIN, f"only {passed + skipped} specs were looked at")


def controller_socket(it: Story) -> tuple[str, str]:
    """A node and the path on it of the controller service's socket, which lies in an emptyDir of its pod."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=controller", "--field-selector=status.phase=Running")["items"]
    it.check(bool(pods), "no controller runs")
    node, uid = pods[0]["spec"]["nodeName"], pods[0]["metadata"]["uid"]
    return node, it.on_node(node, f"ls {KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/*/csi.sock").strip()
