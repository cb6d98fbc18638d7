#include "session_private.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"

enum {
    OUTPUT_CHUNK = 32 * 1024,
    TTY_BACKLOG = 256 * 1024, /* more than a terminal can hold: what its leader wrote is among it */
};

void session_reply(struct session *s, enum message_type type, const void *payload, uint32_t length)
{
    uint8_t header[MESSAGE_HEADER];
    message_seal(header, type, length);
    buf_add(&s->replies, header, sizeof header);
    buf_add(&s->replies, payload, length);
}

void session_reply_u32(struct session *s, enum message_type type, uint32_t a)
{
    uint8_t p[4];
    put32(p, a);
    session_reply(s, type, p, sizeof p);
}

static void send_exit(struct session *s)
{
    uint8_t p[8];
    bool killed = WIFSIGNALED(s->wait_status);
    put32(p, killed);
    put32(p + 4, (uint32_t)(killed ? WTERMSIG(s->wait_status) : WEXITSTATUS(s->wait_status)));
    session_reply(s, MESSAGE_EXIT, p, sizeof p);
    s->state = CLOSING;
}

static bool may_send(struct session *s)
{
    return s->window > MESSAGE_HEADER && !buf_len(&s->replies) && !link_congested(s->link);
}

/* Sends one chunk of output; false when there is none now. */
static bool forward(struct session *s, struct output *o)
{
    size_t max = s->window - MESSAGE_HEADER;
    max = max < OUTPUT_CHUNK ? max : OUTPUT_CHUNK;
    if (s->ended && max > o->left)
        max = o->left;
    uint8_t *p = link_begin(s->link, MESSAGE_HEADER + max);
    ssize_t n = max ? read(o->src.fd, p + MESSAGE_HEADER, max) : 0;
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && errno == EAGAIN && !s->ended)
        return false;
    if (n <= 0) { /* end of file; EIO: the terminal's last user closed it */
        loop_close(&o->src);
        return false;
    }
    message_seal(p, o->type, (uint32_t)n);
    link_end(s->link, FRAME_DATA, s->channel, MESSAGE_HEADER + (uint32_t)n);
    s->window -= MESSAGE_HEADER + (uint32_t)n;
    if (s->ended)
        o->left -= (size_t)n;
    return true;
}

void session_output_ready(struct source *src, uint32_t events)
{
    struct output *o = container_of(src, struct output, src);
    (void)events;
    if (may_send(o->session))
        forward(o->session, o);
    session_pump(o->session);
}

static void limit(struct session *s, struct output *o)
{
    int waiting = 0;
    if (o->src.fd < 0)
        return;
    o->left = TTY_BACKLOG;
    if (!s->tty && ioctl(o->src.fd, FIONREAD, &waiting) == 0)
        o->left = (size_t)waiting;
}

void session_limit_output(struct session *s)
{
    limit(s, &s->out);
    limit(s, &s->err);
}

static void send_replies(struct session *s)
{
    while (buf_len(&s->replies) && s->window) {
        size_t n = buf_len(&s->replies);
        n = n < s->window ? n : s->window;
        n = n < FRAME_MAX_PAYLOAD ? n : FRAME_MAX_PAYLOAD;
        link_send(s->link, FRAME_DATA, s->channel, buf_head(&s->replies), (uint32_t)n);
        buf_consume(&s->replies, n);
        s->window -= (uint32_t)n;
    }
}

static void close_channel(struct session *s)
{
    link_send_u32(s->link, FRAME_CLOSE, s->channel, CLOSE_DONE);
    session_drop(s);
}

void session_pump(struct session *s)
{
    send_replies(s);
    if (s->ended && s->state == RUNNING) {
        while (s->out.src.fd >= 0 && may_send(s) && forward(s, &s->out))
            ;
        while (s->err.src.fd >= 0 && may_send(s) && forward(s, &s->err))
            ;
        if (s->out.src.fd < 0 && s->err.src.fd < 0) {
            send_exit(s);
            send_replies(s);
        }
    }
    if (s->state == CLOSING) {
        if (!buf_len(&s->replies))
            close_channel(s);
        return;
    }
    bool want = s->state == RUNNING && !s->ended && may_send(s);
    loop_want(&s->out.src, want ? EPOLLIN : 0);
    loop_want(&s->err.src, want ? EPOLLIN : 0);
}
