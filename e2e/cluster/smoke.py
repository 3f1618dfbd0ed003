"""The smoke story: a cluster comes up, does what Lamina will need of it, goes, and leaves nothing.

Where a cluster is up already, it is tried and left as it is.
"""

import json
import sys
from typing import Callable

from . import addons, local, plan, traces
from .provider import ClusterError, Provider, Steps, run, wait

NAMESPACE = "lamina-smoke"
POD_SECONDS = 90


def story(cluster: Provider) -> int:
    """Tells the story; 0 when all of it is true."""
    steps = Steps()
    if cluster.status() == "up":
        return try_all(cluster, steps)
    own = isinstance(cluster, local.Local)
    before = traces.look(cluster.plan) if own else {}
    try:
        cluster.up()
        steps.done("up")
        failed = try_all(cluster, steps)
    finally:
        cluster.down()
        steps.done("down")
    left = settle(cluster, before) if own else []
    for line in left:
        print(f"  FAILED  {line}", flush=True)
    if not left:
        print("  ok      nothing is left", flush=True)
    return 1 if failed or left else 0


def settle(cluster: "local.Local", before: dict) -> list[str]:
    """Traces after `down`; devices end a moment after their namespace."""
    left: list[str] = []

    def none() -> bool:
        left[:] = traces.difference(before, traces.look(cluster.plan))
        return not left

    try:
        wait("nothing is left", 10, none)
    except ClusterError:
        pass
    return left


def try_all(cluster: Provider, steps: Steps) -> int:
    """Runs every check in a namespace of its own; how many failed."""
    failed = 0
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        wait("the namespace has its account", 60, lambda: _has_account(cluster), pause=0.3)
        apply(cluster, pods(cluster))
        checks = CHECKS | (OWN_CHECKS if isinstance(cluster, local.Local) else {})
        for name, check in checks.items():
            try:
                check(cluster)
                print(f"  ok      {name}", flush=True)
            except (ClusterError, AssertionError) as error:
                failed += 1
                print(f"  FAILED  {name}: {error}", flush=True)
        steps.done(f"{len(checks)} checks, {failed} failed")
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", seconds=100)
    return failed


def pod(name: str, node: str, script: str, **spec) -> dict:
    """A pod of one busybox container that runs a shell script on a node."""
    container = {"name": "main", "image": plan.BUSYBOX_IMAGE, "command": ["sh", "-c", script], **spec.pop("container", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container], **spec}}


def pods(cluster: Provider) -> list[dict]:
    """What the checks look at."""
    first, second, *_ = cluster.nodes()
    shared = {"name": "host", "hostPath": {"path": "/var/lib/lamina/smoke", "type": "DirectoryOrCreate"}}

    def sees(propagation: str) -> dict:
        return {"volumeMounts": [{"name": "host", "mountPath": "/host", "mountPropagation": propagation}]}

    mounts = ("mkdir -p /host/m && { mountpoint -q /host/m || mount -t tmpfs smoke /host/m; } && echo seen > /host/m/file"
              " && ls /dev/fuse && echo mounted; exec sleep 100000")
    return [
        pod("server", first, "mkdir /www; echo hello from $HOSTNAME | tee /www/index.html; exec httpd -f -p 8080 -h /www",
            container={"resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}),
        # By another registry's name: every name is looked for in the local registry.
        pod("client", second, "exec sleep 100000", container={"image": plan.BUSYBOX_IMAGE.replace("lamina.test", "ghcr.io")}),
        pod("mounter", first, mounts, container={"securityContext": {"privileged": True}, **sees("Bidirectional")}, volumes=[shared]),
        pod("reader", first, "until cat /host/m/file; do sleep 0.2; done; exec sleep 100000", container=sees("HostToContainer"),
            volumes=[shared]),
        pod("image-volume", second, "ls /image/bin/busybox; exec sleep 100000",
            container={"volumeMounts": [{"name": "image", "mountPath": "/image"}]},
            volumes=[{"name": "image", "image": {"reference": plan.BUSYBOX_IMAGE}}]),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": NAMESPACE},
         "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}},
    ]


def apply(cluster: Provider, objects: list[dict]) -> None:
    """Applies objects and waits until the pods among them are Ready."""
    cluster.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", "--all", f"--timeout={POD_SECONDS}s",
                   seconds=POD_SECONDS + 10)


def nodes_are_ready(cluster: Provider) -> None:
    assert set(cluster.nodes()) <= set(addons.ready_nodes(cluster)), addons.ready_nodes(cluster)
    assert len(cluster.nodes()) == 2, cluster.nodes()


def pod_logs(cluster: Provider) -> None:
    expect(lambda: cluster.kubectl("-n", NAMESPACE, "logs", "server"), "hello from server")


def pod_exec(cluster: Provider) -> None:
    expect(lambda: inside(cluster, "server", "hostname"), "server")


def cluster_dns(cluster: Provider) -> None:
    expect(lambda: inside(cluster, "client", "nslookup", f"server.{NAMESPACE}.svc.cluster.local"), "10.")


def pod_to_pod(cluster: Provider) -> None:
    address = cluster.kubectl("-n", NAMESPACE, "get", "pod", "server", "-o", "jsonpath={.status.podIP}")
    expect(lambda: http(cluster, address, 8080), "hello from server")


def service(cluster: Provider) -> None:
    expect(lambda: http(cluster, f"server.{NAMESPACE}", 80), "hello from server")


def network_policy(cluster: Provider) -> None:
    """A pod that nobody may reach is reached by nobody, until that is over."""
    spec = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]}
    closed = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed", "namespace": NAMESPACE}, "spec": spec}
    cluster.kubectl("apply", "-f", "-", text=json.dumps(closed))
    expect(lambda: http(cluster, f"server.{NAMESPACE}", 80), "can't connect")
    cluster.kubectl("-n", NAMESPACE, "delete", "networkpolicy", "closed")
    expect(lambda: http(cluster, f"server.{NAMESPACE}", 80), "hello from server")


def propagation(cluster: Provider) -> None:
    expect(lambda: cluster.kubectl("-n", NAMESPACE, "logs", "mounter"), "mounted")
    expect(lambda: cluster.kubectl("-n", NAMESPACE, "logs", "reader"), "seen")
    node = cluster.nodes()[0]
    expect(lambda: on_node(cluster, node, "cat /var/lib/lamina/smoke/m/file"), "seen")


def image_volume(cluster: Provider) -> None:
    expect(lambda: cluster.kubectl("-n", NAMESPACE, "logs", "image-volume"), "/image/bin/busybox")


def helm(cluster: Provider) -> None:
    program = str(cluster.programs() / "helm") if cluster.programs() else "helm"
    assert "NAMESPACE" in run([program, "list", "--all-namespaces", "--kubeconfig", str(cluster.kubeconfig())])


def file_backed_mounts(cluster: Provider) -> None:
    """EROFS on a file, and a union on top, as the node plugin will mount them."""
    # mount(8) would put a loop device below.
    mount = "import ctypes; assert ctypes.CDLL(None).mount(b'/var/lib/lamina/t/image', b't/low', b'erofs', 1, None) == 0"
    script = f"""set -e; cd /var/lib/lamina; mkdir -p t/tree t/low t/up t/work t/all; echo erofs > t/tree/f
        mkfs.erofs --quiet t/image t/tree >&2
        {sys.executable} -c "{mount}"
        mount -t overlay overlay -o lowerdir=t/low,upperdir=t/up,workdir=t/work t/all; echo new > t/all/g; cat t/all/*
        umount t/all t/low; rm -r t"""
    answer = on_node(cluster, cluster.nodes()[0], script).split()
    assert answer == ["erofs", "new"], answer


def kubelet_restart(cluster: Provider) -> None:
    """A pod keeps running while the kubelet is away, and the node comes back."""
    node = cluster.nodes()[1]
    cluster.kill_kubelet(node)
    assert cluster.status() != "up" or not isinstance(cluster, local.Local), "the kubelet is still there"
    cluster.restart_kubelet(node)
    wait(f"{node} is Ready again", 60, lambda: node in addons.ready_nodes(cluster), pause=0.3)
    expect(lambda: inside(cluster, "client", "echo", "still here"), "still here")


def node_restart(cluster: Provider) -> None:
    """A node that lost its power comes back with what was on its disk, and its pods run again."""
    node = cluster.nodes()[1]
    cluster.kill_node(node)
    wait(f"{node} is missed", 60, lambda: node not in addons.ready_nodes(cluster), pause=0.3)
    cluster.start_node(node)
    wait(f"{node} is Ready again", 90, lambda: node in addons.ready_nodes(cluster), pause=0.3)
    expect(lambda: inside(cluster, "client", "echo", "back"), "back", POD_SECONDS)


CHECKS: dict[str, Callable[[Provider], None]] = {
    "two nodes are Ready": nodes_are_ready,
    "a pod prints through logs": pod_logs,
    "exec into a pod": pod_exec,
    "cluster DNS": cluster_dns,
    "pod to pod across nodes": pod_to_pod,
    "a service": service,
    "a NetworkPolicy": network_policy,
    "Bidirectional propagation and /dev/fuse": propagation,
    "an image volume": image_volume,
    "helm answers": helm,
    "kubelet killed and restarted": kubelet_restart,
    "node killed and restarted": node_restart,
}
# What takes programs that only the machine's own root has.
OWN_CHECKS = {"EROFS on a file and a union in a node": file_backed_mounts}


def inside(cluster: Provider, name: str, *command: str) -> str:
    """A command's output in a pod."""
    return cluster.kubectl("-n", NAMESPACE, "exec", name, "--", *command)


def http(cluster: Provider, host: str, port: int) -> str:
    """What the client gets from a server. By nc: the wget of Debian's static busybox crashes."""
    return inside(cluster, "client", "sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port}")


def on_node(cluster: Provider, node: str, script: str) -> str:
    """A shell script's output in a node."""
    return run(cluster.node_exec(node, ["sh", "-c", script]))


def expect(ask: Callable[[], str], text: str, seconds: float = 20) -> None:
    """Passes as soon as an answer holds `text`: DNS and endpoints follow a moment behind."""
    last = "nothing"

    def held() -> bool:
        nonlocal last
        try:
            last = ask()
        except ClusterError as error:
            last = str(error)
        return text in last

    try:
        wait(f"an answer with {text!r}", seconds, held, pause=0.3)
    except ClusterError as error:
        raise ClusterError(f"{error}; last came {last!r}") from error


def _has_account(cluster: Provider) -> bool:
    try:
        cluster.kubectl("-n", NAMESPACE, "get", "serviceaccount", "default", "-o", "name")
    except ClusterError:
        return False
    return True
