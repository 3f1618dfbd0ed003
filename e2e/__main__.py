"""python3 -m e2e [STORY...]: tells stories on the cluster that is up (`make cluster`), all of them by default.

Installs the chart first, with the image of `make image`. Each story has a namespace of its own. When one fails,
what can be found out lies in target/e2e/STORY/. Ends with cargo's line, so that scripts/test.py counts it.
"""

import importlib
import pathlib
import sys
import time
import traceback

from . import release
from .cluster import ClusterError, provider
from .story import SYSTEM, Failed, Story, diagnose, namespace, seconds_since

# In the order they are told; the last one leaves nothing to tell about.
STORIES = ("first_volume", "helm_test", "documents", "bad_objects", "storage_class", "writable", "subpath", "flist_object",
           "flist_from_archive", "flist_from_pvc", "image_object", "store_object", "private_image", "store_with_password",
           "from_peers", "psa_restricted", "plugin", "hostile_volumes", "csi_sanity", "csi_sanity_kills", "csi_storm", "external_storage",
           "commands", "kept_changes", "command_restarts", "command_places", "network_policy", "hundred_pods", "interrupted_publish", "node_pod_deleted", "startup_taint", "uninstall")
FOUND = pathlib.Path(__file__).resolve().parents[1] / "target/e2e"


def main(names: list[str]) -> int:
    """0 when every story ended well."""
    if unknown := [name for name in names if name not in STORIES]:
        print(f"no story {', '.join(unknown)}; there are {', '.join(STORIES)}", file=sys.stderr)
        return 2
    cluster = provider()
    if (status := cluster.status()) != "up":
        print(f"the cluster is {status}: run make cluster", file=sys.stderr)
        return 1
    started = time.monotonic()
    try:
        images = release.test_images(cluster)
        release.install(cluster)
    except ClusterError as error:
        print(f"installing failed: {error}\nsee {diagnose(cluster, [SYSTEM], FOUND / 'install')}")
        print("test result: FAILED. 0 passed; 1 failed; 0 ignored")
        return 1
    print(f"installed in {seconds_since(started)}", flush=True)
    failed = [name for name in STORIES if name in (names or STORIES) and not tell(cluster, images, name)]
    told = len(names or STORIES)
    print(f"test result: {'FAILED' if failed else 'ok'}. {told - len(failed)} passed; {len(failed)} failed; 0 ignored")
    return 1 if failed else 0


def tell(cluster, images: dict[str, str], name: str) -> bool:
    """Tells one story; whether it ended well."""
    module = importlib.import_module(f"e2e.stories.{name}")
    print(f"story {name}: {module.__doc__.splitlines()[0]}", flush=True)
    started = time.monotonic()
    with namespace(cluster, name) as own:
        try:
            module.run(Story(cluster, images, own))
        except (Failed, ClusterError) as error:
            print(f"story {name}: FAILED after {seconds_since(started)}: {error}", flush=True)
        except Exception:  # noqa: BLE001: one broken story does not end the others
            print(f"story {name}: FAILED after {seconds_since(started)}:\n{traceback.format_exc()}", flush=True)
        else:
            print(f"story {name}: ok in {seconds_since(started)}", flush=True)
            return True
        print(f"  see {diagnose(cluster, [own, SYSTEM], FOUND / name)}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
