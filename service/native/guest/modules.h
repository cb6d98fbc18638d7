/* Loading the initrd's kernel modules. */
#pragma once

/* Loads all *.ko files of `folder` in the order of their names, and removes them (they occupy memory). */
void modules_load(const char *folder);
