#include "modules.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boot.h"
#include "transport.h"

static int is_module(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 3 && strcmp(e->d_name + n - 3, ".ko") == 0;
}

/* One initrd serves all VMMs; what the other one needs is not worth its five milliseconds. `name` is "04-virtio_pci.ko":
 * with PCI there are no devices on the virtio-mmio bus, and with a virtio-serial port the host does not come by vsock. */
static bool is_useful(const char *name)
{
    if (strstr(name, "virtio_mmio") && access("/sys/bus/pci/devices/0000:00:00.0", F_OK) == 0)
        return false;
    if (strstr(name, "vsock") && transport_has_port())
        return false;
    return true;
}

/* finit_module, but for what is there already, and drivers of hardware that is not. */
static bool load(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST || errno == ENODEV;
    int error = errno;
    close(fd);
    errno = error;
    return ok;
}

void modules_load(const char *folder)
{
    struct dirent **found;
    int count = scandir(folder, &found, is_module, alphasort);
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, found[i]->d_name);
        /* One that fails may not be needed here; if it is, what needs it says so. */
        if (is_useful(found[i]->d_name) && !load(path))
            boot_warn(path, strerror(errno));
        unlink(path);
        free(found[i]);
    }
    if (count >= 0)
        free(found);
}
