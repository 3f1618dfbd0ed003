"""D3: what a proxy takes from callers, with afslets that run nothing."""

import json
import pathlib
import statistics
import subprocess
import tempfile

from ..cluster.network import Machine
from ..cluster.nodes import Service
from ..method import Row, cost_row
from ..setup import DRIVER, cpu_seconds
from .afslets import waiting

AFSLETS = ("127.0.0.1:17170", "127.0.0.1:17171")
PROXY, HTTP = 17180, 17181
COUNT, COUNT_QUICK = 20_000, 4_000
AT_ONCE, CONNECTIONS = 32, 4


class Loopback(Machine):
    """This machine itself: everything here is on loopback."""

    def __init__(self):
        self.address, self.prefix = "127.0.0.1", []


def run(bench) -> None:
    """Callers, proxy and afslets share the machine's cores, so dispatches are counted by the proxy's CPU time, too."""
    count = COUNT_QUICK if bench.quick else COUNT
    rates, per_core, slow = [], [], []
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as work, waiting([], "idle", *AFSLETS):
        proxy = Service(Loopback(), pathlib.Path(work), [
            "proxy", "--insecure", f"--listen=127.0.0.1:{PROXY}", f"--http=127.0.0.1:{HTTP}", *(f"--afslet={one}" for one in AFSLETS)])
        try:
            proxy.wait(HTTP)
            _load(1000, AT_ONCE)
            for _ in range(bench.rounds):
                before = cpu_seconds(proxy.process.pid)
                found = _load(count, AT_ONCE)
                per_core.append(count / (cpu_seconds(proxy.process.pid) - before))
                rates.append(count / found["seconds"])
                alone = sorted(_load(count // 10, 1)["ms"])
                slow.append(alone[len(alone) * 99 // 100])
        finally:
            proxy.end()
    rate, core, p99 = map(statistics.median, (rates, per_core, slow))
    bench.rows += [
        Row("D3", f"dispatches per second, {AT_ONCE} at once", rate, "per second", "", None, note=f"{min(rates):.0f}-{max(rates):.0f}; callers, proxy and"
            " afslets on the same cores", samples={"rates": rates}),
        Row("D3", "dispatches by CPU time of the proxy", core, "per core-second", ">= 20000", core >= 20_000, note=f"{min(per_core):.0f}-{max(per_core):.0f}",
            samples={"per core": per_core}),
        cost_row("D3", "one after the other, p99", p99, "ms", 5, f"{min(slow):.2f}-{max(slow):.2f} ms, from the call to the end of its stream", {"p99": slow}),
    ]
    bench.notes.append(f"{count} runs a round over {CONNECTIONS} connections; {len(AFSLETS)} afslets of the driver that answer at once")


def _load(count: int, at_once: int) -> dict:
    words = ["execute", "--at", f"127.0.0.1:{PROXY}", "--image", "none", "--count", count, "--jobs", at_once, "--connections",
             min(CONNECTIONS, at_once), "--memory-mb", 1, "--", "none"]
    return json.loads(subprocess.run([DRIVER, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout)
