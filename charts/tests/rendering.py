"""The chart as helm renders it."""

import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts/lamina"


@functools.cache
def helm() -> pathlib.Path | None:
    """helm: the one named by HELM, the cluster's pinned build, or the machine's own; nothing where there is none."""
    if named := os.environ.get("HELM"):
        return pathlib.Path(named)
    try:
        from e2e.cluster import tools

        return tools.program("helm")
    except (ImportError, FileNotFoundError):
        found = shutil.which("helm")
        return pathlib.Path(found) if found else None


def run(*words: str, **values) -> subprocess.CompletedProcess:
    """`helm WORDS` with values of the chart changed; skips the test where there is no helm."""
    if helm() is None:
        raise unittest.SkipTest("helm is missing: run make cluster-tools, or put it into PATH")
    text = yaml.safe_dump(values)
    command = [helm(), *words, "--kube-version", "1.36.0", "--values", "-"]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False)


def template(**values) -> list[dict]:
    """Every object of the chart in release `lamina`, namespace `lamina-system`."""
    done = run("template", "lamina", str(CHART), "--namespace", "lamina-system", **values)
    if done.returncode:
        raise AssertionError(done.stderr)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def refusal(**values) -> str:
    """What helm says against these values."""
    done = run("template", "lamina", str(CHART), "--namespace", "lamina-system", **values)
    if not done.returncode:
        raise AssertionError(f"accepted: {values}")
    return done.stderr


def notes(**values) -> str:
    """What `helm install` says at its end: rendered as an object, as helm shows notes only where there is a cluster."""
    with tempfile.TemporaryDirectory(prefix="lamina-chart-") as folder:
        chart = pathlib.Path(folder) / "lamina"
        shutil.copytree(CHART, chart)
        (chart / "templates/NOTES.txt").rename(chart / "notes.txt")
        (chart / "templates/notes.yaml").write_text(NOTES)
        done = run("template", "lamina", str(chart), "--namespace", "lamina-system", "--show-only", "templates/notes.yaml", **values)
    if done.returncode:
        raise AssertionError(done.stderr)
    return yaml.safe_load(done.stdout)["data"]["notes"]


NOTES = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data:
  notes: {{ tpl (.Files.Get "notes.txt") . | toJson }}
"""


def find(objects: list[dict], kind: str, name: str) -> dict:
    """The object of this kind and name."""
    for item in objects:
        if (item["kind"], item["metadata"]["name"]) == (kind, name):
            return item
    raise AssertionError(f"no {kind} {name} among {sorted((item['kind'], item['metadata']['name']) for item in objects)}")


def having(objects: list[dict], kind: str) -> list[dict]:
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def applied(objects: list[dict]) -> list[dict]:
    """What the hook applies after installing."""
    config = find(objects, "ConfigMap", "lamina-cluster")
    return [item for item in yaml.safe_load_all(config["data"]["cluster.yaml"]) if item]
