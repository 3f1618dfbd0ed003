"""Fifty pods read, map and walk volumes while everything of Lamina is killed and upgraded: no read fails, no byte is wrong.

E2E_READERS sets their number. What they read is made for the story, in a store of its own: on the nodes that did not
convert it, every round fetches what no round had before.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
from typing import Callable, Iterator

from e2e import made, release
from e2e.cluster.images import BUSYBOX
from e2e.story import SYSTEM, Story, pod

READERS = int(os.environ.get("E2E_READERS", "50"))
ROUND_SECONDS = 180
LABEL = "reader"
# A round checks one part; there are more parts than rounds, on a machine of usual speed.
PARTS, PART_FILES, FILE_BYTES = 120, 4, 48 << 10
# What is read round by round from one file that stays open all the time.
PIECES, PIECE_BYTES = 300, 32 << 10
LAYERS = 3
# Run by the volume's own shell, which so stays mapped from it. Everything read is compared with what was put in.
READER = r"""
fail() { echo "FAIL $*"; }
round=0
while :; do
  part=$((round % PARTS)); piece=$((round % PIECES))
  grep " parts/$part/" /expected/files > /tmp/part || fail "nothing is expected of part $part"
  (cd /data && sha256sum -c /tmp/part) > /tmp/said 2>&1 || fail "sums: $(grep -v OK /tmp/said | tr '\n' ' ')"
  [ "$(/data/parts/$part/run)" = "part $part" ] || fail "run part $part"
  grep -q ' /data/bin/busybox$' /proc/$$/maps || fail "this shell is not mapped from the volume"
  [ $piece -gt 0 ] || exec 3< /data/held
  [ "$(dd bs=PIECE_BYTES count=1 <&3 2>/dev/null | sha256sum | cut -c1-64)" = "$(sed -n $((piece + 1))p /expected/held)" ] || fail "held, piece $piece"
  [ "$(find /data -type f | sort | sha256sum | cut -c1-64)" = "$(cat /expected/walk)" ] || fail walk
  round=$((round + 1)); echo "round $round"
  sleep 5
done
"""
# Ends a process of a node, by pid. The programs outside of pods are of one instance; a container has one program.
KILL = r"""
ended=0
for folder in /proc/[0-9]*; do
  words=$(tr '\0' ' ' < $folder/cmdline 2>/dev/null) || continue
  case "$words" in PATTERN) kill -9 ${folder#/proc/} && ended=$((ended + 1));; esac
done
echo ended $ended
"""
PROCESSES = {
    "agent": '/var/lib/lamina/bin/*"--role agent "*',
    "mountd": '/var/lib/lamina/bin/*"--role mountd "*',
    # Not in quotes: the shell that looks for them has this text among its own arguments.
    "csi": r"*/lamina-csi\ node\ *",
    "node": r"*/lamina\ node\ *",
}


def run(it: Story) -> None:
    nodes, names = it.cluster.nodes(), [f"reader-{number}" for number in range(READERS)]
    with volume(it) as flist:
        it.apply(*(reader(name, flist, nodes[at % len(nodes)]) for at, name in enumerate(names)))
        it.running(*names, seconds=600)
        step(it, names, "before anything", lambda: None)
        step(it, names, "node pods deleted", lambda: delete(it, "node"))
        step(it, names, "CSI pods deleted", lambda: delete(it, "csi"))
        for process in PROCESSES:
            step(it, names, f"{process} killed", lambda process=process: kill(it, process))
        step(it, names, "kubelets killed and started", lambda: restart_kubelets(it))
        step(it, names, "helm upgrade to another version", lambda: upgrade(it))
        step(it, names, "helm rollback", lambda: roll_back(it))
        it.kubectl("delete", "pod", "--all", "--wait=true", "--timeout=300s", seconds=310)


def content(seed: str) -> list[made.Files]:
    """The layers, bottom up, that no node has any chunk of but those of the shell. Parts are spread over them, and the last one replaces a file of every part."""
    layers: list[made.Files] = [{} for _ in range(LAYERS)]
    layers[0]["bin/busybox"] = BUSYBOX.read_bytes()
    layers[1]["held"] = made.noise(f"{seed} held", PIECES * PIECE_BYTES)
    for part in range(PARTS):
        files = layers[part % (LAYERS - 1)]
        files.update({f"parts/{part}/{number}": made.noise(f"{seed} {part} {number}", FILE_BYTES) for number in range(PART_FILES)})
        files[f"parts/{part}/run"] = f"#!/data/bin/busybox sh\necho part {part}\n".encode()
        layers[-1][f"parts/{part}/0"] = made.noise(f"{seed} {part} replaced", FILE_BYTES)
    return layers


def expected(layers: list[made.Files]) -> dict[str, str]:
    """What readers compare with, by what was put in: sums of files and of pieces, and of the list of all names."""
    files = {path: data for layer in layers for path, data in layer.items()}
    held = files["held"]
    pieces = [held[at:at + PIECE_BYTES] for at in range(0, len(held), PIECE_BYTES)]
    walk = "".join(sorted(f"/data/{path}\n" for path in files))
    return {"files": "".join(f"{digest(data)}  {path}\n" for path, data in sorted(files.items())),
            "held": "".join(f"{digest(piece)}\n" for piece in pieces), "walk": digest(walk.encode()),
            "reader": READER.replace("PARTS", str(PARTS)).replace("PIECES", str(PIECES)).replace("PIECE_BYTES", str(PIECE_BYTES))}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def volume(it: Story) -> Iterator[str]:
    """A Flist of an image that nobody has seen, kept in a store, and what is expected of it, while the block runs."""
    layers, store = content(it.namespace), f"{it.namespace}-packs"
    reference = made.push(it.cluster, f"e2e/{it.namespace}/readers:1", *layers)
    it.kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "expected"},
                                                     "data": expected(layers)}))
    url = f"oci://{it.cluster.registry()[0]}/e2e/{it.namespace}/packs?insecure=true"
    try:
        it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Store", "metadata": {"name": store}, "spec": {"url": url}},
                 {"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "readers"},
                  "spec": {"source": {"image": {"reference": reference}}, "stores": [store]}})
        it.ready("flist", "readers")
        yield "readers"
    finally:
        for words in (("pod", "--all", "--grace-period=1"), ("flist", "--all"), ("store", store)):
            it.kubectl("delete", *words, "--ignore-not-found", "--wait=true", "--timeout=200s", seconds=210)


def reader(name: str, flist: str, node: str) -> dict:
    made_pod = pod(name, {"lamina.dev/flist": flist, "prefetch": "none"}, "exec /data/bin/busybox sh /expected/reader", node=node)
    made_pod["metadata"]["labels"] = {"story": LABEL}
    made_pod["spec"]["volumes"].append({"name": "expected", "configMap": {"name": "expected"}})
    made_pod["spec"]["containers"][0]["volumeMounts"].append({"name": "expected", "mountPath": "/expected"})
    return made_pod


def step(it: Story, names: list[str], what: str, disturb: Callable[[], object]) -> None:
    """Disturbs while each node mounts a volume of an image that nobody has seen, and waits until every reader has done two more rounds without a failure."""
    before = rounds(it, names)
    late = "late-" + re.sub(r"[^a-z]+", "-", what.lower())
    fresh = made.noise(f"{it.namespace} {what}", 1 << 20)
    image = made.push(it.cluster, f"e2e/{it.namespace}/{late}:1", {"low": fresh[:1000]}, {"high": fresh})
    lates = [f"{late}-{node}" for node in it.cluster.nodes()]
    it.apply(*(pod(name, {"lamina.dev/image": image}, "sha256sum < /data/high | cut -c1-64", node=node)
               for name, node in zip(lates, it.cluster.nodes())))
    disturb()

    def further() -> bool:
        now = rounds(it, names)
        return all(now[name] >= before[name] + 2 for name in names)

    it.wait(f"every reader goes on after: {what}", further, ROUND_SECONDS)
    for name in lates:
        it.check(it.finished(name).strip() == digest(fresh), f"{name} read something else")
    it.say(what)


def rounds(it: Story, names: list[str]) -> dict[str, int]:
    """How many rounds each reader has done; fails if one of them saw a failure or was started again."""
    for item in it.get("pods", "-l", f"story={LABEL}")["items"]:
        status = item["status"]["containerStatuses"][0]
        it.check(status["restartCount"] == 0 and "running" in status["state"], f"{item['metadata']['name']} ended: {status['state']}")
    said = it.kubectl("logs", "-l", f"story={LABEL}", "--prefix", "--tail=-1", "--max-log-requests", str(len(names)), seconds=120)
    it.check("FAIL" not in said, f"failures: {re.findall('.*FAIL.*', said)[:5]}")
    done = collections.Counter(re.findall(r"^\[pod/([^/]+)/main\] round", said, re.MULTILINE))
    return {name: done[name] for name in names}


def delete(it: Story, component: str) -> None:
    """Deletes a component's pods at once, as somebody in a hurry would, and waits for the next ones."""
    chosen = ("-n", SYSTEM, "-l", f"app.kubernetes.io/component={component}")
    it.kubectl("delete", "pod", *chosen, "--grace-period=0", "--force")
    it.kubectl("-n", SYSTEM, "rollout", "status", f"daemonset/lamina-{component}", "--timeout=120s", seconds=130)


def ended(it: Story, node: str, process: str) -> bool:
    """Kills a node's process of this name; whether there was one, and no more."""
    return "ended 1\n" in it.on_node(node, KILL.replace("PATTERN", PROCESSES[process]))


def kill(it: Story, process: str) -> None:
    """Kills it on every node, once it runs: a container of which the process ended is started again after some time."""
    for node in it.cluster.nodes():
        it.wait(f"one {process} is killed on {node}", lambda node=node: ended(it, node, process), 120)


def restart_kubelets(it: Story) -> None:
    for node in it.cluster.nodes():
        it.cluster.kill_kubelet(node)
        it.cluster.restart_kubelet(node)
    it.kubectl("wait", "--for=condition=Ready", *(f"node/{node}" for node in it.cluster.nodes()), "--timeout=120s", seconds=130)


def upgrade(it: Story) -> None:
    """To a version whose programs are other ones."""
    release.install(it.cluster, release.other_version())


def roll_back(it: Story) -> None:
    release.helm(it.cluster, "rollback", release.RELEASE, "--wait", "--timeout", "5m")
