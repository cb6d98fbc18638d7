#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "bytes.h"
#include "link.h"
#include "shim.h"

enum {
    HELLO_RETRY_MS = 2000,
    HELLO_MIN_MS = 1000, /* a guest that sends rubbish costs no more than one handshake a second */
    CONNECT_RETRY_MS = 1000, /* the guest program knocks when it listens; this is for one that cannot */
    KNOCK_PORT = 1024,
    VSOCK_ANSWER_MS = 5000, /* Firecracker gives a guest 2 s */
    VSOCK_ANSWER_MAX = 32,
};

static void take_frame(struct link *l, const struct frame *f);
static void broken(struct link *l);
static void has_room(struct link *l);

static struct link guest = {.src.fd = -1, .on_frame = take_frame, .on_broken = broken, .on_room = has_room};
static struct source greeting = {.fd = -1}; /* a vsock connection before its OK */
static struct timer hello_timer, connect_timer;
static char answer[VSOCK_ANSWER_MAX];
static size_t answer_length;
static uint8_t nonce[NONCE_SIZE];
static uint64_t skipped, hello_at;
static bool up, end_awaited;
static bool at_once; /* the next attempt is worth it now: the last may have come a moment too early */

bool guest_is_up(void)
{
    return up;
}

/* ---- the handshake ---- */

static void hello(void)
{
    uint8_t payload[HELLO_SIZE];
    if (getrandom(nonce, sizeof nonce, 0) != (ssize_t)sizeof nonce)
        abort();
    put16(payload, LINK_VERSION);
    memcpy(payload + 2, nonce, sizeof nonce);
    link_drop_queued(&guest);
    link_pad(&guest);
    link_send(&guest, FRAME_HELLO, 0, payload, sizeof payload);
    guest.parser.only_welcome = true;
    hello_at = now_ms();
    timer_set(&hello_timer, HELLO_RETRY_MS);
}

/* A HELLO that nobody has read yet will be answered; one that was read and not answered was lost. */
static void hello_due(struct timer *t)
{
    int unread = 0;
    if (!link_is_open(&guest) || up)
        return;
    bool lost = buf_len(&guest.tx) == 0 && ioctl(guest.src.fd, SIOCOUTQ, &unread) == 0 && unread == 0;
    if (lost)
        hello();
    else
        timer_set(t, HELLO_RETRY_MS);
}

static void begin_anew(void)
{
    if (!up)
        return;
    up = false;
    clients_link_down();
    link_drop_queued(&guest);
    guest.parser.only_welcome = true;
    uint64_t since = now_ms() - hello_at;
    if (since >= HELLO_MIN_MS)
        hello();
    else
        timer_set(&hello_timer, HELLO_MIN_MS - since);
}

void guest_set_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (up)
        link_control(&guest, "clock %lld.%09ld", (long long)now.tv_sec, now.tv_nsec);
}

static void take_welcome(const struct frame *f)
{
    uint32_t epoch = get32(f->payload + 2 + NONCE_SIZE);
    if (up || get16(f->payload) != LINK_VERSION || memcmp(f->payload + 2, nonce, sizeof nonce) != 0)
        return;
    if (!epoch || f->epoch != epoch)
        return;
    up = true;
    guest.epoch = epoch;
    guest.parser.only_welcome = false;
    skipped = guest.parser.skipped;
    timer_cancel(&hello_timer);
    if (shim.facts.hello_ms < 0)
        shim.facts.hello_ms = shim_elapsed_ms();
    guest_set_clock();
    if (shim.state == VM_STOPPING)
        guest_control("poweroff");
    alive_link_up();
    clients_link_up(&guest);
}

/* ---- what the guest program says ---- */

static void take_ports(const char *text)
{
    if (strlen(text) > PORTS_TEXT_MAX || strspn(text, "0123456789,") != strlen(text))
        return;
    strcpy(shim.facts.ports, text);
}

static void take_control(const struct frame *f)
{
    char line[CONTROL_MAX + 1];
    unsigned long long total, available;
    for (uint32_t i = 0; i < f->length; i++)
        if (!isprint(f->payload[i]))
            return;
    memcpy(line, f->payload, f->length);
    line[f->length] = 0;
    if (strcmp(line, "ready") == 0) {
        if (shim.facts.ready_ms < 0)
            shim.facts.ready_ms = shim_elapsed_ms();
        shim.ever_ready = true;
        if (shim.state == VM_BOOTING)
            shim_set_state(VM_READY);
    } else if (sscanf(line, "memory %18llu %18llu", &total, &available) == 2) {
        shim.facts.memory_total = total;
        shim.facts.memory_available = available;
    } else if (strncmp(line, "ports ", 6) == 0) {
        take_ports(line + 6);
    } else if (strcmp(line, "shutdown poweroff") == 0 || strcmp(line, "shutdown reboot") == 0) {
        guest_control("bye");
        shim_guest_leaves(strcmp(line + 9, "reboot") == 0);
    } else if (strcmp(line, "pong alive") == 0) {
        alive_proven();
    } else if (strcmp(line, "resync") == 0) {
        begin_anew();
    }
}

static void take_frame(struct link *l, const struct frame *f)
{
    if (f->type == FRAME_WELCOME) {
        take_welcome(f);
        return;
    }
    if (!up)
        return;
    if (f->epoch != l->epoch || l->parser.skipped != skipped) {
        begin_anew();
        return;
    }
    if (f->type == FRAME_CONTROL)
        take_control(f);
    else
        clients_frame(f);
}

static void has_room(struct link *l)
{
    (void)l;
    clients_have_room();
}

void guest_control(const char *line)
{
    if (up)
        link_control(&guest, "%s", line);
}

void guest_flush(void)
{
    if (link_is_open(&guest))
        link_flush(&guest);
}

void guest_drain(void)
{
    /* Each round reads until nothing is left, or a bound that keeps a babbling survivor from holding us. */
    end_awaited = true;
    for (int i = 0; i < 16 && link_is_open(&guest); i++)
        link_read(&guest);
    end_awaited = false;
}

/* ---- the transport ---- */

static void connect_vsock(struct timer *t);

static void connected(int fd)
{
    at_once = false;
    link_open(&guest, fd);
    hello_timer.fire = hello_due;
    hello();
}

static void retry(void);

/* Once: it may go on so for as long as the VM runs. */
static void blame(const char *what, size_t n)
{
    static bool blamed;
    char text[128];
    if (blamed)
        return;
    blamed = true;
    for (size_t i = 0; i < n; i++)
        answer[i] = isprint((unsigned char)answer[i]) ? answer[i] : '?';
    snprintf(text, sizeof text, "the VMM's socket %.40s %s%.*s", shim.vsock_name, what, (int)n, answer);
    vmm_say(text);
}

static void unanswered(struct timer *t)
{
    (void)t;
    blame("does not answer CONNECT", 0);
    retry();
}

static void retry(void)
{
    loop_close(&greeting);
    connect_timer.fire = connect_vsock;
    timer_set(&connect_timer, at_once ? 0 : CONNECT_RETRY_MS);
    at_once = false;
}

/* The VMM connects when its guest does to port 1024 of the host. Anything in the guest may; it gains no connection. */
static void knock(int fd)
{
    close(fd);
    if (link_is_open(&guest))
        return;
    if (greeting.fd >= 0)
        at_once = true;
    else
        connect_vsock(NULL);
}

bool guest_listen(void)
{
    char name[sizeof((struct sockaddr_un *)0)->sun_path];
    if (!shim.vsock_name)
        return true;
    int n = snprintf(name, sizeof name, "%s_%d", shim.vsock_name, KNOCK_PORT);
    return n > 0 && (size_t)n < sizeof name && listen_on(name, geteuid(), knock);
}

/* Reads "OK <port>\n", and not a byte more: what follows are frames. */
static void greeted(struct source *s, uint32_t events)
{
    (void)events;
    while (answer_length < sizeof answer) {
        char c;
        ssize_t n = read(s->fd, &c, 1);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0)
            break;
        if (c == '\n') {
            int fd = dup(s->fd);
            bool fine = answer_length >= 3 && memcmp(answer, "OK ", 3) == 0 && fd >= 0;
            loop_close(s);
            if (fine) {
                timer_cancel(&connect_timer);
                connected(fd);
                return;
            }
            if (fd >= 0)
                close(fd);
            blame("answered CONNECT with ", answer_length);
            retry();
            return;
        }
        answer[answer_length++] = c;
    }
    if (answer_length == sizeof answer)
        blame("answered CONNECT with ", answer_length);
    retry();
}

static void connect_vsock(struct timer *t)
{
    static const char request[] = "CONNECT 1024\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)t;
    if (!vmm_pid())
        return;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", shim.vsock_name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    answer_length = 0;
    if (fd < 0) {
        retry();
        return;
    }
    timer_cancel(&connect_timer);
    loop_add(&greeting, fd, 0, greeted);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != (ssize_t)sizeof request - 1)
        retry();
    else {
        loop_want(&greeting, EPOLLIN);
        connect_timer.fire = unanswered;
        timer_set(&connect_timer, VSOCK_ANSWER_MS);
    }
}

void guest_connect(int fd)
{
    alive_begin_anew();
    if (fd >= 0)
        connected(fd);
    else
        connect_vsock(NULL);
}

void guest_disconnect(void)
{
    timer_cancel(&hello_timer);
    timer_cancel(&connect_timer);
    loop_close(&greeting);
    link_close(&guest);
    up = false;
    clients_link_down();
}

/* The VMM closed its end: it is about to end itself, or the vsock connection is to be made anew. */
static void broken(struct link *l)
{
    (void)l;
    guest_disconnect();
    at_once = true; /* its knock may have come before this */
    if (shim.vsock_name && !end_awaited)
        retry();
}
