/* Writing small files into the machine's root. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Makes `path` and the folders above it (those 0755) where they are missing. False: errno says why. */
bool files_make_folders(const char *path, mode_t mode);
/* Makes `path` a regular file with this content and mode, whatever was there. An equal file is left alone. */
bool files_write(const char *path, mode_t mode, const void *content, size_t length);
/* The same for text. */
bool files_write_text(const char *path, mode_t mode, const char *text);
/* Puts `text` (whole lines) between two marks at the end of `path`, in place of what stood between them before;
 * other lines stay. An empty text removes the block, and makes no file. */
bool files_write_block(const char *path, mode_t mode, const char *text);
