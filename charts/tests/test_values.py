"""Wrong values are refused with text that says where and why; right ones are taken."""

import json
import re
import unittest

import yaml

from scripts import values_doc

from . import rendering

# What is wrong, and words that the refusal must hold: the place, and what would be right.
WRONG = [
    ({"imgae": {"tag": "1"}}, ["imgae"]),
    ({"image": {"tagg": "1"}}, ["/image", "tagg"]),
    ({"image": {"tag": "a b"}}, ["/image/tag", "pattern"]),
    ({"image": {"tag": 1.5}}, ["/image/tag", "string"]),
    ({"image": {"digest": "sha256:12"}}, ["/image/digest", "sha256"]),
    ({"image": {"pullPolicy": "Sometimes"}}, ["/image/pullPolicy", "IfNotPresent"]),
    ({"image": {"repository": "Registry.example/Lamina:1 "}}, ["/image/repository"]),
    ({"image": {"pullSecrets": "mine"}}, ["/image/pullSecrets", "array"]),
    ({"image": {"pullSecrets": [{"name": "mine"}]}}, ["/image/pullSecrets/0", "string"]),
    ({"logLevel": "loud"}, ["/logLevel", "debug"]),
    ({"kubeletDir": "var/lib/kubelet"}, ["/kubeletDir"]),
    ({"kubeletDir": "/var/lib/kubelet/"}, ["/kubeletDir"]),
    ({"stores": [{"name": "main"}]}, ["/stores/0", "url"]),
    ({"stores": [{"name": "main", "url": "s3://key:secret@bucket"}]}, ["/stores/0/url"]),
    ({"stores": [{"name": "Main", "url": "s3://bucket"}]}, ["/stores/0/name"]),
    ({"stores": [{"name": "main", "url": "ftp://bucket"}]}, ["/stores/0/url"]),
    ({"operator": {"replicas": 0}}, ["/operator/replicas", "minimum"]),
    ({"operator": {"replicas": "two"}}, ["/operator/replicas", "integer"]),
    ({"controller": {"replicas": 9}}, ["/controller/replicas", "maximum"]),
    ({"discovery": {"replicas": 0}}, ["/discovery/replicas", "minimum"]),
    ({"discovery": {"enabled": "yes"}}, ["/discovery/enabled", "boolean"]),
    ({"execution": {"enabled": "yes"}}, ["/execution/enabled", "boolean"]),
    ({"execution": {"afslet": {"timeoutMax": "soon"}}}, ["/execution/afslet/timeoutMax"]),
    ({"execution": {"proxy": {"replicas": 0}}}, ["/execution/proxy/replicas", "minimum"]),
    ({"discovery": {"ttl": "2s"}}, ["/discovery/ttl"]),
    ({"discovery": {"ttl": "soon"}}, ["/discovery/ttl"]),
    ({"tls": {"certManager": {"issuerRef": "corporate"}}}, ["/tls/certManager/issuerRef", "object"]),
    ({"tls": {"certManager": {"issuerRef": {"name": "Corporate CA"}}}}, ["/tls/certManager/issuerRef/name"]),
    ({"tls": {"authoritySecret": "a/b"}}, ["/tls/authoritySecret"]),
    ({"node": {"resources": {"limit": {}}}}, ["/node/resources", "limit"]),
    ({"node": {"resources": {"limits": {"memory": "lots"}}}}, ["/node/resources/limits/memory"]),
    ({"node": {"cacheBytesMax": "100 GB"}}, ["/node/cacheBytesMax"]),
    ({"node": {"cacheBytesMax": 0}}, ["/node/cacheBytesMax"]),
    ({"node": {"insecureRegistries": ["http://registry:5000"]}}, ["/node/insecureRegistries/0"]),
    ({"node": {"tolerations": [{"op": "Exists"}]}}, ["/node/tolerations/0", "op"]),
    ({"node": {"env": [{"name": "1A", "value": "x"}]}}, ["/node/env/0/name"]),
    ({"csi": {"priorityClassName": "Very High"}}, ["/csi/priorityClassName"]),
    ({"storageClass": {"reclaimPolicy": "Recycle"}}, ["/storageClass/reclaimPolicy", "Retain"]),
    ({"storageClass": {"parameters": {"modee": "rw"}}}, ["/storageClass/parameters", "modee"]),
    ({"storageClass": {"parameters": {"mode": "rwx"}}}, ["/storageClass/parameters/mode", "rw"]),
    ({"storageClass": {"parameters": {"lamina.dev/image": "a", "lamina.dev/flist": "b"}}}, ["/storageClass/parameters"]),
    ({"crds": {"keep": "yes"}}, ["/crds/keep", "boolean"]),
    ({"networkPolicy": {"apiServerPorts": []}}, ["/networkPolicy/apiServerPorts", "minItems"]),
    ({"networkPolicy": {"apiServerPorts": [70000]}}, ["/networkPolicy/apiServerPorts/0", "maximum"]),
    ({"monitoring": {"podMonitor": {"interval": "30"}}}, ["/monitoring/podMonitor/interval"]),
    ({"monitoring": {"prometheusRule": {"runbookBaseUrl": "docs"}}}, ["/monitoring/prometheusRule/runbookBaseUrl"]),
    ({"install": {"timeoutSeconds": "5m"}}, ["/install/timeoutSeconds", "integer"]),
    ({"example": {"podImage": ""}}, ["/example/podImage"]),
]


class Values(unittest.TestCase):
    def test_wrong_values_are_refused_with_the_place_and_the_reason(self):
        for values, words in WRONG:
            with self.subTest(values=values):
                said = rendering.refusal(**values)
                for word in words:
                    self.assertIn(word, said.replace("'/", "/").replace(".", "/") if word.startswith("/") else said)

    def test_other_right_values_are_taken(self):
        rendering.template(
            image={"digest": "sha256:" + "0" * 64, "pullSecrets": ["mine"]}, kubeletDir="/var/lib/k0s/kubelet",
            stores=[{"name": "main", "url": "s3://bucket/packs?region=x", "secretName": "keys", "shardRange": "00-7f"}],
            node={"cacheBytesMax": 10737418240, "resources": {"limits": {"cpu": 2, "memory": "1.5Gi"}}, "insecureRegistries": ["10.0.0.1:5000"]},
            storageClass={"parameters": {"lamina.dev/image": "a/b:1", "mode": "rw", "overlaySize": "2Gi"}}, startupTaint="lamina.dev/starting",
        )

    def test_every_default_is_described_and_every_description_has_a_default(self):
        schema = json.loads((rendering.CHART / "values.schema.json").read_text())
        values = yaml.safe_load((rendering.CHART / "values.yaml").read_text())
        rows = values_doc.rows(schema, values)
        for row in rows:
            self.assertTrue(row.description, row.path)
            self.assertTrue(row.description.endswith("."), row.path)
        described = {row.path for row in rows}
        self.assertEqual(set(values_doc.leaves(values)) - described, set())

    def test_every_value_is_used_by_a_template(self):
        text = "\n".join(path.read_text() for path in (rendering.CHART / "templates").rglob("*") if path.is_file())
        schema = json.loads((rendering.CHART / "values.schema.json").read_text())
        for path in values_doc.paths(schema):
            if path != "global" and not path.startswith("storageClass.parameters."):
                name = path.rpartition(".")[2]
                self.assertTrue(re.search(rf"\.{name}\b", text), f"no template uses {path}")

    def test_the_page_of_values_is_current(self):
        page = rendering.REPOSITORY / "docs/values.md"
        self.assertEqual(page.read_text(), values_doc.page(), "run scripts/values_doc.py")


if __name__ == "__main__":
    unittest.main()
