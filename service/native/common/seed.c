#include "seed.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum seed_tag {
    SEED_HOSTNAME = 1,
    SEED_ADDRESS,
    SEED_GATEWAY,
    SEED_NAMESERVER,
    SEED_DISK,
    SEED_KEY,
    SEED_FILE,
    SEED_INIT,
    SEED_ENTRYPOINT,
    SEED_ENVIRONMENT,
    SEED_SEARCH, /* the last of those that are counted */
    SEED_FOLDER,
    SEED_USER,
};

enum { ITEM_HEADER = 6 };

long seed_length(const uint8_t *p, const char **why)
{
    if (memcmp(p, "BGRSEED1", 8) != 0) {
        *why = "no seed there (wrong magic)";
        return -1;
    }
    uint32_t length = get32(p + 8);
    if (length > SEED_MAX - SEED_HEADER) {
        *why = "longer than 1 MiB";
        return -1;
    }
    return (long)length;
}

static bool next_item(const uint8_t *p, size_t n, size_t *at, uint16_t *tag, uint32_t *length)
{
    if (n - *at < ITEM_HEADER)
        return false;
    *tag = get16(p + *at);
    *length = get32(p + *at + 2);
    if (n - *at - ITEM_HEADER < *length)
        return false;
    *at += ITEM_HEADER + *length;
    return true;
}

/* One line of text: no control character, so that it can stand in any configuration file. */
static bool is_line(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7F)
            return false;
    return true;
}

static const char *check_item(uint16_t tag, const uint8_t *p, uint32_t n)
{
    switch (tag) {
    case SEED_HOSTNAME:
    case SEED_ADDRESS:
    case SEED_GATEWAY:
    case SEED_NAMESERVER:
    case SEED_SEARCH:
        return n && n <= 253 && is_line(p, n) && !memchr(p, ' ', n) ? NULL : "a name or an address is malformed";
    case SEED_KEY:
        return n && is_line(p, n) ? NULL : "an authorized key is no line of text";
    case SEED_DISK:
        if (n < 2 || p[0] < 1 || p[0] >= SEED_DISKS || !is_line(p + 1, n - 1))
            return "a disk's role is malformed";
        return NULL;
    case SEED_FILE:
        return n > 5 && p[4] == '/' && memchr(p + 4, 0, n - 4) ? NULL : "a file's path is malformed";
    case SEED_INIT:
        return !n || (p[0] == '/' && is_line(p, n)) ? NULL : "init is not an absolute path";
    case SEED_FOLDER:
        return n && p[0] == '/' && !memchr(p, 0, n) ? NULL : "the entrypoint's folder is not an absolute path";
    case SEED_USER:
        return n && is_line(p, n) ? NULL : "the entrypoint's user is malformed";
    case SEED_ENTRYPOINT:
        return n && memchr(p, 0, n) ? "an entrypoint argument contains a NUL byte" : NULL;
    case SEED_ENVIRONMENT:
        return n && p[0] != '=' && memchr(p, '=', n) && !memchr(p, 0, n) ? NULL : "a variable is not NAME=value";
    default:
        return NULL; /* of a later version: ignored */
    }
}

static struct seed_list *list_of(struct seed *s, uint16_t tag)
{
    switch (tag) {
    case SEED_NAMESERVER: return &s->nameservers;
    case SEED_KEY: return &s->keys;
    case SEED_ENTRYPOINT: return &s->entrypoint;
    case SEED_ENVIRONMENT: return &s->environment;
    case SEED_SEARCH: return &s->search;
    default: return NULL;
    }
}

static void take_item(struct seed *s, uint16_t tag, const uint8_t *bytes, uint32_t length, char *text)
{
    struct seed_list *list = list_of(s, tag);
    if (length)
        memcpy(text, bytes, length);
    text[length] = 0;
    if (list) {
        list->items[list->count++] = text;
    } else if (tag == SEED_HOSTNAME) {
        s->hostname = text;
    } else if (tag == SEED_ADDRESS) {
        s->address = text;
    } else if (tag == SEED_GATEWAY) {
        s->gateway = text;
    } else if (tag == SEED_FOLDER) {
        s->folder = text;
    } else if (tag == SEED_USER) {
        s->user = text;
    } else if (tag == SEED_INIT) {
        s->init = length ? text : NULL;
    } else if (tag == SEED_DISK) {
        if (s->disk_count < SEED_DISKS)
            s->disks[s->disk_count++] = (struct seed_disk){(uint8_t)text[0], text + 1};
    } else if (tag == SEED_FILE) {
        uint32_t header = 4 + (uint32_t)strlen(text + 4) + 1;
        s->files[s->file_count++] =
            (struct seed_file){get32(bytes), text + 4, (const uint8_t *)text + header, length - header};
    }
}

bool seed_parse(const uint8_t *p, size_t n, struct seed *out, const char **why)
{
    *why = "cut off";
    if (n < SEED_HEADER)
        return false;
    long items = seed_length(p, why);
    if (items < 0 || (size_t)items > n - SEED_HEADER)
        return false;
    const uint8_t *base = p + SEED_HEADER;
    size_t total = (size_t)items, at = 0, counts[SEED_SEARCH + 1] = {0};
    uint16_t tag;
    uint32_t length;
    *why = "wrong checksum";
    if (crc32(0, base, total) != get32(p + 12))
        return false;
    while (at < total) {
        *why = "cut off in the middle of an item";
        if (!next_item(base, total, &at, &tag, &length))
            return false;
        *why = check_item(tag, base + at - length, length);
        if (*why)
            return false;
        if (tag <= SEED_SEARCH)
            counts[tag]++;
    }

    size_t pointers = 0;
    for (int t = 0; t <= SEED_SEARCH; t++)
        pointers += list_of(out, (uint16_t)t) ? counts[t] + 1 : 0;
    size_t files = counts[SEED_FILE] * sizeof(struct seed_file), lists = pointers * sizeof(char *);
    char *memory = calloc(1, files + lists + total + 1);
    if (!memory)
        abort();
    *out = (struct seed){.memory = memory, .files = (struct seed_file *)(void *)memory};
    const char **slot = (const char **)(void *)(memory + files);
    for (int t = 0; t <= SEED_SEARCH; t++) {
        struct seed_list *list = list_of(out, (uint16_t)t);
        if (list) { /* one more for the NULL that ends it */
            list->items = slot;
            slot += counts[t] + 1;
        }
    }
    char *text = memory + files + lists;
    for (at = 0; at < total && next_item(base, total, &at, &tag, &length); text += length + 1)
        take_item(out, tag, base + at - length, length, text);
    return true;
}

void seed_free(struct seed *s)
{
    free(s->memory);
    *s = (struct seed){0};
}
