"""Claims by class and by hand that name an image or a Flist; pods on both nodes read them, and their volumes go with them."""

from e2e.story import DRIVER, Story, pod

IMAGE, FLIST = "lamina.dev/image", "lamina.dev/flist"
SIZE = {"storage": "1Gi"}


def run(it: Story) -> None:
    base, own = it.images["base"], f"{it.namespace}-tools"
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "tools"},
              "spec": {"source": {"image": {"reference": base}}}})
    it.ready("flist", "tools")
    try:
        it.apply(claim("by-image", annotations={IMAGE: base}), claim("by-flist", annotations={FLIST: "tools"}),
                 storage_class(own, {FLIST: "tools"}), claim("by-class", own),
                 # What the claim says replaces what the class shows.
                 claim("over-class", own, annotations={IMAGE: base}),
                 claim("copied", own, origin="by-image"))
        it.wait("the copy is bound before its origin goes", lambda: it.get("pvc", "copied")["status"]["phase"] == "Bound", 60)
        sums = {read(it, name) for name in ("by-image", "by-flist", "by-class", "over-class", "copied")}
        it.apply(*by_hand(own, it.namespace, {IMAGE: base}))
        sums.add(read(it, "by-hand"))
        it.check(len(sums) == 1, "claims of one image show different bytes")
        it.wait("a volume made by hand is left to who made it", lambda: it.get("pv", own)["status"]["phase"] == "Released", 60)
    finally:
        it.kubectl("delete", "pv", own, "--ignore-not-found", "--wait=true")
        it.kubectl("delete", "storageclass", own, "--ignore-not-found")
    it.kubectl("delete", "flist", "tools", "--wait=true", "--timeout=100s", seconds=110)
    it.unmounted()


def read(it: Story, name: str) -> str:
    """What pods on every node read by a claim, which then goes, and with it the volume that was made for it."""
    it.wait(f"claim {name} is bound", lambda: it.get("pvc", name)["status"]["phase"] == "Bound", 60)
    volume = it.get("pvc", name)["spec"]["volumeName"]
    readers = [f"{name}-{node}" for node in it.cluster.nodes()]
    it.apply(*(pod(reader, claim=name, script="sha256sum /data/usr/bin/dpkg | cut -c1-64", node=node)
               for reader, node in zip(readers, it.cluster.nodes())))
    sums = {it.finished(reader).strip() for reader in readers}
    it.check(len(sums) == 1 and all(len(one) == 64 for one in sums), f"{name}: the pods read {sums}")
    made = it.get("pv", volume)["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    it.kubectl("delete", "pod", *readers, "--wait=true", seconds=120)
    it.kubectl("delete", "pvc", name, "--wait=true")
    if made:
        it.wait(f"the PersistentVolume of {name} is deleted", lambda: not it.kubectl("get", "pv", volume, "--ignore-not-found"), 60)
    it.say(f"{name}: read on {len(readers)} nodes")
    return sums.pop()


def claim(name: str, by: str = "lamina", *, annotations: dict[str, str] | None = None, volume: str = "", origin: str = "") -> dict:
    """A claim of a class, or for a PersistentVolume of this name; it may be a copy of another claim."""
    spec = {"storageClassName": by, "accessModes": ["ReadOnlyMany"], "resources": {"requests": SIZE}, "volumeName": volume}
    if origin:
        spec["dataSource"] = {"kind": "PersistentVolumeClaim", "name": origin}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "annotations": annotations or {}}, "spec": spec}


def storage_class(name: str, parameters: dict[str, str]) -> dict:
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": DRIVER,
            "parameters": parameters}


def by_hand(name: str, namespace: str, attributes: dict[str, str], claimed: str = "by-hand", secret: str = "") -> list[dict]:
    """A PersistentVolume that somebody wrote, and a claim for it."""
    csi = {"driver": DRIVER, "volumeHandle": name, "readOnly": True, "volumeAttributes": attributes}
    if secret:
        csi["nodePublishSecretRef"] = {"name": secret, "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
         "spec": {"capacity": SIZE, "accessModes": ["ReadOnlyMany"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
                  "claimRef": {"namespace": namespace, "name": claimed}, "csi": csi}},
        claim(claimed, "", volume=name),
    ]
