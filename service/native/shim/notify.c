#include "notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void tell_systemd(const char *name)
{
    static const char text[] = "READY=1";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && n > 1 && n < sizeof address.sun_path) {
        memcpy(address.sun_path, name, n);
        if (name[0] == '@') /* an abstract name */
            address.sun_path[0] = 0;
        (void)!sendto(fd, text, sizeof text - 1, MSG_NOSIGNAL, (struct sockaddr *)&address,
                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    }
    if (fd >= 0)
        close(fd);
}

void notify_ready(int fd)
{
    const char *name = getenv("NOTIFY_SOCKET");
    if (fd >= 0) {
        dprintf(fd, "READY=1\n");
        close(fd);
    }
    if (name)
        tell_systemd(name);
    unsetenv("NOTIFY_SOCKET");
}
