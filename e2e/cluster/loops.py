"""Loop devices of the nodes. They belong to the machine and outlive every namespace."""

import dataclasses
import json
import os
import pathlib

from .plan import DISK_FOLDERS, Plan
from .provider import run


@dataclasses.dataclass(frozen=True)
class Device:
    """A loop device and the file below it."""

    name: str
    inode: int
    filesystem: str  # major:minor
    path: str  # as its own namespace saw it, or from the root of a mount that is gone


def parse(listed: str) -> list[Device]:
    """The devices in losetup's list, which is empty where there are none."""
    return [Device(one["name"], int(one["back-ino"]), one["back-maj:min"].strip(), one["back-file"] or "")
            for one in json.loads(listed or '{"loopdevices": []}')["loopdevices"]]


def attached() -> list[Device]:
    """All of the machine."""
    return parse(run(["losetup", "--json", "--list", "--output", "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE"]))


def note(cluster: Plan) -> None:
    """Notes what is attached before the cluster starts."""
    cluster.loops.write_text(json.dumps([dataclasses.astuple(device) for device in attached()]))


def detach(cluster: Plan) -> None:
    """Detaches what lies on a file of a node. The nodes have ended."""
    before = [Device(*one) for one in json.loads(cluster.loops.read_text())] if cluster.loops.exists() else []
    for device in attached():
        if device not in before and ours(cluster, device, mounted()):
            run(["losetup", "--detach", device.name])


def ours(cluster: Plan, device: Device, mounted_anywhere: set[str]) -> bool:
    """Whether a device made since `up` belongs to a node.

    It does when its file is on a file system that is mounted nowhere any more, as a node's root is, or
    when it is the very file at that place in one of the node's folders on the real disk.
    """
    if device.filesystem not in mounted_anywhere:
        return True
    for node in cluster.nodes:
        for folder in DISK_FOLDERS:
            for seen in (f"/var/lib/{folder}/", f"{node.home / folder}/", "/"):
                if device.path.startswith(seen) and _is(device, node.home / folder / device.path[len(seen):]):
                    return True
    return False


def _is(device: Device, file: pathlib.Path) -> bool:
    try:
        status = file.stat()
    except OSError:
        return False
    return (status.st_ino, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}") == (device.inode, device.filesystem)


def mounted() -> set[str]:
    """The file systems that are mounted in any process's namespace, as major:minor."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "mountinfo").read_text().splitlines()
            except OSError:
                continue
            found |= {line.split(" ", 3)[2] for line in lines}
    return found
