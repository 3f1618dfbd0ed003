"""Commands run in the cluster without pods: Job objects, and lamina exec from a pod; nothing stays where that is not wanted any more."""

from e2e import release
from e2e.story import SYSTEM, Story

VALUES = ("--set", "execution.enabled=true,execution.afslet.cpus=2,execution.afslet.memory=1Gi,execution.proxy.replicas=1")
WORKLOADS = ("daemonset/lamina-afslet", "deployment/lamina-proxy")


def run(it: Story) -> None:
    try:
        release.install(it.cluster, more=VALUES)
        it.wait("commands can be run", lambda: all(ready(it, name) for name in WORKLOADS), 180)
        succeeds(it)
        fails(it)
        stops(it)
        from_a_pod(it)
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


def stops(it: Story) -> None:
    """A job that is deleted ends on its node, too."""
    it.apply(job(it, "endless", "echo started; sleep 100000"))
    it.wait("it runs", lambda: it.get("ljob", "endless")["status"].get("active") == 1)
    it.wait("its sandbox is there", lambda: any("sleep 100000" in it.on_node(node, "ps ax -o args") for node in it.cluster.nodes()))
    it.kubectl("delete", "ljob", "endless", "--timeout=60s", seconds=70)
    it.wait("its sandbox is gone", lambda: not any("sleep 100000" in it.on_node(node, "ps ax -o args") for node in it.cluster.nodes()), 30)


def from_a_pod(it: Story) -> None:
    """Who is given the users' certificate has commands run from a pod."""
    secret = it.get("-n", SYSTEM, "secret", "lamina-user-tls")
    it.apply({"apiVersion": "v1", "kind": "Secret", "type": secret["type"], "metadata": {"name": "runs"}, "data": secret["data"]})
    image = it.get("laminacluster", "default")["spec"]["image"]
    words = ["exec", f"--proxy=lamina-proxy.{SYSTEM}.svc:7180", "--tls-dir=/tls", "--memory=64MiB", it.images["busybox"], "--",
             "/bin/sh", "-c", "echo in a sandbox; exit 7"]
    container = {"name": "main", "image": image, "command": ["/usr/local/bin/lamina", *words],
                 "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}]}
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "tls", "secret": {"secretName": "runs"}}]}
    it.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller"}, "spec": spec})
    it.wait("the caller ends", lambda: it.phase("caller") in ("Succeeded", "Failed"))
    said = it.kubectl("logs", "caller")
    code = it.get("pod", "caller")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    it.check(code == 7 and "in a sandbox" in said, f"lamina exec ended with {code}: {said}")
    it.kubectl("delete", "pod", "caller", "--wait=true", seconds=120)


def left(it: Story) -> list[str]:
    """What runs of commands left on nodes: mounts and processes."""
    found = []
    for node in it.cluster.nodes():
        mounts = it.on_node(node, "grep -c plugins/afslet.lamina.dev /proc/self/mountinfo || true").strip()
        found += [f"{node}: {mounts} mounts"] if mounts != "0" else []
        processes = it.on_node(node, "ps ax -o args").splitlines()
        found += [f"{node}: {line}" for line in processes if "sandbox-spawner" in line]
    return found

