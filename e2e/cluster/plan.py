"""The cluster on paper: names, addresses, and which file lies where. Nothing here touches the machine.

    host      127.0.0.1:<ports> --- relay ---+
                                              |  control plane's network namespace
              etcd 127.0.0.1   apiserver, registry 10.77.0.1
                                  bridge ------+------ n1 10.77.0.11   pods 10.88.1.0/24
                                               +------ n2 10.77.0.12   pods 10.88.2.0/24

The namespaces have no way out, and the host has no route in: what is sent to one of these addresses
from outside of a cluster that is down never leaves the machine by accident.
"""

import dataclasses
import hashlib
import os
import pathlib

GATEWAY = "10.77.0.1"
POD_RANGE = "10.88.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_API = "10.96.0.1"
SERVICE_DNS = "10.96.0.10"
API_PORT = 6443
REGISTRY_PORT = 5000
API = f"https://{GATEWAY}:{API_PORT}"
REGISTRY = f"{GATEWAY}:{REGISTRY_PORT}"
PAUSE_IMAGE = "lamina.test/pause:1"
BUSYBOX_IMAGE = "lamina.test/busybox:1"
COREDNS_IMAGE = "lamina.test/coredns:1"

# The program that keeps NetworkPolicies, one on each node.
POLICIES = "kube-router"

# What every process of the cluster carries in its environment, with the state folder as value.
MARK = "LAMINA_CLUSTER_MEMBER"
# Folders of a node that lie on the real disk. Overlayfs cannot sit on an overlay, and file-backed mounts not on tmpfs.
DISK_FOLDERS = ("containerd", "kubelet", "lamina")


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of the cluster; the first has number 1."""

    number: int
    home: pathlib.Path

    @property
    def name(self) -> str:
        """Its name in Kubernetes."""
        return f"n{self.number}"

    @property
    def address(self) -> str:
        """Its address."""
        return f"10.77.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The range its pods get addresses from."""
        return f"10.88.{self.number}.0/24"

    @property
    def control(self) -> pathlib.Path:
        """The socket of its first process."""
        return self.home / "control"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A cluster whose state lies in `state`."""

    state: pathlib.Path
    size: int = 2

    @property
    def nodes(self) -> list[Node]:
        """All nodes."""
        return [Node(number, self.state / f"nodes/n{number}") for number in range(1, self.size + 1)]

    def node(self, name: str) -> Node:
        """The node called `name`."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name}: there are {', '.join(node.name for node in self.nodes)}")

    @property
    def tag(self) -> str:
        """Tells this cluster's cgroups from those of a cluster with another state folder."""
        return f"lamina-cluster-{hashlib.sha256(str(self.state).encode()).hexdigest()[:6]}"

    @property
    def kubeconfig(self) -> pathlib.Path:
        """The administrator's, for use on the host."""
        return self.state / "kubeconfig"

    @property
    def programs(self) -> pathlib.Path:
        """kubectl and helm."""
        return self.state / "bin"

    @property
    def keys(self) -> pathlib.Path:
        """Keys and certificates."""
        return self.state / "pki"

    @property
    def logs(self) -> pathlib.Path:
        """Logs of every program."""
        return self.state / "log"

    @property
    def pids(self) -> pathlib.Path:
        """What was started: one file a process."""
        return self.state / "pids"

    @property
    def ports(self) -> pathlib.Path:
        """The ports on the host."""
        return self.state / "ports.json"

    @property
    def cgroups(self) -> pathlib.Path:
        """The cgroups that were made, one a line."""
        return self.state / "cgroups"

    @property
    def complete(self) -> pathlib.Path:
        """There once `up` has done all it does."""
        return self.state / "complete"

    @property
    def loops(self) -> pathlib.Path:
        """The machine's loop devices before the cluster."""
        return self.state / "loops.json"

    @property
    def control(self) -> pathlib.Path:
        """The socket of the control plane's first process."""
        return self.state / "control"


def here() -> Plan:
    """The cluster of this machine: LAMINA_CLUSTER_DIR or the usual folder, which must be on a real disk."""
    return Plan(pathlib.Path(os.environ.get("LAMINA_CLUSTER_DIR") or "/var/lib/lamina-cluster").absolute())
