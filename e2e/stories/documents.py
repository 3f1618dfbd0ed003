"""Every object in the pages about Kubernetes is one the API server takes, and every command of theirs works as typed."""

import os
import pathlib
import re
import shlex
import subprocess
import tempfile

import yaml

from e2e import release
from e2e.stories import commands, kept_changes
from e2e.story import DRIVER, Story, pod

DOCS = release.REPOSITORY / "docs"
# A block is run unless this stands above it. In `console`, commands are what follows a prompt; `sh` is nothing else.
BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
# The pages whose commands are run here; `cli/tests/cli/documents.rs` sees to the console blocks of the others.
PAGES = ("kubernetes.md", "kubectl-lamina.md", "execution.md")
# The pages with objects.
OBJECTS = ("kubernetes.md", "jobs.md", "volume-attributes.md")


def run(it: Story) -> None:
    for name in OBJECTS:
        found = objects((DOCS / name).read_text())
        it.check(bool(found), f"{name} has no objects")
        for text in found:
            it.kubectl("create", "--dry-run=server", "-f", "-", text=text)
        it.say(f"{name}: {len(found)} blocks of YAML")
    # The page begins before anything is installed, and ends after it was uninstalled.
    release.helm(it.cluster, "uninstall", release.RELEASE, "--wait", "--timeout", "5m")
    try:
        typed(it, "kubernetes.md")
    finally:
        release.install(it.cluster)
    with kept_changes.store(it) as (store, _), commands.enabled(it):
        it.apply(kept_changes.keeping(it, "tools", "mkdir /data; echo 42 > /data/answer", store))
        commands.ended(it, "tools")
        it.ready("flist", "tools-0")
        typed(it, "kubectl-lamina.md", it.namespace)
        it.kubectl("delete", "ljob", "tools", "--wait=true", "--timeout=100s", seconds=110)
    try:
        typed(it, "execution.md")
    finally:
        release.install(it.cluster)


def typeable(page: str) -> tuple[list[str], list[str]]:
    """The commands of a page's blocks in their order, and why some blocks are not run."""
    found, left_out = [], []
    for block in BLOCK.finditer(page):
        if block["language"] not in ("console", "sh"):
            continue
        if block["why"]:
            left_out.append(block["why"])
        elif block["language"] == "sh":
            found.append(block["text"].rstrip())
        else:
            found += [line[2:] for line in block["text"].splitlines() if line.startswith("$ ")]
    return found, left_out


def objects(page: str) -> list[str]:
    """The YAML of a page's blocks; what is shown without the rest of its object is put into one."""
    found: list[str] = []
    for block in BLOCK.finditer(page):
        if block["language"] == "yaml":
            parts = list(yaml.safe_load_all(block["text"]))
            # As it stands in the page, where that is possible: with what a reader would paste.
            found.append(block["text"] if all("kind" in part for part in parts) else yaml.safe_dump(whole(parts[0], found)))
    return found


def whole(part: dict, before: list[str]) -> dict:
    """An object with this part: of the page's first object, of a pod, or of a StorageClass."""
    if set(part) == {"metadata"}:
        return {**next(yaml.safe_load_all(before[0])), **part}
    if set(part) == {"volumes"}:
        made = pod("part")
        made["spec"]["volumes"] = part["volumes"]
        made["spec"]["containers"][0]["volumeMounts"] = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in part["volumes"]]
        return made
    if set(part) == {"parameters"}:
        return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "part"}, "provisioner": DRIVER, **part}
    raise ValueError(f"of what object is this a part: {part}")


def typed(it: Story, name: str, namespace: str = "default") -> None:
    """Types a page's commands in one shell, at the top of the repository, as its reader would who works in a namespace."""
    found, _ = typeable((DOCS / name).read_text())
    it.check(bool(found), f"{name} has no commands")
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder)
        program(own / "lamina", release.program("lamina"))
        program(own / "helm", installer(it).encode())
        # Not the machine's own.
        script = "\n".join(found).replace("/usr/local/bin", str(own))
        path = [str(own), *programs(it), os.environ["PATH"]]
        env = {**os.environ, "PATH": ":".join(path), "KUBECONFIG": str(config(it, own, namespace))}
        done = subprocess.run(["bash", "-exc", script], cwd=release.REPOSITORY, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    it.check(done.returncode == 0, f"{name}: ended with {done.returncode}: {done.stdout[-3000:]}")
    it.say(f"{name}: {len(found)} commands")


def config(it: Story, folder: pathlib.Path, namespace: str) -> pathlib.Path:
    """A kubeconfig of this namespace."""
    whole = yaml.safe_load(it.cluster.kubeconfig().read_text())
    for item in whole["contexts"]:
        item["context"]["namespace"] = namespace
    (folder / "kubeconfig").write_text(yaml.safe_dump(whole))
    return folder / "kubeconfig"


def programs(it: Story) -> list[str]:
    """Where kubectl and helm are, if not in the PATH."""
    folder = it.cluster.programs()
    return [str(folder)] if folder else []


def installer(it: Story) -> str:
    """A helm that tells `install` besides what every installation in the test cluster is told: registry and images."""
    real = "/".join([*programs(it), "helm"])
    told = shlex.join(release.values(it.cluster, release.ARCHIVE))
    return f'#!/bin/bash\n[ "$1" = install ] && set -- "$@" {told}\nPATH="${{PATH#*:}}"\nexec {real} "$@"\n'


def program(path: pathlib.Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)
