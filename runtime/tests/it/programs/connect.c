// Connects to the abstract socket it is told.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int count, char **words) {
    struct sockaddr_un to = {AF_UNIX};
    strcpy(to.sun_path + 1, words[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int refused = connect(fd, (void *)&to, sizeof(to.sun_family) + 1 + strlen(words[1]));
    puts(refused ? "refused" : "ESCAPED");
    return 0;
}
