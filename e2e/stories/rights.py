"""The accounts on nodes may do what they need and nothing else, and no pod is privileged but those that make mounts and sandboxes."""

import json

from e2e import release
from e2e.stories import commands
from e2e.story import SYSTEM, Story

CHANGES = ("create", "update", "patch", "delete", "deletecollection")
READS = ("get", "list", "watch")
# Nobody on a node may do this, in any namespace. `group/resource/subresource`.
FORBIDDEN = {
    "/secrets": (*READS, *CHANGES), "/configmaps": (*READS, *CHANGES), "/pods": (*READS, *CHANGES), "/pods/status": CHANGES,
    "/pods/exec": ("get", "create"), "/pods/ephemeralcontainers": CHANGES, "/pods/binding": CHANGES, "/nodes": CHANGES,
    "/nodes/status": CHANGES, "/nodes/proxy": (*READS, *CHANGES), "/serviceaccounts/token": ("create",), "/serviceaccounts": ("impersonate",),
    "/persistentvolumes": (*READS, *CHANGES), "/persistentvolumeclaims": (*READS, *CHANGES), "/events": (*READS, *CHANGES),
    "events.k8s.io/events": (*READS, "update", "delete", "deletecollection"), "storage.k8s.io/csinodes": CHANGES,
    "storage.k8s.io/csidrivers": CHANGES, "apps/daemonsets": (*READS, *CHANGES), "coordination.k8s.io/leases": (*READS, *CHANGES),
    "rbac.authorization.k8s.io/clusterrolebindings": (*READS, *CHANGES, "bind", "escalate"),
    "certificates.k8s.io/certificatesigningrequests": (*READS, *CHANGES), "lamina.dev/flists": ("list", "watch", *CHANGES),
    "lamina.dev/images": (*READS, *CHANGES), "lamina.dev/stores": (*READS, *CHANGES), "lamina.dev/jobs": (*READS, *CHANGES),
    "lamina.dev/laminaclusters": (*READS, *CHANGES), "lamina.dev/flists/status": CHANGES,
}
# And this the driver of a node alone.
NEEDED = {"lamina.dev/flists": ("get",), "events.k8s.io/events": ("create", "patch")}


def run(it: Story) -> None:
    try:
        release.install(it.cluster, more=commands.VALUES)
        it.wait("commands can be run", lambda: all(commands.ready(it, name) for name in commands.WORKLOADS), 180)
        privileged = {component for component, some in pods(it).items() if some}
        it.check(privileged == {"node", "afslet"}, f"privileged are pods of {sorted(privileged)}")
        others = sorted(pods(it).keys() - privileged)
        it.check({"operator", "csi", "controller", "discovery", "proxy"} <= set(others), f"only {others} run besides")
        it.say(f"privileged: {', '.join(sorted(privileged))}; not: {', '.join(others)}")
        accounts(it)
    finally:
        release.install(it.cluster)
    it.wait("what runs commands is gone", lambda: not it.kubectl("-n", SYSTEM, "get", *commands.WORKLOADS, "--ignore-not-found"), 120)
    it.wait("pods of lamina-node alone are privileged", lambda: {name for name, some in pods(it).items() if some} == {"node"}, 120)


def pods(it: Story) -> dict[str, bool]:
    """Of Lamina's components that run, whether any container of theirs has more than a container usually has."""
    found: dict[str, bool] = {}
    for item in it.get("-n", SYSTEM, "pods")["items"]:
        component, spec = item["metadata"]["labels"]["app.kubernetes.io/component"], item["spec"]
        contexts = [one.get("securityContext", {}) for one in [*spec["containers"], *spec.get("initContainers", [])]]
        more = any(context.get("privileged") or context.get("capabilities", {}).get("add") or context.get("allowPrivilegeEscalation", True)
                   for context in contexts)
        shared = any(spec.get(name) for name in ("hostPID", "hostIPC", "hostNetwork"))
        found[component] = found.get(component, False) or more or shared
    return found


def accounts(it: Story) -> None:
    """What the API server says that pods on nodes may do, with the account that each has."""
    names = {item["spec"]["serviceAccountName"] for component in ("node", "csi", "afslet")
             for item in it.get("-n", SYSTEM, "pods", "-l", f"app.kubernetes.io/component={component}")["items"]}
    it.check({"lamina-node", "lamina-csi"} <= names, f"accounts on nodes are {names}")
    for name in sorted(names):
        tried = reviewed(it, name, FORBIDDEN)
        allowed = [what for what, yes in tried.items() if yes]
        it.check(not allowed, f"{name} may {allowed}")
        needed = reviewed(it, name, NEEDED)
        it.check(set(needed.values()) == {name == "lamina-csi"}, f"{name}: {needed}")
        it.say(f"{name} is refused {len(tried)} things")


def reviewed(it: Story, account: str, rights: dict[str, tuple[str, ...]]) -> dict[str, bool]:
    """Whether an account may do each of these in namespaces of Lamina, of the cluster and of people."""
    asked = [(namespace, verb, what) for namespace in (SYSTEM, "kube-system", it.namespace) for what, verbs in rights.items() for verb in verbs]
    items = []
    for namespace, verb, what in asked:
        group, resource, *sub = what.split("/")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": "".join(sub)}
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}", "system:authenticated"]
        items.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                      "spec": {"user": f"system:serviceaccount:{SYSTEM}:{account}", "groups": groups, "resourceAttributes": attributes}})
    said = it.kubectl("create", "-f", "-", "-o", r'jsonpath={.status.allowed}{"\n"}', seconds=300,
                      text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    answers = said.split()
    it.check(len(answers) == len(asked) and set(answers) <= {"true", "false"}, f"{len(answers)} answers to {len(asked)} questions: {said[:500]}")
    return {" ".join(words): answer == "true" for words, answer in zip(asked, answers)}
