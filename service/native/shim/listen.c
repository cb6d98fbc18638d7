#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "loop.h"
#include "shim.h"

enum { PAUSE_MS = 200, BACKLOG = 64, LISTENERS_MAX = 3 };

struct listener {
    struct source src;
    struct timer pause;
    uid_t peer;
    void (*accepted)(int fd);
};

static void go_on(struct timer *t)
{
    loop_want(&container_of(t, struct listener, pause)->src, EPOLLIN);
}

static void ready(struct source *s, uint32_t events)
{
    struct listener *l = container_of(s, struct listener, src);
    struct ucred peer;
    socklen_t size = sizeof peer;
    (void)events;
    int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            loop_want(s, 0); /* the connection stays in the queue: asking at once again would only burn time */
            timer_set(&l->pause, PAUSE_MS);
        }
        return;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != l->peer) {
        close(fd);
        return;
    }
    l->accepted(fd);
}

bool listen_on(const char *name, uid_t peer, void (*accepted)(int fd))
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static struct listener listeners[LISTENERS_MAX];
    static unsigned used;
    struct listener *l = used < LISTENERS_MAX ? &listeners[used++] : NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!l || fd < 0)
        return false;
    /* Under its own name only when it listens: who finds it can connect. */
    snprintf(address.sun_path, sizeof address.sun_path, ".%s.new", name);
    unlink(address.sun_path);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0 ||
        rename(address.sun_path, name) < 0)
        return false;
    l->accepted = accepted;
    l->peer = peer;
    l->pause.fire = go_on;
    loop_add(&l->src, fd, EPOLLIN, ready);
    return true;
}
