"""What can be found out about a cluster that does not come up, collected in a folder."""

import pathlib
import shutil
import subprocess
import time

from .provider import ClusterError, Provider

ASKED = {
    "nodes": ["get", "nodes", "-o", "wide"], "pods": ["get", "pods", "--all-namespaces", "-o", "wide"],
    "events": ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"], "describe-nodes": ["describe", "nodes"],
    "describe-pods": ["describe", "pods", "--all-namespaces"],
}
INSIDE = {
    "processes": ["ps", "-eo", "pid,ppid,stat,etime,args"], "mounts": ["cat", "/proc/self/mountinfo"], "addresses": ["ip", "address"],
    "routes": ["ip", "route"], "containers": ["ctr", "-n", "k8s.io", "containers", "list"],
}
SECONDS = 15


def collect(cluster: Provider) -> pathlib.Path:
    """Collects what Kubernetes says, what each node says, and all logs; the folder, which `down` removes."""
    state = cluster.kubeconfig().parent
    if not state.is_dir():
        raise ClusterError("no cluster is up: there is nothing to collect")
    folder = state / time.strftime("diagnostics-%Y%m%d-%H%M%S")
    folder.mkdir(exist_ok=True)
    if (state / "log").is_dir():
        shutil.copytree(state / "log", folder / "log", dirs_exist_ok=True)
    for name, words in ASKED.items():
        _keep(folder / f"{name}.txt", lambda words=words: cluster.kubectl("--request-timeout=5s", *words, seconds=SECONDS))
    for node in cluster.nodes():
        for name, command in INSIDE.items():
            _keep(folder / f"{node}-{name}.txt", lambda node=node, command=command: _inside(cluster, node, command))
    return folder


def _inside(cluster: Provider, node: str, command: list[str]) -> str:
    done = subprocess.run(cluster.node_exec(node, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    return done.stdout.decode(errors="replace")


def _keep(file: pathlib.Path, ask) -> None:
    """Writes an answer, or why there is none: what else there is must not be lost."""
    try:
        file.write_text(ask())
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        file.write_text(f"no answer: {error}\n")
