#include "grow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/fs.h>

#include "bytes.h"
#include "device.h"

/* Of linux/ext4.h, which the kernel does not export; used by resize2fs as well. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

enum {
    SUPERBLOCK = 1024,
    BLOCKS_LOW = 4,
    LOG_BLOCK_SIZE = 24,
    BLOCKS_PER_GROUP = 32,
    MAGIC = 56,
    BLOCKS_HIGH = 336,
    SIZE = 1024,
};

struct sizes {
    uint64_t blocks, device_blocks;
    uint32_t per_group;
};

static bool read_sizes(const char *device, struct sizes *out)
{
    uint8_t sb[SIZE];
    uint64_t bytes = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && pread(fd, sb, sizeof sb, SUPERBLOCK) == (ssize_t)sizeof sb &&
              device_control(fd, BLKGETSIZE64, &bytes) == 0 && get16(sb + MAGIC) == 0xEF53 && get32(sb + LOG_BLOCK_SIZE) <= 6;
    if (fd >= 0)
        close(fd);
    if (!ok)
        return false; /* no ext4: the mount will say so */
    out->blocks = get32(sb + BLOCKS_LOW) | (uint64_t)get32(sb + BLOCKS_HIGH) << 32;
    out->device_blocks = bytes >> (10 + get32(sb + LOG_BLOCK_SIZE));
    out->per_group = get32(sb + BLOCKS_PER_GROUP);
    return true;
}

bool grow_needed(const char *device)
{
    struct sizes s;
    return read_sizes(device, &s) && s.device_blocks > s.blocks && s.device_blocks - s.blocks >= s.per_group;
}

bool grow(const char *device, const char *folder)
{
    struct sizes s;
    if (!read_sizes(device, &s)) {
        errno = EINVAL;
        return false;
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && device_control(fd, EXT4_IOC_RESIZE_FS, &s.device_blocks) == 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return ok;
}
