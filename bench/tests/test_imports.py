"""Every module can be imported: the benchmarks run too seldom to find a stale name by running."""

import importlib
import pkgutil
import unittest

import bench
import e2e


class Imports(unittest.TestCase):
    def test_every_module_imports(self):
        for package in (bench, e2e):
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                if not module.name.endswith("__main__"):
                    with self.subTest(module.name):
                        importlib.import_module(module.name)
        for main in ("bench.__main__", "e2e.__main__", "bench.corpus.__main__", "e2e.cluster.__main__"):
            with self.subTest(main):
                importlib.import_module(main)


if __name__ == "__main__":
    unittest.main()
