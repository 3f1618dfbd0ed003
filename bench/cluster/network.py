"""Machines on a switch: network namespaces, each on a cable of its own that is as fast as asked for.

    machine ns  eth0 --tbf--> <--tbf-- port  switch ns (a bridge)

Nothing of the host's network is touched: the switch has a namespace of its own, too. Everything goes with the block, also
when it fails.
"""

import ipaddress
import itertools
import json
import os
import subprocess

# 198.18.0.0/15 is reserved for benchmarks of network devices (RFC 2544).
NETWORK = ipaddress.ip_network("198.18.64.0/22")
_numbers = itertools.count()


class Network:
    """A switch and the machines on it."""

    def __init__(self):
        self.name = f"lamina-{os.getpid()}-{next(_numbers)}"
        self.namespaces: list[str] = []
        self.hosts = NETWORK.hosts()

    def __enter__(self) -> "Network":
        try:
            self.switch = self._namespace("switch")
            _ip(self.switch, "link", "add", "name", "bridge", "type", "bridge", "forward_delay", "0")
            _ip(self.switch, "link", "set", "bridge", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for name in reversed(self.namespaces):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)

    def machine(self, name: str, mbit: int | None = None) -> "Machine":
        """One more machine; `mbit`: what its cable carries in each direction."""
        namespace, address, port = self._namespace(name), str(next(self.hosts)), f"to-{len(self.namespaces)}"
        _ip(self.switch, "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip(self.switch, "link", "set", port, "master", "bridge", "up")
        _ip(namespace, "address", "add", f"{address}/{NETWORK.prefixlen}", "dev", "eth0")
        _ip(namespace, "link", "set", "lo", "up")
        _ip(namespace, "link", "set", "eth0", "up")
        if mbit:
            for where, device in ((namespace, "eth0"), (self.switch, port)):
                # A burst of 5 ms at the rate; a queue of 50 ms, like a switch port.
                subprocess.run([*_inside(where), "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit",
                                "burst", str(mbit * 625), "latency", "50ms"], check=True)
        return Machine(namespace, address)

    def _namespace(self, name: str) -> str:
        full = f"{self.name}-{name}"
        # Known before it is there: whatever happens between the two, it is removed.
        self.namespaces.append(full)
        subprocess.run(["ip", "netns", "add", full], check=True)
        return full


class Machine:
    """One machine: `prefix` runs a command on its network, with the host's file systems."""

    def __init__(self, namespace: str, address: str):
        self.address, self.prefix = address, _inside(namespace)

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent, with every header."""
        said = subprocess.run([*self.prefix, "ip", "-s", "-j", "link", "show", "dev", "eth0"], stdout=subprocess.PIPE, check=True, text=True).stdout
        counted = json.loads(said)[0]["stats64"]
        return counted["rx"]["bytes"], counted["tx"]["bytes"]

    def get(self, url: str) -> str | None:
        """What a server says to somebody on this machine; nothing when it does not answer with success."""
        asked = subprocess.run([*self.prefix, "curl", "-sf", "-m", "5", url], stdout=subprocess.PIPE, check=False, text=True)
        return None if asked.returncode else asked.stdout

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told: a black hole."""
        subprocess.run([*self.prefix, "ip", "link", "set", "eth0", "down"], check=True)

    def join(self) -> None:
        """Undoes `cut`."""
        subprocess.run([*self.prefix, "ip", "link", "set", "eth0", "up"], check=True)


def _inside(namespace: str) -> list[str]:
    # Not `ip netns exec`: that also makes a mount namespace, which nobody else would see mounts of.
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def _ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words], check=True)
