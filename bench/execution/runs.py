"""D1, D2: a command that does nothing, in a sandbox, against other ways to start one."""

import json
import statistics
import subprocess
import tempfile
import pathlib

from ..cluster.nodes import Node, cluster, place, push
from ..corpus import images
from ..method import Row, Samples, cost_row, interleave, speed_row
from ..setup import DRIVER
from .afslets import afslet, execute

IMAGE = "base"
WARM = 8
# Of each way, in every round.
COUNT, COUNT_SLOW = 60, 15
AT_ONCE = 4
EXECUTE, BARE, NO_NETWORK = "Execute", "bare launcher", "bare launcher, without a network namespace"
TOGETHER = "Execute, several at once"
# How much faster than which peer.
PEERS = {"runc": 12, "crun": 4, "bubblewrap": 2}
# Of version 2 of cgroups, on a machine that has version 1 as well; and a program's call where it is not to be seen.
UNIFIED = pathlib.Path("/sys/fs/cgroup/unified")
WITHOUT_UNIFIED = ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'umount {UNIFIED} && exec "$@"', "sh")


def run(bench) -> None:
    """Every way by turns, on the same mounted image."""
    image = images.find(IMAGE)
    push(image)
    with place() as here, cluster(here.network, here.work, 1, None, here.at) as (node,):
        reference = f"{here.at}/{image.ref}"
        node.mount(reference, "peers")
        with afslet(node, f"--warm={WARM}", "--cpu=64"), tempfile.TemporaryDirectory(prefix="lamina-bench-") as work:
            _measure(bench, node, reference, pathlib.Path(work))


def _measure(bench, node: Node, reference: str, work: pathlib.Path) -> None:
    root = node.target("peers")
    ways = {
        EXECUTE: lambda: execute(node, reference, "--count", COUNT, "--", "/bin/true")["ms"],
        BARE: lambda: _driver("launch", "--count", COUNT, "--network", "--lower", root, "/bin/true"),
        NO_NETWORK: lambda: _driver("launch", "--count", COUNT, "--lower", root, "/bin/true"),
        "plain spawn": lambda: _driver("spawn", "--count", COUNT, "--", "chroot", root, "/bin/true"),
        **_peers(bench, root, work),
    }
    ways[EXECUTE]()
    every: dict[str, list[float]] = {name: [] for name in ways}

    def middle_of(name: str) -> float:
        found = ways[name]()
        every[name] += found
        return statistics.median(found)

    def seconds_of_each() -> float:
        ran = execute(node, reference, "--count", 4 * COUNT, "--jobs", AT_ONCE, "--connections", 2, "--no-diff", "--", "/bin/true")
        return ran["seconds"] / (4 * COUNT)

    variants = {name: lambda name=name: middle_of(name) for name in ways} | {TOGETHER: seconds_of_each}
    middle = interleave(variants, bench.rounds)
    _rows(bench, every, middle, [1 / seconds for seconds in middle.by_variant.pop(TOGETHER)])


def _rows(bench, every: dict[str, list[float]], middle: Samples, rates: list[float]) -> None:
    for name, all_of in every.items():
        p99 = _part(all_of, 99)
        bench.rows.append(cost_row("D1", f"{name}: p50", statistics.median(all_of), "ms", None, f"min {min(all_of):.2f}, p99 {p99:.2f} ms",
                                   {name: middle.by_variant[name]}))
    value, low, high = middle.ratio(EXECUTE, BARE)
    bench.rows.append(Row("D1", f"{EXECUTE} by {BARE}", value, "x", "<= 1.5", value <= 1.5, low, high))
    for peer, target in PEERS.items():
        if peer in every:
            bench.rows.append(speed_row("D1", f"faster than {peer}", middle, EXECUTE, peer, target))
    spread = _part(every[EXECUTE], 99) / statistics.median(every[EXECUTE])
    bench.rows.append(cost_row("D1", f"{EXECUTE}: p99 by p50", spread, "x", 4))
    rate = statistics.median(rates)
    bench.rows.append(Row("D2", f"executes per second, {AT_ONCE} at once, no changes asked for", rate, "per second", ">= 400", rate >= 400,
                          note=f"{min(rates):.0f}-{max(rates):.0f}; the client is on the same cores", samples={"rates": rates}))
    bench.notes.append(f"{COUNT} of each a round ({COUNT_SLOW} of the peers'); `/bin/true` of the image; Execute by gRPC over a network device, with limits, logs"
                       f" and changes, {WARM} sandboxes made ahead; peers have the mounted image as a read-only root and no changes to hand back")


def _part(times: list[float], percent: int) -> float:
    return sorted(times)[(len(times) - 1) * percent // 100]


def _driver(*words, prefix: tuple = ()) -> list[float]:
    said = subprocess.run([*prefix, DRIVER, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    return json.loads(said)["ms"]


def _peers(bench, root: pathlib.Path, work: pathlib.Path) -> dict:
    """Those that are installed and work here; of the others it is noted why not."""
    bubble = ["--unshare-all", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
    commands = {"runc": lambda: _runtime(["runc"], root, work), "crun": lambda: _runtime(["crun", "--cgroup-manager=disabled"], root, work),
                "bubblewrap": lambda: ["bwrap", *bubble]}
    found = {}
    for name, command in commands.items():
        prefix = WITHOUT_UNIFIED if name == "crun" and UNIFIED.is_mount() else ()
        try:
            words = command()
            subprocess.run([*prefix, *words], check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            bench.notes.append(f"{name} is not installed")
        except subprocess.CalledProcessError as error:
            bench.notes.append(f"{name} does not run here: {error.stderr.strip()}")
        else:
            found[name] = lambda words=words, prefix=prefix: _driver("spawn", "--count", COUNT_SLOW, "--", *words, prefix=prefix)
            if name == "crun":
                bench.notes.append("crun makes no cgroups (`--cgroup-manager=disabled`), so it does less than the others: in its favour"
                                   + (f"; {UNIFIED} is not mounted where it runs, since it refuses machines with both versions" if prefix else ""))
    return found


def _runtime(command: list[str], root: pathlib.Path, work: pathlib.Path) -> list:
    """How an OCI runtime is called for the same command."""
    name = command[0]
    bundle = work / name
    bundle.mkdir()
    subprocess.run([name, "spec"], cwd=bundle, check=True, capture_output=True, text=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/true"]}
    spec["root"] = {"path": str(root), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(spec))
    return [*command, "--root", work / f"{name}-state", "run", "--bundle", bundle, f"lamina-bench-{name}"]
