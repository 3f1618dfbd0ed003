"""A node that comes up with the start-up taint keeps it until volumes work there, and loses only that one."""

import contextlib

from e2e import release
from e2e.cluster import ClusterError
from e2e.story import SYSTEM, Story, pod

KEY, OTHER = "lamina.test/starting", "lamina.test/theirs"


def run(it: Story) -> None:
    node = it.cluster.nodes()[-1]
    try:
        release.install(it.cluster, more=("--set", f"startupTaint={KEY}"))
        starts(it, node)
        ordinary = pod("ordinary", {"lamina.dev/image": it.images["base"]}, "cat /data/etc/debian_version")
        ordinary["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
        it.apply(ordinary)
        it.finished("ordinary")
        it.kubectl("delete", "pod", "ordinary", "--wait=true", seconds=120)
    finally:
        for key in (KEY, OTHER):
            with contextlib.suppress(ClusterError):
                it.cluster.kubectl("taint", "node", node, f"{key}-")
        release.install(it.cluster)
    it.unmounted()


def starts(it: Story, node: str) -> None:
    """The node goes, gets the taint as a new one would have it, and comes."""
    it.cluster.kill_node(node)
    it.say("the node is gone")
    try:
        it.wait("the cluster knows that the node is gone", lambda: not ready(it, node) and not serving(it, node), 180)
        it.cluster.kubectl("taint", "node", node, f"{KEY}=:NoSchedule", f"{OTHER}=:PreferNoSchedule")
        it.wait("the operator says that a node is missing", lambda: it.condition("laminacluster", "default")["status"] == "False", 120)
        it.check(KEY in taints(it, node), "a node that is not there lost the taint")
    finally:
        it.cluster.start_node(node)
    it.wait("the node is ready again", lambda: ready(it, node), 180)
    it.say("the node is ready")
    it.wait("the taint is gone", lambda: KEY not in taints(it, node), 300)
    it.check(ready(it, node) and serving(it, node), "the taint went before volumes could work")
    it.say("the taint is gone")
    it.check(OTHER in taints(it, node), "another's taint was taken off, too")


def taints(it: Story, node: str) -> list[str]:
    return [taint["key"] for taint in it.get("node", node)["spec"].get("taints", [])]


def ready(it: Story, node: str) -> bool:
    return it.condition("node", node)["status"] == "True"


def serving(it: Story, node: str) -> bool:
    """Whether the node's pod of `lamina-node` is ready."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=node", f"--field-selector=spec.nodeName={node}")["items"]
    states = [one["status"] for item in pods for one in item["status"].get("conditions", []) if one["type"] == "Ready"]
    return states == ["True"]
