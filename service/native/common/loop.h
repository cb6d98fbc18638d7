/* One thread's event loop: descriptors by epoll, timers, and a hook after each batch of events. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct source {
    int fd; /* -1: not in the loop */
    uint32_t events;
    void (*ready)(struct source *s, uint32_t events);
};

struct timer {
    uint64_t due; /* 0: not set */
    void (*fire)(struct timer *t);
    struct timer *next;
};

/* The structure that `member` of type `type` stands in. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

uint64_t now_ms(void); /* CLOCK_MONOTONIC */

void loop_init(void);
/* Watches `fd` from now on; `ready` gets EPOLLHUP and EPOLLERR whether asked for or not. */
void loop_add(struct source *s, int fd, uint32_t events, void (*ready)(struct source *, uint32_t));
/* Changes what is watched. 0 takes the descriptor out of epoll, so that a hang-up nobody can act on yet costs
 * nothing; EPOLLERR alone waits for a hang-up. */
void loop_want(struct source *s, uint32_t events);
/* SIGCHLD and SIGTERM arrive at `s` as struct signalfd_siginfo; what a terminal or a closed pipe sends is ignored. */
void loop_signals(struct source *s, void (*ready)(struct source *, uint32_t));
/* Takes the descriptor out and closes it. Events already fetched for it are not delivered. */
void loop_close(struct source *s);
/* Frees `p` when no event of the current batch can mention it any more. */
void loop_free_later(void *p);

void timer_set(struct timer *t, uint64_t in_ms);
void timer_cancel(struct timer *t);

/* Runs until loop_quit. `after` (may be NULL) is called after each batch. */
void loop_run(void (*after)(void));
void loop_quit(void);
