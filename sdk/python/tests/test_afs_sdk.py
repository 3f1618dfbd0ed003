"""The published client `afs-sdk` against this contract as it is written down here, and both clients in one process."""

import subprocess
import sys
import unittest

import grpc

from lamina._wire import afsproxy_pb2 as proxypb

from . import published
from .fake import Fake, Stream, on_host

BOTH = """
import afs_sdk, afs_sdk.client, lamina
from lamina._wire import afslet_pb2
assert afslet_pb2.StartRequest(working_dir="/").ByteSize() > 0
"""


@unittest.skipIf(sys.version_info < (3, 11), "afs-sdk needs Python 3.11")
class Published(unittest.TestCase):
    def test_the_published_client_understands_the_contract(self):
        fake = Fake()
        self.addCleanup(fake.stop)
        fake.scripts["image"] = on_host

        async def script(stream: Stream):
            await stream.refuse(grpc.StatusCode.NOT_FOUND, "no such image")

        fake.scripts["image-is-not-there"] = script
        fake.status = [
            proxypb.StatusResponse(summary=proxypb.StatusSummary(afslet_instances=1, afslet_reachable=1)),
            proxypb.StatusResponse(afslet=proxypb.AfsletInstance(endpoint="127.0.0.1:7170", reachable=True)),
        ]
        seen = published.saw(fake.address, "image")
        published.check(self, seen)
        published.check_proxy(self, seen)
        self.assertTrue(seen["reconcile"]["ensured"])

    def test_both_packages_can_be_imported_together(self):
        python = published.dev.python(published.HERE / "afs-requirements.txt")
        # Ours brings what it needs from the environment that runs this.
        paths = [path for path in sys.path if path.endswith("site-packages")] + [str(published.HERE.parent / "src")]
        command = [python, "-c", f"import sys; sys.path += {paths!r}\n{BOTH}"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(said.returncode, 0, said.stderr)


if __name__ == "__main__":
    unittest.main()
