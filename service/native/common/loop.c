#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

static int epoll_fd = -1;
static struct timer *timers; /* unsorted: there are a handful */
static void **garbage;
static size_t garbage_count, garbage_cap;
static bool quit;

/* The descriptors in use are known and few; an error here is a mistake in this program. */
static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    perror(what);
    abort();
}

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void loop_init(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    must(epoll_fd, "epoll_create1");
}

void loop_add(struct source *s, int fd, uint32_t events, void (*ready)(struct source *, uint32_t))
{
    s->fd = fd;
    s->events = 0;
    s->ready = ready;
    loop_want(s, events);
}

void loop_want(struct source *s, uint32_t events)
{
    if (s->events == events || s->fd < 0)
        return;
    struct epoll_event ev = {.events = events, .data.ptr = s};
    int op = !s->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    must(epoll_ctl(epoll_fd, op, s->fd, &ev), "epoll_ctl");
    s->events = events;
}

void loop_close(struct source *s)
{
    if (s->fd < 0)
        return;
    loop_want(s, 0);
    close(s->fd);
    s->fd = -1;
}

void loop_free_later(void *p)
{
    if (garbage_count == garbage_cap) {
        garbage_cap = garbage_cap ? garbage_cap * 2 : 32;
        garbage = realloc(garbage, garbage_cap * sizeof *garbage);
        if (!garbage)
            abort();
    }
    garbage[garbage_count++] = p;
}

void timer_set(struct timer *t, uint64_t in_ms)
{
    if (!t->due) {
        t->next = timers;
        timers = t;
    }
    t->due = now_ms() + in_ms;
}

void timer_cancel(struct timer *t)
{
    for (struct timer **at = &timers; *at; at = &(*at)->next) {
        if (*at == t) {
            *at = t->next;
            break;
        }
    }
    t->due = 0;
}

/* Milliseconds to the next timer; -1: none. */
static int next_timeout(void)
{
    uint64_t due = UINT64_MAX, now = now_ms();
    for (struct timer *t = timers; t; t = t->next)
        due = t->due < due ? t->due : due;
    if (due == UINT64_MAX)
        return -1;
    uint64_t left = due <= now ? 0 : due - now;
    return left > 3600000 ? 3600000 : (int)left;
}

static void fire_timers(void)
{
    uint64_t now = now_ms();
    for (;;) {
        struct timer *t = timers;
        while (t && t->due > now)
            t = t->next;
        if (!t)
            return;
        timer_cancel(t);
        t->fire(t); /* may set, cancel and free timers: begin anew */
    }
}

void loop_run(void (*after)(void))
{
    struct epoll_event events[BATCH];
    quit = false;
    while (!quit) {
        int n = epoll_wait(epoll_fd, events, BATCH, next_timeout());
        if (n < 0 && errno != EINTR)
            must(n, "epoll_wait");
        for (int i = 0; i < n && !quit; i++) {
            struct source *s = events[i].data.ptr;
            if (s->fd >= 0 && s->events)
                s->ready(s, events[i].events);
        }
        if (!quit)
            fire_timers();
        while (garbage_count)
            free(garbage[--garbage_count]);
        if (after)
            after();
    }
}

void loop_quit(void)
{
    quit = true;
}

void loop_signals(struct source *s, void (*ready)(struct source *, uint32_t))
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    loop_add(s, signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), EPOLLIN, ready);
}
