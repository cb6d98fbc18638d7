/* Tells whoever started the shim that its sockets listen. */
#pragma once

/* Writes "READY=1\n" to `fd` and closes it (-1: none), and sends the same to systemd, sd_notify(3), if it asked. */
void notify_ready(int fd);
