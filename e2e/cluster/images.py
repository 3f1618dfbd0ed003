"""The small images that every cluster holds, as OCI archives in the cache, made without Docker.

Layers are built by the benchmarks' image maker, which keeps each under its recipe's name and arguments: what
a layer is made from is therefore an argument, as a digest or a versioned folder.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import textwrap

from bench.corpus import images as corpus
from bench.corpus.images import Image
from bench.corpus.layers import Recipe

from . import archive, plan, tools
from .paths import IMAGES
from .provider import ClusterError

BUSYBOX = pathlib.Path("/bin/busybox")
PAUSE_SOURCE = textwrap.dedent("""\
    // The first process of every pod: holds its namespaces, reaps its orphans, ends when told to.
    #include <signal.h>
    #include <sys/wait.h>
    #include <unistd.h>
    static void end(int signal) { _exit(0); }
    static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
    int main(void) {
        signal(SIGINT, end);
        signal(SIGTERM, end);
        signal(SIGCHLD, reap);
        for (;;) pause();
    }
    """)


def pause(root: pathlib.Path, source: str) -> None:
    """The pause program, nothing else."""
    subprocess.run(["gcc", "-Os", "-static", "-s", "-x", "c", "-o", root / "pause", "-"], input=source.encode(), check=True)


def busybox(root: pathlib.Path, digest: str) -> None:
    """Debian's static busybox under all of its names, with the folders programs expect."""
    for folder in ("bin", "etc", "root", "var", "proc", "sys", "dev", "tmp"):
        (root / folder).mkdir()
    os.chmod(root / "tmp", 0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in subprocess.run([BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def coredns(root: pathlib.Path, home: str) -> None:
    """CoreDNS, nothing else."""
    shutil.copy(pathlib.Path(home) / "bin/coredns", root / "coredns")


def agnhost(root: pathlib.Path, home: str) -> None:
    """Upstream's program of many servers, which its tests run."""
    shutil.copy(pathlib.Path(home) / "bin/agnhost", root / "agnhost")


def _busybox() -> Recipe:
    if not BUSYBOX.exists():
        raise ClusterError(f"{BUSYBOX} is missing: run make deps")
    return Recipe(busybox, (hashlib.sha256(BUSYBOX.read_bytes()).hexdigest(),))


def shell() -> Image:
    """What pods of tests run."""
    return Image("busybox", [_busybox()], config={"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})


def small() -> dict[str, Image]:
    """Every image by the name pods use."""
    dns = str(tools.program("coredns").parents[1])
    return {
        plan.PAUSE_IMAGE: Image("pause", [Recipe(pause, (PAUSE_SOURCE,))], config={"Entrypoint": ["/pause"]}),
        plan.BUSYBOX_IMAGE: shell(),
        plan.COREDNS_IMAGE: Image("coredns", [Recipe(coredns, (dns,))], config={"Entrypoint": ["/coredns"]}),
    }


def of_suites(listed: list[str]) -> dict[str, Image]:
    """The images that the external-storage suites run, by the names in their own list.

    nginx and glibc-dns-testing are run by them for their shells alone.
    """
    home, shell = str(tools.program("agnhost").parents[1]), {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
    made = {
        "agnhost": Image("agnhost", [_busybox(), Recipe(agnhost, (home,))], config={**shell, "Entrypoint": ["/agnhost"], "Cmd": ["pause"]}),
        "busybox": Image("busybox", [_busybox()], config=shell),
        "nginx": Image("busybox", [_busybox()], config=shell),
        "glibc-dns-testing": Image("base", corpus.BASE, config={"Cmd": ["/bin/sh"]}),
    }
    return {name: made[short] for name in listed if (short := name.rpartition("/")[2].partition(":")[0]) in made}


def make_all() -> list[pathlib.Path]:
    """Makes the archives that the cache lacks; all of them."""
    return [make(name, image) for name, image in small().items()]


def make(name: str, image: Image) -> pathlib.Path:
    """The archive of one image. Its file is named for what is in it."""
    layers = corpus.build(image)
    manifest, config = corpus.describe(image, layers)
    file = IMAGES / f"{image.name}-{hashlib.sha256(name.encode() + manifest).hexdigest()[:12]}.tar"
    if not file.exists():
        IMAGES.mkdir(parents=True, exist_ok=True)
        archive.write(file, name, manifest, [config, *(layer.blob for layer in layers)])
    return file
