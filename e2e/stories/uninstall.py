"""`helm uninstall`, also while a command runs, leaves no mount, process, file, driver entry or stuck object behind."""

import json

from e2e import release
from e2e.stories import commands, storage_class
from e2e.story import DRIVER, SYSTEM, Story, pod

# In every namespace of every cluster.
EVERYWHERE = ("kube-root-ca.crt", "default")
# Told apart by it from everything else that runs on a node.
COMMAND = "sleep 98765"
# With all that can be left: what runs commands, and policies that its own job has to get through.
VALUES = (*commands.VALUES, "--set", "networkPolicy.enabled=true")

# Everything of ours a node could still have. The test cluster's own folders have the name in their sources, so mounts go by
# where they are.
LEFT = r"""
awk '$5 ~ "^/run/lamina|^/var/lib/lamina/|/volumes/kubernetes.io~csi/|/plugins/[a-z]*.lamina.dev" {print "mount", $0}' /proc/self/mountinfo
for folder in /proc/[0-9]*; do
  words=$({ tr '\0' ' ' < $folder/cmdline; } 2>/dev/null) || continue
  case "$words" in /var/lib/lamina/bin/*|/usr/local/bin/lamina*|"COMMAND "|*sandbox-spawne[r]*) echo "process $folder $words";; esac
done
ls -d /run/lamina /var/lib/lamina/* /var/lib/kubelet/plugins/*lamina* /var/lib/kubelet/plugins_registry/*lamina* 2>/dev/null | sed 's/^/file /'
ls -d /sys/fs/cgroup/lamina /sys/fs/cgroup/*/lamina 2>/dev/null | sed 's/^/cgroup /'
true
""".replace("COMMAND", COMMAND)


def run(it: Story) -> None:
    nodes = it.cluster.nodes()
    release.install(it.cluster, more=VALUES)
    it.wait("commands can be run", lambda: all(commands.ready(it, name) for name in commands.WORKLOADS), 180)
    it.apply(commands.job(it, "endless", f"exec {COMMAND}"))
    it.wait("a command runs", lambda: any(COMMAND in it.on_node(node, "ps ax -o args") for node in nodes))
    names = [f"user-{number}" for number, _ in enumerate(nodes)]
    it.apply(*(pod(name, {"lamina.dev/image": it.images["base"]}, node=node) for name, node in zip(names, nodes)))
    it.running(*names)
    people = objects(it)
    it.kubectl("delete", "pod", *names, "--wait=true")
    release.helm(it.cluster, "uninstall", release.RELEASE, "--wait", "--timeout", "5m")
    for node in nodes:
        left = it.on_node(node, LEFT).strip()
        it.check(not left, f"left on {node}:\n{left}")
        drivers = it.get("csinode", node)["spec"].get("drivers") or []
        it.check(DRIVER not in [driver["name"] for driver in drivers], f"CSINode {node} still lists the driver")
    it.wait("Lamina's pods are gone", lambda: not it.get("-n", SYSTEM, "pods")["items"], 60)
    for kind in ("daemonset", "deployment", "job", "secret", "service", "lease", "poddisruptionbudget", "networkpolicy", "configmap", "serviceaccount",
                 "role", "rolebinding"):
        items = [name for item in it.get("-n", SYSTEM, kind)["items"] if (name := item["metadata"]["name"]) not in EVERYWHERE]
        it.check(not items, f"left in {SYSTEM}: {kind} {items}")
    for kind in ("clusterrole", "clusterrolebinding", "csidriver", "storageclass"):
        names = [item["metadata"]["name"] for item in it.get(kind)["items"] if "lamina" in item["metadata"]["name"]]
        it.check(not [name for name in names if not name.startswith("lamina-cluster:")], f"left: {kind} {names}")
    kept = json.loads(it.kubectl("get", "crd", "-o", "json"))["items"]
    it.check(len([crd for crd in kept if crd["spec"]["group"] == "lamina.dev"]) == 5, "the definitions were not kept")
    # Nobody is there to take a finalizer off any more.
    for kind, name in people:
        it.kubectl("delete", kind, name, "--wait=true", "--timeout=30s", seconds=40)
    it.say(f"deleted afterwards: {', '.join(kind for kind, _ in people)}")


def objects(it: Story) -> list[tuple[str, str]]:
    """People's own objects, of every kind, done with as far as they can be; kind and name, in the order in which they are deleted."""
    image = {"reference": it.images["base"]}
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "tools"}, "spec": {"source": {"image": image}}},
             {"apiVersion": "lamina.dev/v1alpha1", "kind": "Image", "metadata": {"name": "warm"}, "spec": image},
             {"apiVersion": "lamina.dev/v1alpha1", "kind": "Store", "metadata": {"name": it.namespace}, "spec": {"url": "dir:///var/lib/lamina/store"}},
             storage_class.claim("data", annotations={storage_class.IMAGE: it.images["base"]}))
    it.ready("flist", "tools")
    it.ready("image", "warm")
    it.ready("store", it.namespace)
    it.wait("the claim is bound", lambda: it.get("pvc", "data")["status"]["phase"] == "Bound", 60)
    volume = it.get("pvc", "data")["spec"]["volumeName"]
    return [("ljob", "endless"), ("image", "warm"), ("flist", "tools"), ("store", it.namespace), ("pvc", "data"), ("pv", volume)]
