"""Kubelet's summary has a volume's real bytes and inodes and its condition, also once it is taken away from below its pod."""

import json

from e2e.story import Story, pod

# Kubelet asks every half minute (volumeStatsAggPeriod).
ASKED_SECONDS = 120


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    it.apply(pod("reader", {"lamina.dev/image": it.images["base"]}, node=node))
    it.running("reader")
    files = int(it.shell("reader", "find /data | wc -l"))
    it.wait("kubelet's summary has the volume", lambda: shown(it, node)["volumeHealthStats"] == {"abnormal": False}, ASKED_SECONDS)
    found = shown(it, node)
    it.say(f"kubelet's summary: {found}")
    it.check(found["usedBytes"] == found["capacityBytes"] > 10 << 20 and found["availableBytes"] == 0, f"bytes: {found}")
    # Hard links are one inode.
    it.check(files * 0.9 <= found["inodesUsed"] <= files and found["inodesFree"] == 0, f"{files} files: {found}")
    uid = it.get("pod", "reader")["metadata"]["uid"]
    it.on_node(node, f"umount -l /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/data/mount")
    it.wait("kubelet's summary says that it is gone", lambda: shown(it, node)["volumeHealthStats"] == {"abnormal": True}, ASKED_SECONDS)
    it.wait("an event of the pod says so", lambda: told(it), ASKED_SECONDS)
    it.say(told(it)[0])


def shown(it: Story, node: str) -> dict:
    """The volume `data` of the story's pod."""
    summary = json.loads(it.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary"))
    own = next(one for one in summary["pods"] if one["podRef"] == one["podRef"] | {"name": "reader", "namespace": it.namespace})
    return next(one for one in own["volume"] if one["name"] == "data")


def told(it: Story) -> list[str]:
    return [text for text in it.events("Pod", "reader") if text.startswith("VolumeConditionAbnormal") and "made anew" in text]
