"""What the storage suites report is read whole, and shown with reasons."""

import json
import pathlib
import re
import tempfile
import unittest

from e2e.stories import csi_sanity, csi_sanity_kills, external_storage
from e2e.story import Failed
from e2e.suites import page, results


def spec(state: str, leaf: str, why: str = "", kind: str = "It") -> dict:
    """One spec as Ginkgo reports it."""
    containers = ["External Storage [Driver: csi.lamina.dev]", "[Testpattern: Dynamic PV (default fs)] volumes"]
    return {"LeafNodeType": kind, "State": state, "ContainerHierarchyTexts": containers, "LeafNodeText": leaf, "RunTime": 1_500_000_000,
            **({"Failure": {"Message": why}} if why else {})}


def read(*specs: dict) -> list[results.Spec]:
    """Through a file, as from the suites."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.json"
        path.write_text(json.dumps([{"SpecReports": list(specs)}]))
        return results.read([path])


class Results(unittest.TestCase):
    def test_specs_are_read_with_what_became_of_them(self):
        found = read(spec("passed", "b"), spec("timedout", "a", "too long"), spec("skipped", "c", "Driver does not support it"))
        self.assertEqual([(one.state, one.text.rpartition(" ")[2]) for one in found], [("failed", "a"), ("passed", "b"), ("skipped", "c")])
        self.assertEqual(found[0].text, "[Testpattern: Dynamic PV (default fs)] volumes a")
        self.assertEqual(found[0].seconds, 1.5)

    def test_specs_that_a_focus_left_out_are_in_none(self):
        self.assertEqual(read(spec("skipped", "a"), spec("pending", "b"), spec("passed", "", kind="BeforeSuite")), [])

    def test_a_failed_suite_setup_is_a_failure(self):
        self.assertEqual([one.state for one in read(spec("failed", "", "no cluster", kind="BeforeSuite"))], ["failed"])

    def test_the_page_gives_a_reason_for_what_is_skipped(self):
        text = page.text(read(spec("passed", "b"), spec("skipped", "c", "Driver x doesn't support Block -- skipping")), "1.2.3", {"y": "z"})
        self.assertIn("1 passed, 0 failed, 1 skipped", text)
        self.assertIn("| Driver x doesn't support Block -- skipping | 1 | a volume is a directory", text)
        self.assertIn("- `y`: z", text)

    def test_shares_leave_no_suite_out(self):
        for text in ("subPath should fail if x", "subPath should support x", "ephemeral should x", "volume-stress should x", "volumes should x"):
            told = [focus for focus, others in external_storage.SHARES
                    if re.search(focus, text) and not (others and re.search(others, text))]
            self.assertEqual(len(told), 1, text)


class Sanity(unittest.TestCase):
    def test_the_claimed_specs_are_those_that_passed_each_once(self):
        reports = [spec("passed", "a"), spec("passed", "a"), spec("skipped", "b"), spec("passed", "", kind="BeforeSuite")]
        self.assertEqual(len(csi_sanity_kills.names(reports)), 1)

    def test_a_skipped_spec_is_counted_once_with_its_reason(self):
        reports = [spec("skipped", "should fail", "Snapshot not supported"), spec("skipped", "ExpandVolume should work"), spec("passed", "Snapshot")]
        self.assertEqual(csi_sanity.skips(reports), {"Snapshot": 1, "ExpandVolume": 1})
        with self.assertRaises(Failed):
            csi_sanity.skips([spec("skipped", "odd", "no idea")])


if __name__ == "__main__":
    unittest.main()
