#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "configure.h"
#include "disks.h"
#include "init.h"
#include "managers.h"
#include "modules.h"
#include "network.h"
#include "power.h"
#include "seed.h"

enum { STDIO_END = 3 };

static void print(const char *what, const char *why)
{
    fprintf(stderr, "banger: %s: %s\n", what, why);
}

void boot_warn(const char *what, const char *why)
{
    print(what, why);
}

_Noreturn void boot_fail(const char *what, const char *why)
{
    print(what, why);
    tcdrain(2);
    power_off_now(false);
}

_Noreturn void boot_fail_errno(const char *what)
{
    boot_fail(what, strerror(errno));
}

/* The kernel may have found no console in the initrd; now there is a /dev. */
static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    for (int i = 0; i < STDIO_END; i++)
        if (fd != i)
            dup2(fd, i);
    if (fd >= STDIO_END)
        close(fd);
}

static long uptime_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Without this a session's `ps` would show a second /init. The kernel shows only memory that was written to, and wants
 * the bounds in order at each step. */
static void rename_process(void)
{
    static char name[16];
    strcpy(name, "banger-agent");
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_MM, PR_SET_MM_ARG_START, name, 0, 0);
    prctl(PR_SET_MM, PR_SET_MM_ARG_END, name + strlen(name) + 1, 0, 0);
}

pid_t boot_fork_agent(const struct seed *seed, int boss)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    setsid();
    rename_process();
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "-1000", 5);
        close(fd);
    }
    _exit(agent_run(&(struct agent){.fd = -1,
                                    .boss = boss,
                                    .machine = true,
                                    .systemd = seed->init && managers_is_systemd(seed->init),
                                    .environment = seed->environment}));
}

static _Noreturn void become_init(const char *path)
{
    char *const argv[] = {(char *)(uintptr_t)path, NULL};
    char *const env[] = {(char *)(uintptr_t) "HOME=/", (char *)(uintptr_t) "TERM=linux",
                         (char *)(uintptr_t) "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    execve(path, argv, env);
    boot_fail_errno(path);
}

_Noreturn void boot(void)
{
    struct seed seed;
    long started = uptime_ms();
    /* Ctrl-Alt-Del is to be a signal for PID 1, not a reset with everything unwritten. Not every init says so itself. */
    reboot(RB_DISABLE_CAD);
    disks_mount_first();
    open_console();
    modules_load("/modules");
    modules_keep("/modules/later");
    long loaded = uptime_ms();
    disks_read_seed(&seed);
    disks_enter_root(&seed);
    if (seed.init && access(seed.init, X_OK) < 0)
        boot_fail_errno(seed.init);
    long mounted = uptime_ms();
    configure(&seed);
    network_up(&seed);
    /* systemd raises the limit for what it starts; what the agent and our own PID 1 start would have 4,096. */
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, 524288});
    fprintf(stderr, "banger: kernel %ld ms, modules %ld ms, disks %ld ms, configuration %ld ms\n", started,
            loaded - started, mounted - loaded, uptime_ms() - mounted);
    if (!seed.init)
        init_run(&seed);
    if (boot_fork_agent(&seed, -1) < 0)
        boot_fail_errno("agent");
    become_init(seed.init);
}
