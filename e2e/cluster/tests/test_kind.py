"""The kind provider gives the commands of kind's documentation, in their order. Nothing is run."""

import pathlib
import tomllib
import unittest
from unittest import mock

import yaml

from e2e.cluster import kind
from e2e.cluster.provider import ClusterError


class Docker:
    """Takes down commands, and answers them as where there are these containers and clusters."""

    def __init__(self, containers: list[str], clusters: list[str]):
        self.containers, self.clusters = containers, clusters
        self.given: list[tuple[str, str | None]] = []

    def run(self, command: list, seconds: float = 60, input: str | None = None, **_options) -> str:  # noqa: A002
        words = " ".join(map(str, command))
        self.given.append((words, input))
        if words.startswith("docker inspect") and command[-1] not in self.containers:
            raise ClusterError("no such object")
        answers = {"docker inspect --format {{.State.Running}}": "true\n", "docker inspect --format {{json": "null\n",
                   "docker ps": "".join(f"{name}\n" for name in self.containers), "kind get clusters": "\n".join(self.clusters),
                   "kind get nodes": "lamina-control-plane\nlamina-worker\nlamina-worker2\n"}
        if words.startswith("docker run"):
            self.containers.append(kind.REGISTRY)
        return next((answer for begin, answer in answers.items() if words.startswith(begin)), "")

    def words(self, begin: str) -> list[str]:
        return [words for words, _ in self.given if words.startswith(begin)]


class Kind(unittest.TestCase):
    def on(self, docker: Docker, verb: str) -> list[str]:
        """The commands that a verb gives."""
        pushed = mock.patch.object(kind.archives, "push", return_value=["lamina.test/busybox:1"])
        made = mock.patch.object(kind.images, "make", return_value=pathlib.Path("busybox.tar"))
        folder = mock.patch.object(kind.shutil, "rmtree"), mock.patch.object(kind.pathlib.Path, "mkdir")
        with mock.patch.object(kind, "run", docker.run), mock.patch.object(kind.shutil, "which", return_value="/bin/kind"), \
                pushed as self.pushed, made, folder[0], folder[1], mock.patch.object(kind.images, "shell"):
            getattr(kind.Kind(), verb)()
        return [words for words, _ in docker.given]

    def test_the_registry_comes_first_and_is_connected_once_there_is_a_network(self):
        docker = Docker([], [])
        given = self.on(docker, "up")
        order = ["docker run", "kind create cluster", "docker network connect kind lamina-registry", "docker exec", "kind load image-archive"]
        at = [next(number for number, words in enumerate(given) if words.startswith(begin)) for begin in order]
        self.assertEqual(at, sorted(at))
        self.assertIn("--publish 127.0.0.1:5001:5000", docker.words("docker run")[0])
        self.assertEqual(self.pushed.call_args.args, (pathlib.Path("busybox.tar"), "127.0.0.1:5001"))

    def test_every_node_is_told_of_the_registry(self):
        docker = Docker([], [])
        self.on(docker, "up")
        told = [(words, text) for words, text in docker.given if words.startswith("docker exec")]
        self.assertEqual([words.split()[3] for words, _ in told], ["lamina-control-plane", "lamina-worker", "lamina-worker2"])
        for words, text in told:
            self.assertIn("/etc/containerd/certs.d/lamina-registry:5000/hosts.toml", words)
            self.assertEqual(tomllib.loads(text), {"host": {"http://lamina-registry:5000": {}}})

    def test_a_registry_that_runs_is_used(self):
        self.assertEqual([words for words in self.on(Docker([kind.REGISTRY], []), "up") if words.startswith("docker run")], [])

    def test_down_removes_the_registry_where_there_is_one(self):
        removed = "docker rm --force --volumes lamina-registry"
        self.assertIn(removed, self.on(Docker([kind.REGISTRY], ["lamina"]), "down"))
        self.assertNotIn(removed, self.on(Docker([], ["lamina"]), "down"))

    def test_stories_get_an_address_for_nodes_and_one_for_themselves(self):
        self.assertEqual(kind.Kind().registry(), ("lamina-registry:5000", "127.0.0.1:5001"))

    def test_containerd_of_the_nodes_looks_where_they_are_told(self):
        config = yaml.safe_load(kind.CONFIG.read_text())
        patch = tomllib.loads(config["containerdConfigPatches"][0])
        self.assertEqual(patch["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["config_path"], kind.HOSTS)
        self.assertEqual([node["role"] for node in config["nodes"]], ["control-plane", "worker", "worker"])


if __name__ == "__main__":
    unittest.main()
