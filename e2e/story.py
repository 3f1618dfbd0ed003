"""What a story works with: a throw-away namespace, kubectl, waits that end, and diagnostics when it fails."""

import contextlib
import json
import pathlib
import secrets
import subprocess
import time
from typing import Callable, Iterator

import yaml

from .cluster import Provider
from .cluster.provider import ClusterError, wait

SYSTEM = "lamina-system"
DRIVER = "csi.lamina.dev"
BUSYBOX = "lamina.test/busybox:1"
# What of volumes a node can have: mounts, kubelet's directories of them, Lamina's records.
VOLUMES = r"""
awk '$5 ~ "/volumes/kubernetes.io~csi/|/volume-subpaths/|^/var/lib/lamina/(volumes|warm)/" {print "mount", $5}' /proc/self/mountinfo
ls -d /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/* /var/lib/kubelet/pods/*/volume-subpaths/* /var/lib/lamina/volumes/* \
  2>/dev/null | sed 's/^/file /'
true
"""
# A pod with a volume: image pull, mount, start, on a busy machine.
POD_SECONDS = 180


class Failed(Exception):
    """A story did not go as it should."""


class Story:
    """One story under way, in a namespace of its own."""

    def __init__(self, cluster: Provider, images: dict[str, str], namespace: str):
        self.cluster = cluster
        # References of the test images as volumes name them: `base`, `busybox`.
        self.images = images
        self.namespace = namespace

    def kubectl(self, *words: str, text: str | None = None, seconds: float = 60) -> str:
        """kubectl's output, in the story's namespace unless the words say another."""
        return self.cluster.kubectl("-n", self.namespace, *words, text=text, seconds=seconds)

    def apply(self, *objects: dict | str) -> None:
        """Applies objects, or YAML as somebody would paste it."""
        text = "\n---\n".join(item if isinstance(item, str) else yaml.safe_dump(item) for item in objects)
        self.kubectl("apply", "-f", "-", text=text)

    def get(self, *words: str) -> dict:
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = POD_SECONDS) -> None:
        """Until `ready` says so; what it raises on the way counts as no."""
        wait(what, seconds, lambda: _holds(ready), pause=0.5)

    def finished(self, pod: str, seconds: float = POD_SECONDS) -> str:
        """The output of a pod that ends by itself, which must have succeeded."""
        self.wait(f"pod {pod} ends", lambda: self.phase(pod) in ("Succeeded", "Failed"), seconds)
        said = self.kubectl("logs", pod)
        self.check(self.phase(pod) == "Succeeded", f"pod {pod} failed: {said[-2000:]}")
        return said

    def running(self, *pods: str, seconds: float = POD_SECONDS) -> None:
        """Until these pods are Ready."""
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", *(f"pod/{pod}" for pod in pods), seconds=seconds + 10)

    def phase(self, pod: str) -> str:
        """Pending, Running, Succeeded or Failed."""
        return self.get("pod", pod)["status"].get("phase", "")

    def shell(self, pod: str, script: str, seconds: float = 60) -> str:
        """A script's output in a running pod."""
        return self.kubectl("exec", pod, "--", "sh", "-c", script, seconds=seconds)

    def events(self, kind: str, name: str) -> list[str]:
        """What was said about an object, `Reason: message`."""
        items = self.get("events", f"--field-selector=involvedObject.kind={kind},involvedObject.name={name}")["items"]
        return [f"{item.get('reason')}: {item.get('message')}" for item in items]

    def on_node(self, node: str, script: str, seconds: float = 60) -> str:
        """A shell script's output in a node's namespaces."""
        done = subprocess.run(self.cluster.node_exec(node, ["sh", "-c", script]), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
        self.check(done.returncode == 0, f"on {node}: {script}: ended with {done.returncode}: {done.stdout[-1000:]}")
        return done.stdout

    def unmounted(self, *nodes: str, seconds: float = 120) -> None:
        """Until these nodes, by default all, have nothing of any volume."""
        left: dict[str, str] = {}

        def none() -> bool:
            left.clear()
            left.update({node: said for node in nodes or self.cluster.nodes() if (said := self.on_node(node, VOLUMES).strip())})
            return not left

        try:
            self.wait("nothing is left of volumes", none, seconds)
        except ClusterError as error:
            raise Failed(f"{error}: {left}") from error

    def condition(self, kind: str, name: str, wanted: str = "Ready") -> dict:
        """A condition of an object; empty before it has one."""
        found = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == wanted), {})

    def unready(self, kind: str, name: str, reason: str, word: str = "", seconds: float = POD_SECONDS) -> str:
        """Until an object is not Ready for this reason, with a message that has the word; the message."""
        seen: dict = {}

        def so() -> bool:
            seen.update(self.condition(kind, name))
            return seen["status"] == "False" and seen["reason"] == reason and word in seen["message"]

        try:
            self.wait(f"{kind} {name} is not ready: {reason}", so, seconds)
        except ClusterError as error:
            raise Failed(f"{error}; the last was {seen}") from error
        return seen["message"]

    def ready(self, kind: str, *names: str, seconds: float = POD_SECONDS) -> None:
        """Until these objects are Ready; why not, where they do not become it."""
        try:
            self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", *(f"{kind}/{name}" for name in names),
                         seconds=seconds + 10)
        except ClusterError as error:
            said = {name: self.condition(kind, name).get("message") for name in names}
            raise Failed(f"{kind} not ready: {said}") from error

    def check(self, holds: bool, otherwise: str) -> None:
        """Fails the story unless it holds."""
        if not holds:
            raise Failed(otherwise)

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"    {text}", flush=True)


def _holds(ready: Callable[[], bool]) -> bool:
    try:
        return bool(ready())
    except (ClusterError, KeyError, IndexError, ValueError):
        return False


def pod(name: str, attributes: dict | None = None, script: str = "sleep 100000", *, node: str | None = None, claim: str | None = None,
        secret: str | None = None, restricted: bool = False) -> dict:
    """A pod of busybox that shows a volume at /data and runs a script."""
    if claim:
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    else:
        csi = {"driver": DRIVER, "volumeAttributes": attributes}
        if secret:
            csi["nodePublishSecretRef"] = {"name": secret}
        volume = {"name": "data", "csi": csi}
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
                 "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [volume]}
    if restricted:
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
                                        "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def namespace(cluster: Provider, name: str) -> Iterator[str]:
    """A namespace that goes with the block, and with it all that is in it."""
    full = f"e2e-{name.replace('_', '-')}-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", full)
    try:
        wait(f"namespace {full} has its account", 60, lambda: _holds(lambda: cluster.kubectl("-n", full, "get", "serviceaccount", "default")))
        yield full
    finally:
        with contextlib.suppress(ClusterError):
            cluster.kubectl("delete", "namespace", full, "--timeout=120s", seconds=130)


def diagnose(cluster: Provider, namespaces: list[str], folder: pathlib.Path) -> pathlib.Path:
    """Writes what can be found out to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = {"cluster": [["get", "nodes,csinodes,csidrivers,pv", "-o", "wide"], ["get", "lamina", "-A", "-o", "yaml"]]}
    for name in namespaces:
        questions[name] = [["-n", name, "get", "all,pvc,lease", "-o", "wide"], ["-n", name, "get", "events", "--sort-by=.lastTimestamp"],
                           ["-n", name, "describe", "pods"]]
        with contextlib.suppress(ClusterError):
            for one in cluster.kubectl("-n", name, "get", "pods", "-o", "name").split():
                questions[name] += [["-n", name, "logs", one, "--all-containers", "--tail=2000", *more] for more in ([], ["--previous"])]
    for name, asked in questions.items():
        with open(folder / f"{name}.txt", "w", encoding="utf-8") as out:
            for words in asked:
                out.write(f"\n==== kubectl {' '.join(words)}\n")
                try:
                    out.write(cluster.kubectl(*words))
                except ClusterError as error:
                    out.write(f"{error}\n")
    return folder


def seconds_since(started: float) -> str:
    """For a line of progress."""
    return f"{time.monotonic() - started:.1f} s"
