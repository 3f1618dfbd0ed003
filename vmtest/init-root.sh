#!/bin/busybox sh
# First process on the guest's disk: a usual set of mounts, cgroup v2 with every controller,
# then the command; its status goes to the console as "=RC= N".
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control; done
ip link set lo up
echo "vmtest: Linux $(uname -r), up $(cut -d' ' -f1 /proc/uptime) s"
sh /t/command
echo "=RC= $?"
sync
reboot -f
