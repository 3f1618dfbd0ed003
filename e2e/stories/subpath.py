"""A volume's own subPath and kubelet's subPath show the same directories and files, and go with their pod."""

from e2e.story import BUSYBOX, DRIVER, Story

IMAGE = "lamina.dev/image"
# What a container sees: mount path, volume, kubelet's subPath.
MOUNTS = (
    ("/whole", "whole", None),
    ("/share", "share", None),
    ("/share-by-kubelet", "whole", "usr/share"),
    ("/below", "share", "doc"),
    ("/version", "whole", "etc/debian_version"),
    ("/claimed", "claimed", "usr/bin"),
    ("/new", "writable", "srv/new/deep"),
    ("/writable", "writable", None),
)


def run(it: Story) -> None:
    node, base = it.cluster.nodes()[0], it.images["base"]
    it.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "tools", "annotations": {IMAGE: base}},
              "spec": {"storageClassName": "lamina", "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}},
             viewer(it, node))
    it.running("viewer")
    equal = {"/share": "/whole/usr/share", "/share-by-kubelet": "/whole/usr/share", "/below": "/whole/usr/share/doc",
             "/claimed": "/whole/usr/bin"}
    for one, other in equal.items():
        it.check(tree(it, one) == tree(it, other) != "", f"{one} is not {other}")
    it.check(it.shell("viewer", "cmp /version /whole/etc/debian_version && wc -l < /version").strip() == "1", "the file is another one")
    it.check(it.shell("viewer", "cat /proc/self/mountinfo | grep -c ' /claimed ro'").strip() == "1", "/claimed can be written")
    it.shell("viewer", "echo changed > /new/file")
    it.check(it.shell("viewer", "cat /writable/srv/new/deep/file").strip() == "changed", "kubelet's directory is not in the volume")
    missing(it, node)
    it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)
    it.kubectl("delete", "pvc", "tools", "--wait=true")
    it.unmounted(node)


def viewer(it: Story, node: str, name: str = "viewer", mounts: tuple = MOUNTS) -> dict:
    """A pod with these mounts and the volumes they name."""
    base = it.images["base"]
    volumes = {
        "whole": inline({IMAGE: base}),
        "share": inline({IMAGE: base, "subPath": "usr/share"}),
        "writable": inline({IMAGE: base, "mode": "rw", "overlaySize": "8Mi"}),
        "claimed": {"persistentVolumeClaim": {"claimName": "tools", "readOnly": True}},
    }
    seen = [{"name": volume, "mountPath": path, **({"subPath": sub} if sub else {})} for path, volume, sub in mounts]
    used = {volume for _, volume, _ in mounts}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "nodeName": node,
        "containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "100000"], "volumeMounts": seen}],
        "volumes": [{"name": volume, **volumes[volume]} for volume in sorted(used)]}}


def inline(attributes: dict) -> dict:
    return {"csi": {"driver": DRIVER, "volumeAttributes": attributes}}


def tree(it: Story, path: str) -> str:
    """Names, types and sizes below a directory, as one sum."""
    return it.shell("viewer", f"cd {path} && find . -exec stat -c '%n %f %s' {{}} + | sort | sha256sum").split()[0]


def missing(it: Story, node: str) -> None:
    """What is not in a read-only volume is not made in it: the container does not start, and the pod says why."""
    it.apply(viewer(it, node, "missing", (("/data", "whole", "no/such/folder"),)))

    def told() -> bool:
        states = [one["state"].get("waiting", {}) for one in it.get("pod", "missing")["status"]["containerStatuses"]]
        return any("subPath" in state.get("message", "") for state in states)

    it.wait("kubelet says that there is no such directory", told)
