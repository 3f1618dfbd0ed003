"""Where things live: built programs outside the clone, a running cluster in one folder.

    <cache>/lamina/tools/cluster-<set>-<version>-<recipe>/bin   built programs
    <cache>/lamina/cluster/images/                              archives of the small images
    <state>/                                                    a running cluster, gone after `down`
"""

import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "lamina"
TOOLS = CACHE / "tools"
IMAGES = CACHE / "cluster/images"
