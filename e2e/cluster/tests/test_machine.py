"""What is found on a machine is attributed to the right cluster, and only to it."""

import os
import pathlib
import subprocess
import tempfile
import unittest

from e2e.cluster import cgroups, loops, process, supervise, tools, traces
from e2e.cluster.plan import MARK, Plan

MOUNTS = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 30 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


class Cgroups(unittest.TestCase):
    def test_own_group_is_found_in_every_v1_hierarchy(self):
        own = "9:name=systemd:/\n4:memory:/job/1\n2:cpu,cpuacct:/docker/abc/job\n0::/\n"
        found = {one.controllers: str(one.own) for one in cgroups.hierarchies(own, MOUNTS)}
        self.assertEqual(found, {"name=systemd": "/sys/fs/cgroup/systemd", "memory": "/sys/fs/cgroup/memory/job/1",
                                 "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/job"})

    def test_removal_takes_what_pods_left_below(self):
        with tempfile.TemporaryDirectory() as folder:
            group = pathlib.Path(folder) / "group"
            (group / "kubepods/pod1/container").mkdir(parents=True)
            record = pathlib.Path(folder) / "record"
            record.write_text(f"{group}\n{group}-never-made\n")
            self.assertEqual(cgroups.remove(record, 1), [])
            self.assertFalse(group.exists())

    def test_groups_in_use_are_reported(self):
        with tempfile.TemporaryDirectory() as folder:
            group = pathlib.Path(folder) / "group"
            group.mkdir()
            (group / "file").touch()
            (record := pathlib.Path(folder) / "record").write_text(f"{group}\n")
            self.assertEqual(cgroups.remove(record, 0), [str(group)])


class Loops(unittest.TestCase):
    def setUp(self):
        self.cluster = Plan(pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())))
        self.image = self.cluster.nodes[1].home / "lamina/image"
        self.image.parent.mkdir(parents=True)
        self.image.touch()
        status = self.image.stat()
        self.inode, self.disk = status.st_ino, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"

    def is_ours(self, path, inode=None, filesystem=None):
        device = loops.Device("/dev/loop0", inode or self.inode, filesystem or self.disk, str(path))
        return loops.ours(self.cluster, device, {self.disk})

    def test_a_file_of_a_node_is_known_by_every_path_it_may_be_shown_by(self):
        for path in ("/var/lib/lamina/image", self.image, "/image"):
            self.assertTrue(self.is_ours(path), path)

    def test_other_files_of_the_same_name_are_left_alone(self):
        self.assertFalse(self.is_ours("/var/lib/lamina/image", inode=self.inode + 1))
        self.assertFalse(self.is_ours("/elsewhere/image"))
        self.assertFalse(self.is_ours("/image (deleted)"))

    def test_a_file_system_that_is_mounted_nowhere_was_a_nodes(self):
        self.assertTrue(self.is_ours("/etc/hosts", filesystem="0:99"))

    def test_a_machine_without_loop_devices_lists_nothing(self):
        self.assertEqual(loops.parse(""), [])


class Processes(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.child = subprocess.Popen(["sleep", "1000"], env={**os.environ, MARK: str(self.folder)})
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)

    def test_a_noted_process_is_found_until_it_ends(self):
        process.record(self.folder, "one", self.child.pid)
        self.assertEqual(process.recorded(self.folder, "one"), self.child.pid)
        self.assertEqual(process.kill([self.child.pid], 10), [])
        self.assertIsNone(process.recorded(self.folder, "one"))

    def test_another_process_with_a_noted_pid_is_not_taken_for_it(self):
        (self.folder / "one.json").write_text(f'{{"pid": {self.child.pid}, "started": 1}}')
        self.assertIsNone(process.recorded(self.folder, "one"))

    def test_a_process_nobody_noted_is_found_by_its_mark(self):
        # Its environment is the parent's until it has become `sleep`.
        while pathlib.Path(f"/proc/{self.child.pid}/comm").read_text() != "sleep\n":
            pass
        self.assertEqual(process.marked(self.folder), [self.child.pid])
        self.assertEqual(process.marked(self.folder / "other"), [])


class Supervised(unittest.TestCase):
    def test_programs_start_end_and_start_again_on_request(self):
        with tempfile.TemporaryDirectory() as folder:
            supervisor = supervise.Supervisor(pathlib.Path(folder) / "control", pathlib.Path(folder))
            self.addCleanup(supervisor.listener.close)
            supervisor.add("sleeper", ["sleep", "1000"])
            self.assertEqual(supervisor.answer({"do": "list"}), {"pids": {}})
            first = supervisor.answer({"do": "start", "name": "sleeper"})["pids"]["sleeper"]
            self.assertEqual(supervisor.answer({"do": "start", "name": "sleeper"})["pids"]["sleeper"], first)
            self.assertEqual(supervisor.answer({"do": "kill", "name": "sleeper"}), {"pids": {"sleeper": None}})
            self.assertNotEqual(supervisor.answer({"do": "start", "name": "sleeper"})["pids"]["sleeper"], first)
            supervisor.answer({"do": "kill", "name": "sleeper"})
            with self.assertRaises(ValueError):
                supervisor.answer({"do": "dance"})


class Traces(unittest.TestCase):
    def test_what_is_left_and_what_has_gone_are_both_named(self):
        found = traces.difference({"routes": {"a", "b"}, "links": {"c"}}, {"routes": {"b", "d"}, "links": {"c"}})
        self.assertEqual(found, ["routes: left d", "routes: gone a"])


class Tools(unittest.TestCase):
    def test_staging_modules_are_read_from_go_mod(self):
        text = "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tother => ./vendor/other\n)\n"
        self.assertEqual(tools.staging_modules(text), ["k8s.io/api"])

    def test_every_pinned_version_is_of_a_set_and_names_its_folder(self):
        self.assertEqual(set(tools.VERSIONS), {group.pinned or group.name for group in tools.SETS})
        for group in tools.SETS:
            self.assertIn(group.version, group.home.name)

    def test_a_set_with_a_source_changes_with_it(self):
        for group in tools.SETS:
            self.assertEqual(bool(group.source), bool(group.sources()), group.name)


if __name__ == "__main__":
    unittest.main()
