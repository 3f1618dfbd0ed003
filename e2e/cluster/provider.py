"""What the tests see of a cluster, whoever provides it."""

import abc
import contextlib
import os
import pathlib
import socket
import subprocess
import time
from typing import Callable, Iterator


class ClusterError(Exception):
    """What went wrong, where, and what to do about it."""


class Provider(abc.ABC):
    """A cluster of two nodes that may be up or down."""

    @abc.abstractmethod
    def up(self) -> None:
        """Brings the cluster up; does nothing when it is up."""

    @abc.abstractmethod
    def down(self) -> None:
        """Removes every trace of the cluster, however far it came up."""

    @abc.abstractmethod
    def status(self) -> str:
        """`up`, `down`, or `broken: <why>`."""

    @abc.abstractmethod
    def kubeconfig(self) -> pathlib.Path:
        """The file for KUBECONFIG."""

    @abc.abstractmethod
    def programs(self) -> pathlib.Path | None:
        """A folder with kubectl and helm, or nothing where the machine's own ones serve."""

    def kubectl(self, *words: str, text: str | None = None, seconds: float = 60) -> str:
        """kubectl's output; `text` is its input."""
        folder = self.programs()
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig()), "KUBECACHEDIR": str(self.kubeconfig().with_name("kubectl-cache"))}
        return run([folder / "kubectl" if folder else "kubectl", *words], seconds, env=environment, input=text)

    @abc.abstractmethod
    def nodes(self) -> list[str]:
        """The names of the nodes."""

    @abc.abstractmethod
    def load_image(self, archive: pathlib.Path) -> list[str]:
        """Makes an OCI archive's images available to every node; their names."""

    @abc.abstractmethod
    def registry(self) -> tuple[str, str]:
        """`host:port` of a plain HTTP registry that `load_image` fills: as pods reach it, as this machine does."""

    @abc.abstractmethod
    def node_exec(self, node: str, command: list[str]) -> list[str]:
        """The command line that runs `command` as root in a node's namespaces."""

    @abc.abstractmethod
    def kill_kubelet(self, node: str) -> None:
        """SIGKILL to a node's kubelet, which stays away until it is restarted."""

    @abc.abstractmethod
    def restart_kubelet(self, node: str) -> None:
        """Starts a node's kubelet, ending it first where it runs."""

    @abc.abstractmethod
    def kill_node(self, node: str) -> None:
        """Ends a whole node at once, as a power cut would; what is on its disk stays."""

    @abc.abstractmethod
    def start_node(self, node: str) -> None:
        """Starts a node that was killed. It is Ready some seconds later."""


class Steps:
    """Says each step with the seconds since the start, so that a slow one is seen."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def done(self, what: str) -> None:
        """One line of progress."""
        print(f"{time.monotonic() - self.started:7.1f} s  {what}", flush=True)


def wait(what: str, seconds: float, ready: Callable[[], bool], pause: float = 0.1) -> None:
    """Returns as soon as `ready` says so; an error when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)


def run(command: list, seconds: float = 60, **options) -> str:
    """A command's standard output; an error that shows what it wrote when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds, **options)
    except subprocess.TimeoutExpired as expired:
        raise ClusterError(f"{' '.join(words)}: not done within {seconds:.0f} s") from expired
    except FileNotFoundError as missing:
        raise ClusterError(f"{words[0]} is missing: run make deps") from missing
    if done.returncode:
        raise ClusterError(f"{' '.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def alone(tag: str) -> Iterator[None]:
    """One `up` or `down` at a time. The lock is a name that the kernel forgets with its process: no file is left."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0{tag}")
        except OSError as error:
            raise ClusterError("another up or down of this cluster is at work: wait for it") from error
        yield
