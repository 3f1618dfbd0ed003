"""C4: one replica of discovery with as many nodes and layers as a large cluster has."""

import contextlib
import json
import signal
import socket
import statistics
import subprocess
import time

from ..lamina import PROGRAM
from ..method import Row, cost_row
from ..setup import DRIVER

NODES, LAYERS = 10_000, 1000
START_SECONDS, END_SECONDS, LOAD_SECONDS = 30, 30, 900


def run(bench) -> None:
    """Rounds on a fresh replica each, so that none begins with what the last one left."""
    nodes = NODES // 10 if bench.quick else NODES
    found = [once(nodes) for _ in range(bench.rounds)]
    kinds = (("same", "heartbeats of a node whose layers stay"), ("changed", "heartbeats of a node with one other layer"))
    for name, what in (*kinds, ("whole", "heartbeats that name every layer, as other clients send them")):
        rates = [one[name]["count"] / one[name]["cpu_seconds"] for one in found]
        value = statistics.median(rates)
        target = (">= 5000", value >= 5000) if name != "whole" else ("", None)
        bench.rows.append(Row("C4", f"{what}, {LAYERS} layers each, {nodes} nodes", value, "per core-second", *target,
                              note=f"{min(rates):.0f} to {max(rates):.0f}", samples={name: rates}))
    asked, plain = ([one["find_provider"][kind] for one in found] for kind in ("asked", "plain"))
    for share in ("p50", "p99"):
        times, floor = ([one[f"{share}_ms"] for one in kind] for kind in (asked, plain))
        note = f"{min(times):.2f} to {max(times):.2f}; as many bytes over plain TCP meanwhile: {statistics.median(floor):.2f} ms"
        bench.rows.append(cost_row("C4", f"FindProvider {share}, {nodes} nodes", statistics.median(times), "ms", 1 if share == "p99" else None,
                                   note, {share: times, f"{share} plain": floor}))
    memory = [one["memory_mib"] for one in found]
    bench.rows.append(cost_row("C4", f"memory of a replica, {nodes * LAYERS:,} layers held", statistics.median(memory), "MiB", None))


def once(nodes: int) -> dict:
    """One replica under load."""
    with replica() as (address, pid):
        said = subprocess.run([DRIVER, "discovery", f"--at={address}", f"--pid={pid}", f"--nodes={nodes}", f"--layers={LAYERS}"],
                              stdout=subprocess.PIPE, text=True, check=True, timeout=LOAD_SECONDS).stdout
    return json.loads(said)


@contextlib.contextmanager
def replica():
    """A replica on loopback whose nodes do not expire while it is measured: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([PROGRAM, "discovery", "--insecure", f"--listen={address}", "--ttl=1h"], stderr=subprocess.DEVNULL)
    try:
        wait_for(address, process)
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(address: str, process: subprocess.Popen) -> None:
    """Returns once it takes connections."""
    host, port = address.split(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"discovery does not answer on {address}") from error
            time.sleep(0.05)
