// Says whose it is: real, effective and saved user, then group; whether the kernel calls it privileged; whether it reads a
// file of root alone.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>
int main(void) {
    uid_t uid[3];
    gid_t gid[3];
    if (getresuid(uid, uid + 1, uid + 2) || getresgid(gid, gid + 1, gid + 2))
        return 1;
    printf("%u %u %u, %u %u %u, %lu\n", uid[0], uid[1], uid[2], gid[0], gid[1], gid[2], getauxval(AT_SECURE));
    if (open("/etc/shadow", O_RDONLY) >= 0)
        puts("ESCAPED");
    return 0;
}
