"""A claim of the class `lamina` that names an image; pods on both nodes read it, and its volume goes with it."""

from e2e.story import Story, pod


def run(it: Story) -> None:
    it.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
              "metadata": {"name": "tools", "annotations": {"lamina.dev/image": it.images["base"]}},
              "spec": {"storageClassName": "lamina", "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}})
    it.wait("the claim is bound", lambda: it.get("pvc", "tools")["status"]["phase"] == "Bound", 60)
    volume = it.get("pvc", "tools")["spec"]["volumeName"]
    names = [f"reader-{number}" for number, _ in enumerate(it.cluster.nodes())]
    it.apply(*(pod(name, claim="tools", script="sha256sum /data/usr/bin/dpkg | cut -c1-64", node=node)
               for name, node in zip(names, it.cluster.nodes())))
    sums = {it.finished(name).strip() for name in names}
    it.check(len(sums) == 1 and len(sums.pop()) == 64, "the pods read different bytes")
    it.kubectl("delete", "pod", *names, "--wait=true")
    it.kubectl("delete", "pvc", "tools", "--wait=true")
    it.wait("the PersistentVolume is deleted", lambda: not it.kubectl("get", "pv", volume, "--ignore-not-found"), 60)
