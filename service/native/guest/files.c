#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, READ_MAX = 1 << 20 };

static const char begin_mark[] = "# banger: begin\n", end_mark[] = "# banger: end\n";

static bool make_parents(const char *path)
{
    char part[PATH_SIZE];
    for (const char *at = path + 1; (at = strchr(at, '/')); at++) {
        size_t n = (size_t)(at - path);
        if (n >= sizeof part) {
            errno = ENAMETOOLONG;
            return false;
        }
        memcpy(part, path, n);
        part[n] = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return false;
    }
    return true;
}

bool files_make_folders(const char *path, mode_t mode)
{
    if (!make_parents(path))
        return false;
    if (mkdir(path, mode) == 0)
        return chmod(path, mode) == 0;
    return errno == EEXIST;
}

/* The content of a regular file, with a NUL behind it, or NULL. Freed by the caller. */
static char *read_file(const char *path, size_t *length, mode_t *mode)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char *text = NULL;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= READ_MAX && (text = malloc((size_t)st.st_size + 1))) {
        ssize_t n = read(fd, text, (size_t)st.st_size);
        *length = n > 0 ? (size_t)n : 0;
        *mode = st.st_mode & 07777;
        text[*length] = 0;
    }
    close(fd);
    return text;
}

bool files_write(const char *path, mode_t mode, const void *content, size_t length)
{
    char temporary[PATH_SIZE];
    size_t old_length;
    mode_t old_mode;
    char *old = read_file(path, &old_length, &old_mode);
    bool same = old && old_length == length && old_mode == mode && (!length || memcmp(old, content, length) == 0);
    free(old);
    if (same)
        return true;
    if (snprintf(temporary, sizeof temporary, "%s.banger-new", path) >= (int)sizeof temporary) {
        errno = ENAMETOOLONG;
        return false;
    }
    if (!make_parents(path))
        return false;
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool ok = fchmod(fd, mode) == 0;
    for (const char *p = content; ok && length;) {
        ssize_t n = write(fd, p, length);
        ok = n > 0;
        p += ok ? n : 0;
        length -= ok ? (size_t)n : 0;
    }
    ok = close(fd) == 0 && ok && rename(temporary, path) == 0;
    if (!ok) {
        int error = errno;
        unlink(temporary);
        errno = error;
    }
    return ok;
}

bool files_write_text(const char *path, mode_t mode, const char *text)
{
    return files_write(path, mode, text, strlen(text));
}

bool files_write_block(const char *path, mode_t mode, const char *text)
{
    size_t length = 0;
    char *old = read_file(path, &length, &mode);
    char *begin = old ? strstr(old, begin_mark) : NULL;
    if (!begin && !*text) {
        free(old);
        return true;
    }
    char *end = begin ? strstr(begin, end_mark) : NULL;
    if (end) { /* what stands behind the block stays too */
        end += sizeof end_mark - 1;
        memmove(begin, end, strlen(end) + 1);
        length = strlen(old);
    }
    char *new = malloc(length + strlen(text) + sizeof begin_mark + sizeof end_mark + 2);
    if (!new) {
        free(old);
        return false;
    }
    const char *gap = length && old && old[length - 1] != '\n' ? "\n" : "";
    bool block = *text != 0;
    int n = sprintf(new, "%.*s%s%s%s%s", (int)length, old ? old : "", gap, block ? begin_mark : "", text,
                    block ? end_mark : "");
    bool ok = files_write(path, mode, new, (size_t)n);
    free(new);
    free(old);
    return ok;
}
