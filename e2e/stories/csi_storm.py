"""Five thousand CSI calls, random, duplicated, reordered and cancelled, leave on a node what a model says.

The calls are made by `csi-driver/tests/csi/storm.rs`, on the node, to the driver's own socket. E2E_SEED chooses others.
"""

import json
import os
import subprocess

from e2e.release import REPOSITORY
from e2e.story import DRIVER, Story, pod

KUBELET = "/var/lib/kubelet"
TARGETS = f"{KUBELET}/plugins/storm"
PROGRAM = "/tmp/csi-storm"
TEST = "storm::a_storm_of_calls_on_a_real_node_equals_a_model"
SECONDS = 1200


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    # A copy: a node sees the machine's files as they were when it started.
    with open(built(), "rb") as program:
        subprocess.run(it.cluster.node_exec(node, ["sh", "-c", f"cat > {PROGRAM} && chmod 755 {PROGRAM}"]), stdin=program, check=True)
    # The node has the image converted before the calls come.
    it.apply(pod("first", {"lamina.dev/image": it.images["busybox"]}, "true", node=node))
    it.finished("first")
    settings = {"SOCKET": f"{KUBELET}/plugins/{DRIVER}/csi.sock", "TARGETS": TARGETS, "IMAGE": it.images["busybox"],
                "SEED": os.environ.get("E2E_SEED", "6705")}
    command = ["env", *(f"LAMINA_STORM_{name}={value}" for name, value in settings.items()), PROGRAM, "--exact", TEST, "--nocapture"]
    try:
        done = subprocess.run(it.cluster.node_exec(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=SECONDS, check=False)
    finally:
        it.on_node(node, f"rm -f {PROGRAM}; find {TARGETS} -xdev -depth -type d -exec rmdir {{}} + 2>/dev/null; true")
    it.check(done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-4000:])
    it.say(next((line for line in done.stdout.splitlines() if "calls equal" in line), "").removeprefix(f"test {TEST} ... "))


def built() -> str:
    """The test program of the driver, which cargo builds when it is not there."""
    said = subprocess.run(["cargo", "test", "--locked", "-q", "-p", "lamina-csi", "--test", "csi", "--no-run", "--message-format=json"],
                          cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return next(one["executable"] for one in found if one.get("executable") and one["target"]["name"] == "csi")
