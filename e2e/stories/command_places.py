"""Where commands go: through one of two proxies while the other one is deleted, and to the nodes that a selector names."""

import json

from e2e.stories import commands, network_policy
from e2e.story import SYSTEM, Story

LABEL = "lamina.test/runs"
# Told apart from everything else that runs on a node; they go on until the story ends them.
FIRST, SECOND, OF_JOB = "/bin/sleep 5772156", "/bin/sleep 5772157", "/bin/sleep 5772158"


def run(it: Story) -> None:
    with commands.enabled(it, "--set", "execution.proxy.replicas=2"):
        side_by_side(it)
    first, *others = it.cluster.nodes()
    try:
        it.kubectl("label", "node", first, f"{LABEL}=yes")
        with commands.enabled(it, "--set-json", f"execution.afslet.nodeSelector={json.dumps({LABEL: 'yes'})}"):
            on(it, first, "before")
            it.kubectl("label", "node", others[0], f"{LABEL}=yes")
            it.kubectl("label", "node", first, f"{LABEL}-")
            on(it, others[0], "after")
    finally:
        it.kubectl("label", "node", "--all", f"{LABEL}-")


def side_by_side(it: Story) -> None:
    """What reached one proxy goes on when the other one is deleted; what reached that one hears of it."""
    it.apply(network_policy.person("scraper", {}))
    it.running("scraper")
    proxies = addresses(it)
    it.check(len(proxies) == 2, f"proxies are {proxies}")
    callers = {name: (proxy, sleep) for name, proxy, sleep in zip(("one", "other"), proxies, (FIRST, SECOND))}
    for name, (proxy, sleep) in callers.items():
        commands.caller(it, name, proxies[proxy], f"{sleep}; echo through")
    it.apply(commands.job(it, "third", f"{OF_JOB}; echo through"))
    for sleep in (FIRST, SECOND, OF_JOB):
        it.wait(f"{sleep} runs", lambda sleep=sleep: commands.runs_somewhere(it, sleep))
    runs = {name: scraped(it, address) for name, address in proxies.items()}
    it.check(sorted(runs.values()) == [1, 2], f"of three runs proxies have {runs}")
    goes, stays = sorted(proxies, key=lambda name: runs[name])
    it.kubectl("-n", SYSTEM, "delete", "pod", goes, "--grace-period=0", "--force")
    cut = next(name for name, (proxy, _) in callers.items() if proxy == goes)
    code, said = commands.answered(it, cut)
    it.check(code == 125 and "through" not in said, f"who was cut off ended with {code}: {said}")
    it.wait("its sandbox is gone", lambda: not commands.runs_somewhere(it, callers[cut][1]), 60)
    let_end(it)
    left = next(name for name in callers if name != cut)
    code, said = commands.answered(it, left)
    it.check(code == 0 and "through" in said, f"who was not cut off ended with {code}: {said}")
    status = commands.ended(it, "third")
    it.check((status["outcome"], status["attempts"]) == ("Succeeded", 1) and "through" in status["logTail"], f"third: {status}")
    it.apply(commands.job(it, "later", "true"))
    it.check(commands.ended(it, "later")["outcome"] == "Succeeded", "with one proxy gone no job succeeds")
    it.wait("there are two proxies again", lambda: commands.ready(it, commands.WORKLOADS[1]) and len(addresses(it)) == 2)
    it.check(stays in addresses(it), "the proxy that was left alone was replaced")
    it.kubectl("delete", "pod", *callers, "scraper", "--wait=true", seconds=120)
    it.say("runs through the proxy that stayed went on")


def addresses(it: Story) -> dict[str, str]:
    """The proxies' pods that stay."""
    pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=proxy")["items"]
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")}


def scraped(it: Story, address: str) -> int:
    """The runs that a proxy has now."""
    lines = network_policy.page(it, address, network_policy.METRICS["proxy"]).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("lamina_proxy_runs "))


def let_end(it: Story) -> None:
    """Ends what the runs wait for; they go on behind it."""
    for node in it.cluster.nodes():
        it.on_node(node, """ps ax -o pid=,args= | awk '$2 == "/bin/sleep" && $3 ~ /^577215[678]$/ {print $1}' | xargs -r kill""")


def on(it: Story, node: str, name: str) -> None:
    """Afslets are on this node alone, and so are runs."""
    def there() -> bool:
        pods = it.get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=afslet")["items"]
        return [pod["spec"]["nodeName"] for pod in pods] == [node] and commands.ready(it, commands.WORKLOADS[0])

    it.wait(f"the one afslet is on {node}", there)
    it.apply(commands.job(it, name, "true", completions=6, parallelism=3))
    status = commands.ended(it, name)
    nodes = [run["node"] for run in status["runs"]]
    it.check(status["outcome"] == "Succeeded" and nodes == [node] * 6, f"{name}: {status}")
    it.say(f"all runs were on {node}")
