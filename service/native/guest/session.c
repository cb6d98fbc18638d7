#include "session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "bytes.h"
#include "child.h"
#include "doomed.h"
#include "messages.h"

enum {
    CHANNEL_WINDOW = 256 * 1024,
    STDIN_WINDOW = 256 * 1024,
    OUTPUT_CHUNK = 32 * 1024,
    TTY_BACKLOG = 256 * 1024, /* more than a terminal can hold: what its leader wrote is among it */
};

enum state { WAITS_FOR_EXEC, STARTING, RUNNING, CLOSING };

struct output {
    struct source src;
    struct session *session;
    enum message_type type;
    size_t left; /* once the leader has ended: bytes still to be read */
};

struct session {
    struct link *link;
    struct session *next;
    uint32_t channel, window;
    uint32_t received; /* bytes taken since the last CREDIT */
    enum state state;
    bool ended; /* the leader was reaped, `wait_status` holds */
    int wait_status;
    pid_t pid;
    struct buf in;      /* an incomplete message */
    struct buf replies; /* small messages that wait for window */
    struct output out, err;
    struct source in_pipe, start;
    bool tty, in_eof;
    struct buf in_data;
    uint32_t in_granted, in_owed; /* STDIN bytes the client may send; written ones it was not told of */
};

static struct session *sessions;

static void pump(struct session *s);

struct session *session_find(uint32_t channel)
{
    struct session *s = sessions;
    while (s && s->channel != channel)
        s = s->next;
    return s;
}

unsigned session_count(void)
{
    unsigned n = 0;
    for (struct session *s = sessions; s; s = s->next)
        n++;
    return n;
}

static void drop(struct session *s)
{
    for (struct session **at = &sessions; *at; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
            break;
        }
    }
    loop_close(&s->out.src);
    loop_close(&s->err.src);
    loop_close(&s->in_pipe);
    loop_close(&s->start);
    buf_free(&s->in);
    buf_free(&s->replies);
    buf_free(&s->in_data);
    loop_free_later(s);
}

static void close_channel(struct session *s, enum close_reason reason)
{
    link_send_u32(s->link, FRAME_CLOSE, s->channel, reason);
    drop(s);
}

static void reply(struct session *s, enum message_type type, const void *payload, uint32_t length)
{
    uint8_t header[MESSAGE_HEADER];
    message_seal(header, type, length);
    buf_add(&s->replies, header, sizeof header);
    buf_add(&s->replies, payload, length);
}

static void reply_u32(struct session *s, enum message_type type, uint32_t a)
{
    uint8_t p[4];
    put32(p, a);
    reply(s, type, p, sizeof p);
}

/* The last message but for its sending: pump closes the channel when it is out. */
static void fail(struct session *s, int code, const char *text)
{
    uint8_t p[4 + 512];
    size_t n = strnlen(text, 512);
    if (s->state == CLOSING)
        return;
    put32(p, (uint32_t)code);
    memcpy(p + 4, text, n);
    reply(s, MESSAGE_ERROR, p, (uint32_t)(4 + n));
    if (s->pid > 0 && !s->ended)
        doomed_add(s->pid);
    s->pid = 0;
    s->state = CLOSING;
    loop_close(&s->out.src);
    loop_close(&s->err.src);
    loop_close(&s->in_pipe);
    loop_close(&s->start);
}

static void send_exit(struct session *s)
{
    uint8_t p[8];
    bool killed = WIFSIGNALED(s->wait_status);
    put32(p, killed);
    put32(p + 4, (uint32_t)(killed ? WTERMSIG(s->wait_status) : WEXITSTATUS(s->wait_status)));
    reply(s, MESSAGE_EXIT, p, sizeof p);
    s->state = CLOSING;
}

/* ---- output ---- */

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

static void output_ready(struct source *src, uint32_t events)
{
    struct output *o = container_of(src, struct output, src);
    (void)events;
    if (may_send(o->session))
        forward(o->session, o);
    pump(o->session);
}

/* How much of what stands in the pipe or terminal now is to be sent before EXIT? */
static void limit_output(struct session *s, struct output *o)
{
    int waiting = 0;
    if (o->src.fd < 0)
        return;
    o->left = TTY_BACKLOG;
    if (!s->tty && ioctl(o->src.fd, FIONREAD, &waiting) == 0)
        o->left = (size_t)waiting;
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

/* Does all that can be done now, and sets what is waited for. May end the session's life. */
static void pump(struct session *s)
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
            close_channel(s, CLOSE_DONE);
        return;
    }
    bool want = s->state == RUNNING && !s->ended && may_send(s);
    loop_want(&s->out.src, want ? EPOLLIN : 0);
    loop_want(&s->err.src, want ? EPOLLIN : 0);
}

void session_credit(struct session *s, uint32_t n)
{
    s->window = n > UINT32_MAX - s->window ? UINT32_MAX : s->window + n;
    pump(s);
}

void session_resume_all(void)
{
    for (struct session *s = sessions, *next; s; s = next) {
        next = s->next;
        pump(s);
    }
}

/* ---- input ---- */

static void grant(struct session *s)
{
    if (s->in_owed < STDIN_WINDOW / 4 || s->state == CLOSING)
        return;
    s->in_granted += s->in_owed;
    reply_u32(s, MESSAGE_STDIN_CREDIT, s->in_owed);
    s->in_owed = 0;
}

/* Writes what waits for the process. A process that reads no more loses it, which is no error. */
static void feed(struct session *s)
{
    while (buf_len(&s->in_data)) {
        size_t n = buf_len(&s->in_data);
        if (s->in_pipe.fd >= 0) {
            ssize_t written = write(s->in_pipe.fd, buf_head(&s->in_data), n);
            if (written < 0 && errno == EINTR)
                continue;
            if (written < 0 && errno == EAGAIN)
                break;
            if (written < 0) {
                loop_close(&s->in_pipe);
                continue;
            }
            n = (size_t)written;
        }
        buf_consume(&s->in_data, n);
        s->in_owed += (uint32_t)n;
    }
    grant(s);
    if (s->in_eof && !buf_len(&s->in_data) && !s->tty)
        loop_close(&s->in_pipe);
    loop_want(&s->in_pipe, buf_len(&s->in_data) ? EPOLLOUT : 0);
}

static void input_ready(struct source *src, uint32_t events)
{
    struct session *s = container_of(src, struct session, in_pipe);
    (void)events;
    feed(s);
    pump(s);
}

static void end_input(struct session *s)
{
    if (s->in_eof)
        return;
    s->in_eof = true;
    struct termios t;
    if (s->tty && s->in_pipe.fd >= 0 && tcgetattr(s->in_pipe.fd, &t) == 0) /* as if the user pressed Ctrl-D */
        buf_add(&s->in_data, &t.c_cc[VEOF], 1);
    feed(s);
}

static bool take_stdin(struct session *s, const struct message *m)
{
    if (m->length > s->in_granted)
        return false;
    s->in_granted -= m->length;
    if (!m->length)
        end_input(s);
    else if (!s->in_eof) {
        buf_add(&s->in_data, m->payload, m->length);
        feed(s);
    }
    return true;
}

static void take_signal(struct session *s, uint32_t number)
{
    pid_t group = 0;
    if (s->pid <= 0 || s->ended || number < 1 || number > 64)
        return;
    if (s->tty && s->in_pipe.fd >= 0 && ioctl(s->in_pipe.fd, TIOCGPGRP, &group) < 0)
        group = 0;
    kill(-(group > 1 ? group : s->pid), (int)number);
}

static void take_winsize(struct session *s, const uint8_t *p)
{
    struct winsize size = {.ws_row = get16(p), .ws_col = get16(p + 2)};
    if (s->tty && s->in_pipe.fd >= 0)
        ioctl(s->in_pipe.fd, TIOCSWINSZ, &size);
}

/* ---- start and end of the process ---- */

/* The pipe of the new process has something to say: it failed, or (end of file) it runs. */
static void start_ready(struct source *src, uint32_t events)
{
    struct session *s = container_of(src, struct session, start);
    struct start_error e;
    ssize_t n = read(src->fd, &e, sizeof e);
    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    loop_close(src);
    if (n == (ssize_t)sizeof e) {
        e.text[sizeof e.text - 1] = 0;
        if (!s->ended)
            waitpid(s->pid, NULL, 0); /* it is at its _exit */
        s->ended = true;
        fail(s, e.code, e.text);
    } else {
        s->state = RUNNING;
        reply_u32(s, MESSAGE_STARTED, (uint32_t)s->pid);
        s->in_owed = STDIN_WINDOW;
        grant(s);
        feed(s);
    }
    pump(s);
}

static void start(struct session *s, const struct message *m)
{
    struct exec_request request;
    struct start_error error;
    struct child child;
    const char *why;
    if (!exec_parse(m->payload, m->length, &request, &why)) {
        fail(s, ERROR_BANGER, why);
        return;
    }
    s->tty = request.tty;
    bool ok = child_start(&request, &child, &error);
    exec_free(&request);
    if (!ok) {
        fail(s, error.code, error.text);
        return;
    }
    s->pid = child.pid;
    s->state = STARTING;
    loop_add(&s->in_pipe, child.in, 0, input_ready);
    loop_add(&s->out.src, child.out, 0, output_ready);
    if (child.err >= 0)
        loop_add(&s->err.src, child.err, 0, output_ready);
    loop_add(&s->start, child.start, EPOLLIN, start_ready);
}

void session_reap(void)
{
    for (struct session *s = sessions, *next; s; s = next) {
        next = s->next;
        if (s->pid <= 0 || s->ended || waitpid(s->pid, &s->wait_status, WNOHANG) != s->pid)
            continue;
        s->ended = true;
        limit_output(s, &s->out);
        limit_output(s, &s->err);
        if (s->start.fd >= 0)
            start_ready(&s->start, EPOLLIN);
        else
            pump(s);
    }
}

/* ---- the channel ---- */

static bool handle(struct session *s, const struct message *m, const char **why)
{
    if (s->state == CLOSING)
        return true;
    if ((m->type == MESSAGE_EXEC) != (s->state == WAITS_FOR_EXEC)) {
        *why = "EXEC comes first, and once";
        return false;
    }
    switch (m->type) {
    case MESSAGE_EXEC: start(s, m); break;
    case MESSAGE_STDIN:
        if (!take_stdin(s, m)) {
            *why = "more STDIN than was credited";
            return false;
        }
        break;
    case MESSAGE_SIGNAL: take_signal(s, get32(m->payload)); break;
    case MESSAGE_WINSIZE: take_winsize(s, m->payload); break;
    default: break;
    }
    return true;
}

void session_data(struct session *s, const uint8_t *p, uint32_t n)
{
    const char *why = "";
    enum message_status status = MESSAGE_COMPLETE;
    struct message m;
    s->received += n;
    if (s->received >= CHANNEL_WINDOW / 4) {
        link_send_u32(s->link, FRAME_CREDIT, s->channel, s->received);
        s->received = 0;
    }
    if (s->state == CLOSING)
        return;
    buf_add(&s->in, p, n);
    while (status == MESSAGE_COMPLETE && s->state != CLOSING) {
        status = message_parse(buf_head(&s->in), buf_len(&s->in), &m, &why);
        if (status == MESSAGE_COMPLETE) {
            if (!handle(s, &m, &why))
                status = MESSAGE_BAD;
            buf_consume(&s->in, MESSAGE_HEADER + m.length);
        }
    }
    if (status == MESSAGE_BAD)
        fail(s, ERROR_BANGER, why);
    pump(s);
}

void session_eof(struct session *s)
{
    if (s->state == WAITS_FOR_EXEC)
        fail(s, ERROR_BANGER, "the client ended before it named a command");
    else
        end_input(s);
    pump(s);
}

void session_open(struct link *l, uint32_t channel, uint32_t window)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->link = l;
    s->channel = channel;
    s->window = window;
    s->out.src.fd = s->err.src.fd = s->in_pipe.fd = s->start.fd = -1;
    s->out.session = s->err.session = s;
    s->out.type = MESSAGE_STDOUT;
    s->err.type = MESSAGE_STDERR;
    s->next = sessions;
    sessions = s;
    link_send_u32(l, FRAME_OPENED, channel, CHANNEL_WINDOW);
}

void session_hangup(struct session *s)
{
    if (s->pid > 0 && !s->ended)
        doomed_add(s->pid);
    drop(s);
}

void session_hangup_all(void)
{
    while (sessions)
        session_hangup(sessions);
}

void session_kill_all(void)
{
    session_hangup_all();
    doomed_kill_all();
}
