/* Process groups whose client is gone: SIGHUP at once, SIGKILL ten seconds later. */
#pragma once

#include <sys/types.h>

void doomed_add(pid_t leader);
void doomed_kill_all(void);
