#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"

enum {
    TX_SOFT = 512 * 1024,      /* from here on no payload is queued */
    TX_HARD = 2 * 1024 * 1024, /* from here on nothing is read: even answers would pile up */
    READ_ROUND = 256 * 1024,   /* bytes read before others have their turn */
};

static void update(struct link *l)
{
    uint32_t in = buf_len(&l->tx) < TX_HARD ? EPOLLIN : 0;
    loop_want(&l->src, in | (buf_len(&l->tx) ? EPOLLOUT : 0));
}

void link_read(struct link *l)
{
    size_t total = 0;
    while (link_is_open(l) && total < READ_ROUND && buf_len(&l->tx) < TX_HARD) {
        size_t room;
        uint8_t *at = parser_room(&l->parser, &room);
        ssize_t n = read(l->src.fd, at, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            l->on_broken(l);
            return;
        }
        parser_fed(&l->parser, (size_t)n);
        total += (size_t)n;
        struct frame f;
        while (link_is_open(l) && parser_next(&l->parser, &f))
            l->on_frame(l, &f);
    }
}

static void ready(struct source *s, uint32_t events)
{
    struct link *l = container_of(s, struct link, src);
    if (events & EPOLLOUT)
        link_flush(l);
    if (link_is_open(l) && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        link_read(l);
}

void link_open(struct link *l, int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    parser_reset(&l->parser);
    l->tx_partial = 0;
    l->epoch = 0;
    l->congested = false;
    loop_add(&l->src, fd, EPOLLIN, ready);
}

void link_close(struct link *l)
{
    loop_close(&l->src);
    buf_free(&l->tx);
    parser_free(&l->parser);
    l->epoch = 0;
    l->tx_partial = 0;
}

uint8_t *link_begin(struct link *l, size_t max)
{
    return buf_reserve(&l->tx, FRAME_HEADER + max) + FRAME_HEADER;
}

void link_end(struct link *l, enum frame_type type, uint32_t channel, uint32_t length)
{
    frame_seal(l->tx.data + l->tx.end, type, channel, length, type == FRAME_HELLO ? 0 : l->epoch);
    buf_commit(&l->tx, FRAME_HEADER + length);
}

void link_send(struct link *l, enum frame_type type, uint32_t channel, const void *payload, uint32_t length)
{
    if (!link_is_open(l))
        return;
    uint8_t *p = link_begin(l, length);
    if (length)
        memcpy(p, payload, length);
    link_end(l, type, channel, length);
}

void link_send_u32(struct link *l, enum frame_type type, uint32_t channel, uint32_t value)
{
    uint8_t p[4];
    put32(p, value);
    link_send(l, type, channel, p, sizeof p);
}

void link_control(struct link *l, const char *format, ...)
{
    char line[CONTROL_MAX + 1];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0 && n < (int)sizeof line)
        link_send(l, FRAME_CONTROL, 0, line, (uint32_t)n);
}

void link_pad(struct link *l)
{
    memset(buf_reserve(&l->tx, FRAME_MAX), 0, FRAME_MAX);
    buf_commit(&l->tx, FRAME_MAX);
}

/* Notes that `n` bytes of the queue were sent: how much of the frame at its head is left? */
static void count_sent(struct link *l, size_t n)
{
    const uint8_t *p = buf_head(&l->tx);
    while (n) {
        if (!l->tx_partial) /* a byte of padding is a unit of its own */
            l->tx_partial = p[0] ? FRAME_HEADER + get32(p + 8) : 1;
        size_t step = l->tx_partial < n ? l->tx_partial : n;
        l->tx_partial -= step;
        p += step;
        n -= step;
    }
}

void link_drop_queued(struct link *l)
{
    struct buf rest = {0};
    buf_add(&rest, buf_head(&l->tx), l->tx_partial);
    buf_free(&l->tx);
    l->tx = rest;
}

bool link_congested(struct link *l)
{
    if (buf_len(&l->tx) < TX_SOFT)
        return false;
    l->congested = true;
    return true;
}

void link_flush(struct link *l)
{
    while (link_is_open(l) && buf_len(&l->tx)) {
        ssize_t n = write(l->src.fd, buf_head(&l->tx), buf_len(&l->tx));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            l->on_broken(l);
            return;
        }
        count_sent(l, (size_t)n);
        buf_consume(&l->tx, (size_t)n);
    }
    if (!link_is_open(l))
        return;
    update(l);
    if (l->congested && buf_len(&l->tx) < TX_SOFT / 2) {
        l->congested = false;
        l->on_room(l);
    }
}
