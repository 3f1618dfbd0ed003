"""The odd image must really hold what it promises, and recipes must have stable names."""

import io
import tarfile
import unittest

from bench.corpus import images, odd
from bench.corpus.layers import Recipe


def members(write, *arguments) -> dict[str, tarfile.TarInfo]:
    out = io.BytesIO()
    write(out, *arguments)
    out.seek(0)
    with tarfile.open(fileobj=out, errors="surrogateescape") as tar:
        return {member.name: member for member in tar.getmembers()}


class Odd(unittest.TestCase):
    def test_lower_layer_has_every_kind_of_entry(self):
        found = members(odd.odd_below)
        kinds = {member.type for member in found.values()}
        expected = {tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
        self.assertLessEqual(expected, kinds)
        self.assertIn("odd/" + odd.LONG_NAME, found)
        self.assertIn("odd/" + odd.NOT_UTF8, found)
        self.assertEqual(found["odd/setuid"].mode, 0o6755)
        self.assertEqual(found["odd/setuid"].uid, 4_000_000_000)

    def test_sparse_file_has_its_real_size_and_holes(self):
        sparse = members(odd.odd_below)["odd/sparse"]
        self.assertTrue(sparse.issparse())
        self.assertEqual(sparse.size, 64 << 20)

    def test_one_fifo_has_empty_device_fields(self):
        out = io.BytesIO()
        odd.odd_below(out)
        at = out.getvalue().index(b"odd/fifo-bare")
        self.assertEqual(out.getvalue()[at + 329:at + 345], bytes(16))
        self.assertTrue(members(odd.odd_below)["odd/fifo-bare"].isfifo())

    def test_upper_layer_has_whiteouts_and_a_link_across_layers(self):
        found = members(odd.odd_above)
        self.assertIn("odd/opaque/.wh..wh..opq", found)
        self.assertIn("odd/whited/.wh.gone", found)
        self.assertNotIn(found["odd/link-across-layers"].linkname, found)

    def test_small_files_are_the_same_every_time(self):
        first, second = io.BytesIO(), io.BytesIO()
        odd.small_files(first, 600, 1)
        odd.small_files(second, 600, 1)
        self.assertEqual(first.getvalue(), second.getvalue())
        self.assertEqual(sum(member.isreg() for member in members(odd.small_files, 600, 1).values()), 600)


class Names(unittest.TestCase):
    def test_a_layer_is_named_by_its_recipe_and_its_parent(self):
        recipe = Recipe(odd.small_files, (10, 1))
        self.assertEqual(recipe.key("a"), Recipe(odd.small_files, (10, 1)).key("a"))
        others = {recipe.key("b"), Recipe(odd.small_files, (10, 2)).key("a"), Recipe(odd.big_file, (10, 1)).key("a")}
        self.assertEqual(len(others | {recipe.key("a")}), 4)

    def test_every_image_is_found_by_name_and_tag(self):
        for image in images.ALL:
            self.assertIs(images.find(f"{image.name}:{image.tag}"), image)
        self.assertEqual(images.find("python-data").tag, "1")


if __name__ == "__main__":
    unittest.main()
