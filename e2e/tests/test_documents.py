"""What documents list is what the programs have: metrics, events, conditions, reasons, and the texts of errors."""

import functools
import json
import pathlib
import re
import unittest

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
# Whose events, conditions and metrics these are.
CLUSTER = ("operator/src", "csi-driver/src", "nodeagent/src/node")
# Texts of kubelet, helm, the kernel, which people meet because of us.
FOREIGN = {
    "values don't meet the specifications of the schema(s)", "timed out waiting for the condition", "Job lamina-apply failed",
    'violates PodSecurity "restricted"', "pre-delete hooks failed: … job lamina-cleanup failed",
    "driver name csi.lamina.dev not found in the list of registered CSI drivers", "MountVolume.SetUp failed … Aborted",
    "Input/output error",
}
# States and files that stand where a text does.
NO_TEXTS = {"degraded", "detached", "lamina mounts", "lamina umount", "holder.lock is held by another process"}


@functools.cache
def shipped(folder: str) -> str:
    """Rust code without its tests."""
    texts = []
    for path in sorted((REPOSITORY / folder).rglob("*.rs")):
        if not {"tests.rs", "fake.rs", "testing.rs", "tests"} & set(path.parts):
            texts.append(re.split(r"^#\[cfg\(test\)\]\nmod tests \{", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0])
    return "\n".join(texts)


def found(pattern: str, *folders: str) -> set[str]:
    return {name for folder in folders for name in re.findall(pattern, shipped(folder))}


def section(page: str, heading: str, rank: str = "##") -> str:
    """A page's text below a heading, up to the next of its rank."""
    text = (DOCS / page).read_text()
    return re.split(rf"^{rank} {heading}\n", text, flags=re.MULTILINE)[1].split(f"\n{rank} ")[0]


def column(text: str, number: int) -> set[str]:
    """The names in code marks in a column of a section's table."""
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`(\w+)(?:\{[^}]*\})?`", row[number].lstrip("| "))}


class Metrics(unittest.TestCase):
    def test_every_metric_is_listed_and_exists(self):
        real = found(r'"(lamina_[a-z_]+)"', *CLUSTER)
        self.assertGreater(len(real), 10)
        listed = column(section("metrics.md", "The node server"), 0) | column(section("metrics.md", "The operator"), 0)
        self.assertEqual(listed, real)

    def test_every_metric_of_a_service_with_its_own_page_is_listed_and_exists(self):
        for page, rank, folder in (("discovery.md", "##", "discovery/src"), ("afslet.md", "##", "afslet/src"), ("proxy.md", "###", "proxy/src")):
            with self.subTest(page=page):
                self.assertEqual(column(section(page, "Metrics", rank), 0), found(r'"(lamina_[a-z_]+)"', folder))

    def test_cluster_services_have_alerts_and_panels(self):
        files = REPOSITORY / "charts/lamina/files"
        alerts, dashboard = ((files / name).read_text() for name in ("alerts.yaml", "dashboard.json"))
        for name in ("lamina_discovery_nodes", "lamina_layers_bytes", "lamina_layers_evicted_total", "lamina_served_refused_total",
                     "lamina_served_stalled_total", "lamina_node_certificate_not_after_seconds"):
            self.assertIn(name, alerts)
            self.assertIn(name, dashboard)
        # Wrong bytes of a peer are nothing to draw, and something to hear of.
        self.assertIn('increase(lamina_peer_requests_total{outcome="wrong"}[', alerts)
        for name in ("lamina_fetched_bytes_total", "lamina_waited_bytes_total", "lamina_resident_bytes", "lamina_prefetched_bytes_total",
                     "lamina_prefetched_used_bytes_total", "lamina_layers_pulled_total", "lamina_served_bytes_total"):
            self.assertIn(name, dashboard)

    def test_services_of_commands_have_alerts_and_panels(self):
        files = REPOSITORY / "charts/lamina/files"
        alerts, dashboard = ((files / name).read_text() for name in ("alerts.yaml", "dashboard.json"))
        for name in ("lamina_afslet_startup_seconds", "lamina_afslet_refused_total", "lamina_proxy_afslets", "lamina_proxy_runs_total",
                     "lamina_proxy_runs_ended_total"):
            self.assertIn(name, alerts)
        # Versions are nothing to draw; what there is in all, each afslet says of itself; pulls are counted where they are done.
        left_out = {"lamina_afslet_info", "lamina_proxy_info", "lamina_proxy_cpu_cores", "lamina_proxy_memory_mebibytes", "lamina_proxy_pulls_total"}
        real = found(r'"(lamina_[a-z_]+)"', "afslet/src", "proxy/src")
        self.assertEqual({name for name in real if not re.search(rf"\b{name}(_bucket)?\b", dashboard)}, left_out)

    def test_panels_do_not_overlap(self):
        panels = json.loads((REPOSITORY / "charts/lamina/files/dashboard.json").read_text())["panels"]
        self.assertEqual([panel["id"] for panel in panels], list(range(1, len(panels) + 1)))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
        self.assertEqual(len(set(places)), len(places))

    def test_alerts_and_dashboard_use_metrics_that_exist(self):
        real = found(r'"(lamina_[a-z_]+)"', *CLUSTER, "discovery/src", "afslet/src", "proxy/src")
        for path in (REPOSITORY / "charts/lamina/files").iterdir():
            used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\blamina_[a-z_]+", path.read_text())}
            self.assertTrue(used)
            self.assertEqual(used - real, set(), path.name)


class Attributes(unittest.TestCase):
    def test_every_attribute_is_in_the_pages_and_the_schema_of_values(self):
        code = (REPOSITORY / "csi-driver/src/attributes.rs").read_text()
        keys = set(re.findall(r'^(?:pub )?const [A-Z_]+: &str = "([\w./]+)";', code, re.MULTILINE))
        self.assertGreaterEqual(len(keys), 9)
        schema = json.loads((REPOSITORY / "charts/lamina/values.schema.json").read_text())
        self.assertEqual(set(schema["properties"]["storageClass"]["properties"]["parameters"]["properties"]), keys)
        for text in ((DOCS / "volume-attributes.md").read_text(), section("kubernetes.md", "Volume attributes")):
            self.assertEqual(set(re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE)) & keys, keys)


    def test_examples_use_attributes_that_exist(self):
        listed = column(section("kubernetes.md", "Volume attributes"), 0) | {"lamina.dev/image", "lamina.dev/flist"}
        blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "volume-attributes.md").read_text(), re.DOTALL | re.MULTILINE)
        self.assertGreaterEqual(len(blocks), 2)
        for block in map(yaml.safe_load, blocks):
            given = block.get("parameters") or block["volumes"][0]["csi"]["volumeAttributes"]
            self.assertEqual({key for key in given if not key.startswith("csi.storage.k8s.io/")} - listed, set())


class Events(unittest.TestCase):
    def test_every_event_is_listed_and_exists(self):
        said = found(r'EventType::\w+,\s*"(\w+)"', "operator/src") | found(r'reason: "(\w+)"', "csi-driver/src")
        said |= found(r'"(Provisioning\w+)"', "csi-driver/src")
        self.assertEqual(column(section("events.md", "Events"), 1), said)

    def test_every_condition_is_listed_and_exists(self):
        said = found(r'said\s*\.(?:yes|no)\(\s*"(\w+)"', "operator/src") | {"Reachable"}
        self.assertEqual(column(section("events.md", "Conditions"), 1), said)

    def test_every_reason_is_listed_and_exists(self):
        real = found(r'(?:Fault|Self)::new\(\s*"([A-Z]\w+)"', "operator/src") | found(r'reason: "(\w+)"', "operator/src")
        # Of what nobody knows, of refusals of runs, and of what is missing for a Job.
        real |= found(r'said\.unknown\(\s*kind,\s*"(\w+)"', "operator/src") | found(r'=> fault\("(\w+)"', "operator/src/job")
        real |= found(r'missing\("(\w+)"', "operator/src/job")
        self.assertGreater(len(real), 20)
        self.assertEqual(column(section("events.md", "Reasons"), 0), real)


class Texts(unittest.TestCase):
    """Errors are found by their text, so the text has to be the one that is printed."""

    @staticmethod
    @functools.cache
    def printed() -> str:
        folders = [path.parent / "src" for path in REPOSITORY.glob("*/Cargo.toml")]
        code = "\n".join(shipped(str(folder.relative_to(REPOSITORY))) for folder in sorted(folders))
        # Lines that a backslash joins are one text.
        return re.sub(r"\\\n\s*", "", code).replace('\\"', '"')

    def missing(self, text: str) -> list[str]:
        """The parts of a text, between what stands for anything, that no program prints."""
        # Names that programs keep in one place and put into their texts.
        text = re.sub(r"lamina\.dev/\w+|attribute \w+|\.dockerconfigjson|\bpassword\b", "…", text)
        parts = re.split(r'…|[;:]|"[^"]*"|\b[A-Z]{2,}\b|\bX\b|\d+|`[^`]*`', text)
        whole = self.printed()
        return [part for part in (part.strip(" :,;.") for part in parts) if len(part) > 5 and part not in whole]

    def test_every_text_of_the_troubleshooting_pages_is_printed(self):
        for page in ("troubleshooting.md", "kubernetes.md"):
            heads = re.findall(r"^\*\*(`.*)$", (DOCS / page).read_text(), re.MULTILINE)
            self.assertGreater(len(heads), 8)
            for head in heads:
                for text in re.findall(r"`([^`]+)`", " ".join(re.findall(r"\*\*(.+?)\*\*", head))):
                    if text not in FOREIGN | NO_TEXTS:
                        with self.subTest(page=page, text=text):
                            self.assertEqual(self.missing(text), [])

    def test_every_text_of_the_volume_errors_is_printed(self):
        texts = re.findall(r"^\| `([^`]+)` \|", section("volume-attributes.md", "Errors"), re.MULTILINE)
        self.assertGreater(len(texts), 10)
        for text in texts:
            with self.subTest(text=text):
                self.assertEqual(self.missing(text), [])


if __name__ == "__main__":
    unittest.main()
