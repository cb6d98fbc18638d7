#include "log.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool log_open(struct log *l)
{
    /* The folder belongs to the VMM's user as well: whatever lies there under this name is not followed. The mode lets
     * bangerd read, which is neither that user nor has CAP_DAC_OVERRIDE; others do not get into the folder. */
    unlink(l->name);
    l->fd = open(l->name, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    l->size = 0;
    return l->fd >= 0;
}

static void rotate(struct log *l)
{
    char old[64];
    snprintf(old, sizeof old, "%s.1", l->name);
    rename(l->name, old);
    close(l->fd);
    log_open(l);
}

static void keep_newer_half(struct log *l)
{
    size_t keep = l->max / 2;
    uint8_t *text = malloc(keep);
    ssize_t n = text ? pread(l->fd, text, keep, (off_t)(l->size - keep)) : -1;
    if (ftruncate(l->fd, 0) == 0)
        l->size = 0;
    if (n > 0 && l->size == 0 && write(l->fd, text, (size_t)n) > 0)
        l->size = (size_t)n;
    free(text);
}

void log_write(struct log *l, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n && l->fd >= 0) {
        size_t room = l->max > l->size ? l->max - l->size : 0;
        if (!room) {
            if (l->rotate)
                rotate(l);
            else
                keep_newer_half(l);
            room = l->max > l->size ? l->max - l->size : 0;
        }
        ssize_t written = l->fd >= 0 && room ? write(l->fd, p, n < room ? n : room) : -1;
        if (written <= 0)
            return;
        l->size += (size_t)written;
        p += written;
        n -= (size_t)written;
    }
}
