"""The local provider: upstream programs in namespaces of this machine. Needs root and cgroup v1.

Nothing is put outside of the state folder but processes, the cgroups they are in and two listening
ports on 127.0.0.1; mounts, devices, addresses and routes live in namespaces that end with their
processes. That is what makes `down` certain.
"""

import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request

from . import addons, archive, cgroups, config, diagnose, images, loops, pki, plan, process, supervise, tools
from .plan import Node, Plan
from .provider import ClusterError, Provider, Steps, alone, run, wait

API_SECONDS = 180
NODE_SECONDS = 180
END_SECONDS = 30
CONTROL = "control-plane"


class Local(Provider):
    """See the head of this file."""

    def __init__(self, cluster: Plan | None = None):
        self.plan = cluster or plan.here()

    def up(self) -> None:
        """Brings the cluster up; removes the rest of one that is broken first."""
        require_root()
        with alone(self.plan.tag):
            self._up()

    def _up(self) -> None:
        status = self.status()
        if status == "up":
            print(f"the cluster is up (state in {self.plan.state})")
            return
        if status != "down":
            print(f"the cluster is {status}: removing it first")
            self._down()
        steps = Steps()
        cgroups.check()
        tools.build()
        tools.registry()
        made = images.make_all()
        steps.done("programs and images are there")
        make_state(self.plan)
        try:
            self._start(steps, made)
        except (ClusterError, OSError, RuntimeError) as error:
            raise ClusterError(f"{error}\nwhat could be found out is in {diagnose.collect(self)}") from error

    def _start(self, steps: Steps, made: list[pathlib.Path]) -> None:
        pki.make(self.plan)
        start_control(self.plan)
        write_clients(self.plan)
        steps.done("control plane started")
        for node in self.plan.nodes:
            start_node(self.plan, node)
        steps.done("nodes started")
        self._wait("the registry answers", END_SECONDS, lambda: registry_answers(self.registry()[1]))
        for image in made:
            self.load_image(image)
        steps.done("images in the registry")
        self._wait("the apiserver answers", API_SECONDS, lambda: self._ready())
        steps.done("apiserver ready")
        addons.install(self)
        self._wait("every node is Ready", NODE_SECONDS, lambda: set(addons.ready_nodes(self)) == set(self.nodes()))
        for node in self.plan.nodes:
            keep_policies(self.plan, node)
        steps.done("nodes ready")
        self._wait("the default service account and cluster DNS are there", NODE_SECONDS, lambda: addons.usable(self))
        self.plan.complete.touch()
        steps.done("cluster DNS and service accounts ready")

    def _wait(self, what: str, seconds: float, ready) -> None:
        def alive_and_ready() -> bool:
            if gone := self._gone():
                raise ClusterError(f"waiting until {what}: {', '.join(gone)} ended; see {self.plan.logs}")
            return ready()

        wait(what, seconds, alive_and_ready, pause=0.3)

    def down(self) -> None:
        """Ends what was started, by pid, then removes what it left."""
        require_root()
        with alone(self.plan.tag):
            self._down()

    def _down(self) -> None:
        if not self.plan.state.exists() and not process.marked(self.plan.state):
            print("no cluster is up")
            return
        steps = Steps()
        firsts = [pid for name in self._members() if (pid := process.recorded(self.plan.pids, name))]
        left = process.kill(firsts, END_SECONDS)
        # Those nobody came to note, when `up` was killed.
        left += process.kill(process.marked(self.plan.state), END_SECONDS)
        steps.done("processes ended")
        groups = cgroups.remove(self.plan.cgroups, END_SECONDS)
        loops.detach(self.plan)
        if left or groups:
            raise ClusterError(f"could not be removed: processes {left}, cgroups {groups}; run this again")
        wait(f"{self.plan.state} is removed", END_SECONDS, lambda: remove(self.plan.state))
        steps.done("nothing is left")

    def status(self) -> str:
        """Up means: it came up completely, every program runs and the apiserver is ready."""
        if not self.plan.state.exists():
            return "down"
        if gone := self._gone():
            return f"broken: {', '.join(gone)} not running"
        if not self.plan.complete.exists():
            return "broken: it did not come up completely"
        return "up" if self._ready() else "broken: the apiserver is not ready"

    def _ready(self) -> bool:
        """Whether the apiserver says so."""
        try:
            trust = ssl.create_default_context(cafile=str(self.plan.keys / "ca.crt"))
            with urllib.request.urlopen(f"https://127.0.0.1:{read_ports(self.plan)['api']}/readyz", timeout=5, context=trust):
                return True
        except (ClusterError, OSError):
            return False

    def _members(self) -> list[str]:
        return [CONTROL, *(node.name for node in self.plan.nodes)]

    def _gone(self) -> list[str]:
        """Programs that should run and do not."""
        controls = {CONTROL: self.plan.control, **{node.name: node.control for node in self.plan.nodes}}
        gone = []
        for name, control in controls.items():
            if process.recorded(self.plan.pids, name) is None:
                gone.append(name)
                continue
            try:
                pids = supervise.ask(control, "list")
            except OSError:
                continue  # not that far yet
            gone += [f"{program} of {name}" for program, pid in pids.items() if pid is None]
        return gone

    def kubeconfig(self) -> pathlib.Path:
        return self.plan.kubeconfig

    def programs(self) -> pathlib.Path:
        return self.plan.programs

    def nodes(self) -> list[str]:
        return [node.name for node in self.plan.nodes]

    def load_image(self, file: pathlib.Path) -> list[str]:
        """Pushes the archive to the local registry, where every node looks for every name."""
        return archive.push(file, self.registry()[1])

    def registry(self) -> tuple[str, str]:
        return plan.REGISTRY, f"127.0.0.1:{read_ports(self.plan)['registry']}"

    def node_exec(self, node: str, command: list[str]) -> list[str]:
        first = first_process(self.plan, self._node(node).name)
        return ["nsenter", f"--target={first}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd",
                "--", "/usr/bin/env", f"PATH={search_path()}", *command]

    def kill_kubelet(self, node: str) -> None:
        supervise.ask(self._node(node).control, "kill", "kubelet")

    def restart_kubelet(self, node: str) -> None:
        self.kill_kubelet(node)
        supervise.ask(self._node(node).control, "start", "kubelet")

    def kill_node(self, node: str) -> None:
        left = process.kill([process.recorded(self.plan.pids, self._node(node).name)], END_SECONDS)
        if left:
            raise ClusterError(f"{node} has not ended within {END_SECONDS} s")

    def start_node(self, node: str) -> None:
        first_process(self.plan, CONTROL)
        if process.recorded(self.plan.pids, node) is not None:
            raise ClusterError(f"{node} is running")
        start_node(self.plan, self.plan.node(node))
        keep_policies(self.plan, self.plan.node(node))

    def _node(self, name: str) -> Node:
        """A node that runs."""
        try:
            node = self.plan.node(name)
        except KeyError as error:
            raise ClusterError(error.args[0]) from error
        first_process(self.plan, name)
        return node


def require_root() -> None:
    """An error for others than root."""
    if os.geteuid() != 0:
        raise ClusterError("namespaces and mounts need root: run this with sudo")


def make_state(cluster: Plan) -> None:
    """The empty state folder."""
    for folder in (cluster.logs, cluster.pids, cluster.programs, *(node.home for node in cluster.nodes)):
        folder.mkdir(parents=True)
    os.chmod(cluster.state, 0o700)
    loops.note(cluster)
    for name in ("kubectl", "helm"):
        (cluster.programs / name).symlink_to(tools.program(name))


def start_control(cluster: Plan) -> None:
    """Starts the control plane; returns when nodes can be plugged in."""
    listeners = {"api": listen(), "registry": listen()}
    cluster.ports.write_text(json.dumps({name: listener.getsockname()[1] for name, listener in listeners.items()}))
    for user in ("controller-manager", "scheduler"):
        (cluster.keys / f"{user}.conf").write_text(config.kubeconfig(cluster.keys, user, plan.API))
    descriptors = [listener.fileno() for listener in listeners.values()]
    command = ["unshare", "--mount", "--propagation=slave", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
               sys.executable, "-m", "e2e.cluster.control", *map(str, descriptors)]
    start(cluster, CONTROL, command, descriptors)
    for listener in listeners.values():
        listener.close()
    wait_listening(cluster, CONTROL, cluster.control)


def listen() -> socket.socket:
    """A socket that listens on some free port of 127.0.0.1."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def read_ports(cluster: Plan) -> dict[str, int]:
    """The ports on the host: `api` and `registry`."""
    try:
        return json.loads(cluster.ports.read_text())
    except FileNotFoundError as error:
        raise ClusterError("no cluster is up: run make cluster") from error


def registry_answers(address: str) -> bool:
    """Whether the registry serves requests."""
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
            return True
    except OSError:
        return False


def write_clients(cluster: Plan) -> None:
    """The administrator's kubeconfig, through the port on the host."""
    server = f"https://127.0.0.1:{read_ports(cluster)['api']}"
    cluster.kubeconfig.touch(mode=0o600)
    cluster.kubeconfig.write_text(config.kubeconfig(cluster.keys, "admin", server))


def start_node(cluster: Plan, node: Node) -> None:
    """Starts a node and plugs its cable into the bridge."""
    start(cluster, node.name, [sys.executable, "-m", "e2e.cluster.node", "enter", node.name])
    wait(f"{node.name} has its namespaces", END_SECONDS, lambda: has_first(cluster, node.name))
    plug = ["nsenter", f"--target={first_process(cluster, CONTROL)}", "--net", "--", "ip"]
    # The cable of a node that was killed goes a moment after it.
    wait(f"the old cable of {node.name} is gone", END_SECONDS, lambda: f" {node.name}@" not in run([*plug, "-o", "link"]))
    for line in plug_commands(node, first_process(cluster, node.name)):
        run([*plug, *line.split()])


def plug_commands(node: Node, pid: int) -> list[str]:
    """What `ip` is told in the control plane to connect the node whose first process is `pid`."""
    return [f"link add {node.name} type veth peer name eth0 netns {pid}", f"link set {node.name} master nodes up",
            f"route replace {node.pods} via {node.address}"]


def keep_policies(cluster: Plan, node: Node) -> None:
    """Has a node that Kubernetes knows keep NetworkPolicies."""
    wait_listening(cluster, node.name, node.control)
    supervise.ask(node.control, "start", plan.POLICIES)


def start(cluster: Plan, name: str, command: list[str], descriptors: list[int] = ()) -> None:
    """Starts a process that outlives this one, and notes it as `name`."""
    environment = {**os.environ, plan.MARK: str(cluster.state), "LAMINA_CLUSTER_DIR": str(cluster.state), "PATH": search_path(),
                   "PYTHONPATH": str(tools.REPOSITORY), "OTEL_TRACES_EXPORTER": "none", "PYTHONDONTWRITEBYTECODE": "1"}
    with open(cluster.logs / f"{name}.log", "a") as log:
        # Its own session: the interrupt that ends `make cluster` is not for the cluster.
        child = subprocess.Popen(command, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 pass_fds=descriptors, start_new_session=True)
    process.record(cluster.pids, name, child.pid)


def search_path() -> str:
    """PATH for the cluster's programs."""
    return ":".join([*map(str, tools.folders()), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def first_process(cluster: Plan, name: str) -> int:
    """The first process of a member's PID namespace, as the host counts."""
    outer = process.recorded(cluster.pids, name)
    if outer is None or (first := process.first_child(outer)) is None:
        raise ClusterError(f"{name} is not running: see {cluster.logs}/{name}.log; make cluster-down and make cluster")
    return first


def has_first(cluster: Plan, name: str) -> bool:
    """Whether a member has come as far as its namespaces."""
    outer = process.recorded(cluster.pids, name)
    if outer is None:
        raise ClusterError(f"{name} ended: see {cluster.logs}/{name}.log")
    return process.first_child(outer) is not None and pathlib.Path(f"/proc/{outer}/comm").read_text() == "unshare\n"


def wait_listening(cluster: Plan, name: str, control: pathlib.Path) -> None:
    """Waits for a member's socket."""
    def listening() -> bool:
        has_first(cluster, name)
        try:
            supervise.ask(control, "list")
        except OSError:
            return False
        return True

    wait(f"{name} listens", END_SECONDS, listening)


def remove(folder: pathlib.Path) -> bool:
    """Whether a folder could be removed: its last mounts end a moment after their processes."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError:
        pass
    return not folder.exists()
