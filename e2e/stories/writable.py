"""A writable volume, in memory or on disk, takes changes up to its limit, shows them to nobody else, and forgets them."""

from e2e.story import Story, pod

# What a node holds for volumes on disk.
DISKS = "cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep -c /volumes/; true"


def run(it: Story) -> None:
    it.apply(pod("reader", {"lamina.dev/image": it.images["base"]}, node=it.cluster.nodes()[0]))
    it.running("reader")
    refused = it.shell("reader", "touch /data/etc/x 2>&1; true")
    it.check("Read-only file system" in refused, f"a read-only volume was written to: {refused}")
    writable(it, "memory")
    before = it.on_node(it.cluster.nodes()[0], DISKS).strip()
    writable(it, "disk")
    it.wait("nothing is left on disk", lambda: it.on_node(it.cluster.nodes()[0], DISKS).strip() == before, 60)


def writable(it: Story, medium: str) -> None:
    node, writer, again = it.cluster.nodes()[0], f"writer-{medium}", f"again-{medium}"
    attributes = {"lamina.dev/image": it.images["base"], "mode": "rw", "overlaySize": "8Mi", "overlayMedium": medium}
    it.apply(pod(writer, attributes, node=node))
    it.running(writer)
    it.shell(writer, "echo changed > /data/etc/hostname && rm /data/etc/motd 2>/dev/null; mkdir /data/new && echo 1 > /data/new/file")
    it.check(it.shell(writer, "cat /data/etc/hostname /data/new/file").split() == ["changed", "1"], "the change is not seen")
    it.check(it.shell("reader", "ls /data; cat /data/etc/hostname").split()[-1] != "changed", "another pod sees the change")
    full = it.shell(writer, "dd if=/dev/zero of=/data/new/big bs=1M count=16 2>&1; true")
    it.check("No space left" in full, f"16 MiB went into 8 MiB in {medium}: {full}")
    it.check(it.shell(writer, "cat /data/etc/hostname").strip() == "changed", "a full volume lost a change")
    it.kubectl("delete", "pod", writer, "--wait=true")
    it.apply(pod(again, attributes, script="ls /data/new 2>&1; cat /data/etc/hostname", node=node))
    it.check("changed" not in it.finished(again), "changes outlived their volume")
    it.kubectl("delete", "pod", again, "--wait=true")
