"""Configurations agree with the plan, and with each other."""

import ipaddress
import json
import pathlib
import tempfile
import tomllib
import unittest

from e2e.cluster import addons, config, control, local, node, pki, plan
from e2e.cluster.plan import Plan

CLUSTER = Plan(pathlib.Path("/state"))
FIRST, SECOND = CLUSTER.nodes


class Addresses(unittest.TestCase):
    def test_ranges_of_nodes_pods_and_services_are_apart(self):
        texts = (FIRST.pods, SECOND.pods, plan.SERVICE_RANGE, f"{plan.GATEWAY}/24")
        ranges = [ipaddress.ip_network(text, strict=False) for text in texts]
        for number, one in enumerate(ranges):
            for other in ranges[number + 1:]:
                self.assertFalse(one.overlaps(other), (one, other))

    def test_pods_of_every_node_lie_in_the_cluster_range(self):
        for one in CLUSTER.nodes:
            self.assertTrue(ipaddress.ip_network(one.pods).subnet_of(ipaddress.ip_network(plan.POD_RANGE)))

    def test_service_addresses_lie_in_their_range(self):
        for address in (plan.SERVICE_API, plan.SERVICE_DNS):
            self.assertIn(ipaddress.ip_address(address), ipaddress.ip_network(plan.SERVICE_RANGE))

    def test_every_node_has_a_route_to_every_other_and_none_to_itself(self):
        routes = [line for line in node.network_commands(CLUSTER, FIRST) if "via" in line and "default" not in line]
        self.assertEqual(routes, [f"route add {SECOND.pods} via {SECOND.address}"])

    def test_control_plane_reaches_pods_through_their_node(self):
        self.assertIn(f"route replace {SECOND.pods} via {SECOND.address}", local.plug_commands(SECOND, 7))
        self.assertIn(f"addr add {plan.GATEWAY}/24 dev nodes", control.network_commands())

    def test_clusters_with_other_state_have_other_cgroups(self):
        self.assertNotEqual(CLUSTER.tag, Plan(pathlib.Path("/other")).tag)

    def test_unknown_node_is_refused_with_the_names_there_are(self):
        with self.assertRaisesRegex(KeyError, "n1, n2"):
            CLUSTER.node("n3")


class Programs(unittest.TestCase):
    def test_containerd_config_is_toml_and_says_what_it_must(self):
        text = tomllib.loads(config.containerd(pathlib.Path("/tools/runc")))
        images = text["plugins"]["io.containerd.cri.v1.images"]
        runtime = text["plugins"]["io.containerd.cri.v1.runtime"]
        self.assertEqual(images["pinned_images"]["sandbox"], plan.PAUSE_IMAGE)
        self.assertTrue(runtime["restrict_oom_score_adj"])
        self.assertEqual(runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"], "/tools/runc")

    def test_every_registry_name_goes_to_the_local_one(self):
        hosts = tomllib.loads(config.registry_hosts())
        self.assertEqual(list(hosts["host"]), [f"http://{plan.REGISTRY}"])
        self.assertEqual(hosts["server"], f"http://{plan.REGISTRY}")

    def test_kubelet_and_network_use_the_nodes_own_addresses(self):
        kubelet, network = json.loads(config.kubelet(SECOND)), json.loads(config.network(SECOND))
        self.assertEqual(kubelet["address"], SECOND.address)
        self.assertEqual(kubelet["clusterDNS"], [plan.SERVICE_DNS])
        self.assertEqual(network["plugins"][0]["ipam"]["ranges"], [[{"subnet": SECOND.pods}]])

    def test_kube_proxy_leaves_the_machines_conntrack_alone(self):
        self.assertEqual({str(value) for value in json.loads(config.proxy(FIRST))["conntrack"].values()}, {"0", "0s"})

    def test_every_key_a_program_names_is_made(self):
        made = {leaf.name for leaf in pki.leaves(CLUSTER)} | {"ca", "front-proxy-ca", "accounts"}
        for command in (config.apiserver(CLUSTER), config.controller_manager(CLUSTER), config.scheduler(CLUSTER)):
            for word in command:
                if "=/state/pki/" in word and not word.endswith(".conf"):
                    self.assertIn(pathlib.Path(word.split("=")[1]).stem, made, word)

    def test_apiserver_certificate_holds_for_every_way_in(self):
        names = next(leaf.names for leaf in pki.leaves(CLUSTER) if leaf.name == "apiserver").split(",")
        for address in ("127.0.0.1", plan.GATEWAY, plan.SERVICE_API):
            self.assertIn(f"IP:{address}", names)

    def test_kubeconfig_carries_its_user_and_server(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("ca.crt", "admin.crt", "admin.key"):
                (pathlib.Path(folder) / name).write_text(name)
            made = json.loads(config.kubeconfig(pathlib.Path(folder), "admin", "https://127.0.0.1:1"))
        self.assertEqual(made["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1")
        self.assertEqual(made["users"][0]["user"]["client-key-data"], "YWRtaW4ua2V5")

    def test_dns_service_has_the_address_that_kubelets_give_to_pods(self):
        service = next(item for item in addons.objects() if item["kind"] == "Service")
        self.assertEqual([service["spec"]["clusterIP"]], json.loads(config.kubelet(FIRST))["clusterDNS"])


if __name__ == "__main__":
    unittest.main()
