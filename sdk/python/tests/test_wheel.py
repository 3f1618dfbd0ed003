"""The wheel: pure Python, typed, and usable by who has nothing but it and what it requires."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

HERE = pathlib.Path(__file__).resolve().parents[1]
USE = """
import asyncio, lamina, pathlib
assert pathlib.Path(lamina.__file__).with_name("py.typed").exists()
assert "site-packages" in lamina.__file__, lamina.__file__
try:
    lamina.Client("127.0.0.1:1", retry=lamina.Retry(attempts=1)).run("image", ["x"], start_timeout=5)
except lamina.Unavailable as error:
    print("blocking:", error)
async def main():
    async with lamina.AsyncClient("127.0.0.1:1", retry=lamina.Retry(attempts=1)) as client:
        try:
            await client.run("image", ["x"], start_timeout=5)
        except lamina.Unavailable as error:
            print("asyncio:", error)
asyncio.run(main())
"""


class Wheel(unittest.TestCase):
    def test_a_fresh_environment_can_use_the_built_wheel(self):
        with tempfile.TemporaryDirectory() as work:
            home = pathlib.Path(work)
            wheel = built(home)
            self.assertTrue(wheel.name.endswith("-py3-none-any.whl"), wheel.name)
            with zipfile.ZipFile(wheel) as archive:
                names = {name for name in archive.namelist() if ".dist-info/" not in name}
            ours = {
                str(path.relative_to(HERE / "src"))
                for path in (HERE / "src").rglob("*")
                if path.is_file() and path.suffix != ".pyc"
            }
            self.assertEqual(names, ours)
            python = home / "environment" / "bin" / "python"
            quiet = {"check": True, "cwd": work}
            subprocess.run([sys.executable, "-m", "venv", home / "environment"], **quiet)
            # --only-binary: no compiler is needed.
            install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel]
            subprocess.run(install, env={"PATH": "/nonexistent", **kept()}, **quiet)
            said = subprocess.run([python, "-I", "-c", USE], capture_output=True, text=True, check=False, cwd=work)
            self.assertEqual(said.returncode, 0, said.stderr)
            self.assertIn("blocking: ", said.stdout)
            self.assertIn("asyncio: ", said.stdout)


def kept():
    """What pip needs to find its index and its cache."""
    import os

    return {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "XDG_", "SSL_", "http", "HTTP"))
    }


def built(home):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(home),
        str(HERE),
    ]
    subprocess.run(command, check=True)
    return next(home.glob("lamina-*.whl"))


if __name__ == "__main__":
    unittest.main()
