#!/usr/bin/env python3
"""The demo: a real image with Python and pandas, converted, mounted lazily, used, timed; then a command on it through
`lamina up`, with files up, logs and changes back.

    demo/run.py                     builds Debian + Python + pandas into a local registry
    demo/run.py --image REF         takes an image of yours, from any registry
           [--command 'CMD ARGS']   what to run in it

Needs root (mounting, chroot). Builds the image from Debian packages and wheels the first time
(some minutes); later runs take seconds. Leaves nothing mounted or running, whatever happens.
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bench.corpus import images, registry  # noqa: E402
from bench.lamina import Lamina  # noqa: E402
from demo import commands  # noqa: E402


def main() -> int:
    """Runs the demo; 0 when every step worked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="image reference instead of the demo's own")
    parser.add_argument("--command", type=shlex.split, help="command to run in the image")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the demo mounts and changes root: run it as root (sudo make demo)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(tempfile.mkdtemp(prefix="lamina-demo-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        reference, command, job = options.image, options.command or ["/bin/true"], options.command or ["ls", "-l", "/job"]
        if not reference:
            image = images.find("python-data")
            say("the demo image: Debian, Python, numpy, pandas, scipy, scikit-learn (built once, then cached)")
            images.build(image)
            address = stack.enter_context(registry.serve())
            reference = registry.push(address, image)
            command, job = options.command or list(image.command), options.command or ["python3", "/job/report.py"]
        with Lamina(work) as lamina:
            show(lamina, reference, command, work)
        say("lamina up   (discovery, a node, an afslet and a proxy, with certificates of its own)")
        with commands.Up(work / "up") as up:
            commands.show(up, reference, job, say)
            say("lamina up ends")
    return 0


def show(lamina: Lamina, reference: str, command: list[str], work: pathlib.Path) -> None:
    """Converts, then runs the command three times and prints the table."""
    flist, store, target = work / "image.fl", work / "store", work / "mnt"
    say(f"lamina convert {reference} -o image.fl -s dir://{store}")
    started = time.monotonic()
    lamina.convert(reference, flist, f"dir://{store}")
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    print(f"   {time.monotonic() - started:.1f} s; stored {size(stored)}, flist {size(flist.stat().st_size)}")

    say("lamina mount image.fl mnt   (empty cache)")
    rows = []
    mount(lamina, flist, target)
    say(f"chroot mnt {shlex.join(command)}")
    rows.append(run("first run, nothing local", lamina, target, command))
    rows.append(run("second run, warm", lamina, target, command))
    lamina.empty_cache()
    say("all again with an empty cache: the first run's access profile is known now")
    mount(lamina, flist, target)
    rows.append(run("empty cache, known profile", lamina, target, command))
    lamina.umount(target)
    table(rows)


def mount(lamina: Lamina, flist: pathlib.Path, target: pathlib.Path) -> None:
    """Mounts and says how long that took."""
    started = time.monotonic()
    lamina.mount(flist, target)
    took = time.monotonic() - started
    info = lamina.stats(target)
    print(f"   mounted as {info['mode']} in {took * 1e3:.0f} ms (agent: {info['ready_us'] / 1e3:.1f} ms), "
          f"{info['entries']} entries, {size(info['bytes_total'])} of file data")


def run(name: str, lamina: Lamina, target: pathlib.Path, command: list[str]) -> tuple:
    """Runs the command in the mount; a row of the table."""
    before = lamina.stats(target)
    started = time.monotonic()
    result = subprocess.run(["chroot", target, *command], capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - started
    if result.returncode:
        raise RuntimeError(f"the command ended with {result.returncode}: {result.stderr[-2000:]}")
    print(f"   {result.stdout.strip() or '(no output)'}")
    after = lamina.stats(target)
    base = before if "second" in name else {"bytes_fetched": 0, "bytes_transferred": 0}
    fetched = after["bytes_fetched"] - base["bytes_fetched"]
    moved = after["bytes_transferred"] - base["bytes_transferred"]
    share = f"{100 * fetched / max(after['bytes_total'], 1):.0f} %"
    return name, f"{seconds:.2f} s", size(fetched), size(moved), share


def table(rows: list[tuple]) -> None:
    """Prints rows under a heading, in columns."""
    rows = [("", "time", "fetched", "over the wire", "of the image"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))))
    print()


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e6:.1f} MB"


def say(text: str) -> None:
    """A step, so that it stands out."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
