/* Finding the machine's way to the host: a virtio-serial port or a vsock listener. */
#pragma once

#include <stdbool.h>

/* Has the machine a port named "banger.0"? Firecracker's have none. */
bool transport_has_port(void);
/* That port, open; -1: there is none, or it is in use. */
int transport_open_port(void);

/* A socket that listens on vsock port 1024, or -1. */
int transport_listen_vsock(void);
/* Tells the host that it can connect. */
void transport_knock(void);
/* The host's next connection, or -1. Others than the host are turned away. */
int transport_accept_vsock(int listener);
