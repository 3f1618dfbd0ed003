"""The demo's end: `lamina up`, and a command sent through its proxy with files up, logs, exit code and changes back."""

import contextlib
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import tarfile
import time

from bench.lamina import PROGRAM, Lamina

JOB = pathlib.Path(__file__).resolve().parent / "job"
# Services and metrics of discovery, node, afslet and proxy, as docs/up.md has them.
PORTS = (7070, 7071, 7150, 7151, 7170, 7171, 7180, 7181)
# More than `lamina up` gives its roles when it is asked to end.
END_SECONDS = 60


class Up(Lamina):
    """`lamina up` on a loopback address of its own, with all that it keeps below `work`; ends with the block."""

    def __init__(self, work: pathlib.Path):
        super().__init__(work)
        self.cache = self.state / "cache"
        self.address = free_address()
        self.said = ""

    def __enter__(self):
        super().__enter__()
        words = [PROGRAM, "up", "--address", self.address, "--state", self.state, "--run-dir", self.run_dir, "--node-name", "demo"]
        # In a session of its own: Ctrl-C ends the demo, which then ends it.
        with open(self.work / "log", "w") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            # It gives up by itself when not everything answers in time.
            while not self.said.endswith("mounts stay.\n"):
                line = self.process.stdout.readline()
                if not line:
                    raise RuntimeError(f"lamina up did not start: {self.log()}")
                self.said += line
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            ended = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            ended = self.process.wait()
        finally:
            self.stop()
        if ended:
            print(f"warning: lamina up ended with {ended}: {self.log()}")

    def log(self) -> str:
        """The end of what its roles say."""
        return (self.work / "log").read_text(errors="replace")[-3000:]

    def exec(self, words: list) -> tuple[int, float]:
        """`lamina exec WORDS`, which prints what the command prints; its exit code, and the seconds it took."""
        environment = os.environ | {"LAMINA_PROXY": f"{self.address}:7180", "LAMINA_TLS_DIR": str(self.state / "authority/user")}
        started = time.monotonic()
        code = subprocess.run([PROGRAM, "exec", *words], env=environment, check=False).returncode
        return code, time.monotonic() - started


def free_address() -> str:
    """An address of the loopback where nothing else listens on our ports, so that another `lamina up` may run."""
    for last in range(1, 255):
        address = f"127.0.0.{last}"
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in PORTS:
                probes.enter_context(socket.create_server((address, port)))
            return address
    raise RuntimeError("lamina up has no address: give up one of its ports, 7070 to 7181, on the loopback")


def show(up: Up, reference: str, command: list[str], say) -> None:
    """Runs the command twice on the image with `demo/job` uploaded to /job, and tells what came back."""
    print("   " + up.said.strip().replace("\n", "\n   "))
    diff = up.work / "changes.tar.gz"
    for what in ("the node does not know the image yet", "again, warm"):
        say(f"lamina exec --upload demo/job --diff changes.tar.gz {reference} -- {shlex.join(command)}   ({what})")
        code, seconds = up.exec(["--upload", JOB, "--diff", diff, reference, "--", *command])
        print(f"   exit code {code}, {seconds:.2f} s with the upload, the start and the changes")
        if code:
            raise RuntimeError(f"the command ended with {code}: {up.log()}")
    say("changes.tar.gz: what is in it that was not in the image")
    with tarfile.open(diff) as changes:
        for entry in changes:
            print(f"   {entry.name}{'/' if entry.isdir() else f', {entry.size} bytes'}")
