"""An image's first useful work in a mounted root: how long until its first answer."""

import contextlib
import http.client
import pathlib
import socket
import subprocess
import time

from .corpus.images import Image

NGINX = """\
daemon off; pid /tmp/pid; error_log stderr; user root;
events {}
http {
  access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
  server { listen unix:/tmp/socket; location / { proxy_pass http://unix:/tmp/node; } }
}
"""
NODE = "require('http').createServer((request, answer) => answer.end('hello')).listen('/tmp/node')"
BAD_GATEWAY = 502  # nginx is up, node is not yet
ANSWER_SECONDS = 300


def first_work(image: Image, root: pathlib.Path) -> None:
    """Runs it to its first answer; raises when it fails."""
    with _devices(root):
        if image.name == "web":
            _web(root)
            return
        result = subprocess.run(["chroot", root, *image.command], capture_output=True, text=True, timeout=ANSWER_SECONDS)
        if result.returncode:
            raise RuntimeError(f"{image.name}: {result.stderr[-1000:]}")


def _web(root: pathlib.Path) -> None:
    """nginx in front of node, to the first page that went through both."""
    with _writable_tmp(root) as tmp, contextlib.ExitStack() as running:
        (tmp / "nginx.conf").write_text(NGINX)
        for command in (["/usr/bin/node", "-e", NODE], ["/usr/sbin/nginx", "-c", "/tmp/nginx.conf"]):
            server = subprocess.Popen(["chroot", root, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(server.wait, 30)
            running.callback(server.terminate)
        _first_answer(tmp / "socket")


def _first_answer(path: pathlib.Path) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            connection.request("GET", "/")
            answer = connection.getresponse()
            if answer.status == 200 and answer.read() == b"hello":
                return
            if answer.status != BAD_GATEWAY:
                raise RuntimeError(f"nginx answered {answer.status}")
        time.sleep(0.002)
    raise TimeoutError("nginx and node gave no answer")


@contextlib.contextmanager
def _devices(root: pathlib.Path):
    """The machine's /dev in the root, as every container has one: images have none, mounts are nodev."""
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", root / "dev"], check=True)


@contextlib.contextmanager
def _writable_tmp(root: pathlib.Path):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / "tmp"], check=True)
    try:
        yield root / "tmp"
    finally:
        subprocess.run(["umount", "-l", root / "tmp"], check=True)
