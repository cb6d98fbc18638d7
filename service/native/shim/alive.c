/* Whether the guest program lives, when the console says that its kernel has stopped. */
#include <stdbool.h>
#include <stddef.h>

#include "loop.h"
#include "shim.h"

enum { PROOF_MS = 5000 };

static struct timer proof_timer;
static void (*presumed_dead)(void); /* as long as the proof of the contrary is awaited */
static bool doubted_again;

static void unproven(struct timer *t)
{
    void (*dead)(void) = presumed_dead;
    (void)t;
    presumed_dead = NULL;
    dead();
}

static void ask_for_proof(void)
{
    doubted_again = false;
    guest_control("ping alive");
    proof_timer.fire = unproven;
    timer_set(&proof_timer, PROOF_MS);
}

void alive_proven(void)
{
    if (!presumed_dead)
        return;
    if (doubted_again) { /* the answer is older than that */
        ask_for_proof();
        return;
    }
    presumed_dead = NULL;
    timer_cancel(&proof_timer);
}

void alive_presume_dead(void (*dead)(void))
{
    bool waiting = presumed_dead;
    if (!guest_is_up()) {
        dead();
        return;
    }
    presumed_dead = dead;
    if (waiting)
        doubted_again = true;
    else
        ask_for_proof();
}

void alive_link_up(void)
{
    if (presumed_dead)
        ask_for_proof();
}

void alive_begin_anew(void)
{
    presumed_dead = NULL;
    timer_cancel(&proof_timer);
}
