#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "link.h"
#include "shim.h"

enum {
    WINDOW = 256 * 1024, /* bytes held for a client that does not read */
    INPUT_CHUNK = 32 * 1024,
    LINE_MAX_BYTES = 32,
};

enum phase {
    ASKS,    /* its CONNECT line is not complete */
    WAITS,   /* for the guest program */
    OPENING, /* OPEN was sent */
    CONNECTED,
    ENDING, /* its channel is closed: what is left is written, then the socket closed */
};

struct client {
    struct source src;
    struct client *next;
    enum phase phase;
    uint32_t port, channel;
    uint32_t credit;  /* bytes the guest program will take */
    uint32_t granted; /* bytes it may still send */
    uint32_t written; /* bytes the client took since the last CREDIT */
    bool sent_eof, guest_eof;
    char line[LINE_MAX_BYTES];
    size_t line_length;
    struct buf out;
};

static struct client *clients;
static struct link *guest; /* NULL: down */
static uint32_t last_channel;

static void drop(struct client *c)
{
    for (struct client **at = &clients; *at; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    if (guest && (c->phase == OPENING || c->phase == CONNECTED))
        link_send_u32(guest, FRAME_CLOSE, c->channel, CLOSE_GONE);
    loop_close(&c->src);
    buf_free(&c->out);
    loop_free_later(c);
}

static void update(struct client *c)
{
    uint32_t want = EPOLLERR; /* a hang-up is always of interest */
    bool reads = c->phase == CONNECTED && !c->sent_eof && c->credit;
    if (c->phase == ASKS || (reads && guest && !link_congested(guest)))
        want |= EPOLLIN;
    if (buf_len(&c->out))
        want |= EPOLLOUT;
    loop_want(&c->src, want);
}

/* All was written: the client reads the end of file, and no reset because of bytes nobody read. */
static void finish(struct client *c)
{
    uint8_t rest[4096];
    shutdown(c->src.fd, SHUT_RDWR);
    while (read(c->src.fd, rest, sizeof rest) > 0)
        ;
    drop(c);
}

static void flush(struct client *c)
{
    while (buf_len(&c->out)) {
        ssize_t n = send(c->src.fd, buf_head(&c->out), buf_len(&c->out), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            drop(c);
            return;
        }
        buf_consume(&c->out, (size_t)n);
        c->written += (uint32_t)n;
    }
    if (c->phase == ENDING && !buf_len(&c->out)) {
        finish(c);
        return;
    }
    if (c->phase == CONNECTED && c->written >= WINDOW / 4 && guest) {
        link_send_u32(guest, FRAME_CREDIT, c->channel, c->written);
        c->granted += c->written;
        c->written = 0;
    }
    if (c->guest_eof && !buf_len(&c->out))
        shutdown(c->src.fd, SHUT_WR);
    update(c);
}

static void end(struct client *c, const char *last_words)
{
    c->phase = ENDING;
    buf_add(&c->out, last_words, strlen(last_words));
    flush(c);
}

static void open_channel(struct client *c)
{
    uint8_t payload[8];
    if (!guest) {
        c->phase = WAITS;
        update(c);
        return;
    }
    /* Numbers only go up, so that none is used before its CLOSED has come. */
    c->channel = ++last_channel ? last_channel : ++last_channel;
    c->phase = OPENING;
    c->granted = WINDOW;
    put32(payload, c->port);
    put32(payload + 4, WINDOW);
    link_send(guest, FRAME_OPEN, c->channel, payload, sizeof payload);
    update(c);
}

/* Takes the CONNECT line, and no byte of what follows it. */
static void read_line(struct client *c)
{
    unsigned port;
    char byte = 0, after;
    while (byte != '\n') {
        ssize_t n = read(c->src.fd, &byte, 1);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            drop(c);
            return;
        }
        if (c->line_length == LINE_MAX_BYTES)
            break;
        c->line[c->line_length++] = byte == '\n' ? 0 : byte;
    }
    if (byte != '\n' || sscanf(c->line, "CONNECT %9u%c", &port, &after) != 1) {
        end(c, "ERR expected CONNECT <port>\n");
        return;
    }
    c->port = port;
    if (shim.ended)
        end(c, "ERR the machine has ended\n");
    else
        open_channel(c);
}

static void read_input(struct client *c)
{
    size_t max = c->credit < INPUT_CHUNK ? c->credit : INPUT_CHUNK;
    if (!max || link_congested(guest)) {
        update(c);
        return;
    }
    ssize_t n = read(c->src.fd, link_begin(guest, max), max);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        drop(c);
        return;
    }
    if (n == 0) {
        c->sent_eof = true;
        link_send(guest, FRAME_EOF, c->channel, NULL, 0);
    } else {
        link_end(guest, FRAME_DATA, c->channel, (uint32_t)n);
        c->credit -= (uint32_t)n;
    }
    update(c);
}

static void ready(struct source *s, uint32_t events)
{
    struct client *c = container_of(s, struct client, src);
    if (events & (EPOLLHUP | EPOLLERR)) { /* closed, not just its sending half */
        drop(c);
        return;
    }
    if (events & EPOLLOUT) {
        flush(c);
        if (s->fd < 0)
            return;
    }
    if (events & EPOLLIN) {
        if (c->phase == ASKS)
            read_line(c);
        else if (c->phase == CONNECTED && guest && !c->sent_eof)
            read_input(c);
    }
}

void clients_accept(int fd)
{
    struct client *c = calloc(1, sizeof *c);
    unsigned count = 0;
    if (!c)
        abort();
    for (struct client *other = clients; other; other = other->next)
        count++;
    c->next = clients;
    clients = c;
    loop_add(&c->src, fd, EPOLLIN, ready);
    if (count >= SESSIONS_MAX)
        end(c, "ERR too many sessions in this machine\n");
}

/* ---- what the guest program sends ---- */

static struct client *find(uint32_t channel)
{
    for (struct client *c = clients; c; c = c->next)
        if (c->channel == channel && (c->phase == OPENING || c->phase == CONNECTED))
            return c;
    return NULL;
}

static void violate(struct client *c)
{
    link_send_u32(guest, FRAME_CLOSE, c->channel, CLOSE_PROTOCOL);
    end(c, c->phase == OPENING ? "ERR the guest program broke the protocol\n" : "");
}

static void opened(struct client *c, const struct frame *f)
{
    char line[32];
    if (c->phase != OPENING) {
        violate(c);
        return;
    }
    c->phase = CONNECTED;
    c->credit = get32(f->payload);
    snprintf(line, sizeof line, "OK %u\n", c->channel);
    (void)!send(c->src.fd, line, strlen(line), MSG_NOSIGNAL);
    update(c);
}

static void data(struct client *c, const struct frame *f)
{
    if (c->phase != CONNECTED || f->length > c->granted || c->guest_eof) {
        violate(c);
        return;
    }
    c->granted -= f->length;
    buf_add(&c->out, f->payload, f->length);
    flush(c);
}

void clients_frame(const struct frame *f)
{
    struct client *c = find(f->channel);
    if (f->type == FRAME_CLOSE)
        link_send(guest, FRAME_CLOSED, f->channel, NULL, 0);
    if (!c)
        return;
    switch (f->type) {
    case FRAME_OPENED: opened(c, f); break;
    case FRAME_DATA: data(c, f); break;
    case FRAME_CREDIT: {
        uint32_t n = get32(f->payload);
        c->credit = n > UINT32_MAX - c->credit ? UINT32_MAX : c->credit + n;
        update(c);
        break;
    }
    case FRAME_EOF:
        c->guest_eof = true;
        flush(c);
        break;
    case FRAME_CLOSE: end(c, c->phase == OPENING ? "ERR the guest program refused\n" : ""); break;
    default: break; /* CLOSED: numbers are not used again */
    }
}

void clients_link_up(struct link *l)
{
    guest = l;
    for (struct client *c = clients; c; c = c->next)
        if (c->phase == WAITS)
            open_channel(c);
}

void clients_link_down(void)
{
    guest = NULL;
    for (struct client *c = clients, *next; c; c = next) {
        next = c->next;
        if (c->phase == OPENING) {
            c->phase = WAITS;
            update(c);
        } else if (c->phase == CONNECTED) {
            end(c, "");
        }
    }
}

void clients_have_room(void)
{
    for (struct client *c = clients; c; c = c->next)
        update(c);
}

void clients_end(void)
{
    for (struct client *c = clients, *next; c; c = next) {
        next = c->next;
        if (c->phase == ASKS || c->phase == WAITS)
            end(c, "ERR the machine has ended\n");
    }
}

unsigned clients_sessions(void)
{
    unsigned n = 0;
    for (struct client *c = clients; c; c = c->next)
        n += c->phase == CONNECTED;
    return n;
}

unsigned clients_unflushed(void)
{
    unsigned n = 0;
    for (struct client *c = clients; c; c = c->next)
        n += buf_len(&c->out) > 0;
    return n;
}
