/* The seed disk: what one VM's guest program is told at boot (docs/guest-protocol.md). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SEED_HEADER = 16, SEED_MAX = 1024 * 1024, SEED_DISKS = 25 };

struct seed_list {
    const char **items;
    size_t count;
};

struct seed_disk {
    uint8_t index; /* 1 = vdb */
    const char *role;
};

struct seed_file {
    uint32_t mode;
    const char *path;
    const uint8_t *content;
    uint32_t length;
};

struct seed {
    const char *hostname, *address, *gateway, *init, *folder, *user; /* NULL: not given */
    struct seed_list nameservers, keys, entrypoint, environment, search;
    struct seed_disk disks[SEED_DISKS];
    size_t disk_count;
    struct seed_file *files;
    size_t file_count;
    void *memory;
};

/* Length of the items that follow the header (SEED_HEADER bytes at `p`), or -1 with *why set. */
long seed_length(const uint8_t *p, const char **why);
/* Parses a whole seed, header included; what follows the items is padding. False sets *why. */
bool seed_parse(const uint8_t *p, size_t n, struct seed *out, const char **why);
void seed_free(struct seed *s);
