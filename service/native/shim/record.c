#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* Field 22 of /proc/self/stat; 0 if it cannot be read. */
static unsigned long long start_time(void)
{
    char line[1024];
    unsigned long long value = 0;
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    line[n] = 0;
    const char *at = strrchr(line, ')'); /* the name before it may contain anything */
    for (int field = 2; at && field < 22; field++) {
        at = strchr(at, ' ');
        at += at != NULL;
    }
    if (at)
        (void)!sscanf(at, "%llu", &value);
    return value;
}

bool record_pid(int fd)
{
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return false;
    return dprintf(fd, "%d %llu\n", getpid(), start_time()) > 0;
}

bool record_write(const struct record *r)
{
    static const char *const names[] = {"", "poweroff", "stop", "kill", "lifeline", "vmm-failed", "panic"};
    static const char temporary[] = ".exit.new";
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return false;
    int n = dprintf(fd, "reason=%s status=%d signal=%d ready=%d at=%lld\n", names[r->reason], r->status, r->signal,
                    r->ready, (long long)time(NULL));
    close(fd);
    return n > 0 && rename(temporary, RECORD_NAME) == 0;
}
