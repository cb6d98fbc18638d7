#include "transport.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static const char PORT_NAME[] = "banger.0";
enum { VSOCK_PORT = 1024 };

/* Finds the port's device. */
static bool find_port(char *device, size_t size)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    bool found = false;
    while (dir && !found && (entry = readdir(dir))) {
        char path[320], name[sizeof PORT_NAME + 1] = "";
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        if (fgets(name, sizeof name, f))
            name[strcspn(name, "\n")] = 0;
        fclose(f);
        found = strcmp(name, PORT_NAME) == 0;
        snprintf(device, size, "/dev/%s", entry->d_name);
    }
    if (dir)
        closedir(dir);
    return found;
}

bool transport_has_port(void)
{
    char device[320];
    return find_port(device, sizeof device);
}

int transport_open_port(void)
{
    char device[320];
    return find_port(device, sizeof device) ? open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
}

/* A connection that is not waited for: that it is asked for is all the host has to know. */
void transport_knock(void)
{
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_port = VSOCK_PORT, .svm_cid = VMADDR_CID_HOST};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)!connect(fd, (struct sockaddr *)&host, sizeof host);
    close(fd);
}

int transport_listen_vsock(void)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = VSOCK_PORT, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 4) == 0)
        return fd;
    close(fd);
    return -1;
}

int transport_accept_vsock(int listener)
{
    struct sockaddr_vm peer = {0};
    socklen_t size = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 || peer.svm_cid == VMADDR_CID_HOST)
        return fd;
    close(fd); /* a process of the guest, through the loopback */
    return -1;
}
