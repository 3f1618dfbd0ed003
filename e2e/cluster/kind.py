"""The kind provider: Kubernetes in Docker, by kind's documented commands.

Its nodes are containers, so they need nothing of this package but names. A registry runs beside them, as kind's page
"Local Registry" has it: a container that this machine reaches by a port of its own, and nodes by its name, because it is on
their network, too. Written from kind's documentation; it has not been run on the machines the project is tested on,
which have no Docker.
"""

import pathlib
import shutil

from . import archive as archives
from . import images, plan
from .addons import ready_nodes
from .plan import here
from .provider import ClusterError, Provider, run

CONFIG = pathlib.Path(__file__).parent / "kind.yaml"
NAME = "lamina"
# The network of kind's nodes.
NETWORK = "kind"
REGISTRY, REGISTRY_IMAGE = "lamina-registry", "registry:3"
# As this machine reaches it, and as nodes and pods do: Docker's name server knows containers by name.
OUTSIDE, INSIDE = "127.0.0.1:5001", f"{REGISTRY}:5000"
# Where containerd looks for a file about each registry: `config_path` in kind.yaml.
HOSTS = "/etc/containerd/certs.d"


def start_registry() -> list[str]:
    """The command that starts the registry. Stories delete what they put there."""
    return ["docker", "run", "--detach", "--restart=always", "--publish", f"{OUTSIDE}:5000", "--network", "bridge", "--name", REGISTRY,
            "--env", "REGISTRY_STORAGE_DELETE_ENABLED=true", REGISTRY_IMAGE]


def hosts() -> str:
    """What containerd is told about the registry: plain HTTP."""
    return f'[host."http://{INSIDE}"]\n'


def tell_node(node: str) -> tuple[list[str], str]:
    """The command, and its input, that puts `hosts` where a node's containerd looks for it; it is read at each pull."""
    folder = f"{HOSTS}/{INSIDE}"
    return ["docker", "exec", "--interactive", node, "sh", "-c", f"mkdir -p {folder} && cat > {folder}/hosts.toml"], hosts()


class Kind(Provider):
    """See the head of this file."""

    def up(self) -> None:
        if shutil.which("kind") is None:
            raise ClusterError("kind is missing: https://kind.sigs.k8s.io/docs/user/quick-start/#installation")
        if self._exists():
            print("the cluster is up")
            return
        self.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        if not _says("true", ["docker", "inspect", "--format", "{{.State.Running}}", REGISTRY]):
            run(start_registry(), seconds=300)
        run(["kind", "create", "cluster", "--config", CONFIG, "--kubeconfig", self.kubeconfig(), "--wait", "5m"], seconds=900)
        # kind has made the network by now.
        if _says("null", ["docker", "inspect", "--format", f"{{{{json .NetworkSettings.Networks.{NETWORK}}}}}", REGISTRY]):
            run(["docker", "network", "connect", NETWORK, REGISTRY])
        for node in run(["kind", "get", "nodes", "--name", NAME]).split():
            command, text = tell_node(node)
            run(command, input=text)
        self.load_image(images.make(plan.BUSYBOX_IMAGE, images.shell()))

    def down(self) -> None:
        run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", self.kubeconfig()], seconds=300)
        if _says(REGISTRY, ["docker", "ps", "--all", "--filter", f"name=^{REGISTRY}$", "--format", "{{.Names}}"]):
            run(["docker", "rm", "--force", "--volumes", REGISTRY])
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
        """Into the nodes under its own name, and into the registry."""
        run(["kind", "load", "image-archive", archive, "--name", NAME], seconds=600)
        return archives.push(archive, OUTSIDE)

    def registry(self) -> tuple[str, str]:
        return INSIDE, OUTSIDE

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


def _says(text: str, command: list[str]) -> bool:
    """Whether a question about a container, which may not be there, is answered so."""
    try:
        return run(command).strip() == text
    except ClusterError:
        return False
