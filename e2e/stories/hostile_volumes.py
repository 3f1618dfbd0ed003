"""Volumes with odd or hostile attributes are refused with the reason, and nothing outside is touched."""

from e2e.story import DRIVER, Story, pod

IMAGE = "lamina.dev/image"
FLIST = "lamina.dev/flist"


def run(it: Story) -> None:
    base = it.images["base"]
    cases = {
        "unknown-key": ({IMAGE: base, "subpath": "etc"}, "subPath"),
        "both": ({IMAGE: base, FLIST: "x"}, ""),
        "neither": ({"mode": "ro"}, IMAGE),
        "mode": ({IMAGE: base, "mode": "rwx"}, "mode"),
        "sub-path-up": ({IMAGE: base, "subPath": "../../../etc"}, "subPath"),
        "sub-path-absolute": ({IMAGE: base, "subPath": "/../etc"}, "subPath"),
        "sub-path-missing": ({IMAGE: base, "subPath": "no/such/folder"}, "no/such/folder"),
        "size": ({IMAGE: base, "mode": "rw", "overlaySize": "lots"}, "overlaySize"),
        "size-read-only": ({IMAGE: base, "overlaySize": "-1Gi"}, "overlaySize"),
        "long": ({IMAGE: "a" * 10240}, ""),
        "control": ({IMAGE: f"{base}\n\u0007"}, ""),
        "path-as-image": ({IMAGE: "../../etc/passwd"}, ""),
        "other-namespace": ({FLIST: "lamina-system/secret"}, ""),
        "flist-up": ({FLIST: "../../../etc"}, ""),
        "flist-missing": ({FLIST: "no-such-flist"}, "no-such-flist"),
        "policy": ({IMAGE: base, "pullPolicy": "Sometimes"}, "pullPolicy"),
        "platform": ({IMAGE: base, "platform": "../x"}, "platform"),
        "prefetch": ({IMAGE: base, "prefetch": "some"}, "prefetch"),
    }
    node = it.cluster.nodes()[0]
    before = it.on_node(node, "ls /etc /root | sha256sum")
    it.apply(*(pod(name, attributes, script="cat /data/shadow; true", node=node) for name, (attributes, _) in cases.items()))
    it.apply(*static_volumes(it))
    for name, (_, word) in cases.items():
        it.wait(f"an event refuses {name}", lambda name=name, word=word: refused(it, name, word), 90)
        it.wait(f"Lamina says on the pod why {name} is refused", lambda name=name, word=word: told(it, name, word), 60)
        it.check(it.phase(name) == "Pending", f"{name} was mounted")
    for number, _ in enumerate(HANDLES):
        it.wait(f"an event refuses handle {number}", lambda number=number: refused(it, f"handle-{number}", ""), 90)
    it.check(it.on_node(node, "ls /etc /root | sha256sum") == before, "something outside was touched")
    it.say(f"{len(cases)} attributes, {len(HANDLES)} handles")
    it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)
    it.kubectl("delete", "pvc", "--all", "--wait=true")
    it.kubectl("delete", "pv", *(volume_name(it, number) for number, _ in enumerate(HANDLES)), "--wait=true")


# Volume ids of PersistentVolumes that somebody wrote by hand.
HANDLES = ("../../etc", "a/../../b", "x" * 1000, "with space", "lamina-\u00e4")


def volume_name(it: Story, number: int) -> str:
    return f"{it.namespace}-{number}"


def static_volumes(it: Story) -> list[dict]:
    """A PersistentVolume, a claim and a pod for each handle."""
    made = []
    for number, handle in enumerate(HANDLES):
        name, claim = volume_name(it, number), f"claim-{number}"
        made += [
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
             "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "persistentVolumeReclaimPolicy": "Retain",
                      "storageClassName": "", "claimRef": {"namespace": it.namespace, "name": claim},
                      "csi": {"driver": DRIVER, "volumeHandle": handle, "readOnly": True, "volumeAttributes": {IMAGE: it.images["base"]}}}},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim},
             "spec": {"storageClassName": "", "volumeName": name, "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}},
            pod(f"handle-{number}", claim=claim, script="true"),
        ]
    return made


def refused(it: Story, name: str, word: str) -> bool:
    """Whether kubelet said that the volume was refused, for the caller's fault."""
    said = [text for text in it.events("Pod", name) if text.startswith("FailedMount")]
    wrong = [text for text in said if "InvalidArgument" in text or "NotFound" in text]
    return any(word in text for text in wrong)


def told(it: Story, name: str, word: str) -> bool:
    """Whether the driver itself said so: `kubectl lamina doctor` goes by its events."""
    return any(text.startswith("MountLaminaFailed") and word in text for text in it.events("Pod", name))
