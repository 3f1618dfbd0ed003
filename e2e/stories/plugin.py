"""kubectl lamina shows the cluster: status, doctor, top, ls, cat, prefetch, explain, and a report without secrets."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile

import yaml

from e2e import made, release
from e2e.story import Story, pod

SECRET = "e2e-hidden-value"


def run(it: Story) -> None:
    with tempfile.TemporaryDirectory() as folder:
        link = plugin(pathlib.Path(folder))
        whole(it, link)
        inside(it, link)
        explained(it, link)
        one_pod(it, link)
        bundle(it, link, pathlib.Path(folder))
        refused(it, link, pathlib.Path(folder))


def plugin(folder: pathlib.Path) -> pathlib.Path:
    """The installed version's program, under the name kubectl looks for."""
    (folder / "lamina").write_bytes(release.program("lamina"))
    (folder / "lamina").chmod(0o755)
    link = folder / "kubectl-lamina"
    link.symlink_to(folder / "lamina")
    return link


def called(it: Story, link: pathlib.Path, words: tuple[str, ...], ends: int, seconds: float,
           config: pathlib.Path | None = None) -> tuple[bytes, str]:
    """The plugin's standard output and error; its exit code must be `ends`."""
    env = {**os.environ, "KUBECONFIG": str(config or it.cluster.kubeconfig())}
    done = subprocess.run([str(link), *words, "-n", it.namespace], capture_output=True, timeout=seconds, check=False, env=env)
    error = done.stderr.decode(errors="replace")
    it.check(done.returncode == ends, f"{' '.join(words)} ended with {done.returncode}: {done.stdout[-1500:]!r} {error[-1500:]}")
    return done.stdout, error


def lamina(it: Story, link: pathlib.Path, *words: str, ends: int = 0, seconds: float = 120) -> str:
    """What the plugin prints, errors where it fails."""
    out, error = called(it, link, words, ends, seconds)
    return error if ends else out.decode()


def whole(it: Story, link: pathlib.Path) -> None:
    def status() -> dict:
        return json.loads(lamina(it, link, "status", "-o", "json"))

    def known() -> set[int | None]:
        return {replica.get("nodes") for replica in status()["discovery"]}

    # A node is ready before it has a certificate, which it needs there.
    it.wait("discovery knows every node", lambda: known() == {len(it.cluster.nodes())})
    said = status()
    names = {workload["name"] for workload in said["workloads"]}
    it.check(said["ready"] and len(names) == 5 and "lamina-discovery" in names, f"status: {said}")
    silent = [node for node in said["nodes"] if node.get("problem")]
    it.check(len(said["nodes"]) == len(it.cluster.nodes()) and not silent, f"nodes: {said['nodes']}")
    checks = json.loads(lamina(it, link, "doctor", "-o", "json"))["checks"]
    it.check({"definitions", "driver", "registration", "workloads", "node"} <= {check["check"] for check in checks}, f"doctor: {checks}")
    it.check(all(check["verdict"] != "unknown" for check in checks), f"an administrator could not see: {checks}")
    it.say(f"doctor: {len(checks)} findings")


def inside(it: Story, link: pathlib.Path) -> None:
    base = it.images["base"]
    brought = json.loads(lamina(it, link, "prefetch", base, "--nodes", it.cluster.nodes()[0], "-o", "json", seconds=300))["nodes"]
    it.check([node["bytes_local"] for node in brought] == [node["bytes"] for node in brought] != [0], f"not all is there: {brought}")
    names = lamina(it, link, "ls", f"{base}:/").split()
    it.check({"etc", "usr"} <= set(names), f"ls listed {names}")
    it.check("is a directory" in lamina(it, link, "cat", f"{base}:/etc", ends=2), "cat of a directory says nothing of it")
    lamina(it, link, "cat", f"{base}:/no/such/file", ends=3)


def explained(it: Story, link: pathlib.Path) -> None:
    """Of a pod that reads what is not on its node yet."""
    reference = made.push(it.cluster, f"e2e/{it.namespace}:1", {"blob": made.noise(it.namespace, 8 << 20)})
    it.apply(pod("first", {"lamina.dev/image": reference, "prefetch": "none"}, "sha256sum < /data/blob; sleep 100000", node=it.cluster.nodes()[0]))
    it.running("first")
    it.wait("the pod has read", lambda: bool(it.kubectl("logs", "first").strip()), 60)
    steps = json.loads(lamina(it, link, "explain", "first", "-o", "json"))["steps"]
    whats = [step["what"] for step in steps]
    told = [what for what in whats if what in ("scheduled", "mounted", "started", "first read", "read", "warm", "warming")]
    it.check(told[:5] == ["scheduled", "mounted", "started", "first read", "read"] and told[5:] in (["warm"], ["warming"]), f"explain told {steps}")
    it.check(all("B" in step["detail"] for step in steps[-2:]), f"explain tells nothing of bytes: {steps}")


def one_pod(it: Story, link: pathlib.Path) -> None:
    node = it.cluster.nodes()[0]
    script = "sha256sum /data/usr/bin/dpkg | cut -c1-64; sleep 100000"
    it.apply(pod("reader", {"lamina.dev/image": it.images["base"]}, script, node=node))
    it.running("reader")
    it.wait("the pod has read", lambda: len(it.kubectl("logs", "reader").strip()) == 64, 60)
    direct, _ = called(it, link, ("cat", f"{it.images['base']}:/usr/bin/dpkg"), 0, 120)
    it.check(hashlib.sha256(direct).hexdigest() == it.kubectl("logs", "reader").strip(), "cat prints other bytes than the pod reads")
    volumes = json.loads(lamina(it, link, "top", "volumes", "-o", "json"))["volumes"]
    it.check(f"{it.namespace}/reader" in [volume["pod"] for volume in volumes], f"top volumes: {volumes}")
    it.check(re.search(rf"^ *{node}\s", lamina(it, link, "top"), re.MULTILINE) is not None, "top has no line of the node")
    # The pod has just read it, so the kernel has it in memory.
    resident = [volume["tiers"]["bytes_resident"] for volume in volumes if volume["pod"] == f"{it.namespace}/reader"]
    it.check(bool(resident) and resident[0] is not None, f"nobody says what is in memory: {volumes}")
    for whats in (("top",), ("top", "volumes")):
        it.check("REGISTRY" in lamina(it, link, *whats, "--tiers"), f"{whats} has no tiers")
    lamina(it, link, "explain", "nobody", ends=3)


def bundle(it: Story, link: pathlib.Path, folder: pathlib.Path) -> None:
    it.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"password": SECRET}},
             {"apiVersion": "lamina.dev/v1alpha1", "kind": "Image", "metadata": {"name": "listed"},
              "spec": {"reference": it.images["base"]}})
    out = folder / "report.tar.gz"
    lamina(it, link, "report", "-f", str(out), seconds=300)
    with tarfile.open(out) as tar:
        texts = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    parts = ["README.txt", "images.json", "events.json", *(f"nodes/{node}.metrics.txt" for node in it.cluster.nodes())]
    missing = [part for part in parts if f"lamina-report/{part}" not in texts]
    it.check(not missing, f"the report lacks {missing}: {texts.get('lamina-report/README.txt', b'').decode()}")
    everything = b"".join(texts.values())
    it.check(SECRET.encode() not in everything and b"PRIVATE KEY" not in everything, "the report holds a secret")
    lamina(it, link, "report", "-f", str(out), ends=1, seconds=300)
    it.say(f"report: {len(texts)} files, {out.stat().st_size >> 10} KiB")


def refused(it: Story, link: pathlib.Path, folder: pathlib.Path) -> None:
    said = lamina(it, link, "status", "--system", "nowhere", ends=3)
    it.check("not installed in namespace nowhere" in said, f"status said {said!r}")
    config = yaml.safe_load(it.cluster.kubeconfig().read_text())
    config["users"] = [{**user, "user": {"token": it.kubectl("create", "token", "default").strip()}} for user in config["users"]]
    guest = folder / "guest"
    guest.write_text(yaml.safe_dump(config))
    _, said = called(it, link, ("top",), 4, 120, guest)
    it.check("you may not list pods in lamina-system" in said, f"a guest was told {said!r}")
