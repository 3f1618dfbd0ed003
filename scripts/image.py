#!/usr/bin/env python3
"""Lamina's container image, built without Docker: an OCI archive, the same bytes every time.

    scripts/image.py --binaries DIR --out target/image/lamina.tar [--name REPOSITORY:TAG]

    /usr/local/bin/{lamina,lamina-operator,lamina-csi}   static
    /etc/ssl/certs/ca-certificates.crt                   of the machine that builds
    /etc/{passwd,group,nsswitch.conf}                    root and `lamina` (65532); names from files, then DNS
    /tmp

There is nothing else: no shell, no libraries, no entrypoint. `make image` builds the binaries first.
"""

import argparse
import gzip
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from bench.corpus import images  # noqa: E402
from bench.corpus.layers import EPOCH, Layer  # noqa: E402
from e2e.cluster import archive  # noqa: E402

PROGRAMS = ("lamina", "lamina-operator", "lamina-csi")
CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nlamina:x:65532:65532:lamina:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nlamina:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def version() -> str:
    """The workspace's version."""
    return tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def tree(binaries: pathlib.Path, certificates: bytes) -> bytes:
    """The layer: a tar with parents before children, in a fixed order, owned by root, at a fixed time."""
    content = {f"usr/local/bin/{name}": ((binaries / name).read_bytes(), 0o755) for name in PROGRAMS}
    content |= {path: (text.encode(), 0o644) for path, text in FILES.items()}
    content["etc/ssl/certs/ca-certificates.crt"] = (certificates, 0o644)
    folders = {str(parent) for path in content for parent in pathlib.PurePosixPath(path).parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _folder(tar, "tmp", 0o1777)
        for path in sorted(folders | content.keys()):
            if path in folders:
                _folder(tar, path, 0o755)
            else:
                _file(tar, path, *content[path])
    return out.getvalue()


def _folder(tar: tarfile.TarFile, path: str, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, EPOCH
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = len(content), mode, EPOCH
    tar.addfile(entry, io.BytesIO(content))


def write(out: pathlib.Path, layer: bytes, name: str, revision: str) -> None:
    """Writes the OCI archive of an image with this one layer."""
    packed = gzip.compress(layer, 6, mtime=0)
    described = Layer("lamina", images.digest(packed), images.digest(layer), len(packed), {})
    label = "org.opencontainers.image"
    labels = {f"{label}.title": "lamina", f"{label}.version": version(), f"{label}.licenses": "Apache-2.0",
              f"{label}.description": "Container file systems, instantly", f"{label}.revision": revision}
    config = {"Env": ["PATH=/usr/local/bin"], "Labels": labels, "WorkingDir": "/"}
    manifest, config = images.describe(images.Image("lamina", [], config=config), [described])
    out.parent.mkdir(parents=True, exist_ok=True)
    archive.write(out, name, manifest, [config, packed])


def revision() -> str:
    """The commit that is checked out."""
    done = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Writes the archive; it appears when it is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, required=True, help="folder with the static binaries")
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "target/image/lamina.tar")
    parser.add_argument("--name", default=f"registry.lamina.dev/lamina:{version()}", help="repository and tag")
    options = parser.parse_args()
    missing = [str(path) for path in (*(options.binaries / name for name in PROGRAMS), CERTIFICATES) if not path.is_file()]
    if missing:
        sys.exit(f"image: {', '.join(missing)} is missing: run make image, which builds it (certificates: Debian's ca-certificates)")
    write(options.out, tree(options.binaries, CERTIFICATES.read_bytes()), options.name, revision())
    content = options.out.read_bytes()
    print(f"{options.out}: {options.name}, {len(content) / 1e6:.1f} MB, sha256:{hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
