"""A local registry (distribution v3) on loopback, and pushing built images to it."""

import contextlib
import http.client
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse

from . import images
from .images import Image
from .layers import Layer
from .paths import REGISTRY, REPOSITORY

START_SECONDS = 20


@contextlib.contextmanager
def serve(host: str = "127.0.0.1", prefix: list[str] = (), storage: pathlib.Path = REGISTRY):
    """Runs a registry while the block runs; yields its `host:port`.

    `prefix` is a command that starts it elsewhere, e.g. in a network namespace.
    """
    with tempfile.TemporaryDirectory(prefix="lamina-registry-") as work:
        port = _free_port()
        config = pathlib.Path(work) / "config.yml"
        config.write_text(f"""\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}
http: {{addr: "{host}:{port}"}}
""")
        command = [*prefix, _program(), "serve", str(config)]
        with open(pathlib.Path(work) / "log", "w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                if not prefix:
                    _wait(process, host, port, log)
                yield f"{host}:{port}"
            finally:
                process.terminate()
                process.wait(10)


def _program() -> str:
    """distribution v3 built with Go, or where Go is missing Debian's docker-registry."""
    if shutil.which("go") is None and (debian := shutil.which("docker-registry")):
        return debian
    tool = subprocess.run([REPOSITORY / "scripts/tools.sh", "registry"], check=True, stdout=subprocess.PIPE, text=True)
    return tool.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process, host: str, port: int, log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise RuntimeError(f"the registry did not start: {log.read()}")
        time.sleep(0.05)


def push(address: str, image: Image) -> str:
    """Builds `image` if needed and uploads what the registry lacks; its full reference."""
    built = images.build(image)
    manifest, config = images.describe(image, built)
    client = Client(address)
    name = f"demo/{image.name}"
    for layer in built:
        client.put_blob(name, layer.digest, layer.blob)
    client.put_blob(name, images.digest(config), config)
    client.put_manifest(name, image.tag, manifest)
    return f"{address}/{image.ref}"


class Client:
    """As much of the distribution API as pushing takes."""

    def __init__(self, address: str):
        self.connection = http.client.HTTPConnection(address, timeout=120)

    def call(self, method: str, path: str, body=None, headers=None, ok=(200,)) -> http.client.HTTPResponse:
        self.connection.request(method, path, body=body, headers=headers or {})
        response = self.connection.getresponse()
        text = response.read()
        if response.status not in ok:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
        return response

    def put_blob(self, name: str, digest: str, source, size: int | None = None) -> None:
        """Uploads bytes, a file by its path, or an open file of `size` bytes, unless the registry has it."""
        path = f"/v2/{name}/blobs"
        if self.call("HEAD", f"{path}/{digest}", ok=(200, 404)).status == 200:
            return
        start = self.call("POST", f"{path}/uploads/", ok=(202,)).headers["Location"]
        where = urllib.parse.urlsplit(start)
        target = f"{where.path}?{where.query}{'&' if where.query else ''}digest={urllib.parse.quote(digest)}"
        if size is None:
            size = source.stat().st_size if isinstance(source, pathlib.Path) else len(source)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        if isinstance(source, pathlib.Path):
            with open(source, "rb") as body:
                self.call("PUT", target, body, headers, ok=(201,))
        else:
            self.call("PUT", target, source, headers, ok=(201,))

    def put_manifest(self, name: str, tag: str, manifest: bytes, media: str = "application/vnd.oci.image.manifest.v1+json") -> None:
        """Uploads a manifest, after all that it names."""
        self.call("PUT", f"/v2/{name}/manifests/{tag}", manifest, {"Content-Type": media}, ok=(201,))
