"""Fifty pods read, map and walk volumes while everything of Lamina is killed and upgraded: no read fails.

E2E_READERS sets their number.
"""

import collections
import os
import re
from typing import Callable

from e2e import release
from e2e.story import SYSTEM, Story, pod

READERS = int(os.environ.get("E2E_READERS", "50"))
ROUND_SECONDS = 180
LABEL = "reader"
# Holds a file open, reads files that may not be local yet, runs a program that is mapped from the volume, walks.
READER = r"""
fail() { echo "FAIL $*"; }
exec 3</data/usr/bin/dpkg || fail open
loader=$(find /data/lib/ /data/usr/lib/ -name 'ld-linux-*.so.*' -type f 2>/dev/null | head -n 1)
[ -n "$loader" ] || fail loader
program=$(find /data/bin/ /data/usr/bin/ -name true -type f 2>/dev/null | head -n 1)
libraries=$(dirname "$loader"):/data/lib/x86_64-linux-gnu:/data/usr/lib/x86_64-linux-gnu
find /data/usr/bin /data/usr/lib -type f > /tmp/list
[ -s /tmp/list ] || fail list
round=0
while :; do
  for file in $(shuf -n 10 /tmp/list); do cat "$file" > /dev/null || fail read "$file"; done
  "$loader" --library-path "$libraries" "$program" || fail run
  [ "$(ls /data/etc | wc -l)" -gt 10 ] || fail walk
  head -c 4096 <&3 > /dev/null || fail held
  round=$((round + 1)); echo "round $round"
  sleep 5
done
"""
# Ends the processes of an instance that have this role, by pid.
KILL = r"""
ended=0
for folder in /proc/[0-9]*; do
  words=$(tr '\0' ' ' < $folder/cmdline 2>/dev/null) || continue
  case "$words" in /var/lib/lamina/bin/*"--role ROLE "*) kill -9 ${folder#/proc/} && ended=$((ended + 1));; esac
done
echo ended $ended
"""


def run(it: Story) -> None:
    nodes, names = it.cluster.nodes(), [f"reader-{number}" for number in range(READERS)]
    readers = [pod(name, {"lamina.dev/image": it.images["base"]}, READER, node=nodes[at % len(nodes)]) for at, name in enumerate(names)]
    for reader in readers:
        reader["metadata"]["labels"] = {"story": LABEL}
    it.apply(*readers)
    it.running(*names, seconds=600)
    step(it, names, "before anything", lambda: None)
    step(it, names, "node pods deleted", lambda: delete(it, "node"))
    step(it, names, "CSI pods deleted", lambda: delete(it, "csi"))
    for role in ("agent", "mountd"):
        step(it, names, f"{role} killed", lambda role=role: kill(it, role))
    step(it, names, "kubelet killed and started", lambda: restart_kubelet(it))
    step(it, names, "helm upgrade to another version", lambda: release.install(it.cluster, release.other_version()))
    step(it, names, "helm rollback", lambda: release.helm(it.cluster, "rollback", release.RELEASE, "--wait", "--timeout", "5m"))
    it.kubectl("delete", "pod", "--all", "--wait=true", "--timeout=300s", seconds=310)


def step(it: Story, names: list[str], what: str, disturb: Callable[[], object]) -> None:
    """Disturbs while one more volume is mounted, and waits until every reader has done two more rounds without a failure."""
    before = rounds(it, names)
    late = "late-" + re.sub(r"[^a-z]+", "-", what.lower())
    it.apply(pod(late, {"lamina.dev/image": it.images["busybox"]}, "ls /data/bin | wc -l", node=it.cluster.nodes()[0]))
    disturb()

    def further() -> bool:
        now = rounds(it, names)
        return all(now[name] >= before[name] + 2 for name in names)

    it.wait(f"every reader goes on after: {what}", further, ROUND_SECONDS)
    it.finished(late)
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


def kill(it: Story, role: str) -> None:
    for node in it.cluster.nodes():
        said = it.on_node(node, KILL.replace("ROLE", role))
        it.check("ended 1" in said, f"on {node}: {said!r} processes of role {role}")


def restart_kubelet(it: Story) -> None:
    node = it.cluster.nodes()[0]
    it.cluster.kill_kubelet(node)
    it.cluster.restart_kubelet(node)
    it.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=120s", seconds=130)
