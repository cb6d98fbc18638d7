#include "notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char ready[] = "READY=1\n";

/* Without libsystemd: the protocol is one datagram, stable by promise of sd_notify(3). */
static void tell_systemd(const char *name)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if (length >= sizeof to.sun_path || (name[0] != '/' && name[0] != '@'))
        return;
    memcpy(to.sun_path, name, length);
    if (name[0] == '@')
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)!sendto(fd, ready, sizeof ready - 1, MSG_NOSIGNAL, (struct sockaddr *)&to,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(fd);
}

void notify_ready(int fd)
{
    const char *name = getenv("NOTIFY_SOCKET");
    if (fd >= 0) {
        (void)!write(fd, ready, sizeof ready - 1);
        close(fd);
    }
    if (name)
        tell_systemd(name);
    unsetenv("NOTIFY_SOCKET"); /* it is not the VMM's to speak */
}
