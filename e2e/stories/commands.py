"""Commands run in the cluster without pods: Job objects, and lamina exec from a pod; nothing stays where that is not wanted any more."""

import contextlib
import json
from typing import Iterator

from e2e import release
from e2e.story import SYSTEM, Story

VALUES = ("--set", "execution.enabled=true,execution.afslet.cpus=2,execution.afslet.memory=1Gi,execution.proxy.replicas=1")
WORKLOADS = ("daemonset/lamina-afslet", "deployment/lamina-proxy")


def run(it: Story) -> None:
    with enabled(it):
        succeeds(it)
        fails(it)
        reads_secrets(it)
        waits_until_it_is_let(it)
        stops(it)
        from_a_pod(it)


@contextlib.contextmanager
def enabled(it: Story, *more: str) -> Iterator[None]:
    """Commands can be run while the block does, with more values of the chart; nothing of them stays."""
    try:
        release.install(it.cluster, more=(*VALUES, *more))
        it.wait("commands can be run", lambda: all(ready(it, name) for name in WORKLOADS), 180)
        yield
    finally:
        release.install(it.cluster)
    it.wait("what runs commands is gone", lambda: not it.kubectl("-n", SYSTEM, "get", *WORKLOADS, "--ignore-not-found"), 120)
    it.wait("nothing is left of it on any node", lambda: not left(it), 120)


def ready(it: Story, name: str) -> bool:
    status = it.get("-n", SYSTEM, name)["status"]
    wanted = status.get("desiredNumberScheduled", status.get("replicas", 0))
    return wanted > 0 and status.get("numberReady", status.get("readyReplicas", 0)) == wanted


def job(it: Story, name: str, script: str, **more) -> dict:
    spec = {"source": {"image": it.images["busybox"]}, "command": ["/bin/sh", "-c", script], "resources": {"cpu": "1", "memory": "64Mi"}, **more}
    return {"apiVersion": "lamina.dev/v1alpha1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def ended(it: Story, name: str) -> dict:
    """The status of a job once it has ended."""
    it.kubectl("wait", "--for=condition=Finished", "--timeout=180s", f"ljob/{name}", seconds=190)
    return it.get("ljob", name)["status"]


def succeeds(it: Story) -> None:
    """Files and variables go in, every index runs once, and the end of what was written comes back."""
    it.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "part"}, "data": {"word": "from a map"}})
    files = [{"path": "/in/word", "configMap": {"name": "part", "key": "word"}}, {"path": "/in/inline", "inline": "here"}]
    script = "cat /in/word /in/inline; echo; echo $GREETING $JOB_COMPLETION_INDEX; id -u; cat /proc/self/status | grep CapEff"
    it.apply(job(it, "many", script, files=files, env=[{"name": "GREETING", "value": "hello"}], completions=4, parallelism=2))
    status = ended(it, "many")
    it.check((status.get("succeeded"), status.get("succeededIndexes")) == (4, "0-3"), f"many: {status}")
    for part in ("from a maphere", "hello ", "CapEff:\t0000000000000000"):
        it.check(part in status.get("logTail", ""), f"{part!r} is not in the logs: {status.get('logTail')!r}")
    pods = [item["metadata"]["name"] for item in it.get("pods")["items"]]
    it.check(pods == [], f"a job made pods: {pods}")


def fails(it: Story) -> None:
    """The exit code, a limit, and an image that is not there are told for what they are."""
    it.apply(job(it, "wrong", "echo sorry; exit 3", retries=1))
    status = ended(it, "wrong")
    it.check((status.get("exitCode"), status.get("failed")) == (3, 2), f"wrong: {status}")
    it.apply(job(it, "slow", "sleep 600", timeout="2s", retries=0))
    status = ended(it, "slow")
    it.check(status.get("outcome") == "TimedOut", f"slow: {status}")
    it.apply(job(it, "greedy", "head -c 200000000 /dev/zero | tail", retries=0))
    status = ended(it, "greedy")
    it.check(status.get("outcome") == "OOMKilled", f"greedy: {status}")
    huge = job(it, "huge", "true")
    huge["spec"]["resources"]["memory"] = "1Ti"
    it.apply(huge)
    status = ended(it, "huge")
    it.check(status.get("failed", 0) == 0 and status.get("succeeded", 0) == 0, f"what can never fit was run: {status}")


def reads_secrets(it: Story) -> None:
    """A key of a Secret becomes a file of the mode that is asked for; until it is there the job waits and says for what."""
    file = {"path": "/in/key", "mode": 0o400, "secret": {"name": "keys", "key": "private"}}
    it.apply(job(it, "reads", "cat /in/key; echo; stat -c %a /in/key; ls /in", files=[file]))
    for reason, data in (("NoSuchSecret", {"other": "no"}), ("NoSuchKey", {"private": "well kept"})):
        it.wait(f"it waits: {reason}", lambda reason=reason: it.condition("ljob", "reads", "Started")["reason"] == reason)
        it.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": data})
    status = ended(it, "reads")
    it.check((status["outcome"], status["attempts"]) == ("Succeeded", 1), f"reads: {status}")
    it.check(status["logTail"].split("\n")[:3] == ["well kept", "400", "key"], f"it read {status['logTail']!r}")


def waits_until_it_is_let(it: Story) -> None:
    """One with Kueue's label is suspended before anything runs; one that is suspended while it runs begins anew."""
    held = job(it, "held", "echo let")
    held["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    it.apply(held, job(it, "paused", "sleep 100001"))
    it.wait("it is suspended", lambda: it.condition("ljob", "held", "Admitted")["reason"] == "Suspended")
    it.wait("its sandbox is there", lambda: runs_somewhere(it, "sleep 100001"))
    suspend(it, "paused", True)
    it.wait("its sandbox is gone", lambda: not runs_somewhere(it, "sleep 100001"), 30)
    it.wait("nothing of it is active", lambda: it.condition("ljob", "paused", "Admitted")["reason"] == "Suspended")
    # Others come and go meanwhile.
    it.apply(job(it, "free", "true"))
    ended(it, "free")
    for name, attempts in (("held", 0), ("paused", 1)):
        found = it.get("ljob", name)
        counts = [found["status"].get(key, 0) for key in ("attempts", "active", "failed")]
        it.check(found["spec"]["suspend"] is True and counts == [attempts, 0, 0], f"{name} is not held back: {found}")
    suspend(it, "held", False)
    status = ended(it, "held")
    it.check((status["outcome"], status["attempts"], status["logTail"]) == ("Succeeded", 1, "let\n"), f"held: {status}")
    suspend(it, "paused", False)
    it.wait("it begins anew", lambda: runs_somewhere(it, "sleep 100001"))
    it.kubectl("delete", "ljob", "paused", "--timeout=60s", seconds=70)
    said = [event.partition(":")[0] for event in it.events("Job", "held")]
    it.check({"Suspended", "Started", "Finished"} <= set(said), f"the events of held are {said}")


def suspend(it: Story, name: str, is_suspended: bool) -> None:
    it.kubectl("patch", "ljob", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": is_suspended}}))


def runs_somewhere(it: Story, command: str) -> bool:
    return any(command in it.on_node(node, "ps ax -o args") for node in it.cluster.nodes())


def stops(it: Story) -> None:
    """A job that is deleted ends on its node, too."""
    it.apply(job(it, "endless", "echo started; sleep 100000"))
    it.wait("it runs", lambda: it.get("ljob", "endless")["status"].get("active") == 1)
    it.wait("its sandbox is there", lambda: runs_somewhere(it, "sleep 100000"))
    it.kubectl("delete", "ljob", "endless", "--timeout=60s", seconds=70)
    it.wait("its sandbox is gone", lambda: not runs_somewhere(it, "sleep 100000"), 30)


def from_a_pod(it: Story) -> None:
    """Who is given the users' certificate has commands run from a pod."""
    caller(it, "caller", f"lamina-proxy.{SYSTEM}.svc", "echo in a sandbox; exit 7")
    code, said = answered(it, "caller")
    it.check(code == 7 and "in a sandbox" in said, f"lamina exec ended with {code}: {said}")
    it.kubectl("delete", "pod", "caller", "--wait=true", seconds=120)


def caller(it: Story, name: str, proxy: str, script: str) -> None:
    """A pod that has a script run through a proxy."""
    secret = it.get("-n", SYSTEM, "secret", "lamina-user-tls")
    it.apply({"apiVersion": "v1", "kind": "Secret", "type": secret["type"], "metadata": {"name": "runs"}, "data": secret["data"]})
    image = it.get("laminacluster", "default")["spec"]["image"]
    words = ["exec", f"--proxy={proxy}:7180", "--tls-dir=/tls", "--memory=64MiB", it.images["busybox"], "--", "/bin/sh", "-c", script]
    container = {"name": "main", "image": image, "command": ["/usr/local/bin/lamina", *words],
                 "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}]}
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "tls", "secret": {"secretName": "runs"}}]}
    it.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def answered(it: Story, name: str) -> tuple[int, str]:
    """How a caller ended, and what it was told."""
    it.wait(f"the pod {name} ends", lambda: it.phase(name) in ("Succeeded", "Failed"))
    ended_as = it.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
    return ended_as["exitCode"], it.kubectl("logs", name)


def left(it: Story) -> list[str]:
    """What runs of commands left on nodes: mounts and processes."""
    found = []
    for node in it.cluster.nodes():
        mounts = it.on_node(node, "grep -c plugins/afslet.lamina.dev /proc/self/mountinfo || true").strip()
        found += [f"{node}: {mounts} mounts"] if mounts != "0" else []
        processes = it.on_node(node, "ps ax -o args").splitlines()
        found += [f"{node}: {line}" for line in processes if "sandbox-spawner" in line]
    return found

