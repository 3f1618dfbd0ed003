"""Both clients and the published one against real servers: run by a test of the `lamina` program, which starts them.

`LAMINA_TEST_SERVERS` are addresses to talk to, the first of which is a proxy; `LAMINA_TEST_IMAGE` an image with busybox, of
which there are the tags 1 to 20, each with its number in `/etc/image`; `LAMINA_TEST_STORE` a store that their node may write to.
Not found by the discovery of tests: its name does not begin with `test`.
"""

import asyncio
import hashlib
import io
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import unittest

import lamina

from . import published
from .test_documents import IMAGE as DOCUMENTED
from .test_documents import PAGE, PROXY, examples

SERVERS = os.environ.get("LAMINA_TEST_SERVERS", "").split()
STORE = os.environ.get("LAMINA_TEST_STORE", "")
REPOSITORY = os.environ.get("LAMINA_TEST_IMAGE", "")
IMAGE = f"{REPOSITORY}:1"
HERE = pathlib.Path(__file__).resolve().parents[1]
MIB = 1 << 20
SECONDS = 30


class Live(unittest.TestCase):
    def clients(self):
        """A client for each server."""
        clients = [lamina.Client(address) for address in SERVERS]
        for client in clients:
            self.addCleanup(client.close)
        return clients

    def idle(self, client):
        """Until nothing runs any more."""
        self.runs(client, lambda running: running == 0)

    def runs(self, client, enough):
        """Until so many run."""
        end = time.monotonic() + SECONDS
        while not enough(running := client.runtime_status().running):
            self.assertLess(time.monotonic(), end, f"{running} are running")
            time.sleep(0.02)

    def test_the_published_client_works_unchanged(self):
        for address in SERVERS:
            with self.subTest(address):
                seen = published.saw(address, IMAGE)
                published.check(self, seen)
                if address == SERVERS[0]:
                    published.check_proxy(self, seen)

    def test_the_examples_of_the_documentation_run(self):
        names = {}
        for number, text in enumerate(examples(PAGE)):
            if "reconcile_image" not in text:
                text = text.replace(PROXY, SERVERS[0]).replace(DOCUMENTED, IMAGE)
                exec(compile(text, f"{PAGE.name} {number}", "exec"), names)
        names["client"].close()

    def test_two_hundred_rollouts_over_twenty_images(self):
        flags = ["--proxy", SERVERS[0], "--timeout", "1", "--memory-mb", "16"]
        flags += [word for number in range(1, 21) for word in ("--image", f"{REPOSITORY}:{number}")]
        command = [sys.executable, HERE / "examples" / "rollouts.py", *flags]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(said.returncode, 0, said.stderr)
        print(said.stdout)
        right, wrong, failed, late = map(
            int, re.search(r"^all +200 +[\d.]+ +(\d+) +(\d+) +(\d+) +(\d+)", said.stdout, re.MULTILINE).groups()
        )
        # As the dice of the example fall: as many right answers as right programs, whatever machine this is.
        self.assertEqual(right + wrong + failed + late, 200)
        self.assertEqual(self.drawn(), {"right": right, "wrong": wrong, "failed": failed, "timed out": late})

    def test_twenty_images_are_twenty(self):
        with lamina.Client(SERVERS[0]) as client:
            done = [client.run(f"{REPOSITORY}:{number}", ["cat", "/etc/image"], check=True) for number in range(1, 21)]
        self.assertEqual([one.stdout for one in done], [str(number) for number in range(1, 21)])
        self.assertEqual(len({one.accepted.flist_digest for one in done}), 20)

    def drawn(self):
        """What becomes of the programs that the example draws."""
        sys.path.insert(0, str(HERE / "examples"))
        import rollouts

        becomes = {"loop": "right", "expression": "right", "first line only": "wrong", "crash": "failed", "no answer": "wrong"}
        by_text = {text: becomes.get(name, "timed out") for name, (_, text) in rollouts.PROGRAMS.items()}
        counts = dict.fromkeys(("right", "wrong", "failed", "timed out"), 0)
        for number in range(200):
            dice = random.Random(1_000_000 + number)
            [dice.randrange(1000) for _ in range(dice.randrange(2, 50))]
            counts[by_text[rollouts.propose(dice)]] += 1
        return counts

    def test_large_files_come_back_as_they_went(self):
        content = random.Random(1).randbytes(8 * MIB)
        for client in self.clients():
            pieces = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
            files = {"/in": io.BytesIO(content), "/stream": pieces}
            with client.execute(IMAGE, ["sh", "-c", "cat /in /stream > /out"], files=files, memory_mb=512) as run:
                self.assertTrue(run.result().success)
                digest = hashlib.sha256()
                for entry in run.diff:
                    if entry.path == "out":
                        for chunk in entry.chunks():
                            digest.update(chunk)
            self.assertEqual(digest.digest(), hashlib.sha256(content + content).digest())

    def test_changes_of_every_kind(self):
        script = (
            "cd /tmp; echo x > file; ln file hard; ln -s /etc/passwd sym; mkfifo fifo; truncate -s 1G sparse; rm /etc/removed"
        )
        for client in self.clients():
            with client.execute(IMAGE, ["sh", "-c", script]) as run:
                found = {entry.path: (entry.kind, entry.target, entry.size) for entry in run.diff}
            links = {found["tmp/file"][:2], found["tmp/hard"][:2]}
            self.assertIn(links, ({("file", ""), ("hardlink", "tmp/file")}, {("file", ""), ("hardlink", "tmp/hard")}))
            self.assertEqual(found["tmp/sym"][:2], ("symlink", "/etc/passwd"))
            self.assertEqual(found["tmp/fifo"][0], "fifo")
            self.assertEqual(found["tmp/sparse"], ("file", "", 1 << 30))
            self.assertEqual(found["etc/removed"][0], "removed")

    def test_diffs_are_saved(self):
        for client in self.clients():
            with tempfile.TemporaryDirectory() as home:
                path = pathlib.Path(home) / "changes.tar.gz"
                done = client.run(IMAGE, ["sh", "-c", "echo x > /tmp/file"], save_diff=path)
                self.assertTrue(done.ok)
                listed = subprocess.run(["tar", "-tzf", path], capture_output=True, text=True, check=True).stdout
            self.assertIn("tmp/file\n", listed)

    def test_what_a_run_left_is_kept_and_the_next_one_runs_on_it(self):
        for client in self.clients():
            done = client.run(IMAGE, ["sh", "-c", "echo one > /new; rm /etc/removed"], keep=[STORE], check=True)
            self.assertEqual((len(done.kept.digest), done.kept.stores), (64, (STORE,)))
            script = "cat /new; test ! -e /etc/removed && echo two > /new"
            again = client.run(flist=done.kept.digest, command=["sh", "-c", script], keep=[STORE], check=True)
            self.assertEqual(again.stdout, "one\n")
            last = client.run(flist=again.kept.digest, stores=[STORE], command=["cat", "/new"], check=True)
            self.assertEqual((last.stdout, last.kept), ("two\n", None))
            failed = client.run(IMAGE, ["true"], keep=["dir:///nowhere"])
            self.assertEqual((failed.exit_code, failed.ok, failed.reason), (0, False, lamina.EndReason.NOT_KEPT))

    def test_ends_of_every_kind(self):
        cases = (
            (["sh", "-c", "exit 7"], {}, 7, lamina.EndReason.EXITED),
            (["sh", "-c", "kill -9 $$"], {}, 137, lamina.EndReason.SIGNALLED),
            (["sleep", "100"], {"timeout": 0.2}, 137, lamina.EndReason.TIMED_OUT),
            (["no-such-program"], {}, 127, lamina.EndReason.NOT_RUN),
            (["sh", "-c", "x=x; while :; do x=$x$x; done"], {"memory_mb": 32}, 137, lamina.EndReason.OUT_OF_MEMORY),
        )
        for client in self.clients():
            for command, options, code, reason in cases:
                done = client.run(IMAGE, command, **options)
                self.assertEqual((done.exit_code, done.reason), (code, reason), (command, done))
                self.assertFalse(done.ok)
                self.assertTrue(done.error)
                self.assertGreater(done.usage.wall + done.usage.startup, 0)

    def test_refusals_of_every_kind(self):
        for client in self.clients():
            with self.assertRaises(lamina.ImageNotFound):
                client.run(f"{REPOSITORY}:no-such-tag", ["true"])
            with self.assertRaises(lamina.InvalidArgument) as caught:
                client.run(IMAGE, ["true"], cpu=1_000_000)
            self.assertIs(caught.exception.started, False)
            with self.assertRaises(lamina.PermissionDenied):
                client.run(IMAGE, ["true"], network="host")
            with self.assertRaises(lamina.InvalidArgument):
                client.run(IMAGE, ["true"], user="nobody-of-that-name")
            with self.assertRaises(lamina.InvalidArgument) as caught:
                client.run(IMAGE, ["true"], files={"/etc/passwd/below-a-file": [b"x"] * 100})
            self.assertIs(caught.exception.started, True)
            self.idle(client)

    def test_want_of_room_is_waited_for(self):
        for client in self.clients():
            self.idle(client)
            memory = client.runtime_status().available_memory_mb
            with client.execute(IMAGE, ["sleep", "100"], memory_mb=memory) as run:
                with self.assertRaises(lamina.ResourceExhausted) as caught:
                    client.run(IMAGE, ["true"], memory_mb=memory, start_timeout=4)
                self.assertIs(caught.exception.started, False)
                waiting = asyncio.run(self.waits(client, run, memory))
            self.assertTrue(waiting.ok)

    async def waits(self, client, run, memory):
        """A run that begins when the other one makes room."""
        task = asyncio.create_task(asyncio.to_thread(client.run, IMAGE, ["true"], memory_mb=memory, start_timeout=SECONDS))
        await asyncio.sleep(0.3)
        self.assertFalse(task.done())
        run.cancel()
        return await task

    def test_who_goes_away_leaves_nothing(self):
        for client in self.clients():
            with client.execute(IMAGE, ["sh", "-c", "echo on; sleep 1000"]) as run:
                self.assertEqual(next(run.logs()).text, "on\n")
                # A proxy asks its afslets every second.
                self.runs(client, lambda running: running >= 1)
                cancelled = time.monotonic()
                run.cancel()
            self.idle(client)
            self.assertLess(time.monotonic() - cancelled, 5)
            with client.execute(IMAGE, ["sh", "-c", "yes"]) as run:
                next(run.logs())
            self.idle(client)

    def test_a_reader_who_pauses_makes_the_command_wait(self):
        for client in self.clients():
            with client.execute(IMAGE, ["sh", "-c", "yes | head -c 20000000; echo over"], timeout=60) as run:
                logs = run.logs()
                next(logs)
                # Others are served meanwhile.
                for _ in range(5):
                    self.assertTrue(client.run(IMAGE, ["true"]).ok)
                size, last = 0, b""
                for chunk in logs:
                    size += len(chunk.data)
                    last = (last + chunk.data)[-5:]
            self.assertEqual(last, b"over\n")

    def test_a_hundred_runs_at_once(self):
        async def main(address):
            async with lamina.AsyncClient(address, start_timeout=120) as client:
                runs = (
                    client.run(IMAGE, ["sh", "-c", f"echo {n}; cat /n"], files={"/n": str(n)}, memory_mb=16) for n in range(100)
                )
                return await asyncio.gather(*runs)

        for address in SERVERS:
            with self.subTest(address):
                done = asyncio.run(main(address))
                self.assertEqual([one.stdout for one in done], [f"{n}\n{n}" for n in range(100)])


if __name__ == "__main__":
    unittest.main()
