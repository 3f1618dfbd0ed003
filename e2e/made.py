"""Small images and archives with given files, made in memory; the same files give the same bytes."""

import contextlib
import gzip
import io
import json
import random
import tarfile
import urllib.error
import urllib.request

from bench.corpus import images as corpus
from bench.corpus.layers import EPOCH, Layer
from bench.corpus.registry import Client

from .cluster import Provider

Files = dict[str, bytes]


def noise(seed: str, size: int) -> bytes:
    """Bytes that cannot be compressed and that nothing else shares."""
    return random.Random(seed).randbytes(size)


def tar(files: Files) -> bytes:
    """A tar of files owned by root; programs and scripts may be run."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime = len(content), EPOCH
            entry.mode = 0o755 if content.startswith((b"\x7fELF", b"#!")) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def layer(files: Files) -> tuple[bytes, Layer]:
    """A layer's compressed bytes, and what a manifest says of it."""
    plain = tar(files)
    packed = gzip.compress(plain, 1, mtime=0)
    return packed, Layer("", corpus.digest(packed), corpus.digest(plain), len(packed), {})


def push(cluster: Provider, name: str, *layers: Files) -> str:
    """Pushes an image `repository:tag` of these layers, bottom up; its reference as nodes reach it."""
    inside, outside = cluster.registry()
    repository, _, tag = name.rpartition(":")
    made = [layer(files) for files in layers]
    manifest, config = corpus.describe(corpus.Image(repository, []), [described for _, described in made])
    with contextlib.closing((client := Client(outside)).connection):
        for packed, described in made:
            client.put_blob(repository, described.digest, packed)
        client.put_blob(repository, corpus.digest(config), config)
        client.put_manifest(repository, tag, manifest)
    return f"{inside}/{name}"


def lose_layers(cluster: Provider, repository: str, *layers: Files) -> None:
    """Deletes these layers' bytes from the registry, which goes on naming them in manifests."""
    with contextlib.closing((client := Client(cluster.registry()[1])).connection):
        for files in layers:
            client.call("DELETE", f"/v2/{repository}/blobs/{layer(files)[1].digest}", ok=(202,))


def tags(cluster: Provider, repository: str) -> list[str]:
    """The tags of a repository in the cluster's registry: in a store, one for each object."""
    try:
        with urllib.request.urlopen(f"http://{cluster.registry()[1]}/v2/{repository}/tags/list", timeout=30) as answer:
            return json.load(answer)["tags"] or []
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise
