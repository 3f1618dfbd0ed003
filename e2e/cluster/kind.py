"""The kind provider: Kubernetes in Docker, by kind's documented commands.

Its nodes are containers, so they need nothing of this package but names. It was written from kind's
documentation and has not been run on the machines the project is tested on, which have no Docker.
"""

import pathlib
import shutil

from . import archive as archives
from .addons import ready_nodes
from .plan import here
from .provider import ClusterError, Provider, run

CONFIG = pathlib.Path(__file__).parent / "kind.yaml"
NAME = "lamina"


class Kind(Provider):
    """See the head of this file."""

    def up(self) -> None:
        if shutil.which("kind") is None:
            raise ClusterError("kind is missing: https://kind.sigs.k8s.io/docs/user/quick-start/#installation")
        if self._exists():
            print("the cluster is up")
            return
        self.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        run(["kind", "create", "cluster", "--config", CONFIG, "--kubeconfig", self.kubeconfig(), "--wait", "5m"], seconds=900)

    def down(self) -> None:
        run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", self.kubeconfig()], seconds=300)
        shutil.rmtree(self.kubeconfig().parent, ignore_errors=True)

    def status(self) -> str:
        if shutil.which("kind") is None or not self._exists():
            return "down"
        missing = set(self.nodes()) - set(ready_nodes(self))
        return f"broken: {', '.join(sorted(missing))} not Ready" if missing else "up"

    def _exists(self) -> bool:
        return NAME in run(["kind", "get", "clusters"]).split()

    def kubeconfig(self) -> pathlib.Path:
        return here().state.with_name("lamina-cluster-kind") / "kubeconfig"

    def programs(self) -> None:
        return None

    def nodes(self) -> list[str]:
        """The nodes that run pods: kind taints its control plane."""
        found = self.kubectl("get", "nodes", "--selector=!node-role.kubernetes.io/control-plane", "-o", "name")
        return [line.removeprefix("node/") for line in found.split()]

    def load_image(self, archive: pathlib.Path) -> list[str]:
        run(["kind", "load", "image-archive", archive, "--name", NAME], seconds=600)
        return archives.names(archive)

    def registry(self) -> tuple[str, str]:
        raise ClusterError("kind has no local registry: images are loaded into its nodes")

    def node_exec(self, node: str, command: list[str]) -> list[str]:
        return ["docker", "exec", "--interactive", node, *command]

    def kill_kubelet(self, node: str) -> None:
        # systemd starts it again unless it is told to stop.
        run(self.node_exec(node, ["systemctl", "kill", "--signal=KILL", "kubelet"]))
        run(self.node_exec(node, ["systemctl", "stop", "kubelet"]))

    def kill_node(self, node: str) -> None:
        run(["docker", "kill", node])

    def start_node(self, node: str) -> None:
        run(["docker", "start", node])

    def restart_kubelet(self, node: str) -> None:
        run(self.node_exec(node, ["systemctl", "restart", "kubelet"]))
