"""Image layers: a recipe is run over the layers below it, what it wrote becomes a tar.gz.

A layer is built on an overlay mount of the layers below, so package tools see a whole root
file system and only what they changed is kept. Its key is the digest of its recipe's name
and arguments and of its parent's key: the same recipe is never run twice. Package versions
are resolved when a layer is first built and recorded in layer.json, because point releases
leave the mirrors.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from typing import Callable

from .paths import LAYERS

EPOCH = 1_700_000_000  # newest mtime in any layer, so that rebuilding gives the same bytes


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make one layer: `run(root, *args)` changes the merged tree at `root`."""

    run: Callable
    args: tuple = ()
    # A recipe may instead write its own tar stream: run(file, *args).
    writes_tar: bool = False

    def key(self, parent: str) -> str:
        """The name of the layer this recipe makes on top of `parent`."""
        text = json.dumps([parent, self.run.__name__, self.args, self.writes_tar])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A built layer in the cache."""

    key: str
    digest: str
    diff_id: str
    size: int
    record: dict

    @property
    def path(self) -> pathlib.Path:
        """Its folder in the cache."""
        return LAYERS / self.key

    @property
    def blob(self) -> pathlib.Path:
        """Its gzip-compressed tar."""
        return self.path / "layer.tar.gz"


def load(key: str) -> Layer | None:
    """The layer `key`, if it was built."""
    try:
        about = json.loads((LAYERS / key / "layer.json").read_text())
    except FileNotFoundError:
        return None
    return Layer(key, about["digest"], about["diff_id"], about["size"], about["record"])


def build(recipe: Recipe, below: list[Layer]) -> Layer:
    """The layer that `recipe` makes on top of `below` (lowest first)."""
    key = recipe.key(below[-1].key if below else "")
    if layer := load(key):
        return layer
    started = time.monotonic()
    LAYERS.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".new-", dir=LAYERS))
    try:
        tree = work / "tree"
        tree.mkdir()
        if recipe.writes_tar:
            record = {}
            command = None
        else:
            with merged(tree, [layer.path / "tree" for layer in below], work) as root:
                record = recipe.run(root, *recipe.args) or {}
            command = _tar_command(tree)
        about = _compress(command, recipe, work / "layer.tar.gz")
        about["record"] = record
        (work / "layer.json").write_text(json.dumps(about, indent=1))
        os.rename(work, LAYERS / key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = time.monotonic() - started
    print(f"  layer {recipe.run.__name__}: {about['size'] / 1e6:.1f} MB gzip in {seconds:.0f} s", flush=True)
    return load(key)


@contextlib.contextmanager
def merged(upper: pathlib.Path, below: list[pathlib.Path], work: pathlib.Path):
    """A directory that shows `upper` over `below` (lowest first) while the block runs."""
    if not below:
        yield upper
        return
    root, scratch = work / "root", work / "scratch"
    root.mkdir()
    scratch.mkdir()
    lower = ":".join(str(path) for path in reversed(below))
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


def _tar_command(tree: pathlib.Path) -> list:
    # overlayfs' own xattrs (trusted.*) stay out: layers only ever add here.
    return [
        "tar", "-C", tree, "--sort=name", "--numeric-owner", "--format=posix",
        f"--mtime=@{EPOCH}", "--clamp-mtime", "--pax-option=delete=atime,delete=ctime",
        "--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability",
        "-cf", "-", ".",
    ]


def _compress(command: list | None, recipe: Recipe, out: pathlib.Path) -> dict:
    """Pipes a tar stream through gzip into `out`; digests of both sides."""
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    with open(out, "wb") as target:
        gzip = subprocess.Popen(["gzip", "-n", "-6"], stdin=subprocess.PIPE, stdout=target)
        if command is None:
            recipe.run(_Tee(gzip.stdin, plain), *recipe.args)
        else:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
                while block := tar.stdout.read(1 << 20):
                    plain.update(block)
                    gzip.stdin.write(block)
            if tar.returncode:
                raise RuntimeError(f"tar ended with {tar.returncode}")
        gzip.stdin.close()
        if gzip.wait():
            raise RuntimeError(f"gzip ended with {gzip.returncode}")
    with open(out, "rb") as source:
        while block := source.read(1 << 20):
            packed.update(block)
            size += len(block)
    return {"digest": f"sha256:{packed.hexdigest()}", "diff_id": f"sha256:{plain.hexdigest()}", "size": size}


class _Tee:
    """A writable file that also digests what passes."""

    def __init__(self, out, digest):
        self.out, self.digest = out, digest

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.out.write(data)
