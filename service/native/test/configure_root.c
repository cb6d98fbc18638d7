/* configure_root ROOT SEED...: applies seeds, one after the other, to the folder ROOT as the guest program does to a
 * machine's root; in namespaces of its own, so that host name and mounts are this process's alone. For tests. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "boot.h"
#include "configure.h"
#include "seed.h"

void boot_warn(const char *what, const char *why)
{
    printf("warning: %s: %s\n", what, why);
}

_Noreturn void boot_fail(const char *what, const char *why)
{
    printf("failure: %s: %s\n", what, why);
    exit(3);
}

_Noreturn void boot_fail_errno(const char *what)
{
    boot_fail(what, strerror(errno));
}

static void apply(int fd)
{
    static uint8_t bytes[SEED_MAX];
    struct seed seed;
    const char *why;
    ssize_t n = read(fd, bytes, sizeof bytes);
    if (n < 0 || !seed_parse(bytes, (size_t)n, &seed, &why))
        boot_fail("seed disk", n < 0 ? strerror(errno) : why);
    configure(&seed);
    seed_free(&seed);
}

int main(int argc, char **argv)
{
    int seeds[16], count = 0;
    char name[256];
    for (int i = 2; i < argc && count < 16; i++)
        seeds[count++] = open(argv[i], O_RDONLY | O_CLOEXEC);
    if (argc < 3 || unshare(CLONE_NEWNS | CLONE_NEWUTS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        chroot(argv[1]) < 0 || chdir("/") < 0)
        boot_fail_errno("set up");
    for (int i = 0; i < count; i++)
        apply(seeds[i]);
    gethostname(name, sizeof name);
    printf("hostname: %s\n", name);
    return 0;
}
