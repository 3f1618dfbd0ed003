"""C3: a layer by gRPC from a node, against as many bytes over plain TCP."""

import json
import statistics
import subprocess

from ..corpus import images
from ..method import Row, interleave
from ..setup import DRIVER, cpu_seconds
from .nodes import cluster, place, push

IMAGE = "big"
TIMES = 4
MESSAGE = 1 << 20


def run(bench) -> None:
    """Both over loopback, in the node's network, turn by turn."""
    image = images.find(IMAGE)
    push(image)
    digest = images.build(image)[0].digest
    with place() as here, cluster(here.network, here.work, 1, None, here.at) as (node,):
        node.mount(f"{here.at}/{image.ref}", "hold")
        _measure(bench, node, digest, images.build(image)[0].blob)


def _measure(bench, node, digest: str, file) -> None:
    bytes_read, cores, sending = 0, [], []

    def layer() -> float:
        nonlocal bytes_read
        before = cpu_seconds(node.service.process.pid)
        report = json.loads(node.driver("layer", f"{node.machine.address}:7150", digest, "--times", TIMES))
        bytes_read = report["bytes"]
        cores.append(bytes_read / (cpu_seconds(node.service.process.pid) - before) / 1e9)
        return report["seconds"]

    def tcp() -> float:
        said = subprocess.run([*node.machine.prefix, str(DRIVER), "tcp", str(bytes_read), "--message", str(MESSAGE)], stdout=subprocess.PIPE, check=True,
                              text=True).stdout
        return json.loads(said)["seconds"]

    def sendfile() -> float:
        said = subprocess.run([*node.machine.prefix, str(DRIVER), "tcp", str(bytes_read), "--message", str(MESSAGE), "--file", str(file)],
                              stdout=subprocess.PIPE, check=True, text=True).stdout
        report = json.loads(said)
        sending.append(bytes_read / report["sender_cpu_seconds"] / 1e9)
        return report["seconds"]

    layer()
    cores.clear()
    samples = interleave({"layer": layer, "tcp": tcp, "sendfile": sendfile}, bench.rounds)
    value, low, high = samples.ratio("tcp", "layer")
    speeds = [bytes_read / seconds / 1e9 for seconds in samples.by_variant["layer"]]
    bench.rows.append(Row("C3", "ReadLayerStream by plain TCP with messages of 1 MiB", value, "x", ">= 0.7", value >= 0.7, low, high,
                          f"{statistics.median(speeds):.2f} GB/s with the reader on the other core", samples.by_variant))
    core = statistics.median(cores)
    bench.rows.append(Row("C3", "ReadLayerStream, bytes by CPU time of the node", core, "GB/s", ">= 1.2", core >= 1.2,
                          note=f"{min(cores):.2f}-{max(cores):.2f}", samples={"per core": cores}))
    value, low, high = samples.ratio("sendfile", "layer")
    bench.rows.append(Row("C3", "ReadLayerStream by sendfile over plain TCP", value, "x", "", None, low, high, "a file of the page cache"))
    core = statistics.median(sending)
    bench.rows.append(Row("C3", "sendfile over plain TCP, bytes by CPU time of the sender", core, "GB/s", "", None,
                          note=f"{min(sending):.2f}-{max(sending):.2f}", samples={"per core": sending}))
