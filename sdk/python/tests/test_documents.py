"""The examples of the documentation run, the example program makes its table, and tables name what there is."""

import contextlib
import io
import pathlib
import re
import subprocess
import sys
import unittest

import lamina
from lamina._wire import afsproxy_pb2 as proxypb

from .fake import Fake, on_host

HERE = pathlib.Path(__file__).resolve().parents[1]
PAGE = HERE.parents[1] / "docs" / "python-sdk.md"
IMAGE = "registry.example/python-data:1"
PROXY = "127.0.0.1:7180"


def examples(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


class Documents(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.fake.scripts[IMAGE] = on_host
        self.fake.status = [
            proxypb.StatusResponse(summary=proxypb.StatusSummary(afslet_instances=1)),
            proxypb.StatusResponse(afslet=proxypb.AfsletInstance(endpoint="10.0.0.1:7170", reachable=True)),
            proxypb.StatusResponse(error=proxypb.StatusError(source="discovery", message="late")),
        ]

    def test_examples_run(self):
        for page, least in ((PAGE, 8), (HERE / "README.md", 1)):
            found = examples(page)
            self.assertGreaterEqual(len(found), least)
            names = {}
            for number, text in enumerate(found):
                with self.subTest(f"{page.name} {number}"), contextlib.redirect_stdout(io.StringIO()):
                    self.assertTrue(PROXY in text or "client" in names)
                    exec(compile(text.replace(PROXY, self.fake.address), f"{page.name} {number}", "exec"), names)
            with contextlib.suppress(KeyError):
                names["client"].close()

    def test_every_option_and_error_is_in_the_tables(self):
        text = PAGE.read_text()
        options = set(re.findall(r"`(\w+)`", " ".join(line.split(" | ")[0] for line in table(text, "| option |"))))
        self.assertEqual(options, set(lamina.RunOptions.__annotations__))
        kinds = set(re.findall(r"`(\w+)`", " ".join(line.split(" | ")[0] for line in table(text, "| class |"))))
        exported = {name: getattr(lamina, name) for name in lamina.__all__}
        real = {name for name, kind in exported.items() if isinstance(kind, type) and issubclass(kind, Exception)}
        self.assertEqual(kinds, real - {"LaminaError", "NotFound"})
        reasons = {reason.name for reason in lamina.EndReason} - {"UNKNOWN"}
        self.assertLessEqual(reasons, set(re.findall(r"`([A-Z_]+)`", text)))

    def test_what_replaces_afs_sdk_exists(self):
        text = " ".join(line.split(" | ")[1] for line in table(PAGE.read_text(), "| `afs_sdk` |"))
        known = set(dir(lamina)) | set(dir(lamina.AsyncClient)) | set(dir(lamina.Run)) | set(lamina.RunOptions.__annotations__)
        known |= {"diff", "accepted", "Result", "reason", "signal", "usage", "tls", "files", "env"}
        for name in re.findall(r"`(?:client\.|run\.)?([A-Za-z_]+)[(`=]", text):
            self.assertIn(name, known)

    def test_rollouts_make_a_table(self):
        images = [f"registry.example/task:{number}" for number in range(20)]
        self.fake.scripts.update(dict.fromkeys(images, on_host))
        flags = ["--proxy", self.fake.address, "--rollouts", "60", "--parallel", "8", "--timeout", "0.5"]
        command = [
            sys.executable,
            HERE / "examples" / "rollouts.py",
            *flags,
            *(word for image in images for word in ("--image", image)),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(said.returncode, 0, said.stderr)
        rows = [line.split() for line in said.stdout.splitlines()]
        self.assertEqual(rows[0][:4], ["image", "rollouts", "reward", "right"])
        self.assertEqual([row[0] for row in rows[1:21]], sorted(images))
        whole = rows[21]
        self.assertEqual(whole[:2], ["all", "60"])
        right, wrong, failed, late = map(int, whole[3:7])
        self.assertEqual(right + wrong + failed + late, 60)
        self.assertAlmostEqual(float(whole[2]), right / 60, places=2)
        for count in (right, wrong, failed, late):
            self.assertGreater(count, 0)


def table(text, head):
    """The rows of the table whose head begins so."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(head))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows


if __name__ == "__main__":
    unittest.main()
