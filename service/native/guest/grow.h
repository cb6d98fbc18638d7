/* A disk file may be larger than the ext4 in it: the file system grows when it is mounted. */
#pragma once

#include <stdbool.h>

/* Is there room for at least one more block group behind the file system on `device`? */
bool grow_needed(const char *device);
/* Grows the file system, mounted at `folder`, to its device's size. False: errno says why. */
bool grow(const char *device, const char *folder);
