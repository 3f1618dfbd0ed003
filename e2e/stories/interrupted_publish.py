"""A volume whose image is still being converted is mounted and reads right, whatever is killed meanwhile."""

import contextlib
import hashlib
import json
from typing import Callable, Iterator

from e2e import made, release
from e2e.cluster import ClusterError
from e2e.stories import node_pod_deleted as kills
from e2e.story import BUSYBOX, Story, pod

NAMESPACE = "e2e-gate"
BYTES = 2 << 20
NOTHING = "nothing"
# Passes connections on to the cluster's registry, but keeps the request for the blob that is named in /gate/hold until
# another one is named there.
GATE = r"""
while IFS= read -r line; do
  case "$line" in "GET "*"/$(cat /gate/hold) "*)
    held=$(cat /gate/hold); touch "/gate/seen-$held"
    while [ "$(cat /gate/hold)" = "$held" ]; do sleep 0.2; done;;
  esac
  printf '%s\n' "$line"
done | nc HOST PORT
"""


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    with gate(it):
        for what, disturb in {
            "nothing": lambda: None,
            "node-pod-deleted": lambda: kills.delete(it, "node"),
            "csi-pod-deleted": lambda: kills.delete(it, "csi"),
            "agent-killed": lambda: kills.kill(it, "agent"),
            "mount-daemon-killed": lambda: kills.kill(it, "mountd"),
            "csi-process-killed": lambda: kills.kill(it, "csi"),
            "node-server-killed": lambda: kills.kill(it, "node"),
            "kubelets-restarted": lambda: kills.restart_kubelets(it),
            "helm-upgrade": lambda: kills.upgrade(it),
            "helm-rollback": lambda: kills.roll_back(it),
        }.items():
            interrupted(it, node, what, disturb)
    it.kubectl("delete", "pod", "--all", "--wait=true", "--timeout=100s", seconds=110)
    it.unmounted()


def interrupted(it: Story, node: str, what: str, disturb: Callable[[], object]) -> None:
    """A pod whose image is half converted when it happens: its first layer is here, the second is held back."""
    layers = [{part: made.noise(f"{it.namespace} {what} {part}", BYTES)} for part in ("first", "second")]
    held = made.layer(layers[1])[1].digest
    made.push(it.cluster, f"e2e/{it.namespace}:{what}", *layers)
    hold(it, held)
    it.apply(pod(what, {"lamina.dev/image": f"{release.GATE}/e2e/{it.namespace}:{what}"}, "cat /data/first /data/second | sha256sum",
                 node=node))
    it.wait(f"{what}: the second layer is asked for", lambda: in_gate(it, f"ls '/gate/seen-{held}'") != "")
    disturb()
    it.check(it.phase(what) == "Pending", f"{what}: the pod did not wait for its volume")
    hold(it, NOTHING)
    expected = hashlib.sha256(layers[0]["first"] + layers[1]["second"]).hexdigest()
    it.check(it.finished(what, seconds=300).split()[0] == expected, f"{what}: the pod read something else")
    it.say(f"{what}: mounted and read")


def hold(it: Story, digest: str) -> None:
    """Keeps requests for this blob from now on, and lets others go."""
    # A kubelet that has just started does not know its pods yet.
    it.wait("the gate takes orders", lambda: in_gate(it, f"echo '{digest}' > /gate/new && mv /gate/new /gate/hold") == "", 60)


def in_gate(it: Story, script: str) -> str:
    return it.cluster.kubectl("-n", NAMESPACE, "exec", "gate", "--", "sh", "-c", script)


@contextlib.contextmanager
def gate(it: Story) -> Iterator[None]:
    """A registry in front of the cluster's own one, on the last node, while the block runs."""
    host, _, port = it.cluster.registry()[0].partition(":")
    script = GATE.replace("HOST", host).replace("PORT", port)
    start = f"echo {NOTHING} > /gate/hold; exec nc -ll -p 5000 -e /bin/sh /script/gate.sh"
    container = {"name": "gate", "image": BUSYBOX, "command": ["sh", "-c", start],
                 "readinessProbe": {"exec": {"command": ["cat", "/gate/hold"]}, "periodSeconds": 1},
                 "volumeMounts": [{"name": "gate", "mountPath": "/gate"}, {"name": "script", "mountPath": "/script"}]}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gate", "namespace": NAMESPACE}, "data": {"gate.sh": script}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gate", "namespace": NAMESPACE},
         "spec": {"selector": {"app": "gate"}, "ports": [{"port": 5000}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gate", "namespace": NAMESPACE, "labels": {"app": "gate"}},
         "spec": {"nodeName": it.cluster.nodes()[-1], "terminationGracePeriodSeconds": 1, "containers": [container],
                  "volumes": [{"name": "gate", "emptyDir": {}}, {"name": "script", "configMap": {"name": "gate"}}]}},
    ]
    try:
        it.cluster.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        it.cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/gate", "--timeout=120s", seconds=130)
        yield
    finally:
        with contextlib.suppress(ClusterError):
            it.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", seconds=130)
