#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"
#include "shim.h"

enum { LINE_MAX_BYTES = 1024, CONNECTIONS_MAX = 64, STOP_MAX_S = 86400 };

struct connection {
    struct source src;
    struct connection *next;
    bool watches;
    size_t length;
    char line[LINE_MAX_BYTES + 1];
};

static struct connection *connections;

static void drop(struct connection *c)
{
    for (struct connection **at = &connections; *at; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    loop_close(&c->src);
    loop_free_later(c);
}

/* Answers are short; who does not read them is dropped. False: it was. */
static bool answer(struct connection *c, const char *text, size_t n)
{
    if (send(c->src.fd, text, n, MSG_NOSIGNAL) == (ssize_t)n)
        return true;
    drop(c);
    return false;
}

static bool add(char *line, size_t size, size_t *at, const char *key, int64_t value)
{
    int n = value < 0 ? 0 : snprintf(line + *at, size - *at, " %s=%lld", key, (long long)value);
    *at += n > 0 ? (size_t)n : 0;
    return n > 0;
}

size_t control_status(char *line, size_t size)
{
    static const char *const names[] = {"booting", "ready", "stopping", "rebooting"};
    const struct facts *f = &shim.facts;
    size_t at = (size_t)snprintf(line, size, "state=%s vmm=%d sessions=%u", names[shim.state], vmm_pid(),
                                 clients_sessions());
    if (f->memory_total)
        at += (size_t)snprintf(line + at, size - at, " memory=%llu,%llu", f->memory_total, f->memory_available);
    if (f->ports[0])
        at += (size_t)snprintf(line + at, size - at, " ports=%s", f->ports);
    add(line, size, &at, "t.spawn", f->spawn_ms);
    add(line, size, &at, "t.hello", f->hello_ms);
    add(line, size, &at, "t.ready", f->ready_ms);
    line[at++] = '\n';
    line[at] = 0;
    return at;
}

static bool send_status(struct connection *c)
{
    char line[LINE_MAX_BYTES + 1];
    size_t n = control_status(line, sizeof line);
    return answer(c, line, n);
}

void control_notify(void)
{
    for (struct connection *c = connections, *next; c; c = next) {
        next = c->next;
        if (c->watches)
            send_status(c);
    }
}

/* Carries out one command and answers it. False: the connection is gone. */
static bool run(struct connection *c, const char *line)
{
    static const char ok[] = "OK\n", unknown[] = "ERR expected STATUS, WATCH, STOP <seconds>, KILL, REBOOT or CLOCK\n",
                      not_up[] = "ERR the guest program does not answer\n";
    double seconds;
    char after;
    if (strcmp(line, "STATUS") == 0)
        return send_status(c);
    if (strcmp(line, "WATCH") == 0) {
        c->watches = true;
        return send_status(c);
    }
    if (strcmp(line, "KILL") == 0) {
        shim_kill(END_KILL);
        return answer(c, ok, sizeof ok - 1);
    }
    if (strcmp(line, "REBOOT") == 0)
        return shim_reboot() ? answer(c, ok, sizeof ok - 1) : answer(c, not_up, sizeof not_up - 1);
    if (strcmp(line, "CLOCK") == 0) {
        guest_set_clock();
        return guest_is_up() ? answer(c, ok, sizeof ok - 1) : answer(c, not_up, sizeof not_up - 1);
    }
    if (sscanf(line, "STOP %lf%c", &seconds, &after) == 1 && seconds >= 0 && seconds <= STOP_MAX_S) {
        shim_stop((uint64_t)(seconds * 1000));
        return answer(c, ok, sizeof ok - 1);
    }
    return answer(c, unknown, sizeof unknown - 1);
}

static void ready(struct source *s, uint32_t events)
{
    static const char too_long[] = "ERR the line is longer than 1024 bytes\n";
    struct connection *c = container_of(s, struct connection, src);
    (void)events;
    ssize_t n = read(s->fd, c->line + c->length, LINE_MAX_BYTES - c->length);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(c);
        return;
    }
    c->length += (size_t)n;
    char *newline;
    while ((newline = memchr(c->line, '\n', c->length))) {
        size_t used = (size_t)(newline - c->line) + 1;
        *newline = 0;
        if (!run(c, c->line))
            return;
        c->length -= used;
        memmove(c->line, c->line + used, c->length);
    }
    if (c->length == LINE_MAX_BYTES && answer(c, too_long, sizeof too_long - 1))
        drop(c);
}

void control_accept(int fd)
{
    unsigned count = 0;
    for (struct connection *c = connections; c; c = c->next)
        count++;
    struct connection *c = count < CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        close(fd);
        return;
    }
    c->next = connections;
    connections = c;
    loop_add(&c->src, fd, EPOLLIN, ready);
}
