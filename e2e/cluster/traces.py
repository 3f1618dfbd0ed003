"""What a cluster could leave on the machine, looked at before and after."""

import os
import pathlib
import subprocess

from . import process
from .cgroups import mine
from .plan import Plan

SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward",
            "net/netfilter/nf_conntrack_max")


def look(cluster: Plan) -> dict[str, set[str]]:
    """Everything that `up` or a pod could have changed, by kind."""
    return {
        "processes": {str(pid) for pid in process.marked(cluster.state)},
        "mounts": {line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if _ours(line, cluster)},
        "network namespaces": set(_list("/run/netns")),
        "links": _lines("ip", "-o", "link"),
        "addresses": _lines("ip", "-o", "-4", "address"),
        "routes": _lines("ip", "route", "show", "table", "all"),
        "cgroups": {str(path) for one in mine() for path in one.own.glob(f"{cluster.tag}*")},
        "loop devices": {line for line in _lines("losetup", "--list", "--noheadings") if _ours(line, cluster)},
        "settings": {f"{name}={_read(name)}" for name in SETTINGS},
        "files": {str(cluster.state)} if cluster.state.exists() else set(),
    }


def difference(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    """What is there now and was not, and what has gone."""
    found = []
    for kind, earlier in before.items():
        found += [f"{kind}: left {line}" for line in sorted(after[kind] - earlier)]
        found += [f"{kind}: gone {line}" for line in sorted(earlier - after[kind])]
    return found


def _ours(line: str, cluster: Plan) -> bool:
    """Others use the machine too: only what names the cluster counts, where much comes and goes."""
    return str(cluster.state) in line or cluster.tag in line or "/var/lib/kubelet" in line


def _lines(*command: str) -> set[str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.splitlines())


def _list(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _read(name: str) -> str:
    try:
        return pathlib.Path("/proc/sys", name).read_text().strip()
    except OSError:
        return "none"
