"""The numbers must be right before they are worth printing."""

import unittest

from bench.method import ATTEMPTS, Samples, cost_row, interleave, speed_row


class Method(unittest.TestCase):
    def test_ratio_is_of_medians_and_its_interval_holds_it(self):
        samples = Samples({"native": [1.0, 1.0, 1.2, 0.9, 1.1], "ours": [2.0, 2.1, 2.0, 1.9, 2.2]})
        value, low, high = samples.ratio("native", "ours")
        self.assertEqual(value, 0.5)
        self.assertLessEqual(low, value)
        self.assertGreaterEqual(high, value)

    def test_interval_of_constant_samples_is_a_point(self):
        samples = Samples({"a": [2.0] * 9, "b": [1.0] * 9})
        self.assertEqual(samples.ratio("a", "b"), (2.0, 2.0, 2.0))

    def test_every_variant_runs_once_a_round(self):
        calls = []
        samples = interleave({name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}, 7)
        for start in range(0, 21, 3):
            self.assertEqual(set(calls[start:start + 3]), set("abc"))
        self.assertEqual({len(values) for values in samples.by_variant.values()}, {7})

    def test_unsteady_native_is_repeated_then_reported(self):
        times = iter([1.0, 3.0] * ATTEMPTS)
        samples = interleave({"native": lambda: next(times)}, 2, native="native")
        self.assertTrue(samples.unsteady)
        self.assertEqual(samples.attempts, ATTEMPTS)

    def test_a_steady_second_attempt_replaces_an_unsteady_first(self):
        times = iter([1.0, 3.0, 1.0, 1.1])
        samples = interleave({"native": lambda: next(times)}, 2, native="native")
        self.assertFalse(samples.unsteady)
        self.assertEqual(samples.by_variant["native"], [1.0, 1.1])

    def test_targets_are_judged_in_the_right_direction(self):
        samples = Samples({"native": [1.0] * 3, "ours": [0.5] * 3})
        self.assertTrue(speed_row("A1", "", samples, "ours", "native", 1.9).met)
        self.assertFalse(speed_row("A1", "", samples, "ours", "native", 2.1).met)
        self.assertTrue(cost_row("A11", "", 3.9, "MiB", 4).met)
        self.assertFalse(cost_row("A11", "", 4.1, "MiB", 4).met)
        self.assertIsNone(cost_row("A5", "", 1.0, "s", None).met)


if __name__ == "__main__":
    unittest.main()
