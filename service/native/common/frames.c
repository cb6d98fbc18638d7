#include "frames.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum {
    PARSER_SIZE = 2 * FRAME_MAX,
    /* Bytes full of false frame starts would otherwise cost a checksum of 64 KiB for every few of them. When so many
     * bytes were checksummed in vain, only frames of at most CHEAP bytes, HELLO and WELCOME among them, are looked
     * for; a sound frame ends that. */
    CRC_BUDGET = 1 << 20,
    CHEAP = 64,
};

void frame_seal(uint8_t *p, enum frame_type type, uint32_t channel, uint32_t length, uint32_t epoch)
{
    p[0] = 'B';
    p[1] = 'G';
    p[2] = (uint8_t)type;
    p[3] = 0;
    put32(p + 4, channel);
    put32(p + 8, length);
    put32(p + 12, epoch);
    put32(p + 16, crc32(crc32(0, p, 16), p + FRAME_HEADER, length));
}

static bool length_fits(uint8_t type, uint32_t length)
{
    switch (type) {
    case FRAME_HELLO: return length == HELLO_SIZE;
    case FRAME_WELCOME: return length == WELCOME_SIZE;
    case FRAME_OPEN: return length == 8;
    case FRAME_OPENED:
    case FRAME_CREDIT:
    case FRAME_CLOSE: return length == 4;
    case FRAME_EOF:
    case FRAME_CLOSED: return length == 0;
    case FRAME_DATA: return length >= 1 && length <= FRAME_MAX_PAYLOAD;
    case FRAME_CONTROL: return length >= 1 && length <= CONTROL_MAX;
    default: return false;
    }
}

bool frame_header_ok(const uint8_t *p)
{
    return p[0] == 'B' && p[1] == 'G' && p[3] == 0 && length_fits(p[2], get32(p + 8));
}

uint8_t *parser_room(struct frame_parser *s, size_t *room)
{
    if (!s->data) {
        s->data = malloc(PARSER_SIZE);
        if (!s->data)
            abort();
    }
    if (s->start == s->end)
        s->start = s->end = 0;
    if (PARSER_SIZE - s->start < FRAME_MAX || s->end == PARSER_SIZE) {
        memmove(s->data, s->data + s->start, s->end - s->start);
        s->end -= s->start;
        s->start = 0;
    }
    *room = PARSER_SIZE - s->end;
    return s->data + s->end;
}

void parser_fed(struct frame_parser *s, size_t n)
{
    s->end += n;
}

static void skip(struct frame_parser *s, size_t n)
{
    s->start += n;
    s->skipped += n;
}

/* Moves to the next byte that can begin a frame. */
static void skip_to_magic(struct frame_parser *s)
{
    size_t left = s->end - s->start;
    const uint8_t *at = s->data + s->start;
    const uint8_t *found = left ? memchr(at, 'B', left) : NULL;
    skip(s, found ? (size_t)(found - at) : left);
}

bool parser_next(struct frame_parser *s, struct frame *out)
{
    while (s->start < s->end) {
        const uint8_t *p = s->data + s->start;
        size_t left = s->end - s->start;
        if (p[0] != 'B') {
            skip_to_magic(s);
            continue;
        }
        if (left >= 2 && p[1] != 'G') {
            skip(s, 1);
            continue;
        }
        if (left < FRAME_HEADER)
            return false;
        uint32_t length = get32(p + 8);
        if (!frame_header_ok(p) || (s->only_welcome && p[2] != FRAME_WELCOME)) {
            skip(s, 1);
            continue;
        }
        if (length > CHEAP && length > s->crc_budget) {
            skip(s, 1);
            continue;
        }
        if (left < FRAME_HEADER + length)
            return false;
        if (crc32(crc32(0, p, 16), p + FRAME_HEADER, length) != get32(p + 16)) {
            s->crc_budget -= length > CHEAP ? length : 0;
            skip(s, 1);
            continue;
        }
        s->crc_budget = CRC_BUDGET;
        *out = (struct frame){(enum frame_type)p[2], get32(p + 4), get32(p + 12), length, p + FRAME_HEADER};
        s->start += FRAME_HEADER + length;
        return true;
    }
    return false;
}

void parser_reset(struct frame_parser *s)
{
    s->start = s->end = 0;
    s->skipped = 0;
    s->crc_budget = CRC_BUDGET;
}

void parser_free(struct frame_parser *s)
{
    free(s->data);
    *s = (struct frame_parser){0};
}
