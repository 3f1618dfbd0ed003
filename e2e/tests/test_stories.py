"""Every story is told, says what happens, and its helpers read what they should."""

import contextlib
import importlib
import io
import pathlib
import re
import unittest

import yaml

from e2e import __main__ as told
from e2e import made, release
from e2e.stories import bad_objects, documents, hostile_volumes, hundred_pods, node_pod_deleted, private_image
from e2e.story import pod

FOLDER = pathlib.Path(told.__file__).parent / "stories"


class Stories(unittest.TestCase):
    def test_every_file_is_a_story_that_is_told(self):
        files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
        self.assertEqual(files, set(told.STORIES))
        self.assertEqual(told.STORIES[-1], "uninstall")

    def test_every_story_says_in_its_first_line_what_happens(self):
        for name in told.STORIES:
            module = importlib.import_module(f"e2e.stories.{name}")
            self.assertTrue(module.__doc__.splitlines()[0].endswith("."), name)
            self.assertTrue(callable(module.run), name)

    def test_every_story_is_in_the_documentation(self):
        page = (release.REPOSITORY / "docs/cluster.md").read_text()
        for name in told.STORIES:
            module = importlib.import_module(f"e2e.stories.{name}")
            self.assertIn(f"| `{name}` | {module.__doc__.splitlines()[0]} |", page)

    def test_the_help_names_every_story_and_tells_none(self):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(told.main(["--help"]), 0)
        self.assertTrue(said.getvalue().startswith("usage: python3 -m e2e [STORY...]"))
        for name in told.STORIES:
            self.assertRegex(said.getvalue(), rf"(?m)^  {name} +\S")

    def test_unknown_stories_are_refused_by_name(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(told.main(["no_such_story"]), 2)
        self.assertIn("no story no_such_story", said.getvalue())


class Helpers(unittest.TestCase):
    def test_bad_objects_are_read_with_what_is_expected(self):
        text = "# head\n---\n# expect: first: text\nkind: A\n---\n# expect: second\nkind: B\n"
        self.assertEqual([expected for expected, _ in bad_objects.objects(text)], ["first: text", "second"])

    def test_a_restricted_pod_meets_the_standard(self):
        made = pod("x", {"lamina.dev/image": "a"}, restricted=True)
        limits = made["spec"]["containers"][0]["securityContext"]
        self.assertEqual((limits["runAsNonRoot"], limits["capabilities"]), (True, {"drop": ["ALL"]}))

    def test_a_pull_secret_is_a_docker_config(self):
        made = private_image.secret("right", "word")
        self.assertEqual(made["type"], "kubernetes.io/dockerconfigjson")

    def test_commands_are_read_from_blocks_that_are_run(self):
        page = "a\n\n```console\n$ one\nprinted\n$ two\n```\n<!-- not run: no bucket -->\n```console\n$ three\n```\n```\n$ none\n```\n"
        self.assertEqual(documents.typeable(page), (["one", "two"], ["no bucket"]))
        self.assertEqual(documents.typeable("```sh\nfour |\n  five\n```\n"), (["four |\n  five"], []))

    def test_the_pages_of_the_story_have_commands(self):
        for name in documents.PAGES:
            self.assertTrue(documents.typeable((documents.DOCS / name).read_text())[0], name)

    def test_every_block_of_every_page_is_tried_somewhere(self):
        """`console`: here or by `cli/tests/cli/documents.rs`, which has a guard of its own; `python`: by the tests of the package."""
        pages = [*documents.DOCS.rglob("*.md"), *(release.REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md"))]
        languages = set()
        for path in pages:
            text, name = path.read_text(), path.relative_to(documents.DOCS).as_posix() if path.is_relative_to(documents.DOCS) else path.name
            blocks = list(documents.BLOCK.finditer(text))
            # Every fence is a block's first or last line: none is indented, or of a kind that the pattern does not know.
            self.assertEqual(len(re.findall(r"^\s*```", text, re.MULTILINE)), 2 * len(blocks), name)
            for block in blocks:
                language = block["language"]
                languages.add(language)
                with self.subTest(page=name, block=block["text"].splitlines()[0]):
                    if language == "yaml":
                        self.assertIn(name, documents.OBJECTS)
                    elif language == "sh":
                        self.assertTrue(name in documents.PAGES or block["why"], "nobody runs it, and nothing says why")
                    elif language == "python":
                        self.assertEqual(name, "python-sdk.md")
                    else:
                        self.assertIn(language, ("console", "text", ""))
                        # What is typed or applied is told so.
                        if language != "console":
                            self.assertNotRegex(block["text"], r"(?m)^(\$ |apiVersion:|kubectl |helm )")
        self.assertLessEqual({"console", "yaml", "sh", "python"}, languages)

    def test_parts_of_objects_are_made_whole(self):
        for name in documents.OBJECTS:
            for text in documents.objects((documents.DOCS / name).read_text()):
                for item in yaml.safe_load_all(text):
                    self.assertIn("kind", item, name)
        with self.assertRaises(ValueError):
            documents.objects("```yaml\nspec: {}\n```\n")

    def test_hostile_handles_are_hostile(self):
        self.assertTrue(any(".." in handle for handle in hostile_volumes.HANDLES))

    def test_the_same_files_are_the_same_layer(self):
        files = {"b": made.noise("seed", 1000), "a/c": b""}
        self.assertEqual(made.layer(files), made.layer(dict(reversed(files.items()))))
        self.assertNotEqual(made.noise("seed", 1000), made.noise("other", 1000))

    def test_readers_expect_what_the_layers_show_together(self):
        layers = node_pod_deleted.content("seed")
        expected = node_pod_deleted.expected(layers)
        sums = dict(reversed(line.split("  ")) for line in expected["files"].splitlines())
        self.assertEqual(len(sums), node_pod_deleted.PARTS * (node_pod_deleted.PART_FILES + 1) + 2)
        self.assertEqual(sums["parts/7/0"], node_pod_deleted.digest(layers[-1]["parts/7/0"]))
        self.assertNotEqual(layers[-1]["parts/7/0"], layers[7 % 2]["parts/7/0"])
        self.assertEqual(len(expected["held"].splitlines()), node_pod_deleted.PIECES)
        # As much as a ConfigMap holds.
        self.assertLess(sum(map(len, expected.values())), 900_000)
        self.assertNotIn("PIECE", expected["reader"])

    def test_what_is_killed_is_not_named_by_the_script_that_looks_for_it(self):
        for process, pattern in node_pod_deleted.PROCESSES.items():
            text = node_pod_deleted.KILL.replace("PATTERN", pattern)
            words = pattern.replace('"', "").replace("\\", "").strip("*")
            self.assertFalse(text.startswith("/var") or (not pattern.startswith("/") and words in text), process)

    def test_what_many_pods_say_is_told_apart(self):
        class Said:
            def kubectl(self, *_words, **_more):
                return "[pod/pod-1/main] aa\n[pod/pod-12/main] bb\n\n"

        self.assertEqual(hundred_pods.read(Said()), {"pod-1": "aa", "pod-12": "bb"})


if __name__ == "__main__":
    unittest.main()
