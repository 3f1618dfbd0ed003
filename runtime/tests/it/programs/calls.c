// Makes system calls that no shell makes; prints those that were not refused before they did anything.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static char page[4096];
static long fifth;
static void call(const char *what, long number, long a, long b, long c, long d, int wanted) {
    errno = 0;
    long got = syscall(number, a, b, c, d, fifth, 0);
    if (got >= 0 || (errno != wanted && wanted)) printf("ESCAPED %s: %ld, errno %d\n", what, got, errno);
}
int main(void) {
    long p = (long)page;
    call("io_uring_setup", 425, 8, p, 0, 0, ENOSYS);
    call("bpf", SYS_bpf, 0, p, 64, 0, EPERM);
    call("userfaultfd", SYS_userfaultfd, 1, 0, 0, 0, ENOSYS);
    call("perf_event_open", SYS_perf_event_open, p, 0, -1, -1, EPERM);
    call("keyctl", SYS_keyctl, 0, -3, 1, 0, EPERM);
    call("add_key", SYS_add_key, (long)"user", (long)"x", p, 1, EPERM);
    call("request_key", SYS_request_key, (long)"user", (long)"x", 0, 0, EPERM);
    call("clone3", 435, p, 88, 0, 0, ENOSYS);
    call("clone of a user namespace", SYS_clone, 0x10000000 | 17, 0, 0, 0, EPERM);
    call("clone of a mount namespace", SYS_clone, 0x00020000 | 17, 0, 0, 0, EPERM);
    call("unshare", SYS_unshare, 0x10000000, 0, 0, 0, EPERM);
    call("setns", SYS_setns, 0, 0, 0, 0, EPERM);
    call("open_by_handle_at", SYS_open_by_handle_at, -100, p, 0, 0, EPERM);
    call("name_to_handle_at", SYS_name_to_handle_at, -100, (long)"/", p, p, EPERM);
    call("fsopen", 430, (long)"tmpfs", 0, 0, 0, EPERM);
    call("open_tree", 428, -100, (long)"/", 1, 0, EPERM);
    call("move_mount", 429, 0, p, 0, p, EPERM);
    call("mount_setattr", 442, -100, (long)"/", 0, p, EPERM);
    call("init_module", SYS_init_module, p, 1, p, 0, EPERM);
    call("kexec_load", SYS_kexec_load, 0, 0, 0, 0, EPERM);
    call("iopl", SYS_iopl, 3, 0, 0, 0, ENOSYS);
    call("ioperm", SYS_ioperm, 0, 1, 1, 0, ENOSYS);
    call("quotactl", SYS_quotactl, 0, 0, 0, 0, EPERM);
    call("fanotify_init", SYS_fanotify_init, 0, 0, 0, 0, EPERM);
    call("raw socket", SYS_socket, 2, 3, 1, 0, EPERM);
    call("packet socket", SYS_socket, 17, 3, 0, 0, EPERM);
    call("kernel crypto socket", SYS_socket, 38, 5, 0, 0, EPERM);
    call("vsock", SYS_socket, 40, 1, 0, 0, EPERM);
    call("audit netlink", SYS_socket, 16, 3, 9, 0, EPERM);
    call("typing into the terminal", SYS_ioctl, 0, 0x5412, p, 0, EPERM);
    call("personality", SYS_personality, 0x0400000, 0, 0, 0, EPERM);
    call("ptrace of pid 1", SYS_ptrace, 16, 1, 0, 0, EPERM);
    call("ptrace seize of pid 1", SYS_ptrace, 0x4206, 1, 0, 0, EPERM);
    long piece[2] = {p, 16};
    fifth = 1;
    call("process_vm_readv of pid 1", SYS_process_vm_readv, 1, (long)piece, 1, (long)piece, EPERM);
    fifth = 0;
    call("x32 getpid", 0x40000000 | SYS_getpid, 0, 0, 0, 0, ENOSYS);
    call("setuid", SYS_setuid, 33, 0, 0, 0, EPERM);
    call("setgroups", SYS_setgroups, 0, 0, 0, 0, EPERM);
    call("sethostname", SYS_sethostname, p, 1, 0, 0, EPERM);
    call("syslog", SYS_syslog, 3, p, 10, 0, EPERM);
    call("acct", SYS_acct, (long)"/x", 0, 0, 0, EPERM);
    call("swapoff", SYS_swapoff, (long)"/x", 0, 0, 0, EPERM);
    call("settimeofday", SYS_settimeofday, p, 0, 0, 0, EPERM);
    puts("done");
    return 0;
}
