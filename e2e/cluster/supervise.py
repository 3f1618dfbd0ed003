"""The first process of a PID namespace: starts programs, reaps orphans, obeys a socket.

When it ends, the kernel ends everything else in its namespace, so one pid is all that `down` needs to
know. A program that dies is not started again: a test that kills one decides when it comes back, and
one that died by itself shows in `status`.

Requests and replies are one line of JSON: {"do": "start" | "kill" | "list", "name": ...}.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys

ACCEPT_SECONDS = 5


@dataclasses.dataclass
class Program:
    """A program and how it is doing."""

    name: str
    command: list[str]
    log: int  # descriptor: the path may be out of reach once the root has changed
    inherits: tuple[int, ...] = ()  # further descriptors
    pid: int | None = None
    ended: int | None = None  # the status it ended with

    def start(self) -> None:
        """Starts it, unless it runs."""
        if self.pid is None:
            child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     pass_fds=self.inherits)
            # The loop reaps everything; Popen must not wait for the same pid.
            child.returncode = 0
            self.pid, self.ended = child.pid, None

    def kill(self) -> None:
        """SIGKILL, if it runs; it has ended when this returns."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.pid, self.ended = None, status


class Supervisor:
    """Programs by name, and the socket they are controlled by."""

    def __init__(self, control: pathlib.Path, logs: pathlib.Path):
        self.programs: dict[str, Program] = {}
        self.logs = logs
        control.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(control))

    def add(self, name: str, command: list[str], inherits: tuple[int, ...] = ()) -> Program:
        """A program that can be started; opens its log now."""
        log = os.open(self.logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.programs[name] = Program(name, command, log, inherits)
        return self.programs[name]

    def run(self) -> None:
        """Serves requests until SIGTERM. From here on the cluster's other side can connect."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.listener.listen(16)
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is woken:
                        woken.recv(4096)
                        self._reap()
                    else:
                        self._serve(self.listener.accept()[0])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in self.programs.values():
                if program.pid == pid:
                    program.pid, program.ended = None, status
                    print(f"{program.name} ended with status {os.waitstatus_to_exitcode(status)}", flush=True)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(ACCEPT_SECONDS)
            try:
                reply = self.answer(json.loads(connection.makefile().readline()))
            except (ValueError, KeyError, OSError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(reply).encode() + b"\n")

    def answer(self, request: dict) -> dict:
        """Does what a request says; the pids of all programs started so far, nothing for those that have ended."""
        match request["do"]:
            case "start":
                self.programs[request["name"]].start()
            case "kill":
                self.programs[request["name"]].kill()
            case "list":
                pass
            case other:
                raise ValueError(f"no request {other!r}")
        known = {name: program for name, program in self.programs.items() if program.pid or program.ended is not None}
        return {"pids": {name: program.pid for name, program in known.items()}}


def ask(control: pathlib.Path, do: str, name: str = "") -> dict[str, int | None]:
    """Sends a request to a supervisor; pids by program. ConnectionError or FileNotFoundError when none listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(control))
        connection.sendall(json.dumps({"do": do, "name": name}).encode() + b"\n")
        reply = json.loads(connection.makefile().readline())
    if "error" in reply:
        raise RuntimeError(f"{do} {name}: {reply['error']}")
    return reply["pids"]
