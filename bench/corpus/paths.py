"""Where built layers, images and servers' data live: outside the clone, one folder.

    corpus-1/layers/<key>/{tree/, layer.tar.gz, layer.json}   one built layer
    corpus-1/images/<name>@<tag>.json                          an image's layers and config
    corpus-1/trees/<name>@<tag>/                               an image as one directory
    corpus-1/registry/                                         the local registry's storage

The number changes when a recipe changes in a way its key does not show.
"""

import os
import pathlib

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "lamina"
CORPUS = CACHE / "corpus-1"
LAYERS = CORPUS / "layers"
IMAGES = CORPUS / "images"
TREES = CORPUS / "trees"
REGISTRY = CORPUS / "registry"
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
