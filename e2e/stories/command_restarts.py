"""Operator, proxy and afslets go while commands run: a Job runs again as often as its retries allow, and no attempt runs twice."""

import collections

from e2e.stories import commands
from e2e.story import BUSYBOX, SYSTEM, Story

# A run is a command told apart by this number with its attempt behind it. It goes on until the story ends it.
STUBBORN, CAREFUL, SPARED = "3141592", "2718281", "1618033"
# A run is there long enough to be seen: the story ends it only after it was.
WATCH = r"while :; do ps -o pid,args | sed -n 's,^ *\([0-9]*\) /bin/sleep \([0-9]*\)$,\1 \2,p' >> /tmp/seen; sleep 0.2; done"


def run(it: Story) -> None:
    with commands.enabled(it):
        watch(it)
        retried(it)
        not_retried(it)
        drained(it)


def watcher(node: str) -> str:
    return f"watcher-{node}"


def watch(it: Story) -> None:
    """A pod on every node that notes each run's process."""
    for node in it.cluster.nodes():
        container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", f"touch /tmp/seen; {WATCH}"]}
        it.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": watcher(node)},
                  "spec": {"nodeName": node, "hostPID": True, "terminationGracePeriodSeconds": 1, "containers": [container]}})
    it.running(*(watcher(node) for node in it.cluster.nodes()))


def seen(it: Story, job: str) -> dict[int, int]:
    """How many processes there were of each attempt of a job."""
    lines = {(node, line) for node in it.cluster.nodes() for line in it.shell(watcher(node), "sort -u /tmp/seen").splitlines()}
    commands_seen = [line.split()[1] for _, line in lines]
    return dict(collections.Counter(int(word[len(job):]) for word in commands_seen if word.startswith(job) and word != job))


def begin(it: Story, name: str, number: str, retries: int) -> None:
    it.apply(commands.job(it, name, f"/bin/sleep {number}$LAMINA_JOB_ATTEMPT; echo ended", retries=retries))


def let_end(it: Story, number: str) -> None:
    """Ends the one process that a run of this job waits for; the run goes on behind it."""
    for node in it.cluster.nodes():
        it.on_node(node, f"""ps ax -o pid=,args= | awk '$2 == "/bin/sleep" && $3 ~ /^{number}/ {{print $1}}' | xargs -r kill""")


def delete(it: Story, component: str, *more: str) -> list[str]:
    """Deletes a component's pods; their names."""
    pods = it.get("-n", SYSTEM, "pods", "-l", f"app.kubernetes.io/component={component}")["items"]
    names = [pod["metadata"]["name"] for pod in pods]
    it.check(bool(names), f"there is no pod of {component}")
    it.kubectl("-n", SYSTEM, "delete", "pod", *names, "--wait=false", *more)
    return names


AT_ONCE = ("--grace-period=0", "--force")


def retried(it: Story) -> None:
    """Three runs are lost, which is as many as may be; the fourth one succeeds."""
    begin(it, "stubborn", STUBBORN, retries=3)
    for number, component in enumerate(("operator", "proxy", "afslet")):
        it.wait(f"run {number + 1} goes on", lambda number=number: len(seen(it, STUBBORN)) == number + 1)
        it.wait("it is accepted", lambda: it.get("ljob", "stubborn")["status"]["active"] == 1)
        delete(it, component, *AT_ONCE)
        it.say(f"{component} deleted")
    it.wait("the last run goes on", lambda: len(seen(it, STUBBORN)) == 4)
    let_end(it, STUBBORN)
    status = commands.ended(it, "stubborn")
    outcomes = [run["outcome"] for run in sorted(status["runs"], key=lambda run: run["attempt"])]
    it.check(status["outcome"] == "Succeeded" and outcomes == ["Lost"] * 3 + ["Succeeded"] and status["failed"] == 3, f"stubborn: {status}")
    ran = seen(it, STUBBORN)
    attempts = [run["attempt"] for run in status["runs"]]
    it.check(sorted(ran) == sorted(attempts) and set(ran.values()) == {1}, f"attempts {attempts} ran as often as {ran}")
    it.check(status["attempts"] >= len(ran), f"more ran than there were attempts: {status}")
    it.wait("workloads are back", lambda: all(commands.ready(it, name) for name in commands.WORKLOADS))


def not_retried(it: Story) -> None:
    """Without retries, what is lost with its afslet is not run again."""
    begin(it, "careful", CAREFUL, retries=0)
    it.wait("it runs", lambda: seen(it, CAREFUL) != {})
    delete(it, "afslet", *AT_ONCE)
    status = commands.ended(it, "careful")
    it.check((status["outcome"], status["failed"], status["attempts"]) == ("Lost", 1, 1), f"careful: {status}")
    it.check(it.condition("ljob", "careful", "Finished")["reason"] == "Lost", "the condition does not say that it was lost")
    it.wait("its process is gone", lambda: not commands.runs_somewhere(it, f"/bin/sleep {CAREFUL}"), 60)
    it.wait("afslets are back", lambda: commands.ready(it, commands.WORKLOADS[0]))
    # Had anything of it been begun again, these would not have been all.
    begin(it, "after", SPARED + "0", retries=0)
    it.wait("others run", lambda: seen(it, SPARED + "0") != {})
    let_end(it, SPARED + "0")
    it.check(commands.ended(it, "after")["outcome"] == "Succeeded", "a job after it does not succeed")
    it.check(seen(it, CAREFUL) == {1: 1}, f"it ran as often as {seen(it, CAREFUL)}")
    it.say("without retries it ran once")


def drained(it: Story) -> None:
    """An afslet that is asked to end lets its runs end first."""
    begin(it, "spared", SPARED + "9", retries=0)
    it.wait("it runs", lambda: seen(it, SPARED + "9") != {})
    names = delete(it, "afslet")
    it.wait("every afslet drains", lambda: all("taking no more runs" in it.kubectl("-n", SYSTEM, "logs", name) for name in names), 30)
    let_end(it, SPARED + "9")
    status = commands.ended(it, "spared")
    it.check((status["outcome"], status["attempts"], status.get("failed", 0)) == ("Succeeded", 1, 0), f"spared: {status}")
    it.check(seen(it, SPARED + "9") == {1: 1}, f"it ran as often as {seen(it, SPARED + '9')}")
    it.wait("afslets are back", lambda: commands.ready(it, commands.WORKLOADS[0]))
