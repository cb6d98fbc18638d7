/* CRC-32 of IEEE 802.3, as zlib's crc32(). */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The checksum of what `crc` already covers, followed by `n` bytes; begin with 0. */
uint32_t crc32(uint32_t crc, const void *p, size_t n);
