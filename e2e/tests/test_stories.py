"""Every story is told, says what happens, and its helpers read what they should."""

import importlib
import pathlib
import unittest

from e2e import __main__ as told
from e2e import made, release
from e2e.stories import bad_objects, documents, hostile_volumes, hundred_pods, private_image
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

    def test_unknown_stories_are_refused_by_name(self):
        self.assertEqual(told.main(["no_such_story"]), 2)


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

    def test_the_pages_of_the_story_have_commands(self):
        for name in documents.PAGES:
            self.assertTrue(documents.typeable((documents.DOCS / name).read_text())[0], name)

    def test_hostile_handles_are_hostile(self):
        self.assertTrue(any(".." in handle for handle in hostile_volumes.HANDLES))

    def test_the_same_files_are_the_same_layer(self):
        files = {"b": made.noise("seed", 1000), "a/c": b""}
        self.assertEqual(made.layer(files), made.layer(dict(reversed(files.items()))))
        self.assertNotEqual(made.noise("seed", 1000), made.noise("other", 1000))

    def test_what_many_pods_say_is_told_apart(self):
        class Said:
            def kubectl(self, *_words, **_more):
                return "[pod/pod-1/main] aa\n[pod/pod-12/main] bb\n\n"

        self.assertEqual(hundred_pods.read(Said()), {"pod-1": "aa", "pod-12": "bb"})


if __name__ == "__main__":
    unittest.main()
