#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bytes.h"
#include "child.h"
#include "doomed.h"
#include "messages.h"
#include "session_private.h"

enum { CHANNEL_WINDOW = 256 * 1024 };

static struct session *sessions;

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

void session_drop(struct session *s)
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

/* The last message but for its sending: pump closes the channel when it is out. */
static void fail(struct session *s, int code, const char *text)
{
    uint8_t p[4 + 512];
    size_t n = strnlen(text, 512);
    if (s->state == CLOSING)
        return;
    put32(p, (uint32_t)code);
    memcpy(p + 4, text, n);
    session_reply(s, MESSAGE_ERROR, p, (uint32_t)(4 + n));
    if (s->pid > 0 && !s->ended)
        doomed_add(s->pid);
    s->pid = 0;
    s->state = CLOSING;
    loop_close(&s->out.src);
    loop_close(&s->err.src);
    loop_close(&s->in_pipe);
    loop_close(&s->start);
}

void session_credit(struct session *s, uint32_t n)
{
    s->window = n > UINT32_MAX - s->window ? UINT32_MAX : s->window + n;
    session_pump(s);
}

void session_resume_all(void)
{
    for (struct session *s = sessions, *next; s; s = next) {
        next = s->next;
        session_pump(s);
    }
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
        session_reply_u32(s, MESSAGE_STARTED, (uint32_t)s->pid);
        s->in_owed = STDIN_WINDOW;
        session_grant(s);
        session_feed(s);
    }
    session_pump(s);
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
    loop_add(&s->in_pipe, child.in, 0, session_input_ready);
    loop_add(&s->out.src, child.out, 0, session_output_ready);
    if (child.err >= 0)
        loop_add(&s->err.src, child.err, 0, session_output_ready);
    loop_add(&s->start, child.start, EPOLLIN, start_ready);
}

void session_reap(void)
{
    for (struct session *s = sessions, *next; s; s = next) {
        next = s->next;
        if (s->pid <= 0 || s->ended || waitpid(s->pid, &s->wait_status, WNOHANG) != s->pid)
            continue;
        s->ended = true;
        session_limit_output(s);
        if (s->start.fd >= 0)
            start_ready(&s->start, EPOLLIN);
        else
            session_pump(s);
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
        if (!session_take_stdin(s, m)) {
            *why = "more STDIN than was credited";
            return false;
        }
        break;
    case MESSAGE_SIGNAL: session_take_signal(s, get32(m->payload)); break;
    case MESSAGE_WINSIZE: session_take_winsize(s, m->payload); break;
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
    session_pump(s);
}

void session_eof(struct session *s)
{
    if (s->state == WAITS_FOR_EXEC)
        fail(s, ERROR_BANGER, "the client ended before it named a command");
    else
        session_end_input(s);
    session_pump(s);
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
    session_drop(s);
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
