/* Loading the initrd's kernel modules. */
#pragma once

/* Loads the *.ko files of `folder` in the order of their names, but for those of another VMM's hardware, and removes
 * them all (they occupy memory). */
void modules_load(const char *folder);
