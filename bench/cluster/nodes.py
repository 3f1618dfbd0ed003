"""Nodes of Lamina without Kubernetes: `lamina node` on every machine of a network, and discovery.

Everything is in a session of its own, so that Ctrl-C ends the benchmark, which then ends them. What a node leaves when
it cannot end by itself is looked for: processes by its directory's name among their arguments, and mounts below it.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from ..corpus import images, registry
from ..corpus.paths import CACHE
from ..lamina import PROGRAM
from ..setup import DRIVER, wait_for
from .network import Machine, Network

START_SECONDS, END_SECONDS, MOUNT_SECONDS = 60, 30, 1800
# A replica says that nobody has a layer only after half of this.
TTL_SECONDS = 6


class Service:
    """A process that ends with the block."""

    def __init__(self, machine: Machine, work: pathlib.Path, words: list[str]):
        self.machine = machine
        self.log = open(work / f"{words[0]}.log", "w+")
        self.process = subprocess.Popen([*machine.prefix, str(PROGRAM), *words], stdout=self.log, stderr=self.log, start_new_session=True)

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
        deadline = time.monotonic() + START_SECONDS
        while self.get(port, "readyz") is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"{self.process.args} is not ready: {self.log.read()[-3000:]}")
            time.sleep(0.05)

    def get(self, port: int, path: str) -> str | None:
        """What it says over HTTP; nothing when it does not."""
        return self.machine.get(f"http://{self.machine.address}:{port}/{path}")


class Node:
    """One node: its daemons, its cache, its mounts. Without discovery it is alone."""

    def __init__(self, name: str, machine: Machine, work: pathlib.Path, discovery: list[str], registry: str, store: str | None = None):
        self.name, self.machine, self.work, self.discovery = name, machine, work / name, discovery
        self.kubelet, self.socket = self.work / "kubelet", self.work / "run/node.sock"
        self.words = ["node", f"--state={self.work / 'state'}", f"--run-dir={self.work / 'run'}", f"--kubelet-dir={self.kubelet}",
                      f"--node-name={name}", f"--http={machine.address}:7151", f"--insecure-registry={registry}"]
        if store:
            self.words += [f"--store={store}"]
        if discovery:
            self.words += [f"--listen={machine.address}:7150", f"--endpoint={machine.address}:7150", "--insecure",
                           *(f"--discovery={one}" for one in discovery)]
        self.service: Service | None = None
        self.driving: set[subprocess.Popen] = set()
        self.lock = threading.Lock()

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
        """Ends everything of it, mounts too, and at once: what it was doing is of no interest any more."""
        self.call_off()
        self.stop(signal.SIGKILL)
        clear(self.work)

    def call_off(self) -> None:
        """Ends the loops that run on it."""
        with self.lock:
            for process in self.driving:
                process.kill()

    def waits_for_others(self) -> None:
        """Returns once the agent can know of its cluster: it is told by a file."""
        if self.discovery:
            wait_for((self.work / "run/cluster.json").exists, START_SECONDS, "cluster.json")

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

    def driver(self, *words, seconds: float = MOUNT_SECONDS) -> str:
        """One measured loop on this node's machine; what it says."""
        process = subprocess.Popen([*self.machine.prefix, str(DRIVER), *map(str, words)], stdout=subprocess.PIPE, text=True, start_new_session=True)
        with self.lock:
            self.driving.add(process)
        try:
            said, _ = process.communicate(timeout=seconds)
        finally:
            process.kill()
            process.wait()
            with self.lock:
                self.driving.remove(process)
        if process.returncode:
            raise RuntimeError(f"{self.name}: {words[0]} ended with {process.returncode}")
        return said


def together(nodes: list[Node], work) -> list:
    """Does something on all of them at the same time; what came of it. When one fails, or the benchmark is to end, none
    goes on."""
    with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
        try:
            return [done.result() for done in [pool.submit(work, node) for node in nodes]]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for node in nodes:
                node.call_off()
            raise


def clear(work: pathlib.Path) -> None:
    """Ends the processes that were started with this directory, and removes it with what is mounted below."""
    deadline = time.monotonic() + END_SECONDS
    while (found := processes(work)) + (mounts := mounted(work)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in reversed(mounts):
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
        time.sleep(0.02)
    if mounts:
        raise RuntimeError(f"{mounts} cannot be unmounted")
    shutil.rmtree(work, ignore_errors=True)


def processes(work: pathlib.Path) -> list[int]:
    """Those of Lamina with a path below `work` among their arguments."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if {"mountd", "node"} & set(words[:2]) and any(f"{work}/" in word for word in words):
                found.append(int(entry.name))
    return found


def mounted(work: pathlib.Path) -> list[str]:
    """Mount points below `work`, in the order they came."""
    table = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for line in table if (point := line.split(" ")[4]).startswith(f"{work}/")]


@contextlib.contextmanager
def serve_registry(machine: Machine):
    """The corpus's registry on a machine; its `host:port`."""
    with registry.serve("0.0.0.0", machine.prefix) as listening:
        at = f"{machine.address}:{listening.rsplit(':', 1)[1]}"
        wait_for(lambda: machine.get(f"http://{at}/v2/") is not None, START_SECONDS, f"an answer of the registry on {at}")
        yield at


@dataclasses.dataclass
class Place:
    """Where nodes are measured: a directory for them, their network, and on it the corpus's registry at `at`."""

    work: pathlib.Path
    network: Network
    origin: Machine
    at: str


def push(image: images.Image) -> None:
    """Has the corpus's registry hold the image, wherever it is served later."""
    with registry.serve() as address:
        registry.push(address, image)


@contextlib.contextmanager
def place(mbit: int | None = None):
    """Such a place; `mbit`: what the registry's cable carries."""
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cluster-", dir=CACHE / "bench", ignore_cleanup_errors=True) as work, Network() as network:
        origin = network.machine("registry", mbit)
        with serve_registry(origin) as at:
            yield Place(pathlib.Path(work), network, origin, at)


@contextlib.contextmanager
def discovery(machine: Machine, work: pathlib.Path):
    """A replica of discovery."""
    words = ["discovery", "--insecure", f"--ttl={TTL_SECONDS}s", f"--listen={machine.address}:7070", f"--http={machine.address}:7071"]
    service = Service(machine, work, words)
    try:
        service.wait(7071)
        yield service
    finally:
        service.end()


@contextlib.contextmanager
def cluster(network: Network, work: pathlib.Path, count: int, mbit: int | None, registry: str):
    """So many nodes, with one discovery that knows all of them."""
    made: list[Node] = []
    with discovery(network.machine("discovery"), work) as memory:
        at = f"{memory.machine.address}:7070"
        try:
            for number in range(count):
                name = f"node-{number:02}"
                made.append(Node(name, network.machine(name, mbit), work, [at], registry))
            together(made, Node.start)
            together(made, Node.waits_for_others)

            def is_known() -> bool:
                lines = (memory.get(7071, "metrics") or "").splitlines()
                return f"lamina_discovery_nodes {count}" in lines and "lamina_discovery_warm 1" in lines

            wait_for(is_known, START_SECONDS, f"discovery knowing {count} nodes")
            yield made
        finally:
            leave_all(made)


def leave_all(nodes: list[Node]) -> None:
    """Ends all, also when some cannot."""
    with concurrent.futures.ThreadPoolExecutor(max(1, len(nodes))) as pool:
        left = [pool.submit(node.leave) for node in nodes]
    for one in left:
        one.result()
