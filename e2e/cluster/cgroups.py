"""Cgroups of nodes: one below the caller's own in every v1 hierarchy, removed by name afterwards."""

import dataclasses
import os
import pathlib
import time

from .provider import ClusterError


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """A mounted v1 hierarchy and where the caller is in it."""

    controllers: str  # as /proc/self/cgroup names them: `memory`, `cpu,cpuacct`, `name=systemd`
    own: pathlib.Path

    @property
    def folder(self) -> str:
        """Its usual folder name below /sys/fs/cgroup."""
        return self.controllers.removeprefix("name=")


def hierarchies(cgroup: str, mountinfo: str) -> list[Hierarchy]:
    """The v1 hierarchies, from the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup":
            root, point = left.split(" ")[3:5]
            for option in options.split(","):
                mounts.setdefault(option, (root, point))
    found = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if mount := mounts.get(controllers.split(",")[0]):
            below = os.path.relpath(path, mount[0])
            found.append(Hierarchy(controllers, pathlib.Path(os.path.normpath(f"{mount[1]}/{below}"))))
    return found


def mine() -> list[Hierarchy]:
    """The v1 hierarchies of this process."""
    return hierarchies(pathlib.Path("/proc/self/cgroup").read_text(), pathlib.Path("/proc/self/mountinfo").read_text())


def check() -> None:
    """An error where nodes could not be given cgroups."""
    if not any(hierarchy.controllers == "memory" for hierarchy in mine()):
        raise ClusterError("no cgroup v1 memory hierarchy here, which the local provider needs: use make cluster PROVIDER=kind")


def join(name: str, record: pathlib.Path) -> None:
    """Moves this process into a new cgroup `name` of every hierarchy; each is recorded before it is made."""
    for hierarchy in mine():
        group = hierarchy.own / name
        with open(record, "a") as lines:
            lines.write(f"{group}\n")
        group.mkdir(exist_ok=True)
        if hierarchy.controllers == "cpuset":
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((hierarchy.own / setting).read_text())
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(record: pathlib.Path, seconds: float) -> list[str]:
    """Removes recorded cgroups and all below them; those that would not go within `seconds`."""
    if not record.exists():
        return []
    deadline = time.monotonic() + seconds
    groups = {pathlib.Path(line) for line in record.read_text().splitlines()}
    while True:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass  # its last process is still ending
        groups = {group for group in groups if group.exists()}
        if not groups or time.monotonic() > deadline:
            return sorted(map(str, groups))
        time.sleep(0.1)
