/* What the files of a session share: session.c (the channel and the process), session_output.c, session_input.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "buf.h"
#include "link.h"
#include "loop.h"
#include "messages.h"

enum { STDIN_WINDOW = 256 * 1024 };

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


/* session.c */
void session_drop(struct session *s);

/* session_output.c */
/* Queues a message; session_pump sends it. */
void session_reply(struct session *s, enum message_type type, const void *payload, uint32_t length);
void session_reply_u32(struct session *s, enum message_type type, uint32_t value);
/* Does all that can be done now, and sets what is waited for. May end the session's life. */
void session_pump(struct session *s);
/* The leader has ended: notes how much of its output is still to be sent. */
void session_limit_output(struct session *s);
void session_output_ready(struct source *src, uint32_t events);

/* session_input.c */
/* A quarter of the window or more was written: tells the client that it may send so much again. */
void session_grant(struct session *s);
/* Writes what waits for the process. */
void session_feed(struct session *s);
void session_input_ready(struct source *src, uint32_t events);
void session_end_input(struct session *s);
/* False: more than was granted. */
bool session_take_stdin(struct session *s, const struct message *m);
void session_take_signal(struct session *s, uint32_t number);
void session_take_winsize(struct session *s, const uint8_t *p);
