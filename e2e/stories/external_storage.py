"""Upstream's external-storage suites of Kubernetes pass as far as a Lamina volume is a volume of theirs.

The suites are those of e2e.test at the cluster's version, linked alone (`e2e/cluster/suites`). What they skip, and
why, is printed with what passes. E2E_FOCUS chooses specs by a regular expression. The full list goes to
target/e2e/external_storage.json; E2E_DOCS=1 writes docs/kubernetes-suites.md from it.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile

import yaml

from e2e.cluster import images, tools
from e2e.release import REPOSITORY
from e2e.story import DRIVER, Story
from e2e.suites import page, results

SECONDS = 1500
CLASS = "lamina-suites"
# Specs run side by side, each share in a process of its own: what it runs, and what of it it leaves to others. The waits of
# some are long, so that one process would take most of an hour.
SHARES = (("subPath should (fail|support restarting)", ""), ("subPath", "subPath should (fail|support restarting)"),
          ("ephemeral|multiVolume|stress", ""), ("", "subPath|ephemeral|multiVolume|stress"))
# Specs that this cluster or the suites' own assumptions keep from passing: a regular expression of the text, and why.
NOT_HERE: dict[str, str] = {
    r"any volume data source": "it runs a volume populator and its validator, whose images come from other projects",
    r"Feature:Windows": "the test cluster has no Windows nodes",
    r"\[Disruptive\]": "it restarts kubelet through ssh, which nodes of the test cluster do not have; the story node_pod_deleted does that",
}
# Specs that ask for what a Lamina volume is not.
NOT_OURS: dict[str, str] = {
    r"retain data across pod recreation": "what is written is dropped with the mount; another pod starts from the image again",
    r"existing directories when readOnly specified in the volumeSource": "one pod makes the directory, another one looks for it",
    r"concurrently access the single volume": "each pod's mount has changes of its own, which other pods do not see",
}


def run(it: Story) -> None:
    tools.build("suites")
    for name, image in images.of_suites(listed()).items():
        it.cluster.load_image(images.make(name, image))
    it.kubectl("apply", "-f", "-", text=yaml.safe_dump(storage_class(it)))
    try:
        with tempfile.TemporaryDirectory(prefix="lamina-suites-") as work:
            found = results.read(shares(it, pathlib.Path(work)))
    finally:
        it.kubectl("delete", "storageclass", CLASS)
    kept = REPOSITORY / "target/e2e/external_storage.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([vars(one) for one in found], indent=1))
    if os.environ.get("E2E_DOCS"):
        (REPOSITORY / "docs/kubernetes-suites.md").write_text(page.text(found, tools.VERSIONS["kubernetes"], {**NOT_HERE, **NOT_OURS}))
    told(it, found)


def listed() -> list[str]:
    """The images the suites may run."""
    said = subprocess.run([tools.program("suites"), "--list-images"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [line.strip() for line in said.splitlines() if "/" in line]


def shares(it: Story, work: pathlib.Path) -> list[pathlib.Path]:
    """Runs all shares side by side; their reports."""
    driver = work / "driver.yaml"
    driver.write_text(yaml.safe_dump(definition(it)))
    chosen = [(os.environ["E2E_FOCUS"], "")] if os.environ.get("E2E_FOCUS") else SHARES
    running, reports = [], []
    for number, (focus, others) in enumerate(chosen):
        skipped = "|".join(filter(None, [*NOT_HERE, *NOT_OURS, others]))
        reports.append(work / f"{number}.json")
        command = [str(tools.program("suites")), f"-kubeconfig={it.cluster.kubeconfig()}", "-provider=local", f"-storage.testdriver={driver}",
                   f"-ginkgo.focus=External.Storage.*({focus})", f"-ginkgo.skip={skipped}", f"-ginkgo.json-report={reports[-1]}", "-ginkgo.no-color",
                   "-ginkgo.timeout=24m", "-dump-logs-on-failure=false"]
        with open(work / f"{number}.log", "w") as log:
            running.append(subprocess.Popen(command, cwd=work, stdout=log, stderr=log))
    for number, process in enumerate(running):
        process.wait(SECONDS)
        said = (work / f"{number}.log").read_text()
        it.check(reports[number].exists(), f"the suites ended with {process.returncode} and no report: {said[-3000:]}")
    return reports


def told(it: Story, found: list) -> None:
    """Says what came out; fails when a spec did."""
    by_state = {state: [one for one in found if one.state == state] for state in ("passed", "failed", "skipped")}
    it.say(", ".join(f"{len(specs)} {state}" for state, specs in by_state.items()))
    for one in by_state["passed"]:
        it.say(f"  passed {one.text}")
    it.check(not by_state["failed"], "\n".join(f"{one.text}: {one.why[-1500:]}" for one in by_state["failed"]))
    it.check(bool(by_state["passed"]), "no spec ran")


def attributes(it: Story) -> dict[str, str]:
    """A volume that can be written to: the suites make files in theirs."""
    return {"lamina.dev/image": it.images["busybox"], "mode": "rw", "overlaySize": "256Mi"}


def storage_class(it: Story) -> dict:
    """The class whose copies the suites use."""
    return {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS}, "provisioner": DRIVER,
            "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate", "parameters": attributes(it)}


def definition(it: Story) -> dict:
    """What the driver claims, in the suites' terms.

    No persistence: what is written belongs to one mount. Waits are shorter than the suites' own, which are for clouds.
    """
    return {
        "DriverInfo": {
            "Name": DRIVER, "SupportedSizeRange": {"Min": "1Mi"}, "RequiredAccessModes": ["ReadWriteOnce"],
            "Capabilities": {
                "persistence": False, "block": False, "fsGroup": False, "exec": True, "multipods": True, "RWX": False,
                "topology": False, "volumeLimits": False, "snapshotDataSource": False, "pvcDataSource": False,
                "controllerExpansion": False, "nodeExpansion": False, "readWriteOncePod": True, "capReadOnlyMany": True,
                "multiplePVsSameID": True},
            "StressTestOptions": {"NumPods": 10, "NumRestarts": 3},
        },
        "StorageClass": {"FromExistingClassName": CLASS},
        "InlineVolumes": [{"Attributes": attributes(it), "Shared": False, "ReadOnly": False}],
        "Timeouts": {"PodStart": "2m", "PodStartShort": "1m", "PodStartSlow": "3m", "PodDelete": "1m", "ClaimProvision": "1m",
                     "ClaimProvisionShort": "1m", "ClaimBound": "1m", "PVBound": "1m", "PVDelete": "1m", "PVDeleteSlow": "2m"},
    }
