"""A writable volume takes changes up to its limit, shows them to nobody else, and forgets them."""

from e2e.story import Story, pod


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    attributes = {"lamina.dev/image": it.images["base"], "mode": "rw", "overlaySize": "8Mi"}
    it.apply(pod("writer", attributes, node=node), pod("reader", {"lamina.dev/image": it.images["base"]}, node=node))
    it.running("writer", "reader")
    it.shell("writer", "echo changed > /data/etc/hostname && rm /data/etc/motd 2>/dev/null; mkdir /data/new && echo 1 > /data/new/file")
    it.check(it.shell("writer", "cat /data/etc/hostname /data/new/file").split() == ["changed", "1"], "the change is not seen")
    it.check(it.shell("reader", "ls /data; cat /data/etc/hostname").split()[-1] != "changed", "another pod sees the change")
    full = it.shell("writer", "dd if=/dev/zero of=/data/new/big bs=1M count=16 2>&1; true")
    it.check("No space left" in full, f"16 MiB went into 8 MiB: {full}")
    it.check(it.shell("writer", "cat /data/etc/hostname").strip() == "changed", "a full volume lost a change")
    refused = it.shell("reader", "touch /data/etc/x 2>&1; true")
    it.check("Read-only file system" in refused, f"a read-only volume was written to: {refused}")
    it.kubectl("delete", "pod", "writer", "--wait=true")
    it.apply(pod("again", attributes, script="ls /data/new 2>&1; cat /data/etc/hostname", node=node))
    it.check("changed" not in it.finished("again"), "changes outlived their volume")
