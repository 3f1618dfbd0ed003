# Made by `dev.py generate` from test_async_diff.py; do not edit.
"""Diffs as streams: every kind of entry, every kind of damage, and how little of them is held."""

import gzip
import io
import os
import pathlib
import random
import tarfile
import tempfile
import tracemalloc
import unittest

import lamina
from lamina import Client

from .fake import Fake, Stream, member, pb, tar_gz

MIB = 1 << 20


class Diffs(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = Client(self.fake.address)
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)

    def tearDown(self):
        self.client.close()

    def diff(self, diff, **done):
        """What runs leave."""

        async def script(stream: Stream):
            await stream.accept()
            await stream.send(result=pb.Result(success=True))
            await stream.send(tar_header=pb.TarHeader(name="diff"))
            for at in range(0, len(diff), 256 << 10):
                await stream.send(tar_chunk=pb.TarChunk(data=diff[at : at + (256 << 10)]))
            await stream.send(done=pb.Done(**done))

        self.fake.scripts["image"] = script
        return self.client.execute("image", ["x"])

    def test_every_kind_of_entry(self):
        extended = member("x" * 300 + "/é")
        extended.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5"}
        members = [
            (member("./dir", tarfile.DIRTYPE, mode=0o750), b""),
            (member("dir/file"), b"content"),
            (member("dir/sym", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (member("dir/hard", tarfile.LNKTYPE, "dir/file"), b""),
            (member("fifo", tarfile.FIFOTYPE), b""),
            (member("null", tarfile.CHRTYPE), b""),
            (member("dir/.wh.gone"), b""),
            (member("dir/.wh..wh..opq"), b""),
            (extended, b"long"),
        ]
        with self.diff(tar_gz(*members), left_out=2, left_out_names=["a", "b"]) as run:
            found = []
            for entry in run.diff:
                found.append((entry.kind, entry.path, entry.target, entry.read() if entry.kind == "file" else b""))
        self.assertEqual(
            found,
            [
                ("directory", "dir", "", b""),
                ("file", "dir/file", "", b"content"),
                ("symlink", "dir/sym", "/etc/passwd", b""),
                ("hardlink", "dir/hard", "dir/file", b""),
                ("fifo", "fifo", "", b""),
                ("character device", "null", "", b""),
                ("removed", "dir/gone", "", b""),
                ("opaque", "dir", "", b""),
                ("file", "x" * 300 + "/é", "", b"long"),
            ],
        )
        self.assertEqual((entry.mtime, entry.xattrs), (1.5, {"user.a": b"b"}))
        self.assertEqual((run.diff.left_out, run.diff.left_out_names), (2, ("a", "b")))

    def test_names_of_gnu_tar_and_several_gzip_members(self):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(member("n" * 200))
            archive.addfile(member("link", tarfile.SYMTYPE, "t" * 200))
        plain = made.getvalue()
        packed = gzip.compress(plain[:700]) + gzip.compress(plain[700:])
        with self.diff(packed) as run:
            found = [(entry.path, entry.target) for entry in run.diff]
        self.assertEqual(found, [("n" * 200, ""), ("link", "t" * 200)])

    def test_sparse_files_have_their_holes(self):
        tera = 1 << 40
        packed = tar_gz(sparse("sparse", tera, [(4096, b"one"), (tera - 3, b"end")]), (member("after"), b"A"))
        with self.diff(packed) as run:
            found = {}
            for entry in run.diff:
                found[entry.path] = (entry.size, [segment for segment in entry.segments()])
        self.assertEqual(found, {"sparse": (tera, [(4096, b"one"), (tera - 3, b"end")]), "after": (1, [(0, b"A")])})
        small = tar_gz(sparse("sparse", 5000, [(4096, b"one")]))
        with self.diff(small) as run:
            self.assertEqual(run.diff.read("sparse"), bytes(4096) + b"one" + bytes(901))
        with self.diff(packed) as run:
            with self.assertRaises(lamina.TooLarge):
                run.diff.read("sparse")

    def test_a_file_is_read_in_pieces_or_not_at_all(self):
        content = os.urandom(3 * MIB)
        packed = tar_gz((member("skipped"), content), (member("begun"), content), (member("read"), content))
        with self.diff(packed) as run:
            kept = None
            for entry in run.diff:
                if entry.path == "begun":
                    kept = entry
                    for piece in entry.chunks():
                        self.assertEqual(piece, content[: len(piece)])
                        break
                if entry.path == "read":
                    parts = [piece for piece in entry.chunks()]
                    self.assertTrue(b"".join(parts) == content)
                    self.assertLessEqual(max(map(len, parts)), 256 << 10)
            with self.assertRaises(RuntimeError):
                kept.read()
            with self.assertRaises(RuntimeError):
                run.diff.save(self.home / "again")

    def test_a_diff_is_saved_whole_or_not_at_all(self):
        packed = tar_gz((member("a"), os.urandom(MIB)))
        with self.diff(packed, diff_bytes=len(packed)) as run:
            self.assertEqual(run.diff.save(self.home / "whole"), len(packed))
        self.assertTrue((self.home / "whole").read_bytes() == packed)
        with self.diff(packed, diff_bytes=len(packed) + 1) as run:
            with self.assertRaises(lamina.ProtocolError):
                run.diff.save(self.home / "damaged")
        self.assertEqual([path.name for path in self.home.iterdir()], ["whole"])

    def test_no_diff_has_no_entries(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.end()

        self.fake.scripts["image"] = script
        with self.client.execute("image", ["x"]) as run:
            self.assertEqual([entry for entry in run.diff], [])
        with self.client.execute("image", ["x"], diff=False) as run:
            run.result()
            self.assertEqual([entry for entry in run.diff], [])

    def test_names_of_one_file_have_one_content(self):
        packed = tar_gz((member("a"), b"A"), (member("b", tarfile.LNKTYPE, "a"), b""))
        with self.diff(packed) as run:
            self.assertEqual(run.diff.files(["/a", "/b"]), {"/a": b"A", "/b": b"A"})
        for ask in (lambda diff: diff.files(["/b"]), lambda diff: diff.read("/b")):
            with self.diff(packed) as run:
                with self.assertRaisesRegex(lamina.NotFound, "another name of /a"):
                    ask(run.diff)

    def test_what_is_not_there_is_not_found(self):
        with self.diff(tar_gz((member("dir", tarfile.DIRTYPE), b""))) as run:
            with self.assertRaises(lamina.NotFound):
                run.diff.read("/dir")

    def test_damage_is_said_and_never_hangs(self):
        good = tar_gz((member("a"), b"x" * 5000))
        plain = gzip.decompress(good)
        cases = {
            "not gzip": b"not gzip at all",
            "cut off": good[: len(good) // 2],
            "cut off inside an entry": gzip.compress(plain[:1024]),
            "wrong checksum": gzip.compress(b"\1" * 600),
            "bit flip": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:],
            "unknown type": gzip.compress(header(member("a", b"Z")) + bytes(1024)),
            "negative size": gzip.compress(header(member("a"), size=-5)),
            "endless records": gzip.compress(header(member("a", b"x"), size=1 << 33)),
            "bad records": gzip.compress(header(member("a", b"x"), size=20) + b"99 path=x\n".ljust(512, b"\0")),
            "records without value": gzip.compress(header(member("a", b"x"), size=20) + b"9 path x\n".ljust(512, b"\0")),
        }
        for name, diff in cases.items():
            with self.subTest(name):
                with self.diff(diff) as run:
                    with self.assertRaises(lamina.ProtocolError):
                        for entry in run.diff:
                            entry.skip()

    def test_damaged_sparse_maps_are_said(self):
        maps = {
            "over each other": b"2\n0\n10\n5\n10\n",
            "beyond the file": b"1\n999999\n10\n",
            "no numbers": b"one\n0\n10\n",
            "no end": b"9" * 600,
            "too many": b"5000000000\n" + b"1\n1\n" * 100,
            "other length": b"1\n0\n11\n",
        }
        for name, text in maps.items():
            with self.subTest(name):
                with self.diff(tar_gz(sparse("s", 1000, [(0, b"x" * 10)], said=text))) as run:
                    with self.assertRaises(lamina.ProtocolError):
                        for entry in run.diff:
                            [_ for _ in entry.segments()]

    def test_noise_is_an_error_and_nothing_else(self):
        random.seed(1)
        plain = bytearray(gzip.decompress(tar_gz(sparse("s", 9000, [(4096, b"one")]), (member("a" * 200), b"x" * 600))))
        for _ in range(300):
            noisy = bytearray(plain)
            for _ in range(random.randint(1, 8)):
                noisy[random.randrange(len(noisy))] = random.randrange(256)
            with self.diff(gzip.compress(noisy, 1)) as run:
                try:
                    for entry in run.diff:
                        if entry.size < MIB:
                            entry.read()
                except lamina.ProtocolError:
                    pass

    def test_large_diffs_need_little_memory(self):
        size = 24 * MIB
        packed = tar_gz((member("zeros"), bytes(size)), level=9)
        noise = tar_gz((member("noise"), os.urandom(16 * MIB)))
        tracemalloc.start()
        try:
            with self.diff(packed) as run:
                tracemalloc.reset_peak()
                base = tracemalloc.get_traced_memory()[0]
                seen = 0
                for entry in run.diff:
                    for piece in entry.chunks():
                        seen += len(piece)
            bomb = tracemalloc.get_traced_memory()[1] - base
            with self.diff(noise) as run:
                tracemalloc.reset_peak()
                base = tracemalloc.get_traced_memory()[0]
                run.diff.save(self.home / "noise")
            saved = tracemalloc.get_traced_memory()[1] - base
        finally:
            tracemalloc.stop()
        self.assertEqual(seen, size)
        self.assertLess(bomb, 8 * MIB)
        self.assertLess(saved, 8 * MIB)

    def test_a_reader_who_pauses_makes_the_server_wait(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.send(result=pb.Result(success=True))
            while True:
                await stream.send(tar_chunk=pb.TarChunk(data=bytes(256 << 10)))

        self.fake.scripts["image"] = script
        with self.client.execute("image", ["x"]) as run:
            for _ in run.diff.chunks():
                break
            # Meanwhile, others go on.
            for _ in range(100):
                self.client.runtime_status()
            self.assertLess(self.fake.streams[0].sent, 200)


def header(info, size=0):
    """A header block of any size."""
    info.size = max(size, 0)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    if size < 0:
        block[124:136] = b"\xff" * 11 + bytes([256 + size])
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse(path, size, segments, said=None):
    """A sparse file in PAX format 1.0, with its stored content: the map in whole blocks, then the data."""
    text = said or f"{len(segments)}\n".encode() + b"".join(b"%d\n%d\n" % (at, len(data)) for at, data in segments)
    info = member("GNUSparseFile.0/" + path)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": path,
        "GNU.sparse.realsize": str(size),
    }
    return info, text.ljust(-(-len(text) // 512) * 512, b"\0") + b"".join(data for _, data in segments)


if __name__ == "__main__":
    unittest.main()
