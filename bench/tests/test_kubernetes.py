"""What group B computes without a cluster."""

import dataclasses
import unittest

from bench.corpus import images
from bench.kubernetes import cold, operator, page, pods, publish
from bench.method import cost_row


class Kubernetes(unittest.TestCase):
    def test_percentiles_are_samples(self):
        ordered = [number / 100 for number in range(100)]
        self.assertEqual(publish.percentile(ordered, 0.99), 0.99)
        self.assertEqual(publish.percentile(ordered, 0.5), 0.5)
        self.assertEqual(publish.percentile([1.0], 0.99), 1.0)

    def test_every_image_of_a_section_is_in_the_corpus(self):
        for name in pods.IMAGES:
            images.find(name)

    def test_requests_are_read_from_the_api_servers_metrics(self):
        said = 'apiserver_request_total{code="200",resource="flists",subresource="status",verb="PATCH"} 12\nother{a="b"} 1\n'
        self.assertEqual(operator.REQUESTS.findall(said), [('code="200",resource="flists",subresource="status",verb="PATCH"', "12")])

    def test_first_work_is_the_images_command(self):
        self.assertTrue(cold.work(images.find("python-data")).startswith("chroot /data /usr/bin/python3 -c "))
        self.assertIn("nginx", cold.work(images.find("web")))

    def test_the_page_shows_a_failed_section(self):
        about = {"commit": "c", "cpu": "x", "cores": 2, "memory_gib": 1, "kernel": "6", "load": [1.0]}
        row = dataclasses.asdict(cost_row("B4", "install", 12.0, "s", 60))
        result = {"date": "now", "rounds": 3, "seconds": 4, "machine": about, "versions": {"kubernetes": "1"}, "load_after": [1],
                  "rows": [row], "notes": ["a note"], "failed": "broken"}
        text = page.PAGE.text({"install": ("kubernetes-install-1.json", result)})
        self.assertIn("| install | 12 s | <= 60 | met |", text)
        self.assertIn("- a note", text)
        self.assertIn("The section failed: broken", text)


if __name__ == "__main__":
    unittest.main()
