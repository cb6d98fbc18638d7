#include "power.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "transport.h"

/* systemd's SIGRTMIN is glibc's, 34, whatever the C library of this program says. */
enum { SYSTEMD_POWEROFF = 34 + 4, SYSTEMD_REBOOT = 34 + 5 };

/* Leaves the disks as an unmount does, whoever still has files open there: a cache disk goes to another machine. */
static void freeze_disks(void)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *mount;
    while (mounts && (mount = getmntent(mounts))) {
        int fd = strcmp(mount->mnt_type, "ext4") == 0 ? open(mount->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd < 0)
            continue;
        syscall(SYS_ioctl, fd, FIFREEZE, 0); /* not ioctl(): musl's takes an int */
        close(fd);
    }
    if (mounts)
        endmntent(mounts);
}

_Noreturn void power_off_now(bool reboot_wanted)
{
    sync();
    freeze_disks();
    /* Firecracker's machines have no power switch: they end at a reset. */
    reboot(reboot_wanted || !transport_has_port() ? RB_AUTOBOOT : RB_POWER_OFF);
    for (;;)
        pause();
}

void power_run_tool(bool reboot_wanted)
{
    pid_t pid = fork();
    if (pid != 0)
        return;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    const char *name = reboot_wanted ? "reboot" : "poweroff";
    static const char *const folders[] = {"/sbin", "/usr/sbin", "/bin", "/usr/bin"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[64];
        char *argv[] = {path, NULL};
        snprintf(path, sizeof path, "%s/%s", folders[i], name);
        execv(path, argv);
    }
    power_off_now(reboot_wanted);
}

bool power_systemd_listens(void)
{
    char line[128];
    unsigned long long mask = 0, ready = 1ULL << (SYSTEMD_POWEROFF - 1);
    bool found = false;
    FILE *f = fopen("/proc/1/status", "re");
    while (f && !found && fgets(line, sizeof line, f)) /* it reads them from a signalfd, hence blocks them */
        found = sscanf(line, "SigBlk: %llx", &mask) == 1;
    if (f)
        fclose(f);
    return mask & ready;
}

void power_ask_systemd(bool reboot_wanted)
{
    kill(1, reboot_wanted ? SYSTEMD_REBOOT : SYSTEMD_POWEROFF);
}

bool power_systemd_ends(bool *reboot_wanted)
{
    char line[256] = "";
    int fd = open("/proc/1/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 2);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    line[n] = line[n + 1] = 0;
    const char *base = strrchr(line, '/'), *verb = line + strlen(line) + 1;
    if (strcmp(base ? base + 1 : line, "systemd-shutdown") != 0)
        return false;
    *reboot_wanted = strcmp(verb, "reboot") == 0 || strcmp(verb, "kexec") == 0;
    return true;
}
