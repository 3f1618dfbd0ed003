"""A slow link to the registry: a network namespace behind a shaped veth pair, with delay.

    lamina, nydusd          |  relay in the namespace   veth + tbf     relay outside   registry
    in the namespace        |  127.0.0.1:P  (delay) ----200 Mbit/s---- 198.18.x.1:P -- 127.0.0.1:P

The registry has the same address inside and outside, so references and stores stay the same.
Delay is added in user space because not every kernel has netem; it applies each way.
"""

import contextlib
import itertools
import os
import pathlib
import subprocess

from .setup import DRIVER

# 198.18.0.0/15 is reserved for benchmarks of network devices (RFC 2544).
HOST, GUEST = "198.18.77.1", "198.18.77.2"
_numbers = itertools.count()


class Link:
    """Use as a context manager; `prefix` runs a command at the far end."""

    def __init__(self, registry: str, mbit: int | None, delay_ms: int):
        self.port = int(registry.rsplit(":", 1)[1])
        self.mbit, self.delay_ms = mbit, delay_ms
        # Of their own for every link: a namespace, and a device in it, end a moment after they were deleted.
        number = next(_numbers)
        self.name = f"lamina-bench-{os.getpid()}-{number}"
        self.near, self.far = f"lamb{number}a", f"lamb{number}b"
        self.stack = contextlib.ExitStack()

    @property
    def prefix(self) -> tuple:
        """Put before a command to run it behind the link."""
        # Not `ip netns exec`: that mounts /sys anew and hides what is below it.
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            _ip("netns", "add", self.name)
            undo.callback(_ip, "netns", "del", self.name)
            _ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
            undo.callback(_ip, "link", "del", self.near)
            _ip("addr", "add", f"{HOST}/30", "dev", self.near)
            _ip("link", "set", self.near, "up")
            for words in (("addr", "add", f"{GUEST}/30", "dev", self.far), ("link", "set", self.far, "up"), ("link", "set", "lo", "up")):
                subprocess.run([*self.prefix, "ip", *words], check=True)
            if self.mbit:
                for prefix, device in (((), self.near), (self.prefix, self.far)):
                    # A burst of 5 ms at the rate; a queue of 50 ms, like a switch port.
                    subprocess.run([*prefix, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{self.mbit}mbit",
                                    "burst", f"{self.mbit * 625}", "latency", "50ms"], check=True)
            self._relay(undo, (), f"{HOST}:{self.port}", f"127.0.0.1:{self.port}", 0)
            self._relay(undo, self.prefix, f"127.0.0.1:{self.port}", f"{HOST}:{self.port}", self.delay_ms)
            self.stack = undo.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def _relay(self, undo, prefix: tuple, listen: str, connect: str, delay: int) -> None:
        command = [*prefix, DRIVER, "relay", "--listen", listen, "--connect", connect, "--delay-ms", str(delay)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        undo.callback(process.wait)
        undo.callback(process.terminate)
        if not process.stdout.readline():
            raise RuntimeError(f"the relay on {listen} did not start")

    def bytes_in(self) -> int:
        """Bytes that went over the link towards the far end so far."""
        return int(pathlib.Path(f"/sys/class/net/{self.near}/statistics/tx_bytes").read_text())


def _ip(*words) -> None:
    subprocess.run(["ip", *words], check=True)
