"""Volumes with odd or hostile attributes, handles and options are refused with the right code, and nothing outside is touched."""

import json
import os

from e2e.cluster import ClusterError
from e2e.story import DRIVER, Story, namespace, pod

IMAGE = "lamina.dev/image"
FLIST = "lamina.dev/flist"
INVALID, MISSING = "InvalidArgument", "NotFound"
# Volume ids of PersistentVolumes that somebody wrote by hand.
HANDLES = ("../../etc", "a/../../b", "..", "a/b", "x" * 129, "x" * (10 << 10), "with space", "lamina-\u00e4", "a\0b")
OPTIONS = (["suid", "dev"], ["suid"], ["dev"], ["upperdir=/etc"], ["ro,exec"])
# What has no business to change: names and times. Where kubelet, containerd, the network and Lamina keep their own is left out.
OUTSIDE = r"""
find /etc /root /var/lib -xdev -maxdepth 3 \( -path /var/lib/kubelet -o -path /var/lib/containerd -o -path /var/lib/cni -o -path /var/lib/lamina \) \
  -prune -o -printf '%T@ %p\n' 2>/dev/null; true
"""


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    before = outside(it, node)
    with namespace(it.cluster, "hostile-neighbour") as other:
        neighbour = Story(it.cluster, it.images, other)
        neighbour.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "theirs"},
                         "spec": {"source": {"image": {"reference": it.images["base"]}}}})
        neighbour.ready("flist", "theirs")
        attributes(it, node, other)
    handles_and_options(it, node)
    huge_objects(it)
    touched = changed(before, outside(it, node))
    it.check(not touched, f"outside was touched: {touched[:10]}")
    it.say(f"{len(before)} names outside are as they were")
    it.unmounted()


def cases(base: str, other: str) -> dict[str, tuple[dict[str, str], str, str]]:
    """Attributes of inline volumes, the code that refuses them, and a word of the reason."""
    long, million = "a" * (10 << 10), "a" * (1 << 20)
    return {
        "unknown-key": ({IMAGE: base, "subpath": "etc"}, INVALID, "subPath"),
        "mount-options": ({IMAGE: base, "mountOptions": "suid,dev"}, INVALID, "mountOptions"),
        "upper": ({IMAGE: base, "upperdir": "/etc"}, INVALID, "upperdir"),
        "both": ({IMAGE: base, FLIST: "x"}, INVALID, "both"),
        "neither": ({"mode": "ro"}, INVALID, IMAGE),
        "mode": ({IMAGE: base, "mode": "rwx"}, INVALID, "mode"),
        "sub-path-up": ({IMAGE: base, "subPath": "../../../etc"}, INVALID, "subPath"),
        "sub-path-absolute": ({IMAGE: base, "subPath": "/../etc"}, INVALID, "subPath"),
        "sub-path-missing": ({IMAGE: base, "subPath": "no/such/folder"}, MISSING, "no/such/folder"),
        "sub-path-long": ({IMAGE: base, "subPath": long}, INVALID, "subPath"),
        "size": ({IMAGE: base, "mode": "rw", "overlaySize": "lots"}, INVALID, "overlaySize"),
        "size-read-only": ({IMAGE: base, "overlaySize": "-1Gi"}, INVALID, "overlaySize"),
        "long": ({IMAGE: long}, INVALID, IMAGE),
        "long-key": ({IMAGE: base, long: "x"}, INVALID, "not known"),
        "long-flist": ({FLIST: long}, INVALID, FLIST),
        "million": ({IMAGE: million}, INVALID, IMAGE),
        "million-key": ({IMAGE: base, million: "x"}, INVALID, "not known"),
        "control": ({IMAGE: f"{base}\n\u0007"}, INVALID, IMAGE),
        "nul": ({IMAGE: f"{base}\0"}, INVALID, IMAGE),
        "path-as-image": ({IMAGE: "../../etc/passwd"}, INVALID, IMAGE),
        "other-namespace": ({FLIST: f"{other}/theirs"}, INVALID, FLIST),
        "other-namespace-by-name": ({FLIST: "theirs"}, MISSING, "there is no Flist theirs in namespace"),
        "flist-up": ({FLIST: "../../../etc"}, INVALID, FLIST),
        "flist-missing": ({FLIST: "no-such-flist"}, MISSING, "no-such-flist"),
        "policy": ({IMAGE: base, "pullPolicy": "Sometimes"}, INVALID, "pullPolicy"),
        "platform": ({IMAGE: base, "platform": "../x"}, INVALID, "platform"),
        "prefetch": ({IMAGE: base, "prefetch": "some"}, INVALID, "prefetch"),
    }


def attributes(it: Story, node: str, other: str) -> None:
    tried = cases(it.images["base"], other)
    for name, (given, _, _) in tried.items():
        create(it, pod(name, given, script="cat /data/shadow; true", node=node))
    for name, (_, code, word) in tried.items():
        refused(it, name, code, word)
        it.wait(f"Lamina says on the pod why {name} is refused", lambda name=name, word=word: told(it, name, word), 60)
    it.say(f"{len(tried)} attributes")
    it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)


def handles_and_options(it: Story, node: str) -> None:
    tried = {f"handle-{number}": volume(it, f"handle-{number}", handle) for number, handle in enumerate(HANDLES)}
    tried |= {f"options-{number}": volume(it, f"options-{number}", f"{it.namespace}-{number}", options) for number, options in enumerate(OPTIONS)}
    volumes = [objects[0]["metadata"]["name"] for objects in tried.values()]
    try:
        for name, objects in tried.items():
            create(it, *objects, pod(name, claim=name, script="true", node=node))
        for name in tried:
            refused(it, name, INVALID, "volumeHandle" if name.startswith("handle") else "mount option")
        it.say(f"{len(HANDLES)} handles, {len(OPTIONS)} mount options")
    finally:
        it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)
        it.kubectl("delete", "pvc", "--all", "--wait=true")
        it.kubectl("delete", "pv", *volumes, "--ignore-not-found", "--wait=true")


def volume(it: Story, name: str, handle: str, options: list[str] | None = None) -> list[dict]:
    """A PersistentVolume written by hand, and the claim it is for."""
    full, size = f"{it.namespace}-{name}", {"storage": "1Gi"}
    more = {"mountOptions": options} if options else {}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": full},
         "spec": {"capacity": size, "accessModes": ["ReadOnlyMany"], "persistentVolumeReclaimPolicy": "Retain",
                  "storageClassName": "", "claimRef": {"namespace": it.namespace, "name": name}, **more,
                  "csi": {"driver": DRIVER, "volumeHandle": handle, "readOnly": True, "volumeAttributes": {IMAGE: it.images["base"]}}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
         "spec": {"storageClassName": "", "volumeName": full, "accessModes": ["ReadOnlyMany"], "resources": {"requests": size}}},
    ]


def huge_objects(it: Story) -> None:
    """Objects with a string of a MiB are refused by the API server, which says the most there may be."""
    million = "a" * (1 << 20)
    for kind, spec in {"Image": {"reference": million}, "Flist": {"source": {"image": {"reference": million}}},
                       "Store": {"url": f"oci://{million}"}, "Job": {"source": {"image": "a"}, "command": [million]}}.items():
        try:
            create(it, {"apiVersion": "lamina.dev/v1alpha1", "kind": kind, "metadata": {"name": f"{it.namespace}-huge"}, "spec": spec})
        except ClusterError as error:
            it.check("Too long" in str(error) and len(str(error)) < 10_000, f"{kind} is refused with {len(str(error))} bytes: {str(error)[-500:]}")
        else:
            it.check(False, f"a {kind} with a string of a MiB was taken")


def create(it: Story, *objects: dict) -> None:
    """What `apply` would note about large objects is longer than an annotation may be."""
    it.kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def refused(it: Story, name: str, code: str, word: str) -> None:
    """Waits until kubelet said that the volume was refused, with this code and no other, in few words."""
    def failures() -> list[str]:
        return [text for text in it.events("Pod", name) if text.startswith("FailedMount") and "rpc error" in text]

    it.wait(f"an event refuses {name}", lambda: bool(failures()), 120)
    for text in failures():
        it.check(f"code = {code} " in text and word in text, f"{name}: expected {code} and {word!r} in {text[:1000]}")
        it.check(len(text) < 1500, f"{name}: an event of {len(text)} bytes")
    it.check(it.phase(name) == "Pending", f"{name} was mounted")


def told(it: Story, name: str, word: str) -> bool:
    """Whether the driver itself said so: `kubectl lamina doctor` goes by its events."""
    return any(text.startswith("MountLaminaFailed") and word in text for text in it.events("Pod", name))


def outside(it: Story, node: str) -> dict[str, float]:
    """Names outside of what is Lamina's, with the times of their last change."""
    lines = (line.partition(" ") for line in it.on_node(node, OUTSIDE).splitlines())
    return {path: round(float(time), 3) for time, _, path in lines}


def changed(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What differs on the node and is not just what this machine, of which a node of the local provider shows the files, has now."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path) and after.get(path) != time_here(path))


def time_here(path: str) -> float | None:
    try:
        return round(os.lstat(path).st_mtime, 3)
    except OSError:
        return None
