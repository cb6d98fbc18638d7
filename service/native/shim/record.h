/* The two things the shim leaves in writing: who it is, and how the VM ended. */
#pragma once

#include <stdbool.h>

#include "shim.h"

#define RECORD_NAME "exit"

/* Writes "<pid> <start time>\n" to `fd`, and locks it (flock) for as long as this process lives. */
bool record_pid(int fd);
struct record {
    enum end_reason reason;
    int status, signal; /* of the VMM; 128 + signal, and 0 if none ended it */
    bool ready; /* the guest program had answered */
};

/* Writes the exit record in one piece. False: it could not be written. */
bool record_write(const struct record *r);
