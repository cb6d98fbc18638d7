/* Users and groups of the guest's own /etc/passwd and /etc/group. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { USER_GROUPS = 256 };

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_GROUPS];
    size_t group_count;
    char *name, *home, *shell;
};

/* Looks up "name", "uid", "name:group" or "uid:gid". A number needs no entry, nor does root.
 * False: there is no such user, and nothing to free. */
bool user_find(const char *spec, struct user *out);
void user_free(struct user *u);
