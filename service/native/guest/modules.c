#include "modules.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "transport.h"

enum { KEPT_MAX = 8 };

static struct {
    int fd;
    char name[64];
} kept[KEPT_MAX];
static int kept_count;

static int is_module(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 3 && strcmp(e->d_name + n - 3, ".ko") == 0;
}

/* Is there a virtio device with this number of the virtio specification? */
static bool has_device(unsigned long number)
{
    DIR *dir = opendir("/sys/bus/virtio/devices");
    struct dirent *e;
    bool found = false;
    while (dir && !found && (e = readdir(dir))) {
        char path[300], text[16] = "";
        snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/device", e->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        found = fd >= 0 && read(fd, text, sizeof text - 1) > 0 && strtoul(text, NULL, 16) == number;
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* One initrd serves all VMMs and their machines; loading what a machine has no use for would take it some milliseconds
 * each. `name` is "04-virtio_pci.ko". The buses come before their devices' drivers. */
static bool is_useful(const char *name)
{
    enum { NET = 1, CONSOLE = 3, VSOCK = 19 };
    bool pci = access("/sys/bus/pci/devices/0000:00:00.0", F_OK) == 0; /* then nothing is on the virtio-mmio bus */
    if (strstr(name, "virtio_pci"))
        return pci;
    if (strstr(name, "virtio_mmio"))
        return !pci;
    if (strstr(name, "virtio_net") || strstr(name, "failover"))
        return has_device(NET);
    if (strstr(name, "virtio_console"))
        return has_device(CONSOLE);
    if (strstr(name, "vsock"))
        return has_device(VSOCK) && !transport_has_port();
    return true;
}

/* finit_module, but for what is there already, and drivers of hardware that is not. */
static bool load_open(int fd)
{
    return syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST || errno == ENODEV;
}

static bool load(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = load_open(fd);
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

void modules_keep(const char *folder)
{
    struct dirent **found;
    int count = scandir(folder, &found, is_module, alphasort); /* none: the initrd is of an older kernel package */
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, found[i]->d_name);
        int fd = kept_count < KEPT_MAX ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            kept[kept_count].fd = fd;
            snprintf(kept[kept_count++].name, sizeof kept->name, "%.63s", found[i]->d_name);
        }
        unlink(path);
        free(found[i]);
    }
    if (count >= 0)
        free(found);
}

static _Noreturn void load_kept(void)
{
    for (int i = 0; i < kept_count; i++)
        if (!load_open(kept[i].fd))
            boot_warn(kept[i].name, strerror(errno));
    _exit(0);
}

void modules_load_kept(void)
{
    pid_t pid = kept_count ? fork() : -1;
    if (pid == 0 && fork() == 0) /* PID 1 is told of its end, not the agent */
        load_kept();
    if (pid == 0)
        _exit(0);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    while (kept_count)
        close(kept[--kept_count].fd);
}
