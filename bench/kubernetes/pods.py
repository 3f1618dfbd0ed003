"""B3: a hundred pods on one node that mount ten images: publish latency, memory of the daemons."""

import json

import yaml

from e2e.cluster.provider import wait

from ..corpus import images
from ..method import cost_row
from .cluster import DRIVER, NODE, Bench, uptime
from .cold import pod
from .install import lamina
from .publish import percentile

PODS = 100
IMAGES = ("base", "python-data", "python-data:2", "web", *(f"versions:{number}" for number in range(1, 7)))
# Proportional set size of the daemons by role, kB.
MEMORY = r"""
for folder in /proc/[0-9]*; do
  words=$(tr '\0' ' ' < $folder/cmdline 2>/dev/null) || continue
  role=${words#*--role }
  case "$words" in
    /var/lib/lamina/bin/*) echo ${role%% *} $(awk '/^Pss:/ {print $2}' $folder/smaps_rollup);;
    "/usr/local/bin/lamina node "*) echo node $(awk '/^Pss:/ {print $2}' $folder/smaps_rollup);;
    *lamina-csi\ node\ *) echo csi $(awk '/^Pss:/ {print $2}' $folder/smaps_rollup);;
  esac
done
"""
READY_SECONDS = 600


def run(bench: Bench) -> None:
    """All pods at once."""
    references = [bench.convert(images.find(name)) for name in IMAGES]
    bench.empty_node()
    before = memory(bench)
    # Each reads a file of its own volume, so that more than an empty mount is counted.
    script = "find /data/usr/bin -type f | head -n 20 | xargs cat > /dev/null; sleep 100000"
    specs = []
    for number in range(PODS):
        one = pod(bench, f"many-{number}", lamina(references[number % len(references)]), script)
        one["metadata"]["labels"] = {"bench": "pods"}
        specs.append(one)
    started = uptime()
    bench.kubectl("create", "-f", "-", text=yaml.safe_dump_all(specs), seconds=300)
    wait("all pods run", READY_SECONDS, lambda: running(bench) == PODS, pause=1)
    seconds = uptime() - started
    took = sorted(us / 1e6 for us in json.loads(bench.on(bench.empty, DRIVER, "volumes", NODE))["took_us"])
    after = memory(bench)
    bench.kubectl("delete", "pod", "-l", "bench=pods", "--grace-period=0", "--force", "--wait=true", seconds=600)
    what = f"{PODS} pods at once, {len(IMAGES)} images, nothing local"
    bench.add(cost_row("B3", f"{what}: publish p99", percentile(took, 0.99) * 1e3, "ms", 500,
                       f"p50 {percentile(took, 0.5) * 1e3:.0f} ms; all pods ran after {seconds:.0f} s", {"publish seconds": took}))
    daemons = sum(after.get(role, 0) for role in ("agent", "mountd")) / 1024
    bench.add(cost_row("B3", f"{what}: memory of agent and mount daemon", daemons, "MiB", 100,
                       ", ".join(f"{role} {kib / 1024:.1f} MiB (idle {before.get(role, 0) / 1024:.1f})" for role, kib in sorted(after.items())),
                       {"before": before, "after": after}))


def running(bench: Bench) -> int:
    """How many pods run."""
    return len(bench.kubectl("get", "pods", "-l", "bench=pods", "--field-selector=status.phase=Running", "-o", "name").split())


def memory(bench: Bench) -> dict[str, int]:
    """Proportional set sizes on the measured node, KiB, by role."""
    listed = bench.on(bench.empty, "sh", "-c", MEMORY)
    return {words[0]: int(words[1]) for line in listed.splitlines() if len(words := line.split()) == 2}
