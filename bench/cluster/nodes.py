"""Nodes of Lamina without Kubernetes: `lamina node` on every machine of a network, and discovery."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from ..lamina import PROGRAM
from ..setup import DRIVER
from .network import Machine, Network

START_SECONDS, END_SECONDS, MOUNT_SECONDS = 60, 30, 600


class Service:
    """A process that ends with the block."""

    def __init__(self, machine: Machine, work: pathlib.Path, words: list[str]):
        self.machine = machine
        self.log = open(work / f"{words[0]}.log", "w+")
        self.process = subprocess.Popen([*machine.prefix, str(PROGRAM), *words], stdout=self.log, stderr=self.log)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and waits."""
        self.process.send_signal(how)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def wait(self, port: int) -> None:
        """Returns once it says that it is ready."""
        url = f"http://{self.machine.address}:{port}/readyz"
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([*self.machine.prefix, "curl", "-sf", "-m", "2", "-o", "/dev/null", url], check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"{self.process.args} is not ready: {self.log.read()[-3000:]}")
            time.sleep(0.05)


class Node:
    """One node: its daemons, its cache, its mounts. Without discovery it is alone."""

    def __init__(self, name: str, machine: Machine, work: pathlib.Path, discovery: list[str], registry: str, more: tuple | list = ()):
        self.name, self.machine, self.work, self.discovery = name, machine, work / name, discovery
        self.kubelet, self.socket = self.work / "kubelet", self.work / "run/node.sock"
        self.words = ["node", f"--state={self.work / 'state'}", f"--run-dir={self.work / 'run'}", f"--kubelet-dir={self.kubelet}",
                      f"--node-name={name}", f"--http={machine.address}:7151", f"--insecure-registry={registry}", *more]
        if discovery:
            self.words += [f"--listen={machine.address}:7150", f"--endpoint={machine.address}:7150", "--insecure",
                           *(f"--discovery={one}" for one in discovery)]
        self.service: Service | None = None

    def start(self) -> None:
        """Starts it; what it held before, it holds."""
        self.work.mkdir(parents=True, exist_ok=True)
        (self.kubelet / "plugins").mkdir(parents=True, exist_ok=True)
        self.service = Service(self.machine, self.work, self.words)
        self.service.wait(7151)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the node server; its mounts stay."""
        if self.service:
            self.service.end(how)
            self.service = None

    def leave(self) -> None:
        """Ends everything of it, mounts too."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.driver("leave", self.socket, "--force")
        self.stop()
        shutil.rmtree(self.work, ignore_errors=True)

    def target(self, volume: str) -> pathlib.Path:
        """Where a volume is mounted."""
        return self.kubelet / "plugins" / volume / "mount"

    def mount(self, image: str, volume: str) -> dict:
        """Mounts an image; what the node says of it."""
        return json.loads(self.driver("mount", "--socket", self.socket, "--image", image, "--volume", volume, "--target", self.target(volume)))

    def umount(self, volume: str) -> None:
        """Undoes that."""
        self.driver("unmount", "--socket", self.socket, "--volume", volume, "--target", self.target(volume))

    def shown(self, volume: str) -> dict:
        """What `lamina mounts` says of a volume."""
        environment = os.environ | {"LAMINA_RUN_DIR": str(self.work / "run"), "LAMINA_CACHE_DIR": str(self.work / "state/cache")}
        said = subprocess.run([str(PROGRAM), "mounts", "-o", "json"], env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
        return next(info for info in json.loads(said)["mounts"] if info["target"] == str(self.target(volume)))

    def driver(self, *words) -> str:
        """One measured loop on this node's machine; what it says."""
        return subprocess.run([*self.machine.prefix, str(DRIVER), *map(str, words)], stdout=subprocess.PIPE, check=True, text=True,
                              timeout=MOUNT_SECONDS).stdout


@contextlib.contextmanager
def discovery(machine: Machine, work: pathlib.Path):
    """A replica of discovery; its `host:port`."""
    words = ["discovery", "--insecure", f"--listen={machine.address}:7070", f"--http={machine.address}:7071"]
    service = Service(machine, work, words)
    try:
        service.wait(7071)
        yield f"{machine.address}:7070"
    finally:
        service.end()


@contextlib.contextmanager
def cluster(network: Network, work: pathlib.Path, count: int, mbit: int | None, registry: str):
    """So many nodes, with one discovery."""
    made: list[Node] = []
    with discovery(network.machine("discovery"), work) as at:
        try:
            for number in range(count):
                node = Node(f"node-{number:02}", network.machine(f"node-{number:02}", mbit), work, [at], registry)
                made.append(node)
                node.start()
            yield made
        finally:
            for node in made:
                node.leave()
