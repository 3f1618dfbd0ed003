"""Nodes that run commands: an afslet beside a node of Lamina."""

import contextlib
import json
import signal
import subprocess

from ..cluster.nodes import Node, Service
from ..setup import DRIVER

PORT, METRICS = 7170, 7172


@contextlib.contextmanager
def afslet(node: Node, *words: str):
    """Serves without TLS at the node's address while the block lasts."""
    service = Service(node.machine, node.work, [
        "afslet", f"--listen={at(node)}", "--insecure", f"--node-socket={node.socket}", f"--volumes={node.kubelet / 'plugins/afslet'}",
        f"--run-dir={node.work / 'run'}", f"--node={node.name}", f"--metrics={node.machine.address}:{METRICS}", *words])
    try:
        service.wait(METRICS)
        yield service
    finally:
        service.end(signal.SIGTERM)


def at(node: Node) -> str:
    """Where its afslet is."""
    return f"{node.machine.address}:{PORT}"


def execute(node: Node, image: str, *words, address: str | None = None) -> dict:
    """Runs, as `lamina-bench execute` takes and tells them."""
    return json.loads(node.driver("execute", "--at", address or at(node), "--image", image, *words))


@contextlib.contextmanager
def waiting(prefix: list[str], *words):
    """A driver that says that it is ready, and goes on until the block ends."""
    process = subprocess.Popen([*prefix, str(DRIVER), *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = process.stdout.readline()
        if said != "ready\n":
            raise RuntimeError(f"{words[0]} is not ready: {said!r}")
        yield process
        process.stdin.close()
        if process.wait(60):
            raise RuntimeError(f"{words[0]} ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
