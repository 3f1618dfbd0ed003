"""Who may do what: the rendered roles are those of rbac.golden, and what must never be is not.

After a wanted change: UPDATE=1 python3 -m unittest charts.tests.test_rbac
"""

import os
import pathlib
import unittest

from . import rendering
from .rendering import find, having, template

GOLDEN = pathlib.Path(__file__).parent / "rbac.golden"


def lines(objects: list[dict]) -> list[str]:
    """One line per right: `account: verbs group/resource [names]`, sorted."""
    roles = {(item["kind"], item["metadata"]["name"]): item["rules"] for item in objects if item["kind"] in ("Role", "ClusterRole")}
    found, bound = [], set()
    for binding in having(objects, "RoleBinding") + having(objects, "ClusterRoleBinding"):
        role = (binding["roleRef"]["kind"], binding["roleRef"]["name"])
        bound.add(role)
        where = "own namespace" if binding["kind"] == "RoleBinding" else "cluster"
        for subject in binding["subjects"]:
            found += [f"{subject['name']} ({where}): {text}" for text in rights(roles[role])]
    for role in roles.keys() - bound:
        found += [f"{role[1]} (people): {text}" for text in rights(roles[role])]
    return sorted(found)


def rights(rules: list[dict]) -> list[str]:
    """The rights of a role."""
    found = []
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                names = f" named {', '.join(rule['resourceNames'])}" if "resourceNames" in rule else ""
                found.append(f"{group or 'core'}/{resource}{names}: {' '.join(rule['verbs'])}")
    return found


class Rbac(unittest.TestCase):
    def test_roles_are_those_of_the_snapshot(self):
        text = "\n".join(lines(template(startupTaint="lamina.dev/starting"))) + "\n"
        if os.environ.get("UPDATE"):
            GOLDEN.write_text(text)
        self.assertEqual(GOLDEN.read_text(), text)

    def test_workloads_of_kueue_are_the_operators_only_where_that_is_wanted(self):
        plain = set(lines(template(execution={"enabled": True})))
        more = set(lines(template(execution={"enabled": True, "kueue": {"enabled": True}})))
        self.assertEqual(more - plain, {"lamina-operator (cluster): kueue.x-k8s.io/workloads: get list watch create delete",
                                        "lamina-operator (cluster): kueue.x-k8s.io/workloads/status: patch"})
        self.assertEqual(set(lines(template(execution={"kueue": {"enabled": True}}))), set(lines(template())))
        for wanted in (True, False):
            objects = template(execution={"enabled": True, "kueue": {"enabled": wanted}})
            args = find(objects, "Deployment", "lamina-operator")["spec"]["template"]["spec"]["containers"][0]["args"]
            self.assertEqual("--kueue" in args, wanted)

    def test_node_accounts_have_no_secrets_and_change_nothing_of_others(self):
        objects = template(startupTaint="lamina.dev/starting")
        for line in lines(objects):
            account, _, right = line.partition(": ")
            if account.startswith(("lamina-node", "lamina-csi")):
                self.assertNotIn("secrets", right)
                verbs = set(right.rpartition(": ")[2].split())
                self.assertLessEqual(verbs, {"get"} if "events" not in right else {"create", "patch"}, line)
                self.assertNotIn("*", right)

    def test_node_server_and_discovery_have_no_token_for_the_api_server_and_no_role(self):
        objects = template()
        for name in ("lamina-node", "lamina-discovery"):
            self.assertIs(find(objects, "ServiceAccount", name)["automountServiceAccountToken"], False)
            self.assertEqual([line for line in lines(objects) if line.startswith(name)], [])

    def test_the_driver_of_a_node_may_do_these_two_things(self):
        mine = [line for line in lines(template(execution={"enabled": True})) if line.startswith("lamina-csi")]
        # `patch`: an event that comes again is counted in the one that is there.
        self.assertEqual(mine, ["lamina-csi (cluster): events.k8s.io/events: create patch", "lamina-csi (cluster): lamina.dev/flists: get"])

    def test_no_pod_of_the_chart_is_privileged(self):
        """Of those that the operator makes, `lamina-node` and `lamina-afslet` are: the story `rights` sees to it."""
        seen = []
        for item in template(execution={"enabled": True}):
            spec = item["spec"] if item["kind"] == "Pod" else item.get("spec", {}).get("template", {}).get("spec")
            if not spec:
                continue
            seen.append(item["metadata"]["name"])
            self.assertFalse([name for name in ("hostPID", "hostIPC", "hostNetwork") if spec.get(name)], seen[-1])
            for container in [*spec["containers"], *spec.get("initContainers", [])]:
                context = container.get("securityContext", {})
                self.assertFalse(context.get("privileged", False), seen[-1])
                self.assertNotIn("add", context.get("capabilities", {}), seen[-1])
        self.assertIn("lamina-operator", seen)
        self.assertGreaterEqual(len(seen), 3)

    def test_only_the_operator_has_tokens_reviewed(self):
        found = [line for line in lines(template()) if "tokenreviews" in line]
        self.assertEqual(found, ["lamina-operator (cluster): authentication.k8s.io/tokenreviews: create"])

    def test_no_right_is_a_wildcard(self):
        for line in lines(template(startupTaint="lamina.dev/starting")):
            self.assertNotIn("*", line)

    def test_secrets_of_other_namespaces_are_read_by_name_only(self):
        for line in lines(template()):
            if "core/secrets" in line and "(cluster)" in line:
                self.assertEqual(line, "lamina-operator (cluster): core/secrets: get")

    def test_rights_over_nodes_come_only_with_the_startup_taint(self):
        self.assertFalse([line for line in lines(template()) if "core/nodes: patch" in line])


if __name__ == "__main__":
    unittest.main()
