/* Being PID 1, for images that have no init of their own. */
#pragma once

#include <sys/types.h>

#include "seed.h"

/* Runs the agent and the seed's entrypoint, reaps what is left behind, and goes down when asked to, or when the
 * entrypoint has ended. */
_Noreturn void init_run(const struct seed *seed);

/* boot.c: forks the agent. */
pid_t boot_fork_agent(const struct seed *seed, int boss);
