# Runs inside a test guest (busybox sh): pack, mount in every mode the kernel should have,
# compare, write through a union, kill, unmount; run commands within limits. KERNEL says what to expect.
set -u
passed=0 failed=0
check() { # check NAME COMMAND...
  name=$1; shift
  if "$@" > /tmp/out 2>&1; then
    passed=$((passed + 1)); echo "test $name ... ok"
  else
    failed=$((failed + 1)); echo "test $name ... FAILED"; tail -n 20 /tmp/out
    for log in /run/lamina/*/log; do echo "-- $log"; tail -n 10 "$log"; done 2> /dev/null
    grep -q ' /m ' /proc/mounts && gone
  fi
}

case $KERNEL in
  6.1) expected=erofs-loop modes="erofs-loop fuse" resend=no ;;
  *) expected=erofs modes="erofs erofs-loop fuse" resend=yes ;;
esac

# A tree with something of everything; small, because hashing is slow here.
mkdir -p /src/dir/deep /m
cp /bin/busybox /src/dir/program
i=0; while [ $i -lt 200 ]; do echo "file $i" > "/src/dir/file-$i"; i=$((i + 1)); done
dd if=/dev/urandom of=/src/big bs=64k count=32 2> /dev/null
ln /src/big /src/linked
ln -s ../big /src/dir/symlink
mkfifo /src/fifo
chmod 4755 /src/dir/program
truncate -s 1048576 /src/sparse

same() { # contents, names and metadata of /src and $1
  for d in /src "$1"; do
    (cd "$d" && find . -type f | sort | xargs sha1sum; find . | sort | xargs stat -c '%n %F %a %u %g %Y %h') |
      grep -v -e '^\. ' > "/tmp/list-$(basename "$d")"
  done
  diff "/tmp/list-src" "/tmp/list-$(basename "$1")"
}
gone() { # after a failure: leave nothing that would make the next check fail too
  lamina umount --force /m > /dev/null 2>&1 || umount -l /m 2> /dev/null
}
mode_is() { lamina mounts -o json | tr -d ' \n' | grep -q "\"mode\":\"$1\""; }
cycle() { # cycle MODE: mount with an empty cache, compare, unmount
  lamina mount /src.fl /m --timeout 120s --cache "/cache-$1" --mode "$1" && same /m && lamina umount /m
}
write_union() {
  lamina mount /src.fl /m --timeout 120s --cache /cache-rw --rw /upper || return 1
  echo changed > /m/dir/file-1 && rm /m/dir/file-2 && mkdir /m/new && echo new > /m/new/file || return 1
  [ "$(cat /m/dir/file-1)" = changed ] && [ ! -e /m/dir/file-2 ] && [ "$(cat /m/new/file)" = new ] || return 1
  lamina umount /m && [ "$(cat /src/dir/file-1)" = "file 1" ]
}
pid_of() { # pid_of ROLE CACHE: of the instance with that cache, while others may be ending
  for process in /proc/[0-9]*; do
    case "$(cat "$process/cmdline" 2> /dev/null | tr '\0' ' ') " in
      *"mountd --role $1 "*"--cache $2 "*) echo "${process#/proc/}"; return ;;
    esac
  done
  echo "no process has the role $1 for $2"; return 1
}
survives() { # survives ROLE: kill it, reads of data that is not here yet go on
  lamina mount /src.fl /m --timeout 120s --cache "/cache-kill-$1" --no-prefetch || return 1
  pid=$(pid_of "$1" "/cache-kill-$1") && kill -9 "$pid" || { echo "$pid"; return 1; }
  same /m && lamina umount /m
}

wrong_bytes() { # a read of $1 that gives an error is not meant: wrong bytes, or more than there are
  cat "$1" > /tmp/read 2> /dev/null
  ! head -c "$(stat -c %s /tmp/read)" "$2" | cmp -s - /tmp/read
}
mounted_again() { # without FUSE_RESEND: missing data gives errors, never wrong bytes, until mounted again
  lamina mount /src.fl /m --timeout 120s --cache /cache-again --no-prefetch || return 1
  pid=$(pid_of mountd /cache-again) && kill -9 "$pid" || { echo "$pid"; return 1; }
  if wrong_bytes /m/big /src/big; then echo "wrong bytes"; return 1; fi
  lamina mount /src.fl /m --timeout 120s --cache /cache-again && same /m && lamina umount /m
}

check "pack a directory" lamina pack /src -o /src.fl -s dir:///store
check "doctor reports" lamina doctor
check "mount" lamina mount /src.fl /m --cache /cache-auto --timeout 120s
check "auto mode is $expected" mode_is "$expected"
check "auto mount equals its source" same /m
check "unmount" lamina umount /m
for mode in $modes; do check "mode $mode equals its source" cycle "$mode"; done
check "a writable union keeps the source" write_union
check "reads survive SIGKILL of the agent" survives agent
case $resend in
  yes) check "reads survive SIGKILL of the mount daemon" survives mountd ;;
  no) check "a mount whose daemon was killed is mounted again" mounted_again ;;
esac
nothing_mounted() { # the daemons end a moment after the last umount
  i=0; while grep -e " /m " -e lamina /proc/mounts; do i=$((i + 1)); [ $i -lt 60 ] || return 1; sleep 1; done
}
check "nothing stays mounted" nothing_mounted

# Commands: in the machine's cgroup, in that of a session, and by an afslet in a container.
mkdir -p /img/bin /img/tmp
cp /bin/busybox /img/bin/busybox
for name in sh echo sleep tail head dd cat sync; do ln -s busybox "/img/bin/$name"; done

run() { # run CODE WORDS ARGS...: ends with this code, and says these words
  code=$1 words=$2; shift 2
  "$@" > /tmp/said 2>&1
  got=$?; cat /tmp/said
  [ $got -eq "$code" ] || { echo "exit code $got, not $code"; return 1; }
  grep -q "$words" /tmp/said
}
in_session() { # as after a login: in a cgroup with other processes, which can have no children
  sh -c 'echo $$ > /sys/fs/cgroup/session/cgroup.procs && exec "$@"' in-session "$@"
}
no_cgroups() { # of sandboxes
  i=0; while find /sys/fs/cgroup -type d -name 'lamina-*-*' | grep .; do i=$((i + 1)); [ $i -lt 60 ] || return 1; sleep 1; done
}
many='i=0; while [ $i -lt 40 ]; do sleep 9 & i=$((i + 1)); done; wait'
mkdir /sys/fs/cgroup/session
check "pack an image" lamina pack /img -o /img.fl -s dir:///store --publish
check "a command's exit code is that of lamina run" run 7 changed \
  lamina run /img.fl -- sh -c 'echo changed > /tmp/x; cat /tmp/x; exit 7'
check "a command that needs too much memory is killed by name" run 137 "out of memory.*32" \
  lamina run --memory 32MiB /img.fl -- tail -c 900000000 /dev/zero
check "so it is in a session" run 137 "out of memory.*32" \
  in_session lamina run --memory 32MiB --cpus 1 /img.fl -- tail -c 900000000 /dev/zero
check "too many processes are refused by name" run 2 "too many processes: --pids is 20" \
  lamina run --pids 20 /img.fl -- sh -c "$many"
check "a command that takes too long is killed by name" run 137 "timed out after 2s" \
  lamina run --timeout 2s /img.fl -- sleep 100
check "changes are bounded on disk" run 1 "No space left" \
  lamina run --scratch disk --disk 8MiB /img.fl -- sh -c 'dd if=/dev/zero of=/tmp/x bs=64k count=300'
slowly() { # 5 MiB at 1 MiB/s, but for what the kernel lets pass at first
  began=$(date +%s)
  lamina run --scratch disk --disk 16MiB --io-write-bps 1MiB /img.fl -- \
    sh -c 'head -c 5242880 /dev/zero > /tmp/x && sync' || return 1
  took=$(($(date +%s) - began)); echo "$took s"; [ $took -ge 4 ]
}
check "the speed of the disk is bounded" slowly
check "that of memory cannot be" run 125 "give --scratch disk" lamina run --io-write-bps 1MiB /img.fl -- true
check "runs leave no cgroup" no_cgroups
check "runs leave no mount" nothing_mounted

# A container: a cgroup namespace, and its file system as the top of all that it sees.
mkdir /sys/fs/cgroup/container
cat > /t/container.sh << 'END'
echo $$ > /sys/fs/cgroup/container/cgroup.procs
exec /usr/bin/unshare --cgroup --mount sh -c 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup && exec "$@"' container "$@"
END
digest=$(lamina inspect /img.fl -o json | tr -d ' ",' | sed -n 's/^digest://p' | head -n 1)
sh /t/container.sh lamina up --node-name one --store dir:///store > /tmp/up 2>&1 &
up=$!
is_up() { i=0; until grep Ctrl-C /tmp/up; do i=$((i + 1)); [ $i -lt 120 ] || { cat /tmp/up; return 1; }; sleep 1; done; }
check "lamina up starts in a container" is_up
check "an afslet runs a command" run 7 hello lamina exec "flist:$digest" -- sh -c 'echo hello; exit 7'
check "its memory is bounded" run 137 "memory" lamina exec --memory 32MiB "flist:$digest" -- tail -c 900000000 /dev/zero
check "its processes are bounded" run 2 "processes" lamina exec --pids 20 "flist:$digest" -- sh -c "$many"
down() { kill $up && wait $up; }
check "lamina up ends when asked" down
check "an afslet leaves no cgroup" no_cgroups

[ $failed -eq 0 ] && verdict=ok || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored"
[ $failed -eq 0 ]
