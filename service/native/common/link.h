/* One end of the link: frames in and out over a byte stream, the same for shim and guest program. */
#pragma once

#include <stdbool.h>

#include "buf.h"
#include "frames.h"
#include "loop.h"

struct link {
    struct source src;
    struct frame_parser parser;
    struct buf tx;
    size_t tx_partial; /* bytes still to send of the unit at tx's head, some of which were sent */
    uint32_t epoch;    /* 0: no handshake yet */
    bool congested;    /* link_congested answered yes, and on_room has not been called since */
    void (*on_frame)(struct link *l, const struct frame *f);
    void (*on_broken)(struct link *l); /* end of the stream or an error; the link is still open */
    void (*on_room)(struct link *l);   /* less than half of what congests is queued again */
};

/* Takes over `fd` (made non-blocking). The callbacks must be set. */
void link_open(struct link *l, int fd);
void link_close(struct link *l);
static inline bool link_is_open(const struct link *l)
{
    return l->src.fd >= 0;
}

/* Room for a payload of at most `max` bytes; link_end sends the first `length` of it. Nothing between the two. */
uint8_t *link_begin(struct link *l, size_t max);
void link_end(struct link *l, enum frame_type type, uint32_t channel, uint32_t length);
void link_send(struct link *l, enum frame_type type, uint32_t channel, const void *payload, uint32_t length);
void link_send_u32(struct link *l, enum frame_type type, uint32_t channel, uint32_t value);
void link_control(struct link *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Zero bytes that complete any half frame the other side may still be waiting for. */
void link_pad(struct link *l);
/* Drops what is queued, except for the rest of a frame that is half sent. */
void link_drop_queued(struct link *l);
/* True: do not queue payload now, on_room follows. */
bool link_congested(struct link *l);
/* Writes what is queued, as far as the other side takes it. Called after each batch of events. */
void link_flush(struct link *l);
/* Reads and delivers what has arrived. */
void link_read(struct link *l);
