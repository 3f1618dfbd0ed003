#!/bin/busybox sh
# First process of a test guest: loads the modules in order, mounts the disk, hands over.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for m in $(cat /modules/order); do
  insmod "/modules/$m" 2>/dev/null || echo "vmtest: insmod $m failed"
done
mount -t proc proc /proc
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/vda ] && break; sleep 1; done
mount -t ext4 /dev/vda /newroot || { echo "vmtest: no root disk"; reboot -f; }
umount /proc
exec switch_root /newroot /sbin/init-root
