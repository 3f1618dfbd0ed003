# Made by `dev.py generate` from test_async_calls.py; do not edit.
"""Calls that run nothing, and how clients connect."""

import os
import pathlib
import tempfile
import unittest
import unittest.mock

import grpc

import lamina
from lamina import Client
from lamina._wire import afsproxy_pb2 as proxypb

from .certificates import Authority
from .fake import Fake, Stream

AWAY = (grpc.StatusCode.UNAVAILABLE, "draining")


class Calls(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.stop)
        self.client = Client(self.fake.address, retry=lamina.Retry(backoff=0.001))

    def tearDown(self):
        self.client.close()

    def test_the_runtime_status(self):
        status = self.client.runtime_status()
        self.assertEqual(
            (status.running, status.limit_cpu, status.used_cpu, status.available_cpu, status.node), (2, 8, 2, 6, "node-1")
        )

    def test_the_status_of_a_cluster(self):
        layers = [proxypb.LayerInfo(digest="sha256:1", afs_size=5)]
        self.fake.status = [
            proxypb.StatusResponse(
                summary=proxypb.StatusSummary(layerstore_instances=1, afslet_instances=2, afslet_reachable=1, total_layers=3)
            ),
            proxypb.StatusResponse(
                layerstore=proxypb.LayerstoreInstance(
                    node_id="n", endpoint="10.0.0.1:1", last_seen_unix=7, cache_max_bytes=8, layers=layers, cached_images=["k"]
                )
            ),
            proxypb.StatusResponse(
                afslet=proxypb.AfsletInstance(endpoint="10.0.0.1:2", reachable=True, limit_cpu_cores=4, node_id="n")
            ),
            proxypb.StatusResponse(afslet=proxypb.AfsletInstance(endpoint="10.0.0.2:2", error="refused")),
            proxypb.StatusResponse(error=proxypb.StatusError(source="discovery", message="late")),
        ]
        status = self.client.status()
        self.assertEqual(
            (status.layerstore_count, status.afslet_count, status.afslet_reachable, status.layer_count), (1, 2, 1, 3)
        )
        self.assertEqual(
            status.layerstores, (lamina.Layerstore("n", "10.0.0.1:1", 7, 8, (lamina.Layer("sha256:1", 5),), ("k",)),)
        )
        self.assertEqual(
            [(one.reachable, one.error, one.runtime.limit_cpu) for one in status.afslets], [(True, "", 4), (False, "refused", 0)]
        )
        self.assertEqual(status.problems, (lamina.Problem("discovery", "late"),))
        fewer = self.client.status(layerstores=False, afslets=False)
        self.assertEqual((fewer.layerstores, fewer.afslets, fewer.layer_count), ((), (), 3))

    def test_reconciling_an_image(self):
        done = self.client.reconcile_image("image", 3, tag="t", platform="linux/amd64")
        self.assertEqual((done.image_key, done.requested, done.ensured), ("image|t|linux|amd64|", 3, True))
        self.assertEqual(done.layers, (lamina.Placement("sha256:1", (("node-1", "10.0.0.1:7150"),)),))
        for image, replicas in (("", 1), ("image", -1)):
            with self.assertRaises(lamina.InvalidArgument):
                self.client.reconcile_image(image, replicas)

    def test_calls_are_tried_again_while_nobody_answers(self):
        self.fake.failures = [AWAY, AWAY]
        self.assertEqual((self.client.runtime_status()).limit_cpu, 8)
        self.fake.failures = [AWAY]
        self.client.status()
        self.fake.failures = [AWAY]
        self.client.reconcile_image("image", 1)

    def test_refusals_of_calls_are_not_tried_again(self):
        for code, kind in (
            (grpc.StatusCode.NOT_FOUND, lamina.NotFound),
            (grpc.StatusCode.FAILED_PRECONDITION, lamina.FailedPrecondition),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, lamina.ResourceExhausted),
        ):
            with self.subTest(code):
                self.fake.failures = [(code, "why"), (code, "again")]
                with self.assertRaisesRegex(kind, "why"):
                    self.client.reconcile_image("image", 1)

    def test_a_call_ends_in_time(self):
        self.fake.failures = [AWAY] * 100_000
        with self.assertRaises((lamina.Unavailable, lamina.Timeout)):
            self.client.status(timeout=0.2)


class Connecting(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = pathlib.Path(home.name)

    def test_both_sides_show_certificates(self):
        authority = Authority()
        key, certificate = authority.issue(lamina.PROXY_NAME)
        server = grpc.ssl_server_credentials([(key, certificate)], authority.certificate, require_client_auth=True)
        fake = Fake(server)
        self.addCleanup(fake.stop)
        authority.write(self.home, "client.lamina.internal")
        with Client(fake.address, tls=self.home) as client:
            self.assertEqual((client.runtime_status()).limit_cpu, 8)
        with unittest.mock.patch.dict(os.environ, {"LAMINA_TLS_DIR": str(self.home)}):
            with Client(fake.address) as client:
                self.assertEqual((client.runtime_status()).limit_cpu, 8)
        without = lamina.Tls(authority.certificate)
        stranger = Authority()
        other_key, other_certificate = stranger.issue("client.lamina.internal")
        for tls in (
            without,
            lamina.Tls(authority.certificate, other_certificate, other_key),
            lamina.Tls(stranger.certificate, other_certificate, other_key),
            lamina.Tls.directory(self.home, lamina.AFSLET_NAME),
            None,
        ):
            with Client(fake.address, tls=tls, retry=lamina.Retry(attempts=1)) as client:
                with self.assertRaises((lamina.Unavailable, lamina.Timeout)):
                    client.runtime_status(timeout=5)

    def test_missing_certificates_are_said_at_once(self):
        with self.assertRaises(FileNotFoundError):
            Client("127.0.0.1:1", tls=self.home)

    def test_addresses_come_from_the_environment_or_are_this_machine(self):
        fake = Fake()
        self.addCleanup(fake.stop)
        with unittest.mock.patch.dict(os.environ, {"LAMINA_PROXY": fake.address}):
            with Client() as client:
                self.assertEqual((client.runtime_status()).limit_cpu, 8)
        several = (["localhost:1", "127.0.0.1:1"], ["127.0.0.1:1", "[::1]:1"])
        for wrong in ("localhost", "host:port", ":1", ["127.0.0.1:1", "::1"], *several):
            with self.subTest(wrong), self.assertRaises(lamina.InvalidArgument):
                Client(wrong)

    def test_credentials_are_not_sent_in_the_clear_to_other_machines(self):
        with Client("192.0.2.1:7180", start_timeout=0.2) as client:
            with self.assertRaisesRegex(lamina.InvalidArgument, "not encrypted"):
                client.run("image", ["x"], docker_config={"auths": {}})
            for options in ({"flist": "c" * 64, "stores": ["s3://k:s@b"]}, {"keep": ["s3://b", "s3://k:s@b"]}):
                with self.subTest(options), self.assertRaisesRegex(lamina.InvalidArgument, "not encrypted") as caught:
                    client.run("image", ["x"], **options)
                self.assertNotIn("k:s", str(caught.exception))

        async def script(stream: Stream):
            await stream.accept()
            await stream.end()

        fake = Fake()
        self.addCleanup(fake.stop)
        fake.scripts["image"] = script
        (self.home / "config.json").write_text("{}")
        with Client(fake.address) as client:
            for config in ("{}", b"{}", {}, self.home / "config.json"):
                client.run("image", ["x"], docker_config=config)
        self.assertEqual([stream.start.docker_config_json for stream in fake.streams], [b"{}"] * 4)


if __name__ == "__main__":
    unittest.main()
