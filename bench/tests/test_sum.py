"""`make test` ends with one sum: it must not lose a failure."""

import importlib.util
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("suite", ROOT / "scripts/test.py")
suite = importlib.util.module_from_spec(spec)
sys.modules["suite"] = suite
spec.loader.exec_module(suite)


class Sum(unittest.TestCase):
    def count(self, *lines: str):
        count = suite.Count()
        for line in lines:
            count.line(line)
        return count

    def test_cargo_results_are_added(self):
        count = self.count("test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured", "test result: FAILED. 3 passed; 2 failed; 0 ignored;")
        self.assertEqual(count, suite.Count(7, 2, 1))

    def test_unittest_results_are_added(self):
        self.assertEqual(self.count("Ran 5 tests in 0.1s", "", "FAILED (failures=1, errors=1, skipped=1)"), suite.Count(2, 2, 1))
        self.assertEqual(self.count("Ran 5 tests in 0.1s", "", "OK"), suite.Count(5, 0, 0))

    def test_a_stage_that_breaks_without_a_count_is_one_failure(self):
        suite.STAGES["broken"] = ["false"]
        count, code, _ = suite.run("broken")
        self.assertEqual((count.failed, code), (1, 1))

    def test_a_check_that_passes_is_one_passed_test(self):
        suite.STAGES["lint-like"] = ["true"]
        suite.CHECKS.add("lint-like")
        self.assertEqual(suite.run("lint-like")[0], suite.Count(1, 0, 0))


if __name__ == "__main__":
    unittest.main()
