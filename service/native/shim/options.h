/* The shim's command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct options {
    const char *folder;
    const char *vsock_name; /* NULL: --channel fd */
    bool lifeline;
    int pid_fd, ready_fd; /* -1: none */
    size_t console_max;
    char **vmm_argv;
};

/* Ends the process with status 2 and a message if the command line is wrong. */
void options_parse(struct options *o, int argc, char **argv);
