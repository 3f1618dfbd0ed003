"""Runs from begin to end: what is sent, what comes back, and what failures look like."""

import asyncio
import pathlib
import tempfile
import unittest

import grpc

import lamina
from lamina import AsyncClient
from lamina._wire import node_pb2

from .fake import Fake, Stream, member, pb, tar_gz

SECONDS = 30


class Runs(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = AsyncClient(self.fake.address, retry=lamina.Retry(backoff=0.001, backoff_max=0.01))

    async def asyncTearDown(self):
        await self.client.aclose()

    def script(self, name):
        """Says what runs of an image do."""

        def take(function):
            self.fake.scripts[name] = function

        return take

    async def test_everything_a_caller_says_is_sent(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept(flist_digest="ab")
            await stream.end()

        async with self.client.execute(
            "image",
            ["a", "b"],
            cpu=2,
            memory_mb=512,
            timeout=1.5,
            env={"A": "1", "B": "x=y"},
            entrypoint=["e"],
            workdir="/w",
            user="u:g",
            network="host",
            cap_add=["CHOWN", "setuid"],
            disk_mb=7,
            pids_max=8,
            docker_config={"auths": {}},
            tag="t",
            platform="linux/arm64/v8",
            keep=["s3://y", "s3://z"],
            keep_base=["s3://w"],
            refresh=True,
            node="n",
            request_id="id",
            dispatch_retries=3,
            dispatch_backoff=0.2,
        ) as run:
            self.assertEqual(run.accepted, lamina.Accepted("node-1", "id", "ab"))
            await run.result()
        start = self.fake.streams[0].start
        self.assertEqual((start.image, start.tag, list(start.command), list(start.entrypoint)), ("image", "t", ["a", "b"], ["e"]))
        self.assertEqual(
            (start.cpu_cores, start.memory_mb, start.timeout_ms, start.disk_mb, start.pids_max), (2, 512, 1500, 7, 8)
        )
        self.assertEqual((list(start.env), start.working_dir, start.user), (["A=1", "B=x=y"], "/w", "u:g"))
        self.assertEqual(list(start.cap_add), ["CHOWN", "setuid"])
        self.assertEqual((start.network, start.docker_config_json), (pb.NETWORK_HOST, b'{"auths": {}}'))
        self.assertEqual((start.platform_os, start.platform_arch, start.platform_variant), ("linux", "arm64", "v8"))
        self.assertFalse(start.HasField("flist"))
        self.assertEqual((list(start.keep.stores), list(start.keep.base_stores)), (["s3://y", "s3://z"], ["s3://w"]))
        self.assertEqual((start.force_local_fetch, start.node_id, start.request_id), (True, "n", "id"))
        self.assertEqual((start.proxy_dispatch_max_retries, start.proxy_dispatch_backoff_ms), (3, 200))
        self.assertEqual(start.diff, pb.DIFF_MODE_UNSPECIFIED)
        await self.client.run("image", ["a"], flist="c" * 64, stores=["s3://x"])
        start = self.fake.streams[1].start
        self.assertEqual((start.flist.digest, list(start.flist.stores)), ("c" * 64, ["s3://x"]))

    async def test_a_run_gives_its_output_and_result(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.log(b"out\n")
            await stream.log(b"err\xff\n", "stderr")
            usage = pb.Usage(wall_us=1_500_000, cpu_us=1, memory_peak_bytes=2, startup_us=3_000_000, image_us=4, log_bytes=9)
            await stream.end(3, reason=pb.END_REASON_SIGNALLED, signal=9, error="killed", usage=usage)

        done = await self.client.run("image", ["x"])
        self.assertEqual((done.exit_code, done.ok, done.error, done.reason), (3, False, "killed", lamina.EndReason.SIGNALLED))
        self.assertEqual((done.stdout, done.stderr, done.stderr_bytes), ("out\n", "err\ufffd\n", b"err\xff\n"))
        self.assertEqual((done.result.signal, done.usage.wall, done.usage.startup, done.usage.log_bytes), (9, 1.5, 3.0, 9))
        self.assertEqual(self.fake.streams[0].start.diff, pb.DIFF_MODE_NONE)
        with self.assertRaises(lamina.CommandFailed) as caught:
            await self.client.run("image", ["x"], check=True)
        self.assertEqual(caught.exception.completed.exit_code, 3)
        self.assertIn("killed", str(caught.exception))

    async def test_what_was_kept_is_in_the_result(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            if stream.start.HasField("keep"):
                flist = node_pb2.FlistInfo(digest="d" * 64, entries=3, bytes=40, bytes_stored=20, stores=["s3://y"])
                await stream.end(kept=flist)
            else:
                await stream.end(success=False, reason=pb.END_REASON_NOT_KEPT, error="no store")

        done = await self.client.run("image", ["x"], keep=["s3://y"])
        self.assertEqual(done.kept, lamina.Kept("d" * 64, 3, 40, 20, ("s3://y",)))
        done = await self.client.run("image", ["x"])
        self.assertEqual((done.kept, done.ok, done.exit_code, done.reason), (None, False, 0, lamina.EndReason.NOT_KEPT))
        for wrong in ({"keep": "s3://y"}, {"keep_base": ["s3://y"]}):
            with self.subTest(wrong), self.assertRaisesRegex(lamina.InvalidArgument, "keep"):
                await self.client.run("image", ["x"], **wrong)

    async def test_logs_come_while_the_command_runs(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.log(b"one\ntw")
            await stream.log(b"o\n\nend")
            # Goes on when the client has seen the first lines.
            await stream.take_files()
            await stream.end()

        async with self.client.execute("image", ["x"], diff=False) as run:
            texts = [line.text async for line in run.lines()]
            self.assertEqual((await run.result()).exit_code, 0)
        self.assertEqual(texts, ["one", "two", "", "end"])

    async def test_the_result_passes_over_logs(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            for _ in range(100):
                await stream.log(b"x" * 1000)
            await stream.end(diff=tar_gz((member("a"), b"1")))

        async with self.client.execute("image", ["x"]) as run:
            self.assertEqual((await run.result()).exit_code, 0)
            self.assertEqual([chunk async for chunk in run.logs()], [])
            self.assertEqual(await run.diff.read("/a"), b"1")

    async def test_a_result_that_came_is_not_lost_with_the_connection(self):
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL):
            with self.subTest(code):

                @self.script("image")
                async def script(stream: Stream, code=code):
                    await stream.accept()
                    await stream.send(result=pb.Result(exit_code=3))
                    await stream.refuse(code, "gone")

                async with self.client.execute("image", ["x"], diff=False) as run:
                    self.assertEqual((await run.result()).exit_code, 3)
                    self.assertEqual((await run.result()).exit_code, 3)
                self.assertEqual((await self.client.run("image", ["x"])).exit_code, 3)
                with self.assertRaisesRegex(lamina.LaminaError, "gone") as caught:
                    await self.client.run("image", ["x"], outputs=["/x"])
                self.assertTrue(caught.exception.started)

    async def test_outputs_are_files_of_the_diff(self):
        members = [(member("out", b"5"), b""), (member("out/a"), b"A"), (member("out/deep/b"), b"B"), (member("outside"), b"C")]

        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.end(diff=tar_gz(*members))

        done = await self.client.run("image", ["x"], outputs=["/out", "/none"])
        self.assertEqual(done.files, {"/out/a": b"A", "/out/deep/b": b"B"})
        with self.assertRaises(lamina.TooLarge):
            await self.client.run("image", ["x"], outputs=["/out"], outputs_max=1)

    async def test_long_output_keeps_its_beginning_and_its_end(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            for number in range(1000):
                await stream.log(b"%04d" % number)
            await stream.end()

        seen = []
        done = await self.client.run("image", ["x"], output_max=16, on_log=seen.append)
        self.assertEqual((done.stdout, done.dropped_bytes, len(seen)), ("0000000109980999", 3984, 1000))

    async def test_statuses_before_acceptance_are_errors_of_their_own(self):
        kinds = {
            grpc.StatusCode.INVALID_ARGUMENT: lamina.InvalidArgument,
            grpc.StatusCode.NOT_FOUND: lamina.ImageNotFound,
            grpc.StatusCode.PERMISSION_DENIED: lamina.PermissionDenied,
            grpc.StatusCode.UNAUTHENTICATED: lamina.Unauthenticated,
            grpc.StatusCode.FAILED_PRECONDITION: lamina.FailedPrecondition,
            grpc.StatusCode.DEADLINE_EXCEEDED: lamina.Timeout,
            grpc.StatusCode.DATA_LOSS: lamina.ProtocolError,
            grpc.StatusCode.INTERNAL: lamina.ServerError,
            grpc.StatusCode.UNIMPLEMENTED: lamina.ServerError,
        }
        for code, kind in kinds.items():
            with self.subTest(code):

                @self.script("image")
                async def script(stream: Stream, code=code):
                    await stream.refuse(code, f"because of {code.name}")

                with self.assertRaises(kind) as caught:
                    await self.client.run("image", ["x"])
                self.assertEqual(str(caught.exception), f"because of {code.name}")
                self.assertEqual((caught.exception.code, caught.exception.started), (code.name, False))
        self.assertEqual(len(self.fake.streams), len(kinds))

    async def test_statuses_after_acceptance_say_that_it_had_started(self):
        for code, kind in (
            (grpc.StatusCode.UNAVAILABLE, lamina.RunLost),
            (grpc.StatusCode.INVALID_ARGUMENT, lamina.InvalidArgument),
        ):
            with self.subTest(code):

                @self.script("image")
                async def script(stream: Stream, code=code):
                    await stream.accept()
                    await stream.refuse(code, "entry 3")

                with self.assertRaises(kind) as caught:
                    await self.client.run("image", ["x"])
                self.assertEqual((str(caught.exception), caught.exception.started), ("entry 3", True))
        self.assertEqual(len(self.fake.streams), 2)

    async def test_streams_out_of_order_are_refused(self):
        async def no_acceptance(stream: Stream):
            await stream.log(b"x")

        async def nothing(stream: Stream):
            pass

        async def no_result(stream: Stream):
            await stream.accept()

        async def early_tar(stream: Stream):
            await stream.accept()
            await stream.send(tar_chunk=pb.TarChunk(data=b"x"))

        async def late_log(stream: Stream):
            await stream.accept()
            await stream.send(result=pb.Result(success=True))
            await stream.log(b"x")

        async def no_done(stream: Stream):
            await stream.accept()
            await stream.send(result=pb.Result(success=True))
            await stream.send(tar_chunk=pb.TarChunk(data=tar_gz()))

        async def wrong_size(stream: Stream):
            await stream.accept()
            await stream.send(result=pb.Result(success=True))
            await stream.send(done=pb.Done(diff_bytes=5))

        cases = (
            (no_acceptance, lamina.ProtocolError, "log"),
            (nothing, lamina.ProtocolError, "nothing"),
            (no_result, lamina.RunLost, "without a result"),
            (early_tar, lamina.ProtocolError, "tar_chunk came out of order"),
            (late_log, lamina.ProtocolError, "log came out of order"),
            (no_done, lamina.RunLost, "cut off"),
            (wrong_size, lamina.ProtocolError, "5"),
        )
        for script, kind, said in cases:
            with self.subTest(script.__name__):
                self.fake.scripts["image"] = script
                with self.assertRaisesRegex(kind, said):
                    await self.client.run("image", ["x"], outputs=["/x"])

    async def test_a_server_without_our_fields_is_understood(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.send(accepted=pb.Accepted(accepted=True))
            await stream.send(log=pb.LogMessage(source="stdout", message="hé"))
            await stream.send(result=pb.Result(success=False, exit_code=2, error="e"))
            await stream.send(tar_header=pb.TarHeader(name="x"))
            await stream.send(tar_chunk=pb.TarChunk(data=tar_gz((member("a"), b"1"))))
            await stream.send(done=pb.Done())

        done = await self.client.run("image", ["x"], outputs=["/a"])
        self.assertEqual(
            (done.exit_code, done.stdout, done.reason, done.files), (2, "hé", lamina.EndReason.UNKNOWN, {"/a": b"1"})
        )

    async def test_what_cannot_be_right_is_refused_before_anything_is_sent(self):
        wrong = (
            {"image": ""},
            {"command": "sh -c x"},
            {"cpu": 0},
            {"memory_mb": 0},
            {"timeout": 0},
            {"timeout": float("nan")},
            {"start_timeout": -1},
            {"network": "bridge"},
            {"platform": "linux"},
            {"env": {"": "x"}},
            {"env": {"A=B": "x"}},
            {"files": {"../x": b""}},
            {"files": {"a\0": b""}},
            {"files": {"": b""}},
            {"flist": "c" * 64, "platform": "linux/amd64"},
            {"dispatch_backoff": -1},
            {"disk_mb": 1 << 70},
        )
        for options in wrong:
            with self.subTest(options), self.assertRaises(lamina.InvalidArgument):
                await self.client.run(**{"image": "image", "command": ["x"], **options})
        with self.assertRaises(TypeError):
            await self.client.run("image", ["x"], memory=5)
        with self.assertRaises(lamina.InvalidArgument):
            await self.client.run("image", ["x"], outputs=["/a"], save_diff="x")
        self.assertEqual(self.fake.streams, [])

    async def test_arguments_of_other_types_are_named(self):
        wrong = {
            "image": 5,
            "command": 5,
            "command[1]": ["x", 5],
            "entrypoint": {"a": "b"},
            "cap_add[0]": [5],
            "cpu": "2",
            "memory_mb": 1.5,
            "disk_mb": None,
            "timeout": "60",
            "start_timeout": "60",
            "deadline": [],
            "env": ["A=1"],
            "env['A']": {"A": 1},
            "a name in env": {1: "A"},
            "workdir": 5,
            "user": 0,
            "docker_config": 5,
            "stores": "s3://x",
            "keep[0]": [None],
            "dispatch_retries": "3",
            "dispatch_backoff": "0.1",
            "files": ["/a"],
            "files['/a']": {"/a": 5},
            "files['/b'].mode": {"/b": lamina.File(b"", mode="755")},
            "files['/c'].target": {"/c": lamina.Symlink(5)},
            "files['/d'].mtime": {"/d": lamina.Directory(mtime="now")},
            "outputs": "/a",
            "outputs[0]": [5],
            "save_diff": 5,
            "on_log": "print",
            "output_max": "1",
        }
        for what, given in wrong.items():
            option = what.partition("[")[0]
            options = {"image": "image", "command": ["x"], "env" if what == "a name in env" else option: given}
            if option == "stores":
                options["flist"] = "c" * 64
            with self.subTest(what), self.assertRaises(lamina.InvalidArgument) as caught:
                await self.client.run(**options)
            self.assertIn(f"{what} must be ", str(caught.exception))
        for what, options in {"address": {"address": 5}, "tls": {"tls": 5}, "retry": {"retry": 5}}.items():
            with self.subTest(what), self.assertRaisesRegex(lamina.InvalidArgument, f"{what} must be "):
                AsyncClient(**options)
        with self.assertRaisesRegex(lamina.InvalidArgument, "replicas must be a whole number"):
            await self.client.reconcile_image("image", "2")
        with self.assertRaisesRegex(lamina.InvalidArgument, "timeout must be a number"):
            await self.client.status(timeout="2")
        self.assertEqual(self.fake.streams, [])

    async def test_a_diff_that_cannot_be_saved_is_refused_before_the_run(self):
        with tempfile.TemporaryDirectory() as home:
            for path, why in (
                (f"{home}/none/d.tar.gz", "there is no directory"),
                (pathlib.Path(home), "is no file"),
                ("/dev/null", "is no file"),
                ("/", "is no file"),
            ):
                with self.subTest(path), self.assertRaisesRegex(lamina.InvalidArgument, f"save_diff: .*{why}"):
                    await self.client.run("image", ["x"], save_diff=path)
        self.assertEqual(self.fake.streams, [])

    async def test_leaving_the_context_ends_the_run(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            while True:
                await stream.log(b"x" * 1000)

        async with self.client.execute("image", ["x"]) as run:
            async for _ in run.logs():
                break
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))
        self.assertNotEqual(self.fake.streams[0].outcome, "done")
        with self.assertRaises(lamina.Cancelled):
            await run.result()

    async def test_an_error_inside_the_context_ends_the_run_and_is_not_hidden(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            while True:
                await stream.log(b"x" * 1000)

        with self.assertRaises(ZeroDivisionError):
            async with self.client.execute("image", ["x"]):
                raise ZeroDivisionError
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))

    async def test_cancelling_twice_and_after_the_end_is_harmless(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.end()

        async with self.client.execute("image", ["x"], diff=False) as run:
            result = await run.result()
            run.cancel()
            run.cancel()
            self.assertEqual(await run.result(), result)
        async with self.client.execute("image", ["x"]) as run:
            run.cancel()
            run.cancel()
            with self.assertRaises(lamina.Cancelled) as caught:
                await run.result()
            self.assertTrue(caught.exception.started)

    async def test_a_closed_client_starts_nothing(self):
        await self.client.aclose()
        with self.assertRaises(lamina.Cancelled):
            await self.client.run("image", ["x"])

    async def test_the_deadline_ends_a_run_that_does_not(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            while True:
                await stream.log(b"x")

        with self.assertRaises(lamina.Timeout) as caught:
            await self.client.run("image", ["x"], deadline=2)
        self.assertTrue(caught.exception.started)
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))

    async def test_a_server_that_goes_away_loses_the_run(self):
        other = Fake()

        async def script(stream: Stream):
            await stream.accept()
            await stream.log(b"on")
            await stream.take_files()
            while await anext(aiter(stream.requests), None) is not None:
                pass
            await asyncio.sleep(SECONDS)

        other.scripts["image"] = script
        async with AsyncClient(other.address) as client, client.execute("image", ["x"]) as run:
            async for _ in run.logs():
                break
            other.stop(0)
            with self.assertRaises(lamina.RunLost) as caught:
                await run.result()
            self.assertIs(caught.exception.started, True)
            # And says so again.
            with self.assertRaises(lamina.RunLost):
                await run.result()

    async def test_many_runs_share_a_connection(self):
        @self.script("image")
        async def script(stream: Stream):
            await stream.accept()
            await stream.log(stream.start.command[0].encode())
            await stream.end()

        outputs = [(await self.client.run("image", [str(number)])).stdout for number in range(200)]
        self.assertEqual(outputs, [str(number) for number in range(200)])


if __name__ == "__main__":
    unittest.main()
