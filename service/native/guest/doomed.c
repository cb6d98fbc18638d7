#include "doomed.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "loop.h"

enum { GRACE_MS = 10000, REAP_MS = 100 };

struct doomed {
    struct timer timer;
    pid_t leader;
    struct doomed *next;
};

static struct doomed *all;

static void drop(struct doomed *d)
{
    for (struct doomed **at = &all; *at; at = &(*at)->next) {
        if (*at == d) {
            *at = d->next;
            break;
        }
    }
    timer_cancel(&d->timer);
    free(d);
}

/* The leader is reaped only after its group was killed, so that its number, which is the group's, cannot have gone
 * to somebody else. One that the kernel holds (a dead disk) must not hold this program too. */
static void due(struct timer *t)
{
    struct doomed *d = container_of(t, struct doomed, timer);
    kill(-d->leader, SIGKILL);
    if (waitpid(d->leader, NULL, WNOHANG) == 0)
        timer_set(t, REAP_MS);
    else
        drop(d);
}

/* Just forked, the leader may not have made its group yet. */
static void signal_group(pid_t leader, int number)
{
    if (kill(-leader, number) < 0)
        kill(leader, number);
}

void doomed_add(pid_t leader)
{
    struct doomed *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    signal_group(leader, SIGHUP);
    signal_group(leader, SIGCONT); /* a stopped process would not notice */
    d->leader = leader;
    d->timer.fire = due;
    d->next = all;
    all = d;
    timer_set(&d->timer, GRACE_MS);
}

void doomed_kill_all(void)
{
    while (all) {
        signal_group(all->leader, SIGKILL);
        drop(all);
    }
}
