"""The images of the corpus: which layers each has, and how one is built and described."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import subprocess
import tempfile

from . import layers, odd, packages
from .layers import Layer, Recipe
from .paths import IMAGES, TREES

PYTHON = ["python3-minimal", "python3", "libgomp1", "libstdc++6"]
DATA_1 = ["numpy==1.26.4", "pandas==2.2.1", "python-dateutil==2.9.0", "pytz==2024.1", "tzdata==2024.1", "six==1.16.0"]
DATA_2 = ["numpy==1.26.4", "pandas==2.2.3", "python-dateutil==2.9.0.post0", "pytz==2024.2", "tzdata==2024.2", "six==1.16.0"]
LEARN_1 = ["scipy==1.13.0", "scikit-learn==1.5.0", "joblib==1.4.2", "threadpoolctl==3.5.0"]
LEARN_2 = ["scipy==1.13.1", "scikit-learn==1.5.2", "joblib==1.4.2", "threadpoolctl==3.5.0"]
BULK = ["tensorflow-cpu==2.18.0", "pyarrow==18.0.0", "onnxruntime==1.20.0", "polars==1.12.0"]
PANDAS_VERSIONS = ["1.5.3", "2.0.0", "2.0.1", "2.0.2", "2.0.3", "2.1.1", "2.1.4", "2.2.1", "2.2.2", "2.2.3"]

IMPORT = ["/usr/bin/python3", "-c"]


@dataclasses.dataclass(frozen=True)
class Image:
    """An image: its layers bottom up, and its first useful work."""

    name: str
    recipes: list[Recipe]
    tag: str = "1"
    command: tuple = ("/bin/true",)
    heavy: bool = False  # left out of --quick
    config: dict = dataclasses.field(default_factory=dict)

    @property
    def ref(self) -> str:
        """Repository and tag, without a host."""
        return f"demo/{self.name}:{self.tag}"

    @property
    def file(self) -> pathlib.Path:
        """Its description in the cache."""
        return IMAGES / f"{self.name}@{self.tag}.json"


BASE = [Recipe(packages.debian_base)]
WITH_PYTHON = [*BASE, Recipe(packages.debian_packages, (PYTHON,))]
PANDAS = "import pandas; print('pandas', pandas.__version__, 'sum', int(pandas.DataFrame({'x': range(1000)}).x.sum()))"
TORCH = "import torch; print('torch', torch.__version__, 'sum', int(torch.arange(1000).sum()))"


def _all() -> list[Image]:
    python_env = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"]}
    images = [
        Image("base", BASE, command=("/bin/ls", "/")),
        Image("python-data", [*WITH_PYTHON, Recipe(packages.wheels, (DATA_1,)), Recipe(packages.wheels, (LEARN_1,))],
              command=(*IMPORT, PANDAS), config=python_env),
        Image("python-data", [*WITH_PYTHON, Recipe(packages.wheels, (DATA_2,)), Recipe(packages.wheels, (LEARN_2,))],
              tag="2", command=(*IMPORT, PANDAS), config=python_env),
        Image("web", [*BASE, Recipe(packages.debian_packages, (["nginx-light", "nodejs"],))],
              command=("/usr/sbin/nginx", "-t"), config={"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}}),
        Image("ml", [*WITH_PYTHON, Recipe(packages.debian_packages, (["python3-torch"],)), Recipe(packages.blas_alternatives),
                     Recipe(packages.wheels, (BULK,))],
              command=(*IMPORT, TORCH), heavy=True, config=python_env),
        Image("odd", [*BASE, Recipe(odd.odd_below, writes_tar=True), Recipe(odd.odd_above, writes_tar=True)]),
        Image("tree100k", [Recipe(odd.small_files, (100_000, 1), writes_tar=True)], heavy=True),
        Image("tree25k", [Recipe(odd.small_files, (25_000, 2), writes_tar=True)]),
        Image("tree1m", [Recipe(odd.small_files, (1_000_000, 4, 64), writes_tar=True)], heavy=True),
        Image("spread", [Recipe(odd.random_files, (f"part{number}", 8, 8, number), writes_tar=True) for number in range(4)]),
        Image("big", [Recipe(odd.big_file, (512, 3), writes_tar=True)]),
    ]
    for number, version in enumerate(PANDAS_VERSIONS, 1):
        wheel = Recipe(packages.wheels, ([f"pandas=={version}"],))
        images.append(Image("versions", [*BASE, wheel], tag=str(number), heavy=True))
    return images


ALL = _all()


def find(ref: str) -> Image:
    """The image called `name` or `name:tag`."""
    name, _, tag = ref.partition(":")
    for image in ALL:
        if (image.name, image.tag) == (name, tag or "1"):
            return image
    raise KeyError(f"no image {ref} in the corpus")


def build(image: Image) -> list[Layer]:
    """Builds what is missing of `image`; its layers, bottom up."""
    below: list[Layer] = []
    for recipe in image.recipes:
        below.append(layers.build(recipe, below))
    manifest, config = describe(image, below)
    IMAGES.mkdir(parents=True, exist_ok=True)
    image.file.write_text(json.dumps({
        "ref": image.ref, "manifest": json.loads(manifest), "config": json.loads(config),
        "layers": [layer.key for layer in below], "record": [layer.record for layer in below],
    }, indent=1))
    return below


def describe(image: Image, built: list[Layer]) -> tuple[bytes, bytes]:
    """The OCI manifest and config of `image`."""
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in built]},
    }, sort_keys=True).encode()
    media = "application/vnd.oci.image"
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": f"{media}.manifest.v1+json",
        "config": {"mediaType": f"{media}.config.v1+json", "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": f"{media}.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size} for layer in built],
    }, sort_keys=True).encode()
    return manifest, config


def digest(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def native_tree(image: Image) -> pathlib.Path:
    """The image as one directory on the local file system: the native baseline.

    Only for images without whiteouts (all but `odd`): layers are untarred over each other.
    """
    tree = TREES / f"{image.name}@{image.tag}"
    if tree.exists():
        return tree
    TREES.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".new-", dir=TREES))
    try:
        for layer in build(image):
            subprocess.run(["tar", "-xzpf", layer.blob, "-C", work, "--numeric-owner", "--keep-directory-symlink"], check=True)
        work.chmod(0o755)
        work.rename(tree)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tree
