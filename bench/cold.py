"""A5-A7: first work on an empty node, and reading a whole image lazily."""

import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import time

from . import nydus
from .corpus import images
from .link import Link
from .method import Row, cost_row, interleave
from .setup import Bench, drive, drop_caches
from .work import first_work

MBIT = 200
DELAY_MS = 5
SLOPE_DELAY_MS = 25


def run(bench: Bench) -> None:
    """All sections that start with nothing local."""
    bench.note("peers stargz-snapshotter and soci-snapshotter are not in this run: each needs a containerd of its own")
    names = ["python-data", "web"] + ([] if bench.quick else ["ml"])
    for name in names:
        image = images.find(name)
        touched = touched_bytes(image)
        cold_start(bench, image, touched, "unshaped", None)
        with Link(bench.registry, MBIT, DELAY_MS) as link:
            cold_start(bench, image, touched, f"{MBIT} Mbit/s + {DELAY_MS} ms", link)
    round_trips(bench, images.find("python-data"))
    whole_image(bench, images.find("web" if bench.quick else "python-data"))


def touched_bytes(image: images.Image) -> int:
    """Distinct bytes of the image its first work reads, in pages.

    Found on the native tree: everything dropped, read-ahead off, the work done, then the pages
    of every file that are resident.
    """
    root = images.native_tree(image)
    with _no_read_ahead(root):
        drop_caches()
        first_work(image, root)
        listed = subprocess.run(f"find {root} -xdev -type f -size +0 -print0 | xargs -0 fincore --json --bytes --output RES,FILE",
                                shell=True, check=True, capture_output=True, text=True).stdout
    total, decoder, at = 0, json.JSONDecoder(), 0
    while at < len(listed.rstrip()):  # one document per fincore that xargs started
        document, at = decoder.raw_decode(listed, at)
        total += sum(int(row["res"]) for row in document["fincore"])
        while at < len(listed) and listed[at].isspace():
            at += 1
    return total


@contextlib.contextmanager
def _no_read_ahead(root: pathlib.Path):
    device = root.stat().st_dev
    knob = pathlib.Path(f"/sys/class/bdi/{device >> 8}:{device & 255}/read_ahead_kb")
    before = knob.read_text()
    knob.write_text("0")
    try:
        yield
    finally:
        knob.write_text(before)


def cold_start(bench: Bench, image: images.Image, touched: int, where: str, link: Link | None) -> None:
    """A5 and A6 for one image on one link."""
    prefix = link.prefix if link else ()
    flist = bench.flist(image, bench.oci_store())
    details: dict[str, list] = {"lamina": [], "lamina, known profile": [], "nydusd": []}

    def lamina(profile: bool) -> float:
        name = "lamina, known profile" if profile else "lamina"
        with bench.instance("cold", prefix) as instance:
            instance.empty_cache()
            if not profile:
                shutil.rmtree(instance.state, ignore_errors=True)
            drop_caches()
            before = link.bytes_in() if link else 0
            target, started = bench.work / "mnt-cold", time.monotonic()
            instance.mount(flist, target)
            first_work(image, target)
            seconds = time.monotonic() - started
            details[name].append(_traffic(instance.stats(target), link, before))
        return seconds

    def native() -> float:
        drop_caches()
        started = time.monotonic()
        first_work(image, images.native_tree(image))
        return time.monotonic() - started

    def peer() -> float:
        drop_caches()
        before, started = link.bytes_in() if link else 0, time.monotonic()
        with nydus.Daemon(bench.work / "nydus-cold", bootstrap, nydus.registry_backend(bench, image), prefix) as daemon:
            first_work(image, daemon.target)
            seconds = time.monotonic() - started
            details["nydusd"].append({"wire": link.bytes_in() - before if link else None})
        return seconds

    variants = {"lamina": lambda: lamina(False), "local, page cache cold": native}
    bootstrap = nydus.converted(bench, image)
    if bootstrap:
        variants["nydusd"] = peer
    samples = interleave(variants, bench.rounds, native="local, page cache cold")
    # Apart from the interleaved rounds, because it needs the profile the first left behind.
    again = interleave({"lamina, known profile": lambda: lamina(True)}, bench.rounds)
    samples.by_variant |= again.by_variant
    _rows(bench, image, where, link, touched, samples, details)


def _traffic(info: dict, link: Link | None, before: int) -> dict:
    return {"wire": link.bytes_in() - before if link else info["bytes_transferred"], "fetched": info["bytes_fetched"]}


def _rows(bench, image, where, link, touched, samples, details) -> None:
    what = f"{image.name} first work, {where}"
    for name in samples.by_variant:
        wire = [round(entry["wire"] / 1e6, 1) for entry in details.get(name, []) if entry["wire"]]
        note = f"{statistics.median(wire)} MB over the wire" if wire else ""
        bench.add(cost_row("A5", f"{what}: {name}", samples.median(name), "s", None, note, samples.by_variant))
    if "nydusd" in samples.by_variant:
        value, low, high = samples.ratio("nydusd", "lamina")
        bench.add(Row("A5", f"{what}: sooner than nydusd", value, "x", ">= 2", value >= 2, low, high))
    fetched = statistics.median(entry["fetched"] for entry in details["lamina"])
    if link:
        wire = statistics.median(entry["wire"] for entry in details["lamina"])
        density = wire / max(fetched, 1)  # compressed size of what was fetched
        limit = touched * density * 8 / (link.mbit * 1e6) + samples.median("local, page cache cold")
        note = f"limit {limit:.2f} s: {touched / 1e6:.1f} MB touched at {density:.2f} compressed, plus the local start"
        for name, most in (("lamina", 1.25), ("lamina, known profile", 1.1)):
            bench.add(cost_row("A5", f"{what}: {name} over the limit", samples.median(name) / limit, "x", most, note))
    bench.add(cost_row("A6", f"{image.name}, {where}: bytes fetched over distinct bytes touched", fetched / touched, "x", 1.3,
                       f"{fetched / 1e6:.1f} MB of {touched / 1e6:.1f} MB", details))


def round_trips(bench: Bench, image: images.Image) -> None:
    """A6: how much longer the start takes per added delay: round trips nothing else hides."""
    flist, seconds = bench.flist(image, bench.oci_store()), {}
    for delay in (0, SLOPE_DELAY_MS):
        with Link(bench.registry, None, delay) as link:
            def once() -> float:
                with bench.instance("trips", link.prefix) as instance:
                    instance.empty_cache()
                    shutil.rmtree(instance.state, ignore_errors=True)
                    drop_caches()
                    started = time.monotonic()
                    instance.mount(flist, bench.work / "mnt-trips")
                    first_work(image, bench.work / "mnt-trips")
                    return time.monotonic() - started
            seconds[delay] = statistics.median(once() for _ in range(max(2, bench.rounds // 3)))
    trips = (seconds[SLOPE_DELAY_MS] - seconds[0]) / (2 * SLOPE_DELAY_MS / 1e3)
    bench.add(cost_row("A6", f"{image.name}: round trips on the critical path", trips, "trips", 5,
                       f"from {seconds[0]:.2f} s without and {seconds[SLOPE_DELAY_MS]:.2f} s with {SLOPE_DELAY_MS} ms each way", seconds))


def whole_image(bench: Bench, image: images.Image) -> None:
    """A7: every byte of every file through a fresh mount, against pull, unpack and read."""
    flist, reference = bench.flist(image, bench.oci_store()), bench.reference(image)
    host, path = reference.split("/", 1)
    name = path.split(":")[0]
    digests = [layer.digest for layer in images.build(image)]

    def pulled() -> float:
        target = bench.work / "pulled"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        drop_caches()
        started = time.monotonic()
        for digest in digests:
            url = f"http://{host}/v2/{name}/blobs/{digest}"
            subprocess.run(f"curl -sfL {url} | tar -xzp --numeric-owner --keep-directory-symlink -C {target}", shell=True, check=True,
                           executable="/bin/bash")
        drive("all", target)
        return time.monotonic() - started

    def lazily() -> float:
        with bench.instance("whole") as instance:
            instance.empty_cache()
            drop_caches()
            started = time.monotonic()
            instance.mount(flist, bench.work / "mnt-whole")
            drive("all", bench.work / "mnt-whole")
            return time.monotonic() - started

    samples = interleave({"lamina": lazily, "pull, unpack, read": pulled}, bench.rounds)
    value, low, high = samples.ratio("lamina", "pull, unpack, read")
    bench.add(Row("A7", f"{image.name}: whole image lazily over pull + unpack + read", value, "x", "<= 1", value <= 1, low, high,
                  "pull = curl | tar -xz into ext4, layer after layer", samples.by_variant))
