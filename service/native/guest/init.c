#include "init.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "boot.h"
#include "child.h"
#include "environment.h"
#include "power.h"
#include "user.h"

enum {
    TERM_GRACE_MS = 5000, /* from SIGTERM to SIGKILL when the machine goes down */
    TERM_POLL_MS = 50,
    TELL_MS = 1500, /* for the agent to tell the host */
    AGENT_RESTARTS = 5,
};

static pid_t agent = -1, entrypoint = -1;
static int boss = -1; /* our end of the socket to the agent */
static int restarts;

static void start_agent(const struct seed *seed)
{
    int pair[2];
    if (boss >= 0)
        close(boss);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        boot_fail_errno("agent");
    boss = pair[0];
    agent = boot_fork_agent(seed, pair[1]);
    if (agent < 0)
        boot_fail_errno("agent");
    close(pair[1]);
}

static void start_entrypoint(const struct seed *seed)
{
    struct user user;
    struct exec_request request = {
        .argv = (char **)(uintptr_t)seed->entrypoint.items, .env = (char *[]){NULL}, .cwd = seed->folder};
    if (!seed->entrypoint.count)
        return;
    if (!user_find(seed->user ? seed->user : "root", &user))
        boot_fail(seed->user, "no such user to run the image's command");
    char **env = environment_make(&request, &user, &seed->environment);
    entrypoint = fork();
    if (entrypoint == 0) {
        int null = open("/dev/null", O_RDONLY);
        if (null > 0)
            dup2(null, 0);
        child_exec(&request, &user, env);
    }
    free(env);
    user_free(&user);
}

/* Is there a process besides PID 1, the agent, and the kernel's own? */
static bool others_live(void)
{
    DIR *proc = opendir("/proc");
    struct dirent *e;
    bool found = false;
    while (proc && !found && (e = readdir(proc))) {
        char path[300], byte;
        pid_t pid = isdigit((unsigned char)e->d_name[0]) ? (pid_t)strtol(e->d_name, NULL, 10) : 1;
        if (pid == 1 || pid == agent)
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        found = fd >= 0 && read(fd, &byte, 1) == 1; /* empty for threads of the kernel and for zombies */
        if (fd >= 0)
            close(fd);
    }
    if (proc)
        closedir(proc);
    return found;
}

static _Noreturn void go_down(bool reboot_wanted)
{
    uint8_t byte = reboot_wanted ? BOSS_REBOOT : BOSS_POWEROFF;
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    for (int waited = 0; waited < TERM_GRACE_MS && others_live(); waited += TERM_POLL_MS) {
        poll(NULL, 0, TERM_POLL_MS);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    /* The last sessions' ends, then this, pass through the agent. */
    if (send(boss, &byte, 1, MSG_NOSIGNAL) == 1) {
        struct pollfd p = {.fd = boss, .events = POLLIN};
        while (poll(&p, 1, TELL_MS) == 1 && read(boss, &byte, 1) == 1 && byte != BOSS_TOLD)
            ;
    }
    kill(-1, SIGKILL);
    sync();
    power_off_now(reboot_wanted);
}

static void reap(const struct seed *seed)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == entrypoint) {
            char text[64];
            snprintf(text, sizeof text, WIFSIGNALED(status) ? "killed by signal %d" : "exited with status %d",
                     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            boot_warn(seed->entrypoint.items[0], text);
            go_down(false);
        }
        if (pid == agent) {
            if (restarts++ == AGENT_RESTARTS)
                boot_fail("agent", "ended again and again");
            start_agent(seed);
        }
    }
}

/* The signals by which the usual tools ask PID 1: busybox's poweroff and reboot, systemd's, Ctrl-Alt-Del. */
static void take_signal(const struct seed *seed, uint32_t number)
{
    enum { SYSTEMD_POWEROFF = 34 + 4, SYSTEMD_REBOOT = 34 + 5 };
    if (number == SIGCHLD)
        reap(seed);
    else if (number == SIGUSR1 || number == SIGUSR2 || number == SYSTEMD_POWEROFF)
        go_down(false);
    else if (number == SIGTERM || number == SIGINT || number == SYSTEMD_REBOOT)
        go_down(true);
}

_Noreturn void init_run(const struct seed *seed)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        boot_fail_errno("signals");
    /* With no init there is nobody else to do it. Not every kernel has it, and not every image's programs need it. */
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    start_agent(seed);
    start_entrypoint(seed);
    for (;;) {
        struct pollfd p[] = {{.fd = signals, .events = POLLIN}, {.fd = boss, .events = POLLIN}};
        struct signalfd_siginfo info;
        uint8_t byte;
        poll(p, 2, -1);
        while (read(signals, &info, sizeof info) == (ssize_t)sizeof info)
            take_signal(seed, info.ssi_signo);
        if (p[1].revents & POLLIN && recv(boss, &byte, 1, MSG_DONTWAIT) == 1)
            go_down(byte == BOSS_REBOOT);
    }
}
