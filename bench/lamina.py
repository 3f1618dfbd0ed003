"""Driving the `lamina` command from Python: an instance of its own, always cleaned up."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import time

from .corpus.paths import REPOSITORY

PROGRAM = pathlib.Path(os.environ.get("LAMINA") or REPOSITORY / "target/release/lamina")
STOP_SECONDS = 15


class Lamina:
    """One instance of Lamina's daemons: a cache, a run and a state directory below `work`.

    `prefix` is put before every command, e.g. to run in a network namespace.
    """

    def __init__(self, work: pathlib.Path, prefix: tuple = ()):
        self.work, self.prefix = work, prefix
        self.cache, self.run_dir, self.state = work / "cache", work / "run", work / "state"
        self.mounted: list[pathlib.Path] = []

    def __enter__(self):
        self.work.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_):
        self.stop()

    def call(self, *arguments, capture: bool = True, timeout: float = 1800) -> str:
        """Runs `lamina arguments`; its standard output."""
        environment = os.environ | {
            "LAMINA_CACHE_DIR": str(self.cache), "LAMINA_RUN_DIR": str(self.run_dir), "LAMINA_STATE_DIR": str(self.state)}
        result = subprocess.run([*self.prefix, PROGRAM, *map(str, arguments)], env=environment, text=True, timeout=timeout,
                                stdout=subprocess.PIPE if capture else None)
        if result.returncode:
            raise RuntimeError(f"lamina {arguments[0]} ended with {result.returncode}")
        return result.stdout or ""

    def convert(self, source: str, out: pathlib.Path, store: str, *more) -> None:
        """Converts an image into the flist `out`."""
        self.call("convert", source, "-o", out, "-s", store, *more)

    def mount(self, flist: pathlib.Path, target: pathlib.Path, *more) -> None:
        """Mounts `flist` on `target`."""
        target.mkdir(parents=True, exist_ok=True)
        self.call("mount", flist, target, *more)
        self.mounted.append(target)

    def umount(self, target: pathlib.Path, force: bool = False) -> None:
        """Unmounts `target`."""
        self.call("umount", target, *(["--force"] if force else []))
        self.mounted.remove(target)

    def stats(self, target: pathlib.Path) -> dict:
        """What `lamina mounts` says of `target`."""
        listed = json.loads(self.call("mounts", "-o", "json"))
        for info in listed["mounts"]:
            if info["target"] == str(target):
                return info
        raise KeyError(f"{target} is not among lamina's mounts")

    def processes(self) -> dict[str, int]:
        """Process ids of this instance's daemons by role."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "mountd" in words and "--role" in words and str(self.run_dir) in " ".join(words):
                    found[words[words.index("--role") + 1]] = int(entry.name)
        return found

    def empty_cache(self) -> None:
        """Stops the daemons and forgets all local data; the state (profiles) stays."""
        self.stop()
        shutil.rmtree(self.cache, ignore_errors=True)

    def stop(self) -> None:
        """Unmounts everything and ends the daemons."""
        for target in list(self.mounted):
            try:
                self.umount(target, force=True)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"warning: {error}; detaching {target}")
                subprocess.run(["umount", "-l", target])
                self.mounted.remove(target)
        for instance in self.run_dir.glob("*/api.sock"):
            with contextlib.suppress(OSError, ValueError):
                _shutdown(instance)
        deadline = time.monotonic() + STOP_SECONDS
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for role in ("holder", "agent", "mountd"):
            if role in left:
                print(f"warning: {role} {left[role]} did not end by itself")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left[role], signal.SIGKILL)


def _shutdown(path: pathlib.Path) -> dict:
    # The agent's frames: little-endian length, then JSON (nodeagent/src/api.rs).
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(STOP_SECONDS)
        stream.connect(str(path))
        body = json.dumps({"call": "shutdown"}).encode()
        stream.sendall(struct.pack("<I", len(body)) + body)
        length = struct.unpack("<I", stream.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(stream.recv(length, socket.MSG_WAITALL))
