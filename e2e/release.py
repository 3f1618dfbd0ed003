"""The chart in the test cluster: installed, upgraded, uninstalled by helm as people do it."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

from bench.corpus import images as corpus
from bench.corpus import registry as corpus_registry
from scripts import image

from .cluster import Provider
from .cluster.provider import ClusterError, run
from .story import SYSTEM

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
CHART = REPOSITORY / "charts/lamina"
ARCHIVE = REPOSITORY / "target/image/lamina.tar"
RELEASE = "lamina"
# Where the story `private_image` serves images that need a password.
PRIVATE = "registry.e2e-private.svc.cluster.local:5000"
# Where the story `interrupted_publish` keeps requests back.
GATE = "gate.e2e-gate.svc.cluster.local:5000"


def helm(cluster: Provider, *words: str, seconds: float = 600) -> str:
    """helm's output."""
    folder = cluster.programs()
    program = str(folder / "helm") if folder else "helm"
    return run([program, *words, "--namespace", SYSTEM], seconds, env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig())})


def values(cluster: Provider, archive: pathlib.Path) -> list[str]:
    """What the test cluster needs to be told: its registry, and the image by digest."""
    address = cluster.registry()[0]
    return ["--set", f"image.repository={address}/lamina", "--set", f"image.digest={digest(archive)}",
            "--set", f"node.insecureRegistries={{{address},{PRIVATE},{GATE}}}",
            "--set", "example.podImage=lamina.test/busybox:1", "--set", f"example.volumeImage={address}/demo/base:1"]


def install(cluster: Provider, archive: pathlib.Path = ARCHIVE, more: tuple[str, ...] = ()) -> str:
    """Installs or upgrades the chart with the image of an archive, and with more values; what helm says."""
    if not archive.exists():
        raise ClusterError(f"{archive} is missing: run make image PROFILE=quick")
    cluster.load_image(archive)
    return helm(cluster, "upgrade", "--install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout", "5m",
                *values(cluster, archive), *more)


def installed(cluster: Provider) -> bool:
    """Whether the release is there."""
    return RELEASE in [item["name"] for item in json.loads(helm(cluster, "list", "-o", "json"))]


def notes(cluster: Provider) -> str:
    """The release's notes."""
    return helm(cluster, "get", "notes", RELEASE)


def digest(archive: pathlib.Path) -> str:
    """The digest of an archive's one manifest."""
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]


def other_version(archive: pathlib.Path = ARCHIVE) -> pathlib.Path:
    """An archive whose programs differ from those of `archive`, as another version's would: bytes after their end."""
    out = archive.with_name("lamina-other.tar")
    folder = archive.with_name("other")
    folder.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(_layer(archive))) as tar:
        for name in image.PROGRAMS:
            path = folder / name
            path.write_bytes(tar.extractfile(f"usr/local/bin/{name}").read() + b"another version")
            path.chmod(0o755)
    layer = image.tree(folder, image.CERTIFICATES.read_bytes())
    image.write(out, layer, "registry.lamina.dev/lamina:other", hashlib.sha256(layer).hexdigest()[:40])
    return out


def program(name: str, archive: pathlib.Path = ARCHIVE) -> bytes:
    """One of the programs in an archive."""
    with tarfile.open(fileobj=io.BytesIO(_layer(archive))) as tar:
        return tar.extractfile(f"usr/local/bin/{name}").read()


def _layer(archive: pathlib.Path) -> bytes:
    with tarfile.open(archive) as tar:
        manifest = json.loads(_blob(tar, json.load(tar.extractfile("index.json"))["manifests"][0]))
        return gzip.decompress(_blob(tar, manifest["layers"][0]))


def _blob(tar: tarfile.TarFile, described: dict) -> bytes:
    return tar.extractfile("blobs/" + described["digest"].replace(":", "/")).read()


def test_images(cluster: Provider) -> dict[str, str]:
    """Pushes the images that stories mount; their references as nodes reach them."""
    inside, outside = cluster.registry()
    base = corpus.find("base")
    corpus_registry.push(outside, base)
    return {"base": f"{inside}/{base.ref}", "busybox": f"{inside}/busybox:1"}
