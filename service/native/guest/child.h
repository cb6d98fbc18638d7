/* Starting one session's process. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "messages.h"
#include "seed.h"
#include "user.h"

struct child {
    pid_t pid;
    int in, out, err; /* our ends, non-blocking; with a terminal `in` and `out` are its master, `err` is -1 */
    int start;        /* end of file: the program runs; else a struct start_error */
};

/* What the new process reports when it cannot become the program. */
struct start_error {
    int32_t code; /* ERROR_* */
    char text[508];
};

/* True: sessions are a machine's own (limits, OOM score are reset); false: they die with this process. */
extern bool child_of_machine;
/* Variables for all sessions, weaker than those of the EXEC. */
extern struct seed_list child_environment;

/* Forks. False: `error` says why there is no process. */
bool child_start(const struct exec_request *r, struct child *out, struct start_error *error);

/* In a process just forked: becomes the program of `r`, as `u` and in its folder (/ if none is given), with the streams
 * it has. On failure it says why on stderr and ends. */
_Noreturn void child_exec(const struct exec_request *r, const struct user *u, char **env);
