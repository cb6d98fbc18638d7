/* Link frames (docs/guest-protocol.md): their shape, and a parser that recovers from a broken stream. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_HEADER = 20,
    FRAME_MAX_PAYLOAD = 65536,
    FRAME_MAX = FRAME_HEADER + FRAME_MAX_PAYLOAD,
    LINK_VERSION = 1,
    NONCE_SIZE = 16,
    HELLO_SIZE = 2 + NONCE_SIZE,
    WELCOME_SIZE = 2 + NONCE_SIZE + 4,
    CONTROL_MAX = 1024,
};

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME,
    FRAME_OPEN,
    FRAME_OPENED,
    FRAME_DATA,
    FRAME_CREDIT,
    FRAME_EOF,
    FRAME_CLOSE,
    FRAME_CLOSED,
    FRAME_CONTROL,
};

enum close_reason { CLOSE_DONE, CLOSE_REFUSED, CLOSE_GONE, CLOSE_PROTOCOL };

struct frame {
    enum frame_type type;
    uint32_t channel, epoch, length;
    const uint8_t *payload;
};

/* Writes the header of a frame whose `length` bytes of payload already stand at p + FRAME_HEADER. */
void frame_seal(uint8_t *p, enum frame_type type, uint32_t channel, uint32_t length, uint32_t epoch);

/* True if `p` (FRAME_HEADER bytes) can be the header of a frame: magic, type, flags, and the length fits the type. */
bool frame_header_ok(const uint8_t *p);

struct frame_parser {
    uint8_t *data; /* PARSER_SIZE bytes, allocated at the first use */
    size_t start, end;
    uint64_t skipped;  /* bytes that were no part of a frame */
    size_t crc_budget; /* bytes that may still be checksummed in vain */
    bool only_welcome; /* everything but a WELCOME is skipped, and never waited for */
};

/* Begins anew: forgets what was read so far. */
void parser_reset(struct frame_parser *s);
/* Where to read further bytes to, and how many fit (at least one). Ends the life of the last frame's payload. */
uint8_t *parser_room(struct frame_parser *s, size_t *room);
void parser_fed(struct frame_parser *s, size_t n);
/* The next whole frame; false when more bytes are needed. */
bool parser_next(struct frame_parser *s, struct frame *out);
void parser_free(struct frame_parser *s);
