"""What the chart renders: everything people switch on, and what must always hold."""

import re
import unittest

import yaml

from . import rendering
from .rendering import applied, find, having, template

EVERYTHING = {
    "image": {"pullSecrets": ["mine"]},
    "startupTaint": "lamina.dev/starting",
    "stores": [{"name": "main", "url": "s3://bucket/packs", "secretName": "keys"}, {"name": "more", "url": "gs://bucket"}],
    "networkPolicy": {"enabled": True},
    "monitoring": {kind: {"enabled": True} for kind in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboard")},
}


def pods(objects: list[dict]) -> dict[str, dict]:
    """Pod specs by the object they are in."""
    found = {}
    for item in objects:
        spec = item if item["kind"] == "Pod" else item.get("spec", {}).get("template", {})
        if "containers" in spec.get("spec", {}):
            found[f"{item['kind']} {item['metadata']['name']}"] = spec["spec"]
    return found


class Rendered(unittest.TestCase):
    def test_lint_has_nothing_to_say(self):
        done = rendering.run("lint", "--strict", str(rendering.CHART))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_names_and_namespaces_are_unique_and_right(self):
        objects = template(**EVERYTHING)
        names = [(item["kind"], item["metadata"]["name"]) for item in objects]
        self.assertEqual(len(names), len(set(names)))
        free = {"ClusterRole", "ClusterRoleBinding", "CSIDriver", "StorageClass", "CustomResourceDefinition"}
        for item in objects:
            with self.subTest(kind=item["kind"], name=item["metadata"]["name"]):
                self.assertEqual(item["metadata"].get("namespace"), None if item["kind"] in free else "lamina-system")
                self.assertEqual(item["metadata"]["labels"]["app.kubernetes.io/part-of"], "lamina")

    def test_every_pod_of_the_chart_meets_the_restricted_standard(self):
        found = pods(template(**EVERYTHING))
        self.assertEqual(set(found), {"Deployment lamina-operator", "Job lamina-apply", "Job lamina-cleanup", "Pod lamina-test"})
        for name, pod in found.items():
            with self.subTest(name):
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertEqual(pod["imagePullSecrets"], [{"name": "mine"}])
                for key in ("hostNetwork", "hostPID", "hostIPC"):
                    self.assertNotIn(key, pod)
                for container in pod["containers"]:
                    limits = container["securityContext"]
                    self.assertEqual((limits["allowPrivilegeEscalation"], limits["capabilities"]), (False, {"drop": ["ALL"]}))
                    self.assertTrue(limits["readOnlyRootFilesystem"])
                for volume in pod.get("volumes", []):
                    self.assertNotIn("hostPath", volume)

    def test_csidriver_has_the_fields_that_can_never_change(self):
        spec = find(template(), "CSIDriver", "csi.lamina.dev")["spec"]
        self.assertEqual(spec, {"attachRequired": False, "podInfoOnMount": True, "fsGroupPolicy": "None",
                                "volumeLifecycleModes": ["Persistent", "Ephemeral"]})

    def test_inline_volumes_are_for_pods_of_every_security_profile(self):
        # Kubernetes admits CSI volumes under the profile `restricted`; OpenShift asks the driver's label as well.
        labels = find(template(), "CSIDriver", "csi.lamina.dev")["metadata"]["labels"]
        self.assertEqual(labels["security.openshift.io/csi-ephemeral-volume-profile"], "restricted")

    def test_definitions_are_kept_when_the_release_goes(self):
        definitions = having(template(), "CustomResourceDefinition")
        self.assertEqual(len(definitions), 5)
        for crd in definitions:
            self.assertEqual(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        for crd in having(template(crds={"keep": False}), "CustomResourceDefinition"):
            self.assertNotIn("helm.sh/resource-policy", crd["metadata"].get("annotations", {}))
        self.assertEqual(having(template(crds={"install": False}), "CustomResourceDefinition"), [])

    def test_no_object_of_the_release_is_of_a_kind_it_defines(self):
        self.assertEqual([item["kind"] for item in template(**EVERYTHING) if item["apiVersion"].startswith("lamina.dev/")], [])

    def test_the_hook_applies_the_namespace_the_stores_and_the_cluster(self):
        objects = applied(template(**EVERYTHING))
        self.assertEqual([item["kind"] for item in objects], ["Namespace", "Store", "Store", "LaminaCluster"])
        self.assertEqual(objects[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged")
        self.assertEqual(objects[1]["spec"], {"url": "s3://bucket/packs", "secretRef": {"name": "keys"}})
        spec = objects[-1]["spec"]
        self.assertEqual(spec["stores"], ["main", "more"])
        self.assertEqual(spec["image"], f"registry.lamina.dev/lamina:{version()}")
        self.assertEqual(spec["imagePullSecrets"], [{"name": "mine"}])
        self.assertEqual(applied(template(podSecurity={"labelNamespace": False}))[0]["kind"], "LaminaCluster")

    def test_values_reach_the_cluster(self):
        spec = applied(template(node={"cacheBytesMax": "200Gi", "layersBytesMax": "1Ti", "resources": {"limits": {"cpu": 2}}}, kubeletDir="/k", logLevel="debug",
                                controller={"replicas": 1}, image={"digest": "sha256:" + "a" * 64}))[-1]["spec"]
        self.assertEqual(spec["node"]["cacheBytesMax"], "200Gi")
        self.assertEqual(spec["node"]["layersBytesMax"], "1Ti")
        self.assertEqual(spec["node"]["kubeletDir"], "/k")
        self.assertEqual(spec["node"]["placement"]["limits"], {"cpu": "2", "memory": "2Gi"})
        self.assertEqual(spec["controller"]["replicas"], 1)
        self.assertEqual(spec["image"], "registry.lamina.dev/lamina@sha256:" + "a" * 64)

    def test_discovery_is_on_unless_it_is_not_wanted(self):
        spec = applied(template())[-1]["spec"]["discovery"]
        self.assertEqual((spec["enabled"], spec["replicas"], spec["ttl"]), (True, 2, "30s"))
        self.assertEqual(spec["placement"]["limits"], {"memory": "2Gi"})
        spec = applied(template(discovery={"enabled": False, "replicas": 3, "ttl": "2m"}))[-1]["spec"]["discovery"]
        self.assertEqual((spec["enabled"], spec["replicas"], spec["ttl"]), (False, 3, "2m"))
        self.assertIs(find(template(), "ServiceAccount", "lamina-discovery")["automountServiceAccountToken"], False)
        monitors = {"serviceMonitor": {"enabled": True}}
        names = [item["metadata"]["name"] for item in having(template(monitoring=monitors), "ServiceMonitor")]
        self.assertEqual(names, ["lamina-operator", "lamina-discovery"])
        names = [item["metadata"]["name"] for item in having(template(monitoring=monitors, discovery={"enabled": False}), "ServiceMonitor")]
        self.assertEqual(names, ["lamina-operator"])

    def test_commands_are_run_only_where_that_is_wanted(self):
        objects = template(networkPolicy={"enabled": True})
        self.assertIs(applied(objects)[-1]["spec"]["execution"]["enabled"], False)
        kinds = [item["kind"] for item in objects if item["metadata"]["name"] in ("lamina-afslet", "lamina-proxy")]
        self.assertEqual(kinds, [])
        afslet = {"cpus": 8, "memory": "16Gi", "nodeSelector": {"runs": "yes"}}
        objects = template(execution={"enabled": True, "afslet": afslet, "proxy": {"replicas": 3}}, networkPolicy={"enabled": True},
                           monitoring={"serviceMonitor": {"enabled": True}})
        spec = applied(objects)[-1]["spec"]["execution"]
        self.assertEqual((spec["afslet"]["cpus"], spec["afslet"]["memory"], spec["proxy"]["replicas"]), (8, "16Gi", 3))
        self.assertEqual(spec["afslet"]["placement"]["nodeSelector"], {"kubernetes.io/os": "linux", "runs": "yes"})
        for name in ("lamina-afslet", "lamina-proxy"):
            self.assertIs(find(objects, "ServiceAccount", name)["automountServiceAccountToken"], False)
            find(objects, "ServiceMonitor", name)
        policy = find(objects, "NetworkPolicy", "lamina-afslet")["spec"]
        from_proxies = [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "lamina", "app.kubernetes.io/component": "proxy"}}}]
        self.assertIn({"ports": [{"port": "grpc", "protocol": "TCP"}], "from": from_proxies}, policy["ingress"])
        self.assertEqual(policy["egress"], [])
        objects = template(execution={"enabled": True, "afslet": {"allowHostNetwork": True}}, networkPolicy={"enabled": True})
        self.assertIn({}, find(objects, "NetworkPolicy", "lamina-afslet")["spec"]["egress"])

    def test_commands_take_their_way_through_the_policies(self):
        def port(number: int) -> dict:
            return {"ports": [{"port": number, "protocol": "TCP"}]}

        watchers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
        for enabled in (True, False):
            objects = template(execution={"enabled": enabled}, networkPolicy={"enabled": True, "metricsFrom": watchers})
            egress = find(objects, "NetworkPolicy", "lamina-operator")["spec"]["egress"]
            self.assertEqual(port(7180) in egress, enabled)
        objects = template(execution={"enabled": True}, networkPolicy={"enabled": True, "metricsFrom": watchers})
        policy = find(objects, "NetworkPolicy", "lamina-proxy")["spec"]
        # Whoever has commands run, from any namespace: it asks for certificates.
        self.assertIn({"ports": [{"port": "grpc", "protocol": "TCP"}]}, policy["ingress"])
        reached = {one["port"] for rule in policy["egress"] for one in rule["ports"]}
        self.assertEqual(reached, {53, 7170, 7070, 7150})
        for name in ("lamina-afslet", "lamina-proxy"):
            rules = find(objects, "NetworkPolicy", name)["spec"]["ingress"]
            self.assertIn({"ports": [{"port": "metrics", "protocol": "TCP"}], "from": watchers}, rules)

    def test_figures_of_afslets_say_of_which_node_they_are(self):
        objects = template(execution={"enabled": True}, monitoring={"serviceMonitor": {"enabled": True}})
        endpoint = find(objects, "ServiceMonitor", "lamina-afslet")["spec"]["endpoints"][0]
        self.assertEqual(endpoint["relabelings"], [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}])
        self.assertNotIn("relabelings", find(objects, "ServiceMonitor", "lamina-proxy")["spec"]["endpoints"][0])

    def test_nodes_reach_who_signs_and_discovery_through_the_policies(self):
        objects = template(networkPolicy={"enabled": True, "metricsFrom": [{"podSelector": {}}]})
        for name, port in (("operator", "certificates"), ("discovery", "grpc")):
            rules = find(objects, "NetworkPolicy", f"lamina-{name}")["spec"]["ingress"]
            # Without `from`: node servers have the addresses of their nodes, which no selector knows.
            self.assertIn({"ports": [{"port": port, "protocol": "TCP"}]}, rules)
            self.assertIn({"ports": [{"port": "metrics", "protocol": "TCP"}], "from": [{"podSelector": {}}]}, rules)
        ports = find(objects, "Service", "lamina-operator")["spec"]["ports"]
        self.assertIn({"name": "certificates", "port": 7160, "targetPort": "certificates"}, ports)

    def test_the_authority_is_the_operators_own_unless_somebody_else_makes_one(self):
        objects = template()
        self.assertNotIn("authoritySecret", applied(objects)[-1]["spec"])
        self.assertEqual(having(objects, "Certificate"), [])
        objects = template(tls={"certManager": {"issuerRef": {"name": "corporate", "kind": "ClusterIssuer"}}})
        certificate = find(objects, "Certificate", "lamina-given-ca")["spec"]
        self.assertIs(certificate["isCA"], True)
        self.assertEqual(certificate["privateKey"]["encoding"], "PKCS8")
        self.assertEqual(certificate["issuerRef"], {"name": "corporate", "kind": "ClusterIssuer", "group": "cert-manager.io"})
        self.assertEqual(applied(objects)[-1]["spec"]["authoritySecret"], {"name": certificate["secretName"]})
        self.assertEqual(applied(template(tls={"authoritySecret": "mine"}))[-1]["spec"]["authoritySecret"], {"name": "mine"})
        said = rendering.refusal(tls={"authoritySecret": "mine", "certManager": {"issuerRef": {"name": "corporate"}}})
        self.assertIn("exclude each other", said)

    def test_budgets_exist_only_for_several_replicas(self):
        self.assertEqual({item["metadata"]["name"] for item in having(template(), "PodDisruptionBudget")}, {"lamina-operator", "lamina-controller"})
        self.assertEqual(having(template(operator={"replicas": 1}, controller={"replicas": 1}), "PodDisruptionBudget"), [])

    def test_monitoring_is_off_unless_asked_for(self):
        kinds = {item["kind"] for item in template()}
        self.assertEqual(kinds & {"PodMonitor", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"}, set())
        kinds = {item["kind"] for item in template(**EVERYTHING)}
        self.assertLessEqual({"PodMonitor", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"}, kinds)

    def test_every_alert_has_a_runbook_in_the_documents(self):
        page = (rendering.REPOSITORY / "docs/kubernetes.md").read_text()
        anchors = {line.lstrip("#").strip().lower() for line in page.splitlines() if line.startswith("#")}
        rules = find(template(**EVERYTHING), "PrometheusRule", "lamina")["spec"]["groups"][0]["rules"]
        self.assertGreaterEqual(len(rules), 6)
        for rule in rules:
            self.assertIn(rule["annotations"]["runbook_url"].rpartition("#")[2], anchors)
            self.assertIn("{{", rule["annotations"]["summary"] + rule["annotations"]["description"] + "{{")

    def test_the_pod_in_the_notes_is_one_that_can_be_pasted(self):
        pod = yaml.safe_load(pasted(rendering.notes()))
        self.assertEqual(pod["spec"]["volumes"][0]["csi"]["driver"], "csi.lamina.dev")

    def test_the_release_notes_fit_a_terminal(self):
        self.assertLessEqual(max(map(len, rendering.notes().splitlines())), 120)

    def test_default_container_image_is_of_this_version(self):
        self.assertEqual(find(template(), "Deployment", "lamina-operator")["spec"]["template"]["spec"]["containers"][0]["image"],
                         f"registry.lamina.dev/lamina:{version()}")


def pasted(notes: str) -> str:
    """The text between the notes' `<<'EOF'` and `EOF`."""
    return re.search(r"<<'EOF'\n(.*?)\nEOF\n", notes, re.DOTALL)[1]


def version() -> str:
    """The chart's version."""
    return yaml.safe_load((rendering.CHART / "Chart.yaml").read_text())["appVersion"]


class Metrics(unittest.TestCase):
    def test_alerts_and_dashboard_ask_for_metrics_that_exist(self):
        code = "".join(path.read_text() for folder in ("nodeagent/src", "operator/src", "csi-driver/src", "discovery/src", "afslet/src", "proxy/src")
                       for path in (rendering.REPOSITORY / folder).rglob("*.rs"))
        asked = "".join((rendering.CHART / "files" / name).read_text() for name in ("alerts.yaml", "dashboard.json"))
        names = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\blamina_[a-z_]+", asked)}
        self.assertEqual([name for name in sorted(names) if f'"{name}"' not in code], [])


class Versions(unittest.TestCase):
    def test_chart_and_workspace_have_the_same_version(self):
        from scripts import image

        chart = yaml.safe_load((rendering.CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (image.version(), image.version()))


if __name__ == "__main__":
    unittest.main()
