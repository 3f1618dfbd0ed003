"""What runs of Jobs leave becomes Flists: other Jobs run on them, pods mount them, the plugin shows them, and they go with their Job."""

import contextlib
import json
import pathlib
import re
import tempfile
from typing import Iterator

from e2e import made
from e2e.stories import commands, plugin
from e2e.story import Story, pod

WRITES = """
mkdir /data && echo "of $JOB_COMPLETION_INDEX" > /data/part && ln -s part /data/link
echo changed > /etc/group && rm /etc/passwd && echo kept
"""
READS = "cat data/link etc/group; ls etc; ls bin/busybox"


def run(it: Story) -> None:
    with store(it) as (name, repository):
        with commands.enabled(it), tempfile.TemporaryDirectory() as folder:
            read_by_others(it, name)
            shown(it, plugin.plugin(pathlib.Path(folder)))
            gone_in_time(it, name, repository)
            # While afslets keep warm what they ran on.
            goes(it)
        it.wait("the store is empty", lambda: not made.tags(it.cluster, repository), 60)


@contextlib.contextmanager
def store(it: Story) -> Iterator[tuple[str, str]]:
    """A Store in the cluster's registry while the block runs: its name, and its repository."""
    name, repository = f"{it.namespace}-kept", f"e2e/{it.namespace}/kept"
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Store", "metadata": {"name": name},
              "spec": {"url": f"oci://{it.cluster.registry()[0]}/{repository}?insecure=true"}})
    try:
        it.ready("store", name)
        yield name, repository
    finally:
        it.kubectl("delete", "store", name, "--wait=true", "--timeout=100s", seconds=110)


def keeping(it: Story, name: str, script: str, store: str, **more) -> dict:
    """A job of which what it leaves is kept."""
    return commands.job(it, name, script, keepDiff=True, diffStores=[store], **more)


def read_by_others(it: Story, store: str) -> None:
    """A Job that names what is not there yet waits for it; what a third one makes of that has the changes of both."""
    reads = f"cd / && {READS}"
    it.apply(commands.job(it, "reader", reads, source={"flist": "tools-1"}))
    it.wait("the reader waits", lambda: it.condition("ljob", "reader", "Started")["reason"] == "NoSuchFlist")
    it.apply(keeping(it, "tools", WRITES, store, completions=2, parallelism=2))
    status = commands.ended(it, "tools")
    kept = sorted(run["flist"] for run in status["runs"] if run.get("flist"))
    it.check(kept == ["tools-0", "tools-1"] and status["diff"] in kept, f"tools: {status}")
    bases = {run["base"] for run in status["runs"]}
    it.check(len(bases) == 1 and all(re.fullmatch("[0-9a-f]{64}", base) for base in bases), f"what runs began with: {status['runs']}")
    it.ready("flist", *kept)
    for name, index in (("tools-0", "0"), ("tools-1", "1")):
        labels = it.get("flist", name)["metadata"]["labels"]
        it.check((labels["lamina.dev/job"], labels["lamina.dev/job-index"]) == ("tools", index), f"{name} has the labels {labels}")
    status = commands.ended(it, "reader")
    it.check(status.get("logTail", "").split("\n") == ["of 1", "changed", "group", "bin/busybox", ""], f"the reader: {status}")
    it.apply(keeping(it, "further", "echo more > /data/more", store, source={"flist": "tools-0"}))
    commands.ended(it, "further")
    it.ready("flist", "further-0")
    expected = {"tools-0": ["of 0", "changed", "group", "bin/busybox"], "tools-1": ["of 1", "changed", "group", "bin/busybox"],
                "further-0": ["of 0", "changed", "group", "bin/busybox", "more"]}
    pods = {f"{flist}-{node}": (flist, node) for flist in expected for node in it.cluster.nodes()}
    script = f"cd /data && {READS}; cat data/more 2> /dev/null; true"
    it.apply(*(pod(name, {"lamina.dev/flist": flist}, script, node=node) for name, (flist, node) in pods.items()))
    for name, (flist, _) in pods.items():
        said = it.finished(name).split("\n")[:-1]
        it.check(said == expected[flist], f"{name} read {said}")
    it.kubectl("delete", "pod", *pods, "--wait=true", seconds=120)
    told = it.events("Job", "tools")
    for part in ("Started: ", "Kept: Run 0: ", "Kept: Run 1: ", "Finished: 2/2 runs succeeded"):
        it.check(any(event.startswith(part) for event in told), f"no event {part!r} in {told}")
    it.say("a Job and pods on every node read what runs left")


def shown(it: Story, link: pathlib.Path) -> None:
    """`kubectl lamina logs` and `diff`: of the run that ended last, of one that failed, and what is in what is kept."""
    it.apply(commands.job(it, "stumbles", 'echo "attempt $LAMINA_JOB_ATTEMPT"; [ $LAMINA_JOB_ATTEMPT = 2 ] || exit 5', retries=1))
    commands.ended(it, "stumbles")
    out, about = plugin.called(it, link, ("logs", "stumbles"), 0, 60)
    it.check(out == b"attempt 2\n" and "the run that ended last on node" in about, f"logs printed {out!r}, and {about!r}")
    out, about = plugin.called(it, link, ("logs", "stumbles", "--attempt", "1"), 0, 60)
    it.check(out == b"attempt 1\n" and "attempt 1: Failed" in about and "exit code 5" in about, f"logs printed {out!r}, and {about!r}")
    it.check("succeeded" in plugin.lamina(it, link, "logs", "stumbles", "--attempt", "2", ends=3), "a log that is not kept is not told of")
    it.check("keeps nothing" in plugin.lamina(it, link, "diff", "stumbles", ends=3), "diff of what keeps nothing does not say so")
    told = it.events("Job", "stumbles")
    for part in ("RunFailed: Run 0, attempt 1 on ", "Finished: 1/1 runs succeeded"):
        it.check(any(event.startswith(part) for event in told), f"no event {part!r} in {told}")
    kept = json.loads(plugin.lamina(it, link, "diff", "tools", "-o", "json"))["flists"]
    it.check([(one["index"], one["flist"], one["ready"]) for one in kept] == [(0, "tools-0", True), (1, "tools-1", True)], f"diff: {kept}")
    it.check("INDEX" in plugin.lamina(it, link, "diff", "tools"), "diff prints no table")
    made_by = json.loads(plugin.lamina(it, link, "diff", "tools", "--index", "1", "-o", "json"))["differences"]
    told = {(one["change"], one["path"]) for one in made_by if one.get("aspects") != ["time"]}
    expected = {("added", "/data"), ("added", "/data/part"), ("added", "/data/link"), ("changed", "/etc/group"), ("removed", "/etc/passwd")}
    it.check(told == expected, f"diff of run 1: {made_by}")
    it.check("~ /etc/group" in plugin.lamina(it, link, "diff", "tools", "--index", "0"), "diff prints no changes")
    it.check("those of 0, 1" in plugin.lamina(it, link, "diff", "tools", "--index", "7", ends=3), "diff of no run does not say which there are")
    digest = kept[1]["digest"]
    it.check(plugin.lamina(it, link, "ls", f"{digest}:/data").split() == ["link", "part"], "ls lists something else")
    it.check(plugin.lamina(it, link, "cat", f"{digest}:/data/part") == "of 1\n", "cat prints something else")


def gone_in_time(it: Story, store: str, repository: str) -> None:
    """Some time after its end a Job is deleted, and with it what it left, here and in the store."""
    before = set(made.tags(it.cluster, repository))
    it.check(before != set(), "nothing is in the store")
    it.apply(keeping(it, "brief", "echo 1 > /brief", store, ttlSecondsAfterFinished=1))
    it.wait("what it left is told of", lambda: any("Flist brief-0" in event for event in it.events("Job", "brief")))
    for kind, name in (("ljob", "brief"), ("flist", "brief-0")):
        it.wait(f"{kind} {name} is gone", lambda kind=kind, name=name: not it.kubectl("get", kind, name, "--ignore-not-found"))
    it.wait("the store is as before", lambda: set(made.tags(it.cluster, repository)) == before, 60)
    it.say("a Job that was over went by itself, and what it left")


def goes(it: Story) -> None:
    """With a Job goes what its runs left, unless it was let go of."""
    it.kubectl("patch", "flist", "tools-1", "--type=json", "-p", '[{"op": "remove", "path": "/metadata/ownerReferences"}]')
    it.kubectl("delete", "ljob", "reader", "further", "tools", "--wait=true", "--timeout=100s", seconds=110)
    it.wait("what was not let go of is gone", lambda: [one["metadata"]["name"] for one in it.get("flist")["items"]] == ["tools-1"])
    it.apply(pod("heir", {"lamina.dev/flist": "tools-1"}, "cat /data/data/link"))
    it.check(it.finished("heir") == "of 1\n", "what was let go of is something else")
    it.kubectl("delete", "pod", "heir", "--wait=true", seconds=120)
    it.kubectl("delete", "flist", "tools-1", "--wait=true", "--timeout=100s", seconds=110)
    it.say("what was let go of stayed until it was deleted")
