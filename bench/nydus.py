"""The peer nydusd (crate nydus-rs, built into the cache): images converted, mounted, timed."""

import contextlib
import functools
import json
import os
import pathlib
import resource
import shutil
import subprocess

from .corpus import images
from .corpus.paths import CACHE
from .corpus.registry import Client
from .setup import Bench, wait_for

VERSION = "2.2.0"
HOME = CACHE / f"nydus-{VERSION}"
START_SECONDS = 30


@functools.cache
def install() -> bool:
    """Builds nydus with cargo unless it was; False when that does not work here."""
    if (HOME / "bin/nydusd").exists():
        return True
    if (HOME / "failed").exists():
        return False
    print(f"   building nydus-rs {VERSION} (once)", flush=True)
    log = CACHE / "logs" / "nydus.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CARGO_TARGET_DIR": str(CACHE / "build/nydus")}
    with open(log, "w") as out:
        command = ["nice", "cargo", "install", "--locked", "nydus-rs", "--version", VERSION, "--root", HOME]
        built = subprocess.run(command, env=environment, stdout=out, stderr=out, cwd="/").returncode == 0
    if not built:
        HOME.mkdir(parents=True, exist_ok=True)
        (HOME / "failed").write_text(f"see {log}; remove this file to try again\n")
    return built


def convert(image: images.Image, out: pathlib.Path) -> tuple[pathlib.Path, float]:
    """Converts the image's layers; the merged bootstrap and the CPU seconds it took."""
    blobs = out / "blobs"
    shutil.rmtree(out, ignore_errors=True)
    blobs.mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    bootstraps = []
    for layer in images.build(image):
        known, made = set(os.listdir(blobs)), out / "layer.boot"
        _tool("create", "-t", "targz-rafs", "--bootstrap", made, "--blob-dir", blobs, layer.blob)
        # `merge` takes a layer's blob id from the name of its bootstrap; a layer without file data has none.
        new = set(os.listdir(blobs)) - known
        bootstraps.append(made.rename(out / (new.pop() if new else layer.digest.removeprefix("sha256:"))))
    merged = out / "image.boot"
    _tool("merge", "--bootstrap", merged, *bootstraps)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return merged, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _tool(*arguments) -> None:
    result = subprocess.run([HOME / "bin/nydus-image", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"nydus-image {arguments[0]}: {result.stderr[-500:] or result.stdout[-500:]}")


def converted(bench: Bench, image: images.Image) -> pathlib.Path | None:
    """The image as nydus blobs in the registry and a bootstrap, once per run; None: cannot."""
    if not install():
        bench.note(f"peer nydusd is missing: nydus-rs {VERSION} did not build, see logs/nydus.log in the cache")
        return None
    out = bench.work / "nydus" / f"{image.name}@{image.tag}"
    if not (out / "image.boot").exists():
        try:
            convert(image, out)
        except RuntimeError as error:
            bench.note(f"peer nydusd cannot take {image.name}: {error}")
            return None
        client = Client(bench.registry)
        for blob in (out / "blobs").iterdir():
            client.put_blob(f"nydus/{image.name}", f"sha256:{blob.name}", blob)
    return out / "image.boot"


def mount(bench: Bench, stack: contextlib.ExitStack, image: images.Image) -> pathlib.Path | None:
    """Mounts the image with all data local, for the sections on warm data; None: cannot."""
    bootstrap = converted(bench, image)
    if bootstrap is None:
        return None
    daemon = Daemon(bench.work / "nydus-warm" / image.name, bootstrap, {"type": "localfs", "config": {"dir": str(bootstrap.parent / "blobs")}})
    return stack.enter_context(daemon).target


def registry_backend(bench: Bench, image: images.Image) -> dict:
    """Where a cold nydusd gets the image's blobs."""
    return {"type": "registry", "config": {"scheme": "http", "host": bench.registry, "repo": f"nydus/{image.name}"}}


class Daemon:
    """A running nydusd with an empty cache; use as a context manager."""

    def __init__(self, work: pathlib.Path, bootstrap: pathlib.Path, backend: dict, prefix: tuple = ()):
        self.work, self.bootstrap, self.backend, self.prefix = work, bootstrap, backend, prefix
        self.target = work / "mnt"

    def __enter__(self):
        shutil.rmtree(self.work, ignore_errors=True)
        self.target.mkdir(parents=True)
        (self.work / "cache").mkdir()
        config = {
            "device": {"backend": self.backend, "cache": {"type": "blobcache", "config": {"work_dir": str(self.work / "cache")}}},
            "mode": "direct", "digest_validate": False, "enable_xattr": True,
            # Not the whole image in the background: that is another measure (A7).
            "fs_prefetch": {"enable": True, "prefetch_all": False, "threads_count": 4},
        }
        (self.work / "config.json").write_text(json.dumps(config))
        self.log = open(self.work / "log", "w")
        self.process = subprocess.Popen(
            [*self.prefix, HOME / "bin/nydusd", "fuse", "--config", self.work / "config.json", "--bootstrap", self.bootstrap, "--mountpoint",
             self.target, "--apisock", self.work / "api.sock", "--rlimit-nofile", "0", "--log-level", "error"],
            stdout=self.log, stderr=self.log)
        try:
            wait_for(self._ready, START_SECONDS, "nydusd's mount")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"nydusd ended: {(self.work / 'log').read_text()[-800:]}")
        return os.path.ismount(self.target)

    def __exit__(self, *_):
        subprocess.run(["umount", self.target], stderr=subprocess.DEVNULL)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", "-l", self.target], stderr=subprocess.DEVNULL)
        self.log.close()
