"""The container image is a valid OCI layout, holds what it should, and is the same every time."""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile
import unittest

from scripts import image


def files(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar.getmembers()}


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.extractfile(name).read()


class Image(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="lamina-image-")
        self.addCleanup(self.folder.cleanup)
        self.binaries = pathlib.Path(self.folder.name)
        for number, name in enumerate(image.PROGRAMS):
            (self.binaries / name).write_bytes(b"\x7fELF" + bytes([number]) * 5000)
        self.layer = image.tree(self.binaries, b"certificates")
        self.archive = self.built(self.layer)

    def built(self, layer: bytes) -> bytes:
        out = self.binaries / "image.tar"
        image.write(out, layer, "registry.example/lamina:1", "0" * 40)
        return out.read_bytes()

    def blob(self, digest: str) -> bytes:
        data = content(self.archive, "blobs/" + digest.replace(":", "/"))
        self.assertEqual(digest, "sha256:" + hashlib.sha256(data).hexdigest())
        return data

    def test_building_twice_gives_the_same_bytes(self):
        for path in [self.binaries / name for name in image.PROGRAMS]:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
        again = image.tree(self.binaries, b"certificates")
        self.assertEqual(self.layer, again)
        self.assertEqual(self.archive, self.built(again))

    def test_every_blob_is_what_its_descriptor_says(self):
        self.assertEqual(json.loads(content(self.archive, "oci-layout")), {"imageLayoutVersion": "1.0.0"})
        index = json.loads(content(self.archive, "index.json"))
        described = index["manifests"][0]
        manifest = self.blob(described["digest"])
        self.assertEqual(described["size"], len(manifest))
        manifest = json.loads(manifest)
        config = self.blob(manifest["config"]["digest"])
        self.assertEqual(manifest["config"]["size"], len(config))
        layer = self.blob(manifest["layers"][0]["digest"])
        self.assertEqual(manifest["layers"][0]["size"], len(layer))
        plain = gzip.decompress(layer)
        self.assertEqual(json.loads(config)["rootfs"]["diff_ids"], ["sha256:" + hashlib.sha256(plain).hexdigest()])
        self.assertEqual(plain, self.layer)
        self.assertEqual(described["annotations"]["io.containerd.image.name"], "registry.example/lamina:1")
        self.assertEqual(len(files(self.archive)), 5)

    def test_config_has_labels_and_no_entrypoint(self):
        manifest = json.loads(self.blob(json.loads(content(self.archive, "index.json"))["manifests"][0]["digest"]))
        config = json.loads(self.blob(manifest["config"]["digest"]))
        self.assertEqual((config["os"], config["architecture"]), ("linux", "amd64"))
        self.assertEqual(config["config"]["Labels"]["org.opencontainers.image.version"], image.version())
        self.assertNotIn("Entrypoint", config["config"])
        self.assertNotIn("Cmd", config["config"])

    def test_the_tree_holds_the_programs_certificates_and_nothing_else(self):
        found = files(self.layer)
        plain = sorted(name for name, member in found.items() if member.isreg())
        self.assertEqual(plain, ["etc/group", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/certs/ca-certificates.crt",
                                 "usr/local/bin/lamina", "usr/local/bin/lamina-csi", "usr/local/bin/lamina-operator"])
        self.assertEqual({found[f"usr/local/bin/{name}"].mode for name in image.PROGRAMS}, {0o755})
        self.assertEqual(found["tmp"].mode, 0o1777)
        self.assertEqual({(member.uid, member.gid, member.mtime) for member in found.values()}, {(0, 0, image.EPOCH)})
        seen = set()
        for name in found:
            self.assertTrue(pathlib.PurePosixPath(name).parent.as_posix() in {".", *seen}, f"{name} before its folder")
            seen.add(name)


if __name__ == "__main__":
    unittest.main()
