/* The machine's disks: the seed, and the root that is made of the others. */
#pragma once

#include "seed.h"

/* /proc, /sys and /dev of the initrd. */
void disks_mount_first(void);
/* Reads the seed from the first disk. */
void disks_read_seed(struct seed *out);
/* Mounts every disk by its role, and makes the overlay of image and data this process's root. */
void disks_enter_root(const struct seed *seed);
