# Made by `dev.py generate` from test_async_start.py; do not edit.
"""How runs start: what is tried again, what never is, and for how long."""

import asyncio
import itertools
import time
import unittest
import unittest.mock

import grpc

import lamina
from lamina import Client
from lamina._sync.run import Run

from . import sockets
from .fake import Fake, Stream

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
AWAY = grpc.StatusCode.UNAVAILABLE
SECONDS = 30
QUICK = lamina.Retry(backoff=0.001, backoff_max=0.01)


class Starting(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = Client(self.fake.address, retry=QUICK)

    def tearDown(self):
        self.client.close()

    def refusals(self, *codes):
        """The first runs are refused with these, the next ones are not."""
        left = list(codes)

        async def script(stream: Stream):
            if left:
                await stream.refuse(left.pop(0), "no room here")
            await stream.accept()
            await stream.take_files()
            await stream.end()

        self.fake.scripts["image"] = script

    def test_refusals_for_want_of_room_are_tried_again(self):
        self.refusals(FULL, AWAY, FULL)
        with self.assertLogs("lamina") as said:
            done = self.client.run("image", ["x"])
        self.assertEqual([line.split(": ")[-1] for line in said.output], ["no room here"] * 3)
        self.assertTrue(done.ok)
        self.assertEqual(len(self.fake.streams), 4)

    def test_files_are_sent_again_and_iterators_once(self):
        self.refusals(FULL, AWAY)
        pieces = iter([b"once ", b"only"])
        done = self.client.run("image", ["x"], files={"/a": b"again", "/b": pieces})
        self.assertTrue(done.ok)
        files = self.fake.streams[-1].files
        self.assertEqual({path: bytes(put.content) for path, put in files.items()}, {"/a": b"again", "/b": b"once only"})

    def test_a_refusal_while_files_are_sent_keeps_its_status(self):
        self.refusals(*[FULL] * 300)
        files = {f"/{number}": b"x" * 1000 for number in range(100)}
        done = self.client.run("image", ["x"], files=files)
        self.assertTrue(done.ok)
        self.assertEqual(len(self.fake.streams), 301)

    def test_a_refusal_of_a_file_keeps_its_status(self):
        async def script(stream: Stream):
            await stream.accept()
            await anext(aiter(stream.requests))
            await stream.refuse(grpc.StatusCode.INVALID_ARGUMENT, "entry 1")

        self.fake.scripts["image"] = script
        for _ in range(100):
            with self.assertRaisesRegex(lamina.InvalidArgument, "entry 1"):
                self.client.run("image", ["x"], files={"/big": itertools.repeat(b"x" * 10_000, 1000)})

    def test_a_proxy_is_given_less_time_than_the_client_has(self):
        self.refusals()
        asked = {}
        for seconds in (5, 10, 600):
            self.client.run("image", ["x"], start_timeout=seconds)
            asked[seconds] = self.fake.streams[-1].start.proxy_dispatch_max_retries
        self.assertEqual(asked, {5: 9, 10: 13, 600: 20})
        for said, sent in ((0, -1), (7, 7)):
            self.client.run("image", ["x"], dispatch_retries=said)
            self.assertEqual(self.fake.streams[-1].start.proxy_dispatch_max_retries, sent)

    def test_after_so_many_attempts_the_refusal_is_raised(self):
        self.refusals(*[FULL] * 100)
        client = Client(self.fake.address, retry=lamina.Retry(attempts=3, backoff=0.001))
        with client:
            with self.assertRaisesRegex(lamina.ResourceExhausted, "no room here") as caught:
                client.run("image", ["x"])
        self.assertIs(caught.exception.started, False)
        self.assertEqual(len(self.fake.streams), 3)

    def test_after_so_much_time_the_refusal_is_raised(self):
        self.refusals(*[FULL] * 10_000)
        with self.assertRaisesRegex(lamina.ResourceExhausted, "no room here"):
            self.client.run("image", ["x"], start_timeout=1)
        self.assertGreater(len(self.fake.streams), 1)

    def test_what_was_accepted_is_never_tried_again(self):
        for code in (FULL, AWAY):
            with self.subTest(code):
                self.fake.streams.clear()

                async def script(stream: Stream, code=code):
                    await stream.accept()
                    await stream.refuse(code, "later")

                self.fake.scripts["image"] = script
                with self.assertRaises(lamina.LaminaError) as caught:
                    self.client.run("image", ["x"])
                self.assertIs(caught.exception.started, True)
                self.assertEqual(len(self.fake.streams), 1)

    def test_a_server_that_says_nothing_is_given_up(self):
        with sockets.listening(sockets.silent) as (address, _):
            with Client(address, retry=QUICK) as client:
                with self.assertRaisesRegex(lamina.Timeout, "not accepted within 0.2 s") as caught:
                    client.run("image", ["x"], start_timeout=0.2)
        self.assertIs(caught.exception.started, False)

    def test_what_was_accepted_is_not_given_up_by_a_late_timer(self):
        self.refusals()
        with self.client.execute("image", ["x"], diff=False) as run:
            run.expire("late")
            self.assertTrue((run.result()).success)

    def test_what_was_given_up_while_its_acceptance_came_does_not_begin(self):
        class Late(Run):
            def _receive(self):
                frame = super()._receive()
                self.expire("late")
                return frame

        begun = []

        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            # Fails if it was cancelled, for then files come to an end, too.
            await stream.log(b"begun")
            begun.append(stream)

        self.fake.scripts["image"] = script
        with unittest.mock.patch("lamina._sync.client.Run", Late), self.assertRaisesRegex(lamina.Timeout, "late") as caught:
            self.client.execute("image", ["x"])
        self.assertIs(caught.exception.started, False)
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))
        self.assertEqual(begun, [])

    def test_nobody_there_is_unavailable_and_says_why(self):
        with Client("127.0.0.1:1", retry=lamina.Retry(attempts=5, backoff=0.001)) as client:
            with self.assertRaisesRegex(lamina.Unavailable, "refused") as caught:
                client.run("image", ["x"])
            self.assertIs(caught.exception.started, False)
            with self.assertRaises(lamina.Unavailable):
                client.runtime_status()

    def test_a_connection_lost_before_acceptance_is_tried_again(self):
        for serve in (sockets.closes_after_the_request, sockets.resets_after_the_request, sockets.closes_after_headers):
            with self.subTest(serve.__name__), sockets.listening(serve) as (address, seen):
                with Client(address, retry=lamina.Retry(attempts=3, backoff=0.001)) as client:
                    with self.assertRaises(lamina.Unavailable) as caught:
                        client.run("image", ["x"], start_timeout=SECONDS)
                self.assertIs(caught.exception.started, False)
                self.assertEqual(len(seen), 3)

    def test_the_stream_ends_after_acceptance_only(self):
        ended = []

        async def script(stream: Stream):
            taking = asyncio.create_task(stream.take_files())
            # Passing time is what this is about: nothing may come of it.
            await asyncio.sleep(0.3)
            ended.append(taking.done())
            await stream.accept()
            await taking
            await stream.end()

        self.fake.scripts["image"] = script
        for files in ({}, {"/a": b"x"}):
            self.client.run("image", ["x"], files=files)
        self.assertEqual(ended, [False, False])

    def test_several_addresses_are_used_in_turn(self):
        other = Fake()

        async def script(stream: Stream):
            await stream.accept()
            await stream.end()

        self.fake.scripts["image"] = other.scripts["image"] = script
        with Client([self.fake.address, other.address], retry=QUICK) as client:
            for _ in itertools.takewhile(lambda _: not (self.fake.streams and other.streams), range(1000)):
                client.run("image", ["x"])
            self.assertTrue(self.fake.streams)
            self.assertTrue(other.streams)
            # What is left of them does for all.
            other.stop(0)
            for _ in range(20):
                client.run("image", ["x"])

    def test_a_wait_for_acceptance_does_not_bound_the_run(self):
        async def script(stream: Stream):
            await stream.accept()
            # Longer than the client waits for acceptance: the client's upload ends later than that.
            await stream.take_files()
            await stream.end()

        self.fake.scripts["image"] = script
        late = itertools.chain([b"x"], _after(1.5))
        done = self.client.run("image", ["x"], files={"/a": late}, start_timeout=1)
        self.assertTrue(done.ok)


def _after(seconds):
    """A piece that comes later: passing time is what this is about."""
    time.sleep(seconds)
    yield b"y"


if __name__ == "__main__":
    unittest.main()
