/* The seed disk, both as it comes and with its checksum put right, which a fuzzer would not guess. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "seed.h"

static size_t total(const struct seed_list *list)
{
    size_t n = 0;
    for (size_t i = 0; i < list->count; i++)
        n += strlen(list->items[i]) + 1;
    assert(!list->count || !list->items[list->count]);
    return n;
}

static void check(const uint8_t *p, size_t n)
{
    struct seed s;
    const char *why = NULL;
    if (!seed_parse(p, n, &s, &why)) {
        assert(why && *why);
        return;
    }
    size_t text = total(&s.nameservers) + total(&s.keys) + total(&s.entrypoint) + total(&s.environment) +
                  total(&s.search);
    for (size_t i = 0; i < s.disk_count; i++) {
        assert(s.disks[i].index >= 1 && s.disks[i].index < SEED_DISKS);
        text += strlen(s.disks[i].role);
    }
    for (size_t i = 0; i < s.file_count; i++) {
        assert(s.files[i].path[0] == '/');
        text += strlen(s.files[i].path) + s.files[i].length;
        if (s.files[i].length)
            text += s.files[i].content[0] & 0; /* read both ends */
        if (s.files[i].length)
            text += s.files[i].content[s.files[i].length - 1] & 0;
    }
    assert(!s.init || s.init[0] == '/');
    assert(text <= n);
    seed_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    check(data, n);
    uint8_t *whole = malloc(SEED_HEADER + n);
    assert(whole);
    memcpy(whole, "BGRSEED1", 8);
    put32(whole + 8, (uint32_t)n);
    put32(whole + 12, crc32(0, data, n));
    if (n)
        memcpy(whole + SEED_HEADER, data, n);
    check(whole, SEED_HEADER + n);
    free(whole);
    return 0;
}
