"""An Image is warmed on the nodes it selects, follows its tag, and leaves when nothing else uses what it is."""

from e2e import made
from e2e.cluster import ClusterError
from e2e.story import Story, pod

BYTES = 1 << 20
LABEL = "lamina.test/picked"


def run(it: Story) -> None:
    first, *_ = nodes = it.cluster.nodes()
    name = f"e2e/{it.namespace}:1"
    reference = push(it, name, "one")
    it.cluster.kubectl("label", "node", first, f"{LABEL}=yes")
    try:
        it.apply(image("everywhere", reference, replicas="All", resolve="30s"), image("second", reference, replicas=1),
                 image("picked", reference, replicas=5, nodeSelector={LABEL: "yes"}),
                 image("nowhere", reference, replicas=1, nodeSelector={LABEL: "no"}),
                 image("missing", f"{reference}-not-there"))
        it.ready("image", "everywhere", "second", "picked")
        warmed(it, nodes)
        refused(it)
        moved(it, name, reference)
        deleted(it, nodes)
    finally:
        it.cluster.kubectl("label", "node", first, f"{LABEL}-")
        try:
            it.kubectl("delete", "image", "--all", "--wait=true", "--timeout=100s", seconds=110)
        except ClusterError as error:
            it.say(f"deleting images: {error}")
    it.unmounted()


def push(it: Story, name: str, version: str) -> str:
    return made.push(it.cluster, name, {"version": f"{version}\n".encode(), "blob": made.noise(f"{name} {version}", BYTES)})


def image(name: str, reference: str, **more) -> dict:
    return {"apiVersion": "lamina.dev/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": {"reference": reference, **more}}


def status(it: Story, name: str) -> dict:
    return it.get("image", name)["status"]


def warmed(it: Story, nodes: list[str]) -> None:
    """The nodes asked for hold all of it, before any pod does."""
    for name, wanted in (("everywhere", nodes), ("picked", nodes[:1])):
        it.wait(f"image {name} is on {wanted}", lambda name=name, wanted=wanted: status(it, name).get("nodes") == wanted)
        said = status(it, name)
        it.check((said["nodesWarm"], said["nodesWanted"]) == (len(wanted), len(wanted)), f"the status of {name} is {said}")
        it.check(len(said["flist"]) == 64 and said["layers"] == 1 and said["bytes"] == BYTES + 4, f"the status of {name} is {said}")
    it.check(len(status(it, "second")["nodes"]) == 1, f"the status of second is {status(it, 'second')}")
    for node in nodes:
        reads(it, f"warm-{node}", status(it, "everywhere")["flist"], "one", node)
        it.wait("the event says that all of it was there", lambda node=node: any(
            "was on this node already" in text and " 100% local" in text for text in it.events("Pod", f"warm-{node}")), 60)
    it.kubectl("delete", "pod", *(f"warm-{node}" for node in nodes), "--wait=true", seconds=120)


def reads(it: Story, name: str, flist: str, expected: str, node: str) -> None:
    attributes = {"lamina.dev/flist": flist, "prefetch": "none"}
    it.apply(pod(name, attributes, "cat /data/version && wc -c < /data/blob", node=node))
    said = it.finished(name).split()
    it.check(said == [expected, str(BYTES)], f"{name} read {said}")


def refused(it: Story) -> None:
    """No node with the labels, no such tag."""
    it.say(f"nowhere: {it.unready('image', 'nowhere', 'NoNode', 'nodeSelector')}")
    it.say(f"missing: {it.unready('image', 'missing', 'NotFound', 'not-there')}")


def moved(it: Story, name: str, reference: str) -> None:
    """The tag names another image: who asked for it gets the new one, the others stay."""
    before = status(it, "everywhere")
    push(it, name, "two")
    it.wait("the tag is followed", lambda: status(it, "everywhere")["digest"] != before["digest"], 180)
    it.wait("the new one is warm", lambda: status(it, "everywhere")["nodes"] == it.cluster.nodes() and it.condition(
        "image", "everywhere", "Replicated")["status"] == "True")
    after = status(it, "everywhere")
    it.check(after["flist"] != before["flist"] and after["resolvedAt"] > before["resolvedAt"], f"the status is {after}")
    it.check(status(it, "second")["flist"] == before["flist"], "an Image that is resolved once has moved")
    reads(it, "new", after["flist"], "two", it.cluster.nodes()[-1])
    reads(it, "old", before["flist"], "one", it.cluster.nodes()[-1])
    it.kubectl("delete", "pod", "new", "old", "--wait=true", seconds=120)


def deleted(it: Story, nodes: list[str]) -> None:
    """What another Image is stays; then it goes from the library and the stores of every node."""
    old, new = status(it, "second")["flist"], status(it, "everywhere")["flist"]
    it.check(kept(it, nodes, old) and kept(it, nodes, new), "nodes do not have the flists")
    delete(it, "everywhere", "picked")
    it.check(not kept(it, nodes, new), "the flist of a deleted Image was left")
    it.check(len(kept(it, nodes, old)) > 1, "the flist of another Image was deleted")
    delete(it, "second", "nowhere", "missing")
    left = kept(it, nodes, old)
    it.check(not left, f"left: {left}")


def delete(it: Story, *names: str) -> None:
    it.kubectl("delete", "image", *names, "--wait=true", "--timeout=100s", seconds=110)
    for name in names:
        incomplete = [text for text in it.events("Image", name) if text.startswith("CleanupIncomplete")]
        it.check(not incomplete, f"{name}: {incomplete}")


def kept(it: Story, nodes: list[str], digest: str) -> list[str]:
    """Files of a flist on nodes: in libraries and stores."""
    found = []
    for node in nodes:
        said = it.on_node(node, f"cd /var/lib/lamina && find . \\( -path './images/*' -o -path './store/*' \\) -name '{digest}*'")
        found += [f"{node}:{path}" for path in said.split()]
    return found
