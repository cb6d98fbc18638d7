#include "session_private.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "bytes.h"

void session_grant(struct session *s)
{
    if (s->in_owed < STDIN_WINDOW / 4 || s->state == CLOSING)
        return;
    s->in_granted += s->in_owed;
    session_reply_u32(s, MESSAGE_STDIN_CREDIT, s->in_owed);
    s->in_owed = 0;
}

/* A process that reads no more loses what waits for it, which is no error. */
void session_feed(struct session *s)
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
    session_grant(s);
    if (s->in_eof && !buf_len(&s->in_data) && !s->tty)
        loop_close(&s->in_pipe);
    loop_want(&s->in_pipe, buf_len(&s->in_data) ? EPOLLOUT : 0);
}

void session_input_ready(struct source *src, uint32_t events)
{
    struct session *s = container_of(src, struct session, in_pipe);
    (void)events;
    session_feed(s);
    session_pump(s);
}

void session_end_input(struct session *s)
{
    if (s->in_eof)
        return;
    s->in_eof = true;
    struct termios t;
    if (s->tty && s->in_pipe.fd >= 0 && tcgetattr(s->in_pipe.fd, &t) == 0) /* as if the user pressed Ctrl-D */
        buf_add(&s->in_data, &t.c_cc[VEOF], 1);
    session_feed(s);
}

bool session_take_stdin(struct session *s, const struct message *m)
{
    if (m->length > s->in_granted)
        return false;
    s->in_granted -= m->length;
    if (!m->length)
        session_end_input(s);
    else if (!s->in_eof) {
        buf_add(&s->in_data, m->payload, m->length);
        session_feed(s);
    }
    return true;
}

void session_take_signal(struct session *s, uint32_t number)
{
    pid_t group = 0;
    if (s->pid <= 0 || s->ended || number < 1 || number > 64)
        return;
    if (s->tty && s->in_pipe.fd >= 0 && ioctl(s->in_pipe.fd, TIOCGPGRP, &group) < 0)
        group = 0;
    kill(-(group > 1 ? group : s->pid), (int)number);
}

void session_take_winsize(struct session *s, const uint8_t *p)
{
    struct winsize size = {.ws_row = get16(p), .ws_col = get16(p + 2)};
    if (s->tty && s->in_pipe.fd >= 0)
        ioctl(s->in_pipe.fd, TIOCSWINSZ, &size);
}
