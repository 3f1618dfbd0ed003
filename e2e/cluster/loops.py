"""Loop devices of the nodes. They belong to the machine and outlive every namespace."""

import json
import pathlib

from .plan import DISK_FOLDERS, Plan
from .provider import run


def detach(cluster: Plan) -> None:
    """Detaches what lies on a file of a node."""
    listed = run(["losetup", "--json", "--list", "--output", "NAME,BACK-INO,BACK-FILE"])
    for name in ours(cluster, listed):
        run(["losetup", "--detach", name])


def ours(cluster: Plan, listed: str) -> list[str]:
    """The devices on files of the cluster, from losetup's list.

    A file's path is shown as its node saw it. So the file must be the one that lies there: others
    of the machine may have files at such paths too.
    """
    found = []
    for device in json.loads(listed or '{"loopdevices": []}')["loopdevices"]:
        for node in cluster.nodes:
            for folder in DISK_FOLDERS:
                path = device["back-file"] or ""
                for seen in (f"/var/lib/{folder}", str(node.home / folder)):
                    if path.startswith(f"{seen}/") and _inode(node.home / folder / path[len(seen) + 1:]) == int(device["back-ino"]):
                        found.append(device["name"])
    return found


def _inode(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
