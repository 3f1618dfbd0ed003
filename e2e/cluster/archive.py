"""OCI archives: an image layout in a tar, written, read, and pushed to a registry.

An archive says its images' names in the annotations of index.json. The registry keeps them without
the host part, as nodes ask it for every name whatever the host.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import tarfile
from typing import Iterator

from bench.corpus.registry import Client

from .provider import ClusterError

NAME = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LISTS = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


def write(file: pathlib.Path, name: str, manifest: bytes, blobs: list[bytes | pathlib.Path]) -> None:
    """Writes an image of one manifest; the file appears when it is complete."""
    described = {"mediaType": MANIFEST, "digest": _digest(manifest), "size": len(manifest),
                 "platform": {"architecture": "amd64", "os": "linux"},
                 "annotations": {NAME: name, REF: name.rpartition(":")[2]}}
    index = {"schemaVersion": 2, "mediaType": LISTS[0], "manifests": [described]}
    scratch = file.with_suffix(f".{os.getpid()}")
    with tarfile.open(scratch, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for blob in (manifest, *blobs):
            content = blob if isinstance(blob, bytes) else blob.read_bytes()
            _add(tar, f"blobs/sha256/{_digest(content).removeprefix('sha256:')}", content)
    os.rename(scratch, file)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def push(file: pathlib.Path, registry: str) -> list[str]:
    """Pushes every image of an archive; their names."""
    with _opened(file) as tar, contextlib.closing((client := Client(registry)).connection):
        images = _images(file, tar)
        for name, described in images.items():
            _push_manifest(tar, client, *split(name), described)
        return list(images)


def names(file: pathlib.Path) -> list[str]:
    """The names of an archive's images."""
    with _opened(file) as tar:
        return list(_images(file, tar))


def _images(file: pathlib.Path, tar: tarfile.TarFile) -> dict[str, dict]:
    """Descriptors by name."""
    images = {}
    for described in json.loads(_read(tar, "index.json"))["manifests"]:
        name = name_of(described.get("annotations", {}))
        if name is None:
            raise ClusterError(f"{file}: an image in index.json has no name: annotate it with {NAME}")
        images[name] = described
    return images


def name_of(annotations: dict[str, str]) -> str | None:
    """An image's full name: the `ref.name` annotation is often the tag alone."""
    for key in (NAME, REF):
        if ":" in annotations.get(key, ""):
            return annotations[key]
    return None


def split(name: str) -> tuple[str, str]:
    """Repository and tag as the registry knows them: `ghcr.io/a/b:1` is `a/b` and `1`, `b:1` is `library/b` and `1`."""
    repository, _, tag = name.rpartition(":")
    if not repository or "/" in tag or "@" in name:
        raise ClusterError(f"the image's name {name!r} has no tag")
    host, slash, rest = repository.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return (f"library/{rest}" if host == "docker.io" and "/" not in rest else rest), tag
    return (repository if slash else f"library/{repository}"), tag


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file) as tar:
            yield tar
    except (FileNotFoundError, tarfile.TarError, KeyError) as error:
        raise ClusterError(f"{file} is no OCI archive: {error}") from error


def _member(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    try:
        return tar.getmember(name)
    except KeyError:
        return tar.getmember(f"./{name}")


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    return tar.extractfile(_member(tar, name)).read()


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _push_manifest(tar: tarfile.TarFile, client: Client, path: str, reference: str, described: dict) -> None:
    """Pushes a manifest after all that it names."""
    raw = _read(tar, _blob(described["digest"]))
    content = json.loads(raw)
    for below in content.get("manifests", []):
        _push_manifest(tar, client, path, below["digest"], below)
    for blob in [*([content["config"]] if "config" in content else []), *content.get("layers", [])]:
        member = _member(tar, _blob(blob["digest"]))
        client.put_blob(path, blob["digest"], tar.extractfile(member), member.size)
    client.put_manifest(path, reference, raw, content.get("mediaType") or described["mediaType"])
