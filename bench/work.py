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
  server { listen unix:/tmp/socket; root /usr/share/nginx/html; }
}
"""
ANSWER_SECONDS = 300


def first_work(image: Image, root: pathlib.Path) -> None:
    """Runs it to its first answer; raises when it fails."""
    if image.name == "web":
        _nginx(root)
        return
    result = subprocess.run(["chroot", root, *image.command], capture_output=True, text=True, timeout=ANSWER_SECONDS)
    if result.returncode:
        raise RuntimeError(f"{image.name}: {result.stderr[-1000:]}")


def _nginx(root: pathlib.Path) -> None:
    with _writable_tmp(root) as tmp:
        (tmp / "nginx.conf").write_text(NGINX)
        server = subprocess.Popen(["chroot", root, "/usr/sbin/nginx", "-c", "/tmp/nginx.conf"], stderr=subprocess.PIPE, text=True)
        try:
            _first_answer(server, tmp / "socket")
        finally:
            server.terminate()
            server.wait(30)


def _first_answer(server: subprocess.Popen, path: pathlib.Path) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"nginx ended: {server.stderr.read()[-1000:]}")
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            connection.request("GET", "/index.html")
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                raise RuntimeError(f"nginx answered {answer.status}")
            return
        time.sleep(0.002)
    raise TimeoutError("nginx gave no answer")


@contextlib.contextmanager
def _writable_tmp(root: pathlib.Path):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / "tmp"], check=True)
    try:
        yield root / "tmp"
    finally:
        subprocess.run(["umount", "-l", root / "tmp"], check=True)
