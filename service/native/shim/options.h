/* The shim's command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { UNLINKS_MAX = 4 };

struct options {
    const char *folder;
    const char *vsock_name; /* NULL: --channel fd */
    bool lifeline;
    int pid_fd, ready_fd; /* -1: none */
    size_t console_max;
    const char *unlinks[UNLINKS_MAX + 1]; /* sockets that the VMM makes, removed before each of its starts */
    unsigned unlink_count;
    char **vmm_argv;
};

/* Ends the process with status 2 and a message if the command line is wrong. */
void options_parse(struct options *o, int argc, char **argv);
