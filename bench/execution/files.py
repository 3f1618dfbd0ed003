"""D4: files put into a run, and changes got out of it."""

import pathlib
import statistics
import sysconfig

from ..cluster.nodes import cluster, place, push
from ..corpus import images
from ..method import Row
from ..setup import cpu_seconds
from .afslets import afslet, execute

IMAGE = "base"
BYTES = 256 << 20
MEMORY_MB = 1024
TARGETS = {"noise": 800, "text": 300}
# What a program in a run may have written: sources. Far more than the 32 KiB over which gzip finds again what it saw.
TEXT_BYTES = 16 << 20


def run(bench) -> None:
    """Counted by CPU time of the afslet, since the client works on the same cores."""
    image = images.find(IMAGE)
    push(image)
    with place() as here, cluster(here.network, here.work, 1, None, here.at) as (node,), afslet(node) as service:
        reference = f"{here.at}/{image.ref}"

        def cost(*words) -> tuple[float, dict]:
            before = cpu_seconds(service.process.pid)
            ran = execute(node, reference, "--count", 1, "--memory-mb", MEMORY_MB, *words, "--", "/bin/true")
            return cpu_seconds(service.process.pid) - before, ran

        cost()
        text = here.work / "text"
        text.write_bytes(sources())
        for kind, target in TARGETS.items():
            more = ["--text", text] if kind == "text" else []
            found = {"files in": [], "changes out": []}
            for _ in range(bench.rounds):
                into, _ran = cost("--no-diff", "--file-bytes", BYTES, *more)
                both, ran = cost("--file-bytes", BYTES, *more)
                found["files in"].append(BYTES / into / 1e6)
                found["changes out"].append(BYTES / max(both - into, 1e-3) / 1e6)
            for what, speeds in found.items():
                speed = statistics.median(speeds)
                note = f"; {ran['diff_bytes'][0] / 1e6:.0f} MB as tar.gz" if what == "changes out" else ""
                bench.rows.append(Row("D4", f"{what}, {kind}", speed, "MB per core-second", f">= {target}", speed >= target,
                                      note=f"{min(speeds):.0f}-{max(speeds):.0f}{note}", samples={kind: speeds}))
    bench.notes.append(f"one file of {BYTES >> 20} MiB; text is sources of Python's own library; what goes in is a change, too, so changes out is the difference of two runs")


def sources() -> bytes:
    """Of the Python that runs this, in the order of their names."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    return b"".join(path.read_bytes() for path in files)[:TEXT_BYTES]
