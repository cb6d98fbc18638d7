/* Loading the initrd's kernel modules. */
#pragma once

/* Loads the *.ko files of `folder` in the order of their names, but for those of another VMM's hardware, and removes
 * them all (they occupy memory). */
void modules_load(const char *folder);

/* Opens those of `folder`, if there is one, and removes them; they are loaded later. */
void modules_keep(const char *folder);

/* Loads what modules_keep() opened, in a process that nobody waits for. */
void modules_load_kept(void);
