"""What is generated is current, both clients have the same, and enumerations are all known."""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import lamina
from lamina import _values
from lamina._wire import afslet_pb2 as pb

HERE = pathlib.Path(__file__).resolve().parents[1]


class Generated(unittest.TestCase):
    def test_what_is_generated_is_current(self):
        with tempfile.TemporaryDirectory() as work:
            subprocess.run([sys.executable, HERE / "tools" / "generate.py", work], check=True)
            made = {path.relative_to(work) for path in pathlib.Path(work).rglob("*") if path.is_file()}
            self.assertGreater(len(made), 15)
            for path in sorted(made):
                with self.subTest(path):
                    self.assertTrue(
                        (HERE / path).is_file() and (HERE / path).read_bytes() == (pathlib.Path(work) / path).read_bytes(),
                        f"{path} is not what its source makes: run sdk/python/dev.py generate",
                    )
        ours = {path.relative_to(HERE) for path in (HERE / "src/lamina/_sync").glob("*.py")}
        ours |= {path.relative_to(HERE) for path in (HERE / "tests").glob("test_sync_*.py")}
        self.assertEqual(ours - made, set(), "nothing makes these any more")

    def test_every_end_reason_of_the_contract_is_known(self):
        self.assertEqual(set(_values.REASONS), set(pb.EndReason.values()) - {pb.END_REASON_UNSPECIFIED})
        self.assertEqual(set(_values.REASONS.values()), set(lamina.EndReason) - {lamina.EndReason.UNKNOWN})

    def test_every_field_of_a_request_can_be_set(self):
        source = (HERE / "src/lamina/options.py").read_text()
        # A node knows its discovery, and reads ahead by what it learns.
        unused = {"discovery_addr", "fuse_max_read_ahead_bytes"}
        for name in {field.name for field in pb.StartRequest.DESCRIPTOR.fields} - unused:
            self.assertRegex(source, rf"\b{name}=|request\.{name}\b", name)

    def test_our_messages_do_not_take_the_names_of_others(self):
        from google.protobuf import descriptor_pool

        with self.assertRaises(KeyError):
            descriptor_pool.Default().FindMessageTypeByName("afsletpb.ExecuteRequest")


class Parity(unittest.TestCase):
    """Whoever knows one client knows the other."""

    PAIRS = (("client", "Client"), ("run", "Run"), ("diff", "Diff"), ("diff", "DiffEntry"))

    def test_both_clients_have_the_same_methods_with_the_same_parameters(self):
        for module, name in self.PAIRS:
            theirs = getattr(importlib.import_module(f"lamina._async.{module}"), f"Async{name}")
            ours = getattr(importlib.import_module(f"lamina._sync.{module}"), name)
            rename = {"aclose": "close"}
            self.assertEqual({rename.get(one, one) for one in public(theirs)}, set(public(ours)))
            for method in public(theirs):
                with self.subTest(f"{name}.{method}"):
                    there, here = getattr(theirs, method), getattr(ours, rename.get(method, method))
                    if inspect.isfunction(there):
                        self.assertEqual(parameters(there), parameters(here))
                        self.assertEqual(blocking(inspect.getdoc(there)), inspect.getdoc(here))

    def test_what_waits_is_asynchronous_in_one_and_in_the_other_not(self):
        for module, name in self.PAIRS:
            theirs = getattr(importlib.import_module(f"lamina._async.{module}"), f"Async{name}")
            ours = getattr(importlib.import_module(f"lamina._sync.{module}"), name)
            for method in vars(ours).values():
                self.assertFalse(inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method), method)
            self.assertTrue(
                any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in vars(theirs).values())
            )

    def test_the_package_exports_what_it_says(self):
        for name in lamina.__all__:
            self.assertTrue(hasattr(lamina, name), name)
        self.assertEqual(sorted(lamina.__all__), sorted(set(lamina.__all__)))
        for module, name in self.PAIRS:
            self.assertIn(name, lamina.__all__, module)
            self.assertIn(f"Async{name}", lamina.__all__, module)

    def test_versions_agree(self):
        project = (HERE / "pyproject.toml").read_text()
        workspace = (HERE.parents[1] / "Cargo.toml").read_text()
        pattern = r'^version = "([^"]+)"'
        self.assertEqual(re.search(pattern, project, re.MULTILINE)[1], lamina.__version__)
        self.assertEqual(re.search(pattern, workspace, re.MULTILINE)[1], lamina.__version__)


def public(kind):
    return [name for name in vars(kind) if not name.startswith("_")]


def parameters(function):
    return [
        (one.name, one.kind, blocking(str(one.default)), blocking(str(one.annotation)))
        for one in inspect.signature(function).parameters.values()
    ]


def blocking(text):
    return re.sub(r"\bAsync(?=[A-Z])", "", text).replace("aclose", "close")


if __name__ == "__main__":
    unittest.main()
