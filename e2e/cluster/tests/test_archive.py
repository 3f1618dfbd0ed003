"""Archives and the names in them."""

import http.server
import json
import pathlib
import tempfile
import threading
import unittest

from e2e.cluster import archive
from e2e.cluster.provider import ClusterError


class Names(unittest.TestCase):
    def test_registry_keeps_names_without_host(self):
        for name, expected in {
            "ghcr.io/a/b:1": ("a/b", "1"), "localhost:5000/b:2": ("b", "2"), "docker.io/busybox:1": ("library/busybox", "1"),
            "docker.io/a/b:1": ("a/b", "1"), "b:1": ("library/b", "1"), "a/b:1": ("a/b", "1"), "lamina.test/pause:1": ("pause", "1"),
        }.items():
            self.assertEqual(archive.split(name), expected, name)

    def test_a_name_without_tag_is_refused(self):
        for name in ("ghcr.io/a/b", "localhost:5000/b", "a@sha256:0"):
            with self.assertRaises(ClusterError, msg=name):
                archive.split(name)

    def test_the_full_name_is_preferred_to_the_tag(self):
        self.assertEqual(archive.name_of({archive.NAME: "x/y:1", archive.REF: "1"}), "x/y:1")
        self.assertEqual(archive.name_of({archive.REF: "x/y:2"}), "x/y:2")
        self.assertIsNone(archive.name_of({archive.REF: "1"}))


class Push(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.uploads = uploads = {}

        class Registry(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, code, **headers):
                self.send_response(code)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_HEAD(self):
                self.answer(404)

            def do_POST(self):
                self.answer(202, Location=f"{self.path}1")

            def do_PUT(self):
                uploads[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201)

            def log_message(self, *words):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{server.server_address[1]}"

    def test_what_is_written_is_pushed_whole_under_its_name(self):
        config, layer = b"{}", b"layer"
        manifest = json.dumps({"config": {"digest": archive._digest(config)}, "layers": [{"digest": archive._digest(layer)}]}).encode()
        blob = self.folder / "layer"
        blob.write_bytes(layer)
        archive.write(file := self.folder / "image.tar", "ghcr.io/a/b:1", manifest, [config, blob])
        self.assertEqual(archive.push(file, self.address), ["ghcr.io/a/b:1"])
        self.assertEqual(archive.names(file), ["ghcr.io/a/b:1"])
        self.assertEqual(self.uploads["/v2/a/b/manifests/1"], manifest)
        self.assertEqual({body for path, body in self.uploads.items() if "/uploads/" in path}, {config, layer})

    def test_a_file_that_is_no_archive_is_refused(self):
        (file := self.folder / "text").write_text("no tar")
        with self.assertRaisesRegex(ClusterError, "no OCI archive"):
            archive.push(file, self.address)


if __name__ == "__main__":
    unittest.main()
