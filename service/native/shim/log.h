/* Files of bounded size for what the VMM and the guest's console write. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct log {
    const char *name;
    size_t max;
    bool rotate; /* at `max` the file becomes NAME.1; else its older half is thrown away */
    int fd;
    size_t size;
};

/* Opens the file in the current folder, emptied. False: errno says why. */
bool log_open(struct log *l);
/* A full disk loses output, and nothing else. */
void log_write(struct log *l, const void *p, size_t n);
