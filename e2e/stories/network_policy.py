"""Where NetworkPolicies are kept, the chart's shut Lamina's ports to strangers, and everything works as without them.

Of the stories that take less than a minute, all those that go a way of their own between Lamina's parts are told again.
Left out: `startup_taint`, which installs the chart with values of its own (and takes two minutes); `store_with_password`,
which does, too; and what differs from those told on one node alone, where no policy holds (`writable`, `subpath`, `hostile_volumes`).
"""

import json

from e2e import release
from e2e.stories import (commands, flist_from_archive, flist_from_pvc, flist_object, from_peers, helm_test, image_object, plugin,
                         private_image, storage_class, store_object)
from e2e.story import BUSYBOX, SYSTEM, Story, namespace

# Who may read metrics, by the chart's values.
SCRAPER = {"lamina.test/scrapes": "yes"}
METRICS = {"operator": 8080, "discovery": 7071, "afslet": 7171, "proxy": 7181}
# Afslets take runs from proxies alone.
SHUT = [*METRICS.items(), ("afslet", 7170)]
PORT = 8080
# Between them they take every way between Lamina's parts: nodes, discovery, operator, controller, API server, registry.
PATHS = (helm_test, flist_object, flist_from_archive, flist_from_pvc, image_object, store_object, private_image, storage_class, from_peers, plugin)
OUTSIDER = "e2e-outsider"


def run(it: Story) -> None:
    strangers = [f"stranger-{node}" for node in it.cluster.nodes()]
    server = people(it, strangers)
    kept(it, strangers, server)
    try:
        outsider(it, server)
        release.install(it.cluster, more=(*commands.VALUES, *values(it)))
        it.wait("commands can be run", lambda: all(commands.ready(it, name) for name in commands.WORKLOADS), 180)
        shut(it, strangers)
        leaves_nothing_but_its_paths(it, server)
        certificates(it)
        for story in PATHS:
            told(it, story.__name__.rpartition(".")[2], story.run)
        told(it, "commands", runs)
    finally:
        it.kubectl("-n", SYSTEM, "delete", "pod", OUTSIDER, "--ignore-not-found", "--wait=true", seconds=120)
        release.install(it.cluster)
    it.wait("the policies are gone", lambda: not it.get("-n", SYSTEM, "networkpolicy")["items"], 60)
    it.wait("what runs commands is gone", lambda: not it.kubectl("-n", SYSTEM, "get", *commands.WORKLOADS, "--ignore-not-found"), 120)


def values(it: Story) -> tuple[str, ...]:
    here = {"matchLabels": {"kubernetes.io/metadata.name": it.namespace}}
    peers = [{"namespaceSelector": here, "podSelector": {"matchLabels": SCRAPER}}]
    return "--set", "networkPolicy.enabled=true", "--set-json", f"networkPolicy.metricsFrom={json.dumps(peers)}"


def told(it: Story, name: str, story) -> None:
    """Another story, in a namespace of its own: some name images by it."""
    with namespace(it.cluster, f"policy-{name}") as own:
        story(Story(it.cluster, it.images, own))
    it.say(f"{name} works")


def runs(it: Story) -> None:
    commands.succeeds(it)
    commands.from_a_pod(it)


def person(name: str, labels: dict[str, str], script: str = "sleep 100000", **spec) -> dict:
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}}


def people(it: Story, strangers: list[str]) -> str:
    """A server, a stranger on every node, one that may read metrics; the server's address."""
    first, *_ = nodes = it.cluster.nodes()
    it.apply(person("server", {"app": "server"}, f"mkdir /www; exec httpd -f -p {PORT} -h /www", nodeName=first), person("scraper", SCRAPER),
             *(person(name, {"app": "stranger"}, nodeName=node) for name, node in zip(strangers, nodes)))
    it.running("server", "scraper", *strangers)
    return it.get("pod", "server")["status"]["podIP"] + f":{PORT}"


def reached(it: Story, caller: str, targets: list[str]) -> list[str]:
    """Which of these addresses take a connection from a pod."""
    # 1: refused, or no answer; what goes on in a connection is not looked at.
    script = f"for at in {' '.join(targets)}; do timeout 8 nc -w 3 ${{at%:*}} ${{at##*:}} < /dev/null > /dev/null 2>&1; [ $? = 1 ] || echo $at; done"
    return it.shell(caller, script, seconds=300).split()


def kept(it: Story, strangers: list[str], server: str) -> None:
    """Policies hold at all, between pods of one node and of two."""
    everybody = [*strangers, "scraper"]
    it.wait("everybody reaches the server", lambda: all(reached(it, caller, [server]) for caller in everybody), 60)
    it.apply(policy("nobody", []))
    it.wait("nobody does any more: does this cluster's network keep NetworkPolicies?",
            lambda: not any(reached(it, caller, [server]) for caller in everybody), 60)
    it.apply(policy("some", [{"from": [{"podSelector": {"matchLabels": SCRAPER}}]}]))
    it.wait("who may does", lambda: bool(reached(it, "scraper", [server])), 60)
    it.check(not any(reached(it, caller, [server]) for caller in strangers), "a stranger reaches what one pod alone may reach")
    it.kubectl("delete", "networkpolicy", "nobody", "some")
    it.wait("everybody reaches the server again", lambda: all(reached(it, caller, [server]) for caller in everybody), 60)


def policy(name: str, ingress: list[dict]) -> dict:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": ingress}}


def outsider(it: Story, server: str) -> None:
    """A pod that the chart's policy for hooks will hold for: Lamina's image has no shell to try with."""
    labels = {"app.kubernetes.io/name": "lamina", "app.kubernetes.io/component": "hook"}
    it.kubectl("-n", SYSTEM, "apply", "-f", "-", text=json.dumps(person(OUTSIDER, labels)))
    system = Story(it.cluster, it.images, SYSTEM)
    system.running(OUTSIDER)
    system.wait("it reaches the server", lambda: bool(reached(system, OUTSIDER, [server])), 60)


def leaves_nothing_but_its_paths(it: Story, server: str) -> None:
    """What a pod of Lamina has to reach it reaches, and nothing else."""
    system = Story(it.cluster, it.images, SYSTEM)
    node = it.get("nodes")["items"][0]["status"]["addresses"]
    agent = next(one["address"] for one in node if one["type"] == "InternalIP") + ":7150"
    api = it.get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"] + ":443"
    system.wait("it reaches the server no more", lambda: not reached(system, OUTSIDER, [server]), 60)
    found = reached(system, OUTSIDER, [api, agent])
    it.check(found == [api, agent], f"of the API server and a node only {found} answer")
    names = system.shell(OUTSIDER, "nslookup kubernetes.default.svc.cluster.local")
    it.check(api.rpartition(":")[0] in names, f"no names: {names}")
    it.kubectl("-n", SYSTEM, "delete", "pod", OUTSIDER, "--wait=true", seconds=120)


def shut(it: Story, strangers: list[str]) -> None:
    """Strangers reach no metrics and no afslet; who may reads metrics."""
    def closed() -> bool:
        everything = [f"{address}:{port}" for component, port in SHUT for address in addresses(it, component)]
        it.check(len(everything) >= 8, f"only {everything} are there")
        found.clear()
        found.update({name: some for name in strangers if (some := reached(it, name, everything))})
        return not found

    found: dict[str, list[str]] = {}
    it.wait("strangers are refused everywhere", closed, 120)
    for component, port in METRICS.items():
        for address in addresses(it, component):
            it.wait(f"{component} tells who may its metrics", lambda address=address, port=port: "lamina_" in page(it, address, port), 60)
    it.say(f"strangers are refused at {', '.join(f'{component}:{port}' for component, port in SHUT)}")


def page(it: Story, address: str, port: int) -> str:
    # The end of what is sent ends the connection, so it is kept back until there can be an answer.
    return it.shell("scraper", f"(printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n'; sleep 2) | nc -w 5 {address} {port}")


def addresses(it: Story, component: str) -> list[str]:
    """Of a component's pods that run."""
    pods = it.get("-n", SYSTEM, "pods", "-l", f"app.kubernetes.io/name=lamina,app.kubernetes.io/component={component}")["items"]
    return [pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")]


def certificates(it: Story) -> None:
    """A node that has lost its certificate gets another one of the operator."""
    for node in it.cluster.nodes():
        it.on_node(node, "rm /var/lib/lamina/tls/tls.*")
    it.kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=node", "--wait=true", seconds=120)
    for node in it.cluster.nodes():
        it.wait(f"{node} has a certificate", lambda node=node: "there" in it.on_node(node, "[ ! -e /var/lib/lamina/tls/tls.crt ] || echo there"), 120)
    it.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/lamina-node", "--timeout=120s", seconds=130)
    it.wait("discovery knows every node", lambda: all(known(it, address) == len(it.cluster.nodes()) for address in addresses(it, "discovery")))
    it.say("nodes get certificates and report to discovery")


def known(it: Story, address: str) -> int:
    """The nodes that a replica of discovery knows."""
    lines = page(it, address, METRICS["discovery"]).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("lamina_discovery_nodes "))
