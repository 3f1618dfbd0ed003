"""What only asyncio has: cancelled tasks, many runs at once, asynchronous iterators."""

import asyncio
import itertools
import unittest

import lamina

from .fake import Fake, Stream

SECONDS = 30


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = lamina.AsyncClient(self.fake.address)

    async def asyncTearDown(self):
        await self.client.aclose()

    def endless(self):
        async def script(stream: Stream):
            await stream.accept()
            while True:
                await stream.log(b"x")
                await asyncio.sleep(0.01)

        self.fake.scripts["image"] = script

    async def over(self):
        """Whether the last run has ended on the server, and not by itself."""
        stream = self.fake.streams[-1]
        self.assertTrue(await asyncio.to_thread(stream.over.wait, SECONDS))
        self.assertNotEqual(stream.outcome, "done")

    async def test_cancelling_a_task_ends_its_run(self):
        self.endless()
        seen = asyncio.Event()
        task = asyncio.create_task(self.client.run("image", ["x"], on_log=lambda _: seen.set()))
        await asyncio.wait_for(seen.wait(), SECONDS)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        await self.over()

    async def test_a_timeout_around_a_run_ends_it(self):
        self.endless()
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.client.run("image", ["x"]), 1.5)
        await self.over()

    async def test_cancelling_a_task_while_it_waits_for_acceptance(self):
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def script(stream: Stream):
            loop.call_soon_threadsafe(begun.set)
            await asyncio.sleep(SECONDS)

        self.fake.scripts["image"] = script
        task = asyncio.create_task(self.client.run("image", ["x"]))
        await asyncio.wait_for(begun.wait(), SECONDS)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        await self.over()

    async def test_closing_the_client_ends_runs_of_other_tasks(self):
        self.endless()
        seen = asyncio.Event()
        task = asyncio.create_task(self.client.run("image", ["x"], on_log=lambda _: seen.set()))
        await asyncio.wait_for(seen.wait(), SECONDS)
        await self.client.aclose()
        with self.assertRaises((lamina.Cancelled, asyncio.CancelledError)):
            await task
        await self.over()

    async def test_a_run_can_be_awaited_without_a_context(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.end()

        self.fake.scripts["image"] = script
        opened = await self.client.execute("image", ["x"], diff=False)
        self.assertTrue((await opened.result()).success)

    async def test_a_cancelled_run_wakes_who_reads_it(self):
        async def script(stream: Stream):
            await stream.accept()
            await asyncio.sleep(SECONDS)

        self.fake.scripts["image"] = script
        async with self.client.execute("image", ["x"]) as opened:
            reader = asyncio.create_task(opened.result())
            await asyncio.sleep(0.05)
            with self.assertRaises(RuntimeError):
                await opened.result()
            opened.cancel()
            with self.assertRaises(lamina.Cancelled):
                await reader

    async def test_asynchronous_iterators_are_content(self):
        async def script(stream: Stream):
            await stream.accept()
            await stream.take_files()
            await stream.end()

        async def pieces():
            for piece in (b"a", b"b" * 300_000, b"c"):
                await asyncio.sleep(0)
                yield piece

        async def fails():
            yield b"x"
            raise ZeroDivisionError

        self.fake.scripts["image"] = script
        await self.client.run("image", ["x"], files={"/a": pieces()})
        self.assertEqual(bytes(self.fake.streams[0].files["/a"].content), b"a" + b"b" * 300_000 + b"c")
        with self.assertRaises(ZeroDivisionError):
            await self.client.run("image", ["x"], files={"/a": fails()})
        await self.over()

    async def test_two_hundred_runs_at_once(self):
        together = itertools.count(1)
        all_here = asyncio.Event()

        async def script(stream: Stream):
            await stream.accept()
            # None ends before all have begun.
            if next(together) == 200:
                all_here.set()
            await asyncio.wait_for(all_here.wait(), SECONDS)
            await stream.log(stream.start.command[0].encode())
            await stream.end()

        self.fake.scripts["image"] = script
        done = await asyncio.gather(*(self.client.run("image", [str(number)]) for number in range(200)))
        self.assertEqual([one.stdout for one in done], [str(number) for number in range(200)])


if __name__ == "__main__":
    unittest.main()
