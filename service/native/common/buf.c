#include "buf.h"

#include <stdlib.h>
#include <string.h>

enum { KEEP = 16 * 1024 }; /* an empty queue holds on to no more than this */

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    size_t used = buf_len(b);
    if (b->cap - b->end >= n && b->data)
        return b->data + b->end;
    if (b->cap - used >= n && b->start >= used && b->data) {
        /* Moving is worth its cost only when at least half of what stands there has been consumed. */
        memcpy(b->data, b->data + b->start, used);
    } else {
        size_t cap = b->cap ? b->cap : 1024;
        while (cap - used < n)
            cap *= 2;
        uint8_t *data = malloc(cap);
        if (!data)
            abort();
        if (used)
            memcpy(data, b->data + b->start, used);
        free(b->data);
        b->data = data;
        b->cap = cap;
    }
    b->start = 0;
    b->end = used;
    return b->data + used;
}

void buf_commit(struct buf *b, size_t n)
{
    b->end += n;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (!n)
        return;
    memcpy(buf_reserve(b, n), p, n);
    buf_commit(b, n);
}

void buf_consume(struct buf *b, size_t n)
{
    b->start += n;
    if (b->start < b->end)
        return;
    b->start = b->end = 0;
    if (b->cap > KEEP)
        buf_free(b);
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
