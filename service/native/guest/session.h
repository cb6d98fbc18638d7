/* A session: one channel of the link, one process in the guest. */
#pragma once

#include <stdint.h>

#include "link.h"

struct session;

/* A new session on `channel`; `window` bytes may be sent on it. It lives until it has sent CLOSE, or
 * session_hangup; session_find answers NULL from then on. */
void session_open(struct link *l, uint32_t channel, uint32_t window);
struct session *session_find(uint32_t channel);
unsigned session_count(void);

/* Bytes that arrived on the channel. */
void session_data(struct session *s, const uint8_t *p, uint32_t n);
/* The client will send no more. */
void session_eof(struct session *s);
/* `n` further bytes may be sent. */
void session_credit(struct session *s, uint32_t n);
/* The client is gone: SIGHUP now, SIGKILL ten seconds later. Sends nothing. */
void session_hangup(struct session *s);
void session_hangup_all(void);

/* Sessions that waited because the link was congested go on. */
void session_resume_all(void);
/* Collects processes that have ended. Called on SIGCHLD. */
void session_reap(void);
/* SIGKILL to what every session started and to what was hung up, now. */
void session_kill_all(void);
