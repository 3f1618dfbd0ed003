"""What only threads have: one client for many of them, and runs that are ended from elsewhere."""

import concurrent.futures
import io
import pathlib
import signal
import threading
import time
import unittest
import unittest.mock

import lamina
from lamina._sync.run import Run

from .fake import Fake, Stream

SECONDS = 30


class Threads(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = lamina.Client(self.fake.address)
        self.addCleanup(self.client.close)

        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            await stream.log(stream.start.command[0].encode())
            await stream.end()

        self.fake.scripts["image"] = script

    def test_threads_share_a_client(self):
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            done = list(pool.map(lambda number: self.client.run("image", [str(number)]), range(300)))
        self.assertEqual([one.stdout for one in done], [str(number) for number in range(300)])

    def test_a_run_is_cancelled_from_another_thread(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()

        begun = threading.Event()

        def pieces():
            begun.set()
            yield b"x"
            ended.wait(SECONDS)

        ended = threading.Event()
        self.fake.scripts["image"] = script
        with self.client.execute("image", ["x"], files={"/a": pieces()}) as opened:
            waiting = concurrent.futures.ThreadPoolExecutor(1)
            reader = waiting.submit(opened.result)
            self.assertTrue(begun.wait(SECONDS))
            opened.cancel()
            self.assertIsInstance(reader.exception(SECONDS), lamina.Cancelled)
            ended.set()
            waiting.shutdown()
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))

    def test_an_interrupt_from_the_keyboard_ends_the_run(self):
        begun = []

        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            # Fails if it was cancelled, for then files come to an end, too.
            await stream.log(b"begun")
            begun.append(len(stream.files))

        class Pressed(io.BytesIO):
            def read(self, size=-1):
                inside.wait(SECONDS)
                if not left.is_set():
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                left.wait(SECONDS)
                return super().read(size)

        self.fake.scripts["image"] = script
        inside, left = threading.Event(), threading.Event()
        # A shell's background jobs ignore it.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        files = {"/pressed": Pressed(b"x" * 500_000), **{f"/{number}": b"" for number in range(1000)}}
        with self.assertRaises(KeyboardInterrupt), self.client.execute("image", ["x"], files=files) as opened:
            inside.set()
            opened.result()
        left.set()
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))
        self.assertEqual(begun, [])
        self.assertNotEqual(self.fake.streams[0].outcome, "done")

    def test_an_interrupt_before_acceptance_is_waited_for_ends_the_run(self):
        async def script(stream: Stream):
            begun.set()
            await stream.take_files()

        def pressed(*_):
            self.assertTrue(begun.wait(SECONDS))
            raise KeyboardInterrupt

        begun = threading.Event()
        self.fake.scripts["image"] = script
        with unittest.mock.patch("lamina._threads.Timer", pressed), self.assertRaises(KeyboardInterrupt):
            self.client.run("image", ["x"])
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))

    def test_files_that_fail_before_the_run_is_known_do_not_pass_for_all(self):
        def slow(*arguments):
            # Passing time is what this is about: the thread that sends is ahead.
            time.sleep(0.3)
            return Run(*arguments)

        with unittest.mock.patch("lamina._sync.client.Run", slow), self.assertRaises(FileNotFoundError):
            self.client.run("image", ["x"], files={"/a": pathlib.Path("/nonexistent/file")})
        self.assertTrue(self.fake.streams[0].over.wait(SECONDS))
        self.assertNotEqual(self.fake.streams[0].outcome, "done")

    def test_asynchronous_iterators_are_refused(self):
        async def pieces():
            yield b"x"

        with self.assertRaisesRegex(TypeError, "AsyncClient"):
            self.client.run("image", ["x"], files={"/a": pieces()})

    def test_no_thread_is_left(self):
        before = threading.active_count()
        for _ in range(20):
            self.client.run("image", ["x"], files={"/a": b"x"})
        self.client.close()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join(SECONDS)
        self.assertLessEqual(threading.active_count(), before + 2)


if __name__ == "__main__":
    unittest.main()
