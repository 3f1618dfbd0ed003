"""A Flist made from an image becomes Ready, a pod mounts it by name, and it goes."""

from e2e.story import Story, pod


def run(it: Story) -> None:
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "tools"},
              "spec": {"source": {"image": {"reference": it.images["base"]}}}})
    it.kubectl("wait", "--for=condition=Ready", "flist/tools", "--timeout=180s", seconds=190)
    status = it.get("flist", "tools")["status"]
    it.check(len(status["digest"]) == 64 and status["entries"] > 1000 and status["bytes"] > 0, f"the status is {status}")
    names = [f"by-name-{number}" for number, _ in enumerate(it.cluster.nodes())]
    it.apply(*(pod(name, {"lamina.dev/flist": "tools"}, script="cat /data/etc/debian_version", node=node)
               for name, node in zip(names, it.cluster.nodes())))
    for name in names:
        it.check(it.finished(name).strip() != "", "the file is empty")
    it.apply(pod("by-digest", {"lamina.dev/flist": status["digest"]}, script="cat /data/etc/debian_version"))
    it.finished("by-digest")
    it.kubectl("delete", "pod", *names, "by-digest", "--wait=true")
    it.kubectl("delete", "flist", "tools", "--wait=true", "--timeout=60s", seconds=70)
