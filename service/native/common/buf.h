/* A byte queue that grows: bytes are added at the end and consumed from the head. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data;
    size_t start, end, cap;
};

static inline size_t buf_len(const struct buf *b)
{
    return b->end - b->start;
}

static inline uint8_t *buf_head(const struct buf *b)
{
    return b->data + b->start;
}

/* Room for `n` bytes after the last one; valid until the next call on `b`. Aborts when memory is exhausted. */
uint8_t *buf_reserve(struct buf *b, size_t n);
/* `n` bytes of the reserved room now belong to the queue. */
void buf_commit(struct buf *b, size_t n);
void buf_add(struct buf *b, const void *p, size_t n);
/* Drops the first `n` bytes. Gives memory back when the queue has become empty. */
void buf_consume(struct buf *b, size_t n);
void buf_free(struct buf *b);
