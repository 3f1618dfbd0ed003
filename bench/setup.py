"""What every section shares: options, the driver, the registry, converted images, caches."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from .corpus import images, registry
from .corpus.paths import CACHE, REPOSITORY
from .lamina import Lamina
from .method import Row

DRIVER = pathlib.Path(os.environ.get("LAMINA_BENCH") or REPOSITORY / "target/release/lamina-bench")


class Bench:
    """One run: what to do, where, and what came out."""

    def __init__(self, quick: bool, rounds: int | None = None):
        self.quick = quick
        self.rounds = rounds or (3 if quick else 9)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        # Beside the cache, not in /tmp: that may be a tmpfs, and natives must be on a disk.
        runs = CACHE / "bench"
        runs.mkdir(parents=True, exist_ok=True)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=runs))
        self.stack.callback(shutil.rmtree, self.work, ignore_errors=True)
        self.registry = self.stack.enter_context(registry.serve())
        self.tools = self.stack.enter_context(Lamina(self.work / "tools"))
        self.flists: dict[str, pathlib.Path] = {}
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def note(self, text: str) -> None:
        """Records something a reader of the table must know, once."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"   note: {text}", flush=True)

    def add(self, row: Row) -> None:
        """Records a line of the table and shows it."""
        self.rows.append(row)
        interval = f" [{row.low:.3g}, {row.high:.3g}]" if row.low is not None else ""
        verdict = {True: "ok", False: "MISSED", None: ""}[row.met]
        print(f"   {row.id:4} {row.what}: {row.value:.3g} {row.unit}{interval} {row.target} {verdict} {row.note}", flush=True)

    def reference(self, image: images.Image) -> str:
        """The image in the local registry, built and pushed when it is not there."""
        return registry.push(self.registry, image)

    def flist(self, image: images.Image, store: str | None = None) -> pathlib.Path:
        """The image converted, once per run and store (default: a directory)."""
        store = store or f"dir://{self.work / 'store'}"
        key = f"{image.name}@{image.tag} {store}"
        if key not in self.flists:
            out = self.work / f"{len(self.flists)}-{image.name}.fl"
            self.tools.convert(self.reference(image), out, store)
            self.flists[key] = out
        return self.flists[key]

    def oci_store(self) -> str:
        """A store in the same registry the images are in."""
        return f"oci://{self.registry}/bench/packs"

    def instance(self, name: str, prefix: tuple = ()) -> Lamina:
        """A Lamina of its own below the work directory."""
        return Lamina(self.work / name, prefix)


def drive(*arguments) -> dict:
    """Runs one loop of the driver; what it measured."""
    result = subprocess.run([DRIVER, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True, timeout=900)
    return json.loads(result.stdout)


def drop_caches(what: int = 3) -> None:
    """1: page cache, 2: dentries and inodes, 3: both."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text(str(what))


@contextlib.contextmanager
def overlay(lower: pathlib.Path, work: pathlib.Path):
    """A writable overlay over `lower`, as containers have it; upper on the same disk."""
    for name in ("upper", "scratch", "merged"):
        (work / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'scratch'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, work / "merged"], check=True)
    try:
        yield work / "merged"
    finally:
        subprocess.run(["umount", "-l", work / "merged"], check=True)


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used, its ended children included."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition, seconds: float, what: str):
    """Waits until `condition()` is true, with a deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.005)
    return value
