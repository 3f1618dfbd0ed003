"""Files that are sent: what of them arrives, and how little of them is held."""

import io
import itertools
import os
import pathlib
import stat
import tempfile
import threading
import unittest
import unittest.mock

import grpc

import lamina
from lamina import AsyncClient
from lamina._async import upload

from .fake import Fake, Stream, pb

SECONDS = 30
DIR, FILE, LINK = pb.FILE_TYPE_DIR, pb.FILE_TYPE_FILE, pb.FILE_TYPE_SYMLINK


class Files(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = AsyncClient(self.fake.address)
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)

        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            await stream.end()

        self.fake.scripts["image"] = script

    async def asyncTearDown(self):
        await self.client.aclose()

    async def sent(self, files):
        """What arrives of files."""
        await self.client.run("image", ["x"], files=files, check=True)
        found = self.fake.streams[-1].files
        self.assertTrue(all(put.ended for put in found.values()))
        return found

    async def test_content_of_every_kind_arrives(self):
        big = os.urandom(1_000_000)
        (self.home / "file").write_bytes(big)
        with (self.home / "file").open("rb") as opened:
            found = await self.sent(
                {
                    "/bytes": b"b",
                    "/array": bytearray(b"a"),
                    "/view": memoryview(b"v"),
                    "/text": "é",
                    "/empty": b"",
                    "/big": big,
                    "/path": self.home / "file",
                    "/list": [b"one ", b"", b"two"],
                    "/iterator": iter([b"x" * 700_000, b"y"]),
                    "/opened": opened,
                    "/memory": io.BytesIO(big),
                    "relative": b"r",
                }
            )
        contents = {path: bytes(put.content) for path, put in found.items()}
        self.assertEqual((contents["/bytes"], contents["/array"], contents["/view"]), (b"b", b"a", b"v"))
        self.assertEqual((contents["/text"], contents["/empty"], contents["relative"]), ("é".encode(), b"", b"r"))
        self.assertEqual((contents["/list"], contents["/iterator"]), (b"one two", b"x" * 700_000 + b"y"))
        for path in ("/big", "/path", "/opened", "/memory"):
            self.assertTrue(contents[path] == big, path)

    async def test_attributes_arrive(self):
        found = await self.sent(
            {
                "/f": lamina.File(b"x", mode=0o750, uid=1, gid=2, mtime=100.9),
                "/d": lamina.Directory(mode=0o700, uid=3, gid=4, mtime=0),
                "/l": lamina.Symlink("../target", uid=5, gid=6, mtime=200),
                "/plain": b"x",
            }
        )
        begins = {path: put.begin for path, put in found.items()}
        said = {
            path: (begin.type, begin.mode, begin.uid, begin.gid, begin.mtime_unix, begin.symlink_target)
            for path, begin in begins.items()
        }
        self.assertEqual(said["/f"], (FILE, 0o750, 1, 2, 100, ""))
        # Not 0, which is now.
        self.assertEqual(said["/d"], (DIR, 0o700, 3, 4, 1, ""))
        self.assertEqual(said["/l"], (LINK, 0o777, 5, 6, 200, "../target"))
        self.assertEqual(said["/plain"][:4], (FILE, 0o644, 0, 0))
        # Now, not 1970: archivers and build tools stumble over that.
        self.assertGreater(said["/plain"][4], 1_600_000_000)

    async def test_a_mode_of_0_is_said_and_not_the_default(self):
        (self.home / "file").write_bytes(b"x")
        files = {
            "/f": lamina.File(b"x", mode=0),
            "/d": lamina.Directory(mode=0),
            "/local": lamina.File(self.home / "file", mode=0),
        }
        if os.geteuid() == 0:
            # Others cannot read these.
            (self.home / "dir").mkdir(mode=0)
            (self.home / "dir" / "closed").touch(mode=0)
            files["/dir"] = self.home / "dir"
        found = await self.sent(files)
        modes = {path: put.begin.mode for path, put in found.items()}
        self.assertEqual(modes, {path: stat.S_IFDIR if path in ("/d", "/dir") else stat.S_IFREG for path in modes})
        self.assertEqual(len(modes), 3 if os.geteuid() else 5)

    async def test_the_epoch_is_said_as_a_second_later(self):
        (self.home / "file").write_bytes(b"x")
        os.utime(self.home / "file", (0, 0))
        files = {
            "/f": lamina.File(b"x", mtime=0),
            "/part": lamina.File(b"x", mtime=0.5),
            "/l": lamina.Symlink("f", mtime=0),
            "/local": self.home / "file",
            "/before": lamina.File(b"x", mtime=-5),
        }
        times = {path: put.begin.mtime_unix for path, put in (await self.sent(files)).items()}
        self.assertEqual(times, {"/f": 1, "/part": 1, "/l": 1, "/local": 1, "/before": -5})

    async def test_a_local_directory_arrives_whole_and_its_links_as_links(self):
        (self.home / "sub" / "empty").mkdir(parents=True)
        (self.home / "sub" / "run").write_bytes(b"#!")
        (self.home / "sub" / "run").chmod(0o755)
        (self.home / "a").write_bytes(b"A")
        os.utime(self.home / "a", (50, 60))
        (self.home / "out").symlink_to("/etc/passwd")
        (self.home / "dir").symlink_to("sub")
        found = await self.sent({"/in": lamina.File(self.home, uid=7)})
        self.assertEqual(list(found), ["/in", "/in/a", "/in/dir", "/in/out", "/in/sub", "/in/sub/run", "/in/sub/empty"])
        kinds = {path: put.begin.type for path, put in found.items()}
        self.assertEqual(kinds["/in/sub/empty"], DIR)
        self.assertEqual(kinds["/in/out"], LINK)
        self.assertEqual((found["/in/out"].begin.symlink_target, found["/in/dir"].begin.symlink_target), ("/etc/passwd", "sub"))
        self.assertEqual((found["/in/a"].begin.mtime_unix, found["/in/a"].begin.uid), (60, 7))
        self.assertEqual((found["/in/sub/run"].begin.mode, bytes(found["/in/sub/run"].content)), (0o755, b"#!"))

    async def test_a_link_that_is_named_is_followed(self):
        (self.home / "real").write_bytes(b"R")
        (self.home / "link").symlink_to("real")
        found = await self.sent({"/f": self.home / "link"})
        self.assertEqual((found["/f"].begin.type, bytes(found["/f"].content)), (FILE, b"R"))

    async def test_what_takes_the_place_of_a_found_file_is_not_read(self):
        secret = self.home / "secret"
        secret.write_bytes(b"secret")
        sent = self.home / "sent"
        sent.mkdir()
        place = sent / "a"
        listed = upload._listed
        for make in (lambda: place.symlink_to(secret), lambda: os.mkfifo(place), place.mkdir):
            place.write_bytes(b"A")
            streams = len(self.fake.streams)

            def exchanged(directory, make=make, streams=streams):
                # A call that fails sooner than the server looks is one that it never sees.
                self.fake.wait_for_stream(streams)
                found = listed(directory)
                place.unlink()
                make()
                return found

            with self.subTest(make):
                with (
                    unittest.mock.patch("lamina._async.upload._listed", exchanged),
                    self.assertRaisesRegex(lamina.InvalidArgument, str(place)),
                ):
                    await self.client.run("image", ["x"], files={"/in": sent}, deadline=SECONDS)
                stream = self.fake.streams[streams]
                self.assertTrue(stream.over.wait(SECONDS))
                self.assertNotEqual(stream.outcome, "done")
                self.assertNotIn("/in/a", stream.files)
            if place.is_fifo():
                # Lets go who waits for a writer.
                os.close(os.open(place, os.O_RDWR))
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink()

    async def test_what_cannot_be_read_is_raised_as_it_is_and_ends_the_run(self):
        os.mkfifo(self.home / "fifo")

        def fails():
            yield b"x"
            raise ZeroDivisionError("in the iterator")

        cases = (
            ({"/a": self.home / "none"}, FileNotFoundError),
            ({"/a": self.home / "fifo"}, lamina.InvalidArgument),
            ({"/a": self.home}, lamina.InvalidArgument),
            ({"/a": fails()}, ZeroDivisionError),
            ({"/a": [b"x", "text"]}, TypeError),
            ({"/a": 5}, lamina.InvalidArgument),
        )
        for files, kind in cases:
            with self.subTest(kind), self.assertRaises(kind):
                await self.client.run("image", ["x"], files=files)
        for stream in self.fake.streams:
            self.assertTrue(stream.over.wait(SECONDS))
            # Nothing may look as if all files had come.
            self.assertNotEqual(stream.outcome, "done")

    async def test_an_iterator_is_not_touched_before_the_run_is_accepted(self):
        async def script(stream: Stream):
            await stream.refuse(grpc.StatusCode.INVALID_ARGUMENT, "no")

        self.fake.scripts["image"] = script
        taken = []
        pieces = (taken.append(number) or b"x" for number in range(10))
        with self.assertRaises(lamina.InvalidArgument):
            await self.client.run("image", ["x"], files={"/a": pieces})
        self.assertEqual(taken, [])

    async def test_something_but_not_much_is_sent_before_the_run_is_accepted(self):
        begun = []

        class Text(str):
            def encode(self, *arguments):
                begun.append(self)
                return super().encode(*arguments)

        async def script(stream: Stream):
            size = 0
            # Would wait for ever if nothing were sent without acceptance.
            while size < 256 << 10:
                size += (await anext(aiter(stream.requests))).ByteSize()
            await stream.refuse(grpc.StatusCode.INVALID_ARGUMENT, "no")

        self.fake.scripts["image"] = script
        with self.assertRaisesRegex(lamina.InvalidArgument, "no"):
            await self.client.run("image", ["x"], files={f"/{number}": Text("x" * 100_000) for number in range(200)})
        self.assertLess(len(begun), 8)

    async def test_a_server_that_does_not_read_stops_the_reading_of_files(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.log(b"reads nothing")
            while True:
                await stream.log(b"x" * 100_000)

        self.fake.scripts["image"] = script
        taken = []
        pieces = (taken.append(1) or b"x" * 100_000 for _ in itertools.count())
        async with self.client.execute("image", ["x"], files={"/endless": pieces}) as run:
            seen = 0
            async for _ in run.logs():
                seen += 1
                if seen > 200:
                    break
        self.assertLess(len(taken), 300)

    async def test_an_interrupted_run_does_not_begin_with_part_of_its_files(self):
        class Interrupt(BaseException):
            pass

        class Late(io.BytesIO):
            def read(self, size=-1):
                if self.tell():
                    left.wait(SECONDS)
                return super().read(size)

        async def interrupted(*_):
            raise Interrupt

        begun = []

        async def script(stream: Stream):
            await stream.accept()
            # A file's begin and its first piece.
            for _ in range(2):
                await anext(aiter(stream.requests))
            await stream.log(b"some is here")
            rest = [request async for request in stream.requests]
            # Fails if it was cancelled, for then files come to an end, too.
            await stream.log(b"begun")
            begun.append(len(rest))

        self.fake.scripts["image"] = script
        # More than is sent without a look whether anybody wants it.
        files = {"/late": Late(b"x" * 500_000), **{f"/{number}": b"" for number in range(1000)}}
        left = threading.Event()
        async with self.client.execute("image", ["x"], files=files) as run:
            await anext(run.logs())
            with unittest.mock.patch("lamina._aio.Frames.next", interrupted), self.assertRaises(Interrupt):
                await run.result()
        left.set()
        # Goes on with what is left to send, if anything is.
        await self.client.runtime_status()
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))
        self.assertEqual(begun, [])
        self.assertNotEqual(self.fake.streams[0].outcome, "done")
        with self.assertRaises(lamina.Cancelled):
            await run.result()

    async def test_an_endless_upload_ends_with_its_run(self):
        async def script(stream: Stream):
            await stream.accept()
            for _ in range(20):
                await anext(aiter(stream.requests))
            await stream.refuse(grpc.StatusCode.INVALID_ARGUMENT, "/endless is too large")

        self.fake.scripts["image"] = script
        taken = []
        pieces = (taken.append(1) or b"x" * 100_000 for _ in itertools.count())
        with self.assertRaisesRegex(lamina.InvalidArgument, "too large"):
            await self.client.run("image", ["x"], files={"/endless": pieces})
        count = len(taken)
        await self.client.runtime_status()
        self.assertLess(len(taken), count + 2)


if __name__ == "__main__":
    unittest.main()
