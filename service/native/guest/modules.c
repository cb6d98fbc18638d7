#include "modules.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boot.h"

static int is_module(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return n > 3 && strcmp(e->d_name + n - 3, ".ko") == 0;
}

void modules_load(const char *folder)
{
    struct dirent **found;
    int count = scandir(folder, &found, is_module, alphasort);
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, found[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        /* One that fails may not be needed here; if it is, what needs it says so. ENODEV: no such hardware. */
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV))
            boot_warn(path, strerror(errno));
        if (fd >= 0)
            close(fd);
        unlink(path);
        free(found[i]);
    }
    if (count >= 0)
        free(found);
}
