/* Telling whoever started the shim that its sockets listen. */
#pragma once

/* Writes READY=1 to `fd` (closed then; -1: none) and to systemd, if that asked for it by $NOTIFY_SOCKET (removed
 * from the environment: the VMM has no business with it). */
void notify_ready(int fd);
