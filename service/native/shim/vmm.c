#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "log.h"
#include "loop.h"
#include "shim.h"
#include "vmm.h"

enum { GUEST_FD = 3, VMM_LOG_MAX = 64 * 1024, READ_CHUNK = 16 * 1024 };

struct stream {
    struct source src;
    struct log log;
};

static struct stream console = {.src.fd = -1, .log = {.name = "console.log", .rotate = true}};
static struct stream messages = {.src.fd = -1, .log = {.name = "vmm.log", .max = VMM_LOG_MAX}};
static pid_t pid;
static bool killed;

bool vmm_open_logs(size_t console_max)
{
    console.log.max = console_max;
    unlink("console.log.1");
    return log_open(&console.log) && log_open(&messages.log);
}

static void panicked(void)
{
    shim_guest_panicked(false);
}

static void stays_panicked(void)
{
    shim_guest_panicked(true);
}

/* What a kernel says at its end, whatever its console's level. No letter of a text occurs again as its first. */
static struct phrase {
    const char *text;
    void (*heard)(void);
    size_t matched;
} phrases[] = {
    /* It cannot power its machine off, and stops. Firecracker has no power switch: it would go on for ever. */
    {.text = "reboot: System halted", .heard = shim_guest_halted},
    {.text = "Kernel panic - not syncing", .heard = panicked},
    /* The last line of one that shall not restart (panic=0). */
    {.text = "[ end Kernel panic - not syncing", .heard = stays_panicked},
};

static void listen_in(struct phrase *p, const uint8_t *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p->matched = text[i] == p->text[p->matched] ? p->matched + 1 : text[i] == p->text[0];
        if (!p->text[p->matched]) {
            p->matched = 0;
            p->heard();
        }
    }
}

static void take(struct stream *st, const uint8_t *chunk, size_t n)
{
    log_write(&st->log, chunk, n);
    if (st != &console)
        return;
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        listen_in(&phrases[i], chunk, n);
}

static void stream_ready(struct source *s, uint32_t events)
{
    struct stream *st = container_of(s, struct stream, src);
    uint8_t chunk[READ_CHUNK];
    ssize_t n = read(s->fd, chunk, sizeof chunk);
    (void)events;
    if (n > 0) {
        take(st, chunk, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        loop_close(s);
}

/* What was written before the VMM's end. A process that outlived the VMM and still writes is not waited for. */
static void drain(struct stream *st)
{
    uint8_t chunk[READ_CHUNK];
    ssize_t n = 1;
    for (int i = 0; i < 64 && n > 0 && st->src.fd >= 0; i++) {
        n = read(st->src.fd, chunk, sizeof chunk);
        if (n > 0)
            take(st, chunk, (size_t)n);
    }
    loop_close(&st->src);
}

void vmm_say(const char *text)
{
    char line[600];
    int n = snprintf(line, sizeof line, "banger-shim: %.560s\n", text);
    if (n > 0)
        log_write(&messages.log, line, (size_t)n);
}

static void say_failed(const char *what, int error)
{
    char text[512];
    snprintf(text, sizeof text, "cannot %s %.400s: %s", what, shim.vmm_argv[0], strerror(error));
    vmm_say(text);
}

/* In the child: descriptors 0 to 2 and, with a socket, 3; no others, and no environment. Returns only if the VMM cannot
 * be run. */
static void become_vmm(int in, int out, int err, int guest, pid_t parent)
{
    static char *const no_environment[] = {NULL};
    sigset_t none;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    unsigned first_closed = GUEST_FD;
    if (guest >= 0) {
        if (guest == GUEST_FD)
            fcntl(guest, F_SETFD, 0);
        else
            dup2(guest, GUEST_FD);
        first_closed++;
    }
    (void)!syscall(SYS_close_range, first_closed, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    confine();
    execvpe(shim.vmm_argv[0], shim.vmm_argv, no_environment);
}

static bool make_streams(int null, int out[2], int err[2], int guest[2], int report[2])
{
    bool wants_guest = !shim.vsock_name;
    return null >= 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0 && pipe2(report, O_CLOEXEC) == 0 &&
           (!wants_guest || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, guest) == 0);
}

static void close_both(const int pair[2])
{
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0)
            close(pair[i]);
}

bool vmm_spawn(void)
{
    killed = false;
    if (shim.vsock_name)
        unlink(shim.vsock_name);
    for (const char *const *name = shim.unlinks; *name; name++)
        unlink(*name);
    int out[2] = {-1, -1}, err[2] = {-1, -1}, guest[2] = {-1, -1}, report[2] = {-1, -1}, failure = 0;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t self = getpid();
    if (!make_streams(null, out, err, guest, report) || (pid = fork()) < 0) {
        pid = 0;
        say_failed("start", errno);
        close_both(out), close_both(err), close_both(guest), close_both(report);
        return false;
    }
    if (pid == 0) {
        become_vmm(null, out[1], err[1], guest[1], self);
        failure = errno;
        (void)!write(report[1], &failure, sizeof failure);
        _exit(127);
    }
    close(null), close(out[1]), close(err[1]), close(report[1]);
    if (guest[1] >= 0)
        close(guest[1]);
    bool failed = read(report[0], &failure, sizeof failure) == (ssize_t)sizeof failure;
    close(report[0]);
    if (failed) {
        waitpid(pid, NULL, 0);
        pid = 0;
        say_failed("run", failure);
        close(out[0]), close(err[0]);
        if (guest[0] >= 0)
            close(guest[0]);
        return false;
    }
    shim.facts.spawn_ms = shim_elapsed_ms();
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    loop_add(&console.src, out[0], EPOLLIN, stream_ready);
    loop_add(&messages.src, err[0], EPOLLIN, stream_ready);
    guest_connect(guest[0]);
    return true;
}

void vmm_kill(void)
{
    if (!pid)
        return;
    killed = true;
    kill(-pid, SIGKILL); /* its session: a VMM given as a script may have children */
}

bool vmm_was_killed(void)
{
    return killed;
}

pid_t vmm_pid(void)
{
    return pid;
}

void vmm_reap(void)
{
    int status;
    if (!pid || waitpid(pid, &status, WNOHANG) != pid)
        return;
    pid = 0;
    drain(&console);
    drain(&messages);
    guest_drain();
    guest_disconnect();
    shim_vmm_ended(status);
}
