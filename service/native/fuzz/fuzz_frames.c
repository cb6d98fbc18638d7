/* The link's parser: any bytes, in pieces of any size. What it delivers is sound, and after padding it always finds a
 * HELLO. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "frames.h"

static void feed(struct frame_parser *s, const uint8_t *p, size_t n, size_t piece, struct frame *last)
{
    while (n) {
        size_t room;
        uint8_t *at = parser_room(s, &room);
        size_t take = n < piece ? n : piece;
        take = take < room ? take : room;
        assert(take);
        memcpy(at, p, take);
        parser_fed(s, take);
        p += take;
        n -= take;
        struct frame f;
        while (parser_next(s, &f)) {
            uint8_t copy[FRAME_MAX];
            assert(f.length <= FRAME_MAX_PAYLOAD);
            assert(!s->only_welcome || f.type == FRAME_WELCOME);
            memcpy(copy + FRAME_HEADER, f.payload, f.length);
            frame_seal(copy, f.type, f.channel, f.length, f.epoch);
            assert(memcmp(copy, f.payload - FRAME_HEADER, FRAME_HEADER + f.length) == 0);
            *last = f;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Gives the frames in `p` their right checksums, which a fuzzer would not guess. */
static void mend(uint8_t *p, size_t n)
{
    for (size_t at = 0; at + FRAME_HEADER <= n;) {
        uint32_t length = get32(p + at + 8);
        if (frame_header_ok(p + at) && length <= n - at - FRAME_HEADER) {
            frame_seal(p + at, p[at + 2], get32(p + at + 4), length, get32(p + at + 12));
            at += FRAME_HEADER + length;
        } else {
            at++;
        }
    }
}

/* Options in the first byte: look for a WELCOME only, mend checksums, and (rarely, it takes long) greet at the end. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint8_t padding[FRAME_MAX];
    static struct frame_parser s;
    struct frame last = {0};
    if (n < 2)
        return 0;
    uint8_t *copy = malloc(n);
    assert(copy);
    memcpy(copy, data, n);
    if (data[0] & 2)
        mend(copy + 2, n - 2);
    parser_reset(&s);
    s.only_welcome = data[0] & 1;
    feed(&s, copy + 2, n - 2, (size_t)data[1] * 16 + 1, &last);
    free(copy);
    if ((data[0] & 0x70) != 0x70)
        return 0;

    enum frame_type wanted = s.only_welcome ? FRAME_WELCOME : FRAME_HELLO;
    uint8_t greeting[FRAME_HEADER + WELCOME_SIZE] = {0};
    uint32_t length = s.only_welcome ? WELCOME_SIZE : HELLO_SIZE;
    frame_seal(greeting, wanted, 0, length, 0x1234567);
    feed(&s, padding, sizeof padding, sizeof padding, &last);
    feed(&s, greeting, FRAME_HEADER + length, sizeof greeting, &last);
    assert(last.type == wanted && last.epoch == 0x1234567);
    return 0;
}
