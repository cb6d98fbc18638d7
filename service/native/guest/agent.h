/* The agent: the guest program's end of the link. */
#pragma once

#include <stdbool.h>

#include "seed.h"

struct agent {
    int fd;       /* serves this descriptor and nothing else; -1: finds the machine's port */
    int boss;     /* a socket to our own PID 1 (power.h), or -1 */
    bool machine; /* false: a plain process for tests, which leaves the system alone */
    bool systemd; /* PID 1 is, or is about to become, systemd */
    struct seed_list environment;
};

/* Serves until the machine goes down, or (a plain process) its descriptor does. Returns the exit status. */
int agent_run(const struct agent *options);
