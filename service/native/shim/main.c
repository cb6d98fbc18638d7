/* banger-shim: one per VM. Starts the VMM, keeps its console, offers its guest's sessions, writes the exit record. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"
#include "notify.h"
#include "options.h"
#include "record.h"
#include "shim.h"
#include "vmm.h"

enum {
    TERM_GRACE_MS = 8000,
    REBOOT_GRACE_MS = 30000,
    LEAVE_GRACE_MS = 150000, /* systemd gives its services 90 s */
    REBOOTS_MAX = 5, /* within REBOOTS_WINDOW_MS, then it is given up */
    REBOOTS_WINDOW_MS = 60000,
    FLUSH_MS = 2000, /* after the VM's end clients get so long to take what is left */
};

struct shim shim = {.facts = {.spawn_ms = -1, .hello_ms = -1, .ready_ms = -1}};

static uint64_t started;
static struct source signals, lifeline = {.fd = -1};
static struct timer stop_timer, reboot_timer, flush_timer;
static uint64_t reboots[REBOOTS_MAX];
static unsigned reboot_count;
static bool reboot_wanted, panicked, failed, recorded;

int64_t shim_elapsed_ms(void)
{
    return (int64_t)(now_ms() - started);
}

void shim_set_state(enum vm_state state)
{
    if (shim.state == state)
        return;
    shim.state = state;
    control_notify();
}

/* The first reason counts: a kill that follows a stop is part of the stop. */
static void ask(enum end_reason reason)
{
    if (shim.asked == END_NONE)
        shim.asked = reason;
    reboot_wanted = false;
    timer_cancel(&reboot_timer);
    shim_set_state(VM_STOPPING);
}

static void kill_now(struct timer *t)
{
    (void)t;
    vmm_kill();
}

void shim_stop(uint64_t grace_ms)
{
    uint64_t due = now_ms() + grace_ms;
    bool first = shim.state != VM_STOPPING;
    if (shim.asked == END_POWEROFF)
        shim.asked = END_STOP; /* on its way down already, and now wanted so */
    ask(END_STOP);
    if (first)
        guest_control("poweroff");
    if (!stop_timer.due || due < stop_timer.due) {
        stop_timer.fire = kill_now;
        timer_set(&stop_timer, grace_ms);
    }
}

void shim_kill(enum end_reason reason)
{
    if (shim.asked == END_NONE || shim.asked == END_POWEROFF)
        shim.asked = reason;
    ask(reason);
    vmm_kill();
}

bool shim_reboot(void)
{
    if (shim.state == VM_STOPPING || !guest_is_up())
        return false;
    reboot_wanted = true;
    shim_set_state(VM_REBOOTING);
    guest_control("reboot");
    reboot_timer.fire = kill_now;
    timer_set(&reboot_timer, REBOOT_GRACE_MS);
    return true;
}

void shim_guest_leaves(bool reboot)
{
    if (!stop_timer.due) {
        stop_timer.fire = kill_now;
        timer_set(&stop_timer, LEAVE_GRACE_MS);
    }
    if (shim.state == VM_STOPPING)
        return;
    if (reboot) {
        reboot_wanted = true;
        shim_set_state(VM_REBOOTING);
    } else {
        ask(END_POWEROFF);
    }
}

static void halted(void)
{
    ask(END_POWEROFF);
    vmm_kill();
}

static void stays_panicked(void)
{
    ask(END_PANIC);
    vmm_kill();
}

/* Programs write to the console too, of an image without init even what strangers sent them: if its agent lives, the
 * kernel has not stopped. */
void shim_guest_halted(void)
{
    alive_presume_dead(halted);
}

void shim_guest_panicked(bool stays)
{
    panicked = true;
    if (stays)
        alive_presume_dead(stays_panicked);
}

static void flush_over(struct timer *t)
{
    (void)t;
    loop_quit();
}

static void end(enum end_reason reason, int status, int signal)
{
    struct record record = {reason, status, signal, shim.ever_ready};
    shim.ended = true;
    failed = reason == END_FAILED;
    recorded = record_write(&record);
    clients_end();
    flush_timer.fire = flush_over;
    timer_set(&flush_timer, FLUSH_MS);
}

/* Starts the VMM again, unless that happens too often. */
static bool respawn(void)
{
    uint64_t now = now_ms(), *oldest = &reboots[reboot_count % REBOOTS_MAX];
    if (reboot_count >= REBOOTS_MAX && now - *oldest < REBOOTS_WINDOW_MS)
        return false;
    *oldest = now;
    reboot_count++;
    reboot_wanted = panicked = false;
    shim.facts = (struct facts){.spawn_ms = -1, .hello_ms = -1, .ready_ms = -1};
    shim_set_state(VM_BOOTING);
    return vmm_spawn();
}

void shim_vmm_ended(int wait_status)
{
    int signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    int status = signal ? 128 + signal : WEXITSTATUS(wait_status);
    bool crashed = signal && !vmm_was_killed();
    timer_cancel(&stop_timer);
    timer_cancel(&reboot_timer);
    if (reboot_wanted) {
        if (!respawn())
            end(END_FAILED, status, signal);
    } else if (crashed) { /* even if it was to end: systemd asks a unit to stop of which the kernel killed a part */
        end(END_FAILED, status, signal);
    } else if (shim.asked != END_NONE) {
        end(shim.asked, status, signal);
    } else if (panicked) {
        end(END_PANIC, status, signal);
    } else { /* an image's init that tells nobody is no failure of the VMM */
        end(status ? END_FAILED : END_POWEROFF, status, signal);
    }
}

static void signaled(struct source *s, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    while (read(s->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            vmm_reap();
        else if (shim.state == VM_STOPPING)
            shim_kill(END_STOP);
        else
            shim_stop(TERM_GRACE_MS);
    }
}

static void lifeline_ready(struct source *s, uint32_t events)
{
    char rubbish[256];
    ssize_t n = read(s->fd, rubbish, sizeof rubbish);
    (void)events;
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    loop_close(s);
    if (!shim.ended)
        shim_kill(END_LIFELINE);
}

static void after(void)
{
    guest_flush();
    if (shim.ended && !clients_unflushed())
        loop_quit();
}

static void fail(const char *what)
{
    fprintf(stderr, "banger-shim: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void watch_lifeline(void)
{
    struct stat st;
    if (fstat(0, &st) < 0 || !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode))) {
        fputs("banger-shim: --lifeline needs a pipe or a socket as standard input\n", stderr);
        exit(2);
    }
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    loop_add(&lifeline, 0, EPOLLIN, lifeline_ready);
}

static void raise_file_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

int main(int argc, char **argv)
{
    struct options o;
    int in = open("/dev/null", O_RDWR);
    while (in >= 0 && in <= 2) /* numbers 0 to 2 must not become a socket's */
        in = open("/dev/null", O_RDWR);
    close(in);
    options_parse(&o, argc, argv);
    started = now_ms();
    shim.vmm_argv = o.vmm_argv;
    shim.vsock_name = o.vsock_name;
    shim.unlinks = o.unlinks;
    if (o.pid_fd >= 0 && !record_pid(o.pid_fd))
        fail("pid file");
    if (o.ready_fd >= 0 && fcntl(o.ready_fd, F_SETFD, FD_CLOEXEC) < 0)
        fail("--ready-fd");
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail("prctl");
    umask(0); /* who may connect is a matter of the folder, and of the peer's uid */
    if (chdir(o.folder) < 0)
        fail(o.folder);
    unlink(RECORD_NAME);
    raise_file_limit();
    loop_init();
    loop_signals(&signals, signaled);
    if (o.lifeline)
        watch_lifeline();
    if (!vmm_open_logs(o.console_max))
        fail("console.log, vmm.log");
    if (!listen_on("control.sock", 0, control_accept) || !listen_on("guest.sock", 0, clients_accept) || !guest_listen())
        fail("control.sock, guest.sock");
    notify_ready(o.ready_fd);
    if (!vmm_spawn())
        end(END_FAILED, 127, 0);
    loop_run(after);
    if (recorded) { /* a socket without a record tells bangerd that the end is not known */
        unlink("control.sock");
        unlink("guest.sock");
    }
    return failed;
}
