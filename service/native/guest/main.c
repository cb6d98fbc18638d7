/* banger-guest: /init of banger's initrd, and the agent that serves sessions in the guest. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "boot.h"

/* Descriptors 0 to 2 must be something: a session's pipe must never get one of these numbers. */
static void fill_stdio(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        boot();
    if (argc != 3 || strcmp(argv[1], "--agent-fd") != 0) {
        fputs("usage: banger-guest --agent-fd N   (serves the guest protocol on descriptor N; for tests)\n"
              "As PID 1 it boots a banger machine from its initrd.\n",
              stderr);
        return 2;
    }
    char *end;
    long fd = strtol(argv[2], &end, 10);
    if (*end || fd < 3 || fd > 1 << 20 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "banger-guest: %s is no open descriptor above 2\n", argv[2]);
        return 2;
    }
    fill_stdio();
    return agent_run(&(struct agent){.fd = (int)fd, .boss = -1});
}
