#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"
#include "child.h"
#include "facts.h"
#include "link.h"
#include "modules.h"
#include "power.h"
#include "session.h"
#include "transport.h"

enum {
    PORT_SESSIONS = 1,
    SESSIONS_MAX = 1024,
    REOPEN_MS = 100,
    GOODBYE_MS = 1000, /* the host's answer to our last line is not waited for longer than this */
    CLOCK_STEP_NS = 100000000,
    LATER_MS = 2000, /* after READY: whoever waited for the guest has a command, whose start goes first */
};

static struct agent self;
static struct link host;
static struct source signals, boss, listener = {.fd = -1};
static struct timer reopen, goodbye, later;
static uint64_t skipped;        /* of the parser, when it was last looked at */
static bool leaving, to_reboot; /* the host was told that the machine goes down, and how */
static bool by_ourselves;       /* nobody else will bring it down */
static int status;

static void leave(struct timer *t)
{
    uint8_t told = BOSS_TOLD;
    (void)t;
    timer_cancel(&goodbye);
    if (self.boss >= 0) /* PID 1 ends this process when it has ended all others */
        (void)!write(self.boss, &told, 1);
    else if (by_ourselves)
        power_off_now(to_reboot);
    else
        loop_quit();
}

/* Tells the host that the machine goes down, and ends when the host has answered or a second has passed. */
static void announce(bool reboot)
{
    if (leaving)
        return;
    leaving = true;
    to_reboot = reboot;
    link_control(&host, "shutdown %s", reboot ? "reboot" : "poweroff");
    goodbye.fire = leave;
    timer_set(&goodbye, link_is_open(&host) && host.epoch ? GOODBYE_MS : 0);
}

/* The host wants the machine to go down. */
static void go_down(bool reboot)
{
    uint8_t byte = reboot ? BOSS_REBOOT : BOSS_POWEROFF;
    if (self.boss >= 0) {
        (void)!write(self.boss, &byte, 1);
    } else if (self.systemd && power_systemd_listens()) {
        power_ask_systemd(reboot);
    } else if (self.machine && !self.systemd) {
        power_run_tool(reboot);
    } else { /* systemd has not started anything yet that would have to be stopped */
        by_ourselves = self.machine;
        if (self.machine)
            session_hangup_all();
        announce(reboot);
    }
}

static void set_clock(const char *text)
{
    long long seconds;
    long nanoseconds;
    struct timespec now;
    if (!self.machine || sscanf(text, "%lld.%ld", &seconds, &nanoseconds) != 2)
        return;
    if (seconds < 0 || nanoseconds < 0 || nanoseconds > 999999999)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    long long off = (seconds - now.tv_sec) * 1000000000LL + (nanoseconds - now.tv_nsec);
    if (llabs(seconds - now.tv_sec) < 2 && llabs(off) < CLOCK_STEP_NS)
        return; /* a step back by nothing much would only upset programs */
    struct timespec then = {.tv_sec = (time_t)seconds, .tv_nsec = nanoseconds};
    clock_settime(CLOCK_REALTIME, &then);
}

static void take_control(const struct frame *f)
{
    char line[CONTROL_MAX + 1];
    memcpy(line, f->payload, f->length);
    line[f->length] = 0;
    if (strcmp(line, "poweroff") == 0)
        go_down(false);
    else if (strcmp(line, "reboot") == 0)
        go_down(true);
    else if (strncmp(line, "clock ", 6) == 0)
        set_clock(line + 6);
    else if (strncmp(line, "ping ", 5) == 0)
        link_control(&host, "pong %s", line + 5);
    else if (strcmp(line, "bye") == 0 && leaving)
        leave(NULL);
}

static void take_open(const struct frame *f)
{
    bool fine = f->channel && !session_find(f->channel) && session_count() < SESSIONS_MAX && !leaving;
    if (fine && get32(f->payload) == PORT_SESSIONS)
        session_open(&host, f->channel, get32(f->payload + 4));
    else
        link_send_u32(&host, FRAME_CLOSE, f->channel, CLOSE_REFUSED);
}

static void take_hello(const struct frame *f)
{
    uint8_t welcome[WELCOME_SIZE];
    uint32_t epoch = 0;
    session_hangup_all();
    link_drop_queued(&host);
    while (!epoch || epoch == host.epoch)
        if (getrandom(&epoch, sizeof epoch, GRND_INSECURE) != (ssize_t)sizeof epoch)
            epoch = host.epoch + 1; /* new is enough */
    host.epoch = epoch;
    put16(welcome, LINK_VERSION);
    memcpy(welcome + 2, f->payload + 2, NONCE_SIZE);
    put32(welcome + 2 + NONCE_SIZE, epoch);
    link_send(&host, FRAME_WELCOME, 0, welcome, sizeof welcome);
    link_control(&host, "ready");
    link_flush(&host); /* now: reading the figures takes a moment */
    if (link_is_open(&host))
        facts_start(&host);
    timer_set(&later, LATER_MS);
}

static void load_rest(struct timer *t)
{
    (void)t;
    modules_load_kept();
}

static void take_frame(struct link *l, const struct frame *f)
{
    if (f->type == FRAME_HELLO) {
        skipped = l->parser.skipped; /* the padding before it */
        take_hello(f);
        return;
    }
    if (!l->epoch || f->epoch != l->epoch)
        return;
    if (l->parser.skipped != skipped) { /* something was lost: have the shim begin anew */
        skipped = l->parser.skipped;
        link_control(l, "resync");
    }
    struct session *s = session_find(f->channel);
    switch (f->type) {
    case FRAME_OPEN: take_open(f); break;
    case FRAME_CONTROL: take_control(f); break;
    case FRAME_CLOSE:
        link_send(l, FRAME_CLOSED, f->channel, NULL, 0);
        if (s)
            session_hangup(s);
        break;
    case FRAME_DATA:
        if (s)
            session_data(s, f->payload, f->length);
        break;
    case FRAME_CREDIT:
        if (s)
            session_credit(s, get32(f->payload));
        break;
    case FRAME_EOF:
        if (s)
            session_eof(s);
        break;
    default: break; /* CLOSED: nothing is kept of a channel that sent CLOSE */
    }
}

static void has_room(struct link *l)
{
    (void)l;
    session_resume_all();
}

static void broken(struct link *l)
{
    session_hangup_all();
    facts_stop();
    link_close(l);
    skipped = 0;
    if (!self.machine) {
        session_kill_all();
        loop_quit();
    } else if (listener.fd < 0) {
        timer_set(&reopen, REOPEN_MS);
    }
}

/* The host connects: what it had before is over. */
static void connected(struct source *s, uint32_t events)
{
    int fd = transport_accept_vsock(s->fd);
    (void)events;
    if (fd < 0)
        return;
    if (link_is_open(&host))
        broken(&host);
    link_open(&host, fd);
}

static void await_host(int fd)
{
    loop_add(&listener, fd, EPOLLIN, connected);
    transport_knock();
}

/* Opens the machine's port. vsock is tried only without one: the kernel would look for modules. */
static void try_open(struct timer *t)
{
    int fd = transport_open_port();
    (void)t;
    if (fd >= 0)
        link_open(&host, fd);
    else if (!transport_has_port() && (fd = transport_listen_vsock()) >= 0)
        await_host(fd);
    else
        timer_set(&reopen, REOPEN_MS);
}

static void boss_ready(struct source *s, uint32_t events)
{
    uint8_t byte;
    ssize_t n = read(s->fd, &byte, 1);
    (void)events;
    if (n == 1)
        announce(byte == BOSS_REBOOT);
    else
        loop_want(s, 0);
}

static void signaled(struct source *s, uint32_t events)
{
    struct signalfd_siginfo info;
    bool reboot;
    (void)events;
    while (read(s->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD) {
            session_reap();
        } else if (!self.machine) {
            session_kill_all();
            loop_quit();
        } else if (self.boss < 0 && power_systemd_ends(&reboot)) {
            announce(reboot);
        }
    }
}

static void after(void)
{
    if (link_is_open(&host))
        link_flush(&host);
}

int agent_run(const struct agent *options)
{
    self = *options;
    child_of_machine = self.machine;
    child_environment = self.environment;
    loop_init();
    loop_signals(&signals, signaled);
    host = (struct link){.src.fd = -1, .on_frame = take_frame, .on_broken = broken, .on_room = has_room};
    reopen.fire = try_open;
    later.fire = load_rest;
    if (self.boss >= 0)
        loop_add(&boss, self.boss, EPOLLIN, boss_ready);
    if (self.fd >= 0) {
        link_open(&host, self.fd);
    } else {
        try_open(NULL);
    }
    loop_run(after);
    return status;
}
