"""What runs in every cluster: rights of its own parts, and cluster DNS."""

import json

from . import plan
from .provider import ClusterError, Provider


def ready_nodes(cluster: Provider) -> list[str]:
    """The names of the nodes that are Ready."""
    try:
        nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    except ClusterError:
        return []
    return [node["metadata"]["name"] for node in nodes if condition(node, "Ready")]


def usable(cluster: Provider) -> bool:
    """Whether pods can be made and resolve names: the default account appears some seconds after the apiserver."""
    try:
        cluster.kubectl("-n", "default", "get", "serviceaccount", "default", "-o", "name")
        dns = json.loads(cluster.kubectl("-n", "kube-system", "get", "deployment", "coredns", "-o", "json"))
    except ClusterError:
        return False
    return condition(dns, "Available")


def condition(item: dict, kind: str) -> bool:
    """Whether an object's condition is True."""
    return any(one["type"] == kind and one["status"] == "True" for one in item.get("status", {}).get("conditions", []))


def install(cluster: Provider) -> None:
    """Applies the objects below."""
    cluster.kubectl("apply", "--server-side", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()}))


def objects() -> list[dict]:
    """Every object, in an order that works."""
    return [
        _binding("lamina-cluster:proxy", "system:node-proxier", {"kind": "User", "apiGroup": RBAC, "name": "system:kube-proxy"}),
        _binding("lamina-cluster:apiserver-to-kubelet", "system:kubelet-api-admin",
                 {"kind": "User", "apiGroup": RBAC, "name": "kube-apiserver-kubelet-client"}),
        *_policies(),
        *_dns(),
    ]


RBAC = "rbac.authorization.k8s.io"
COREFILE = """\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa
    cache 5
}
"""


def _binding(name: str, role: str, subject: dict) -> dict:
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}, "subjects": [subject]}


def _policies() -> list[dict]:
    name = "lamina-cluster:policies"
    read = [{"apiGroups": [""], "resources": ["nodes", "pods", "namespaces", "services"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "list", "watch"]}]
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": read},
        _binding(name, name, {"kind": "User", "apiGroup": RBAC, "name": plan.POLICIES}),
    ]


def _dns() -> list[dict]:
    named = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    read = [{"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]
    container = {
        "name": "coredns", "image": plan.COREDNS_IMAGE, "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {"serviceAccountName": "coredns", "dnsPolicy": "Default", "containers": [container],
           "volumes": [{"name": "config", "configMap": {"name": "coredns"}}]}
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"}, "rules": read},
        _binding("system:coredns", "system:coredns", {"kind": "ServiceAccount", **named}),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": {"Corefile": COREFILE}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
         "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
         "spec": {"clusterIP": plan.SERVICE_DNS, "selector": labels, "ports": ports}},
    ]
