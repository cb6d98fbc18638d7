#include "user.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSWD_FIELDS = 7, GROUP_FIELDS = 4 };

static bool parse_id(const char *text, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || v >= UINT_MAX)
        return false;
    *out = (unsigned)v;
    return true;
}

/* Splits a line of colon-separated fields in place; true if there are at least `want`. */
static bool split(char *line, char **fields, size_t want)
{
    size_t n = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *at = line; at && n < want; n++) {
        fields[n] = at;
        at = strchr(at, ':');
        if (at)
            *at++ = 0;
    }
    return n == want;
}

static char *copy(const char *text)
{
    char *s = strdup(text);
    if (!s)
        abort();
    return s;
}

static bool find_passwd(const char *name, struct user *u)
{
    unsigned wanted = 0, uid, gid;
    bool by_number = parse_id(name, &wanted), found = false;
    char *line = NULL, *f[PASSWD_FIELDS];
    size_t cap = 0;
    FILE *file = fopen("/etc/passwd", "re");
    while (file && !found && getline(&line, &cap, file) > 0) {
        if (!split(line, f, PASSWD_FIELDS) || !parse_id(f[2], &uid) || !parse_id(f[3], &gid))
            continue;
        if (strcmp(f[0], name) != 0 && !(by_number && uid == wanted))
            continue;
        *u = (struct user){.uid = uid,
                           .gid = gid,
                           .name = copy(f[0]),
                           .home = copy(*f[5] ? f[5] : "/"),
                           .shell = copy(*f[6] ? f[6] : "/bin/sh")};
        found = true;
    }
    free(line);
    if (file)
        fclose(file);
    if (found)
        return true;
    if (!by_number && strcmp(name, "root") != 0)
        return false;
    bool root = by_number ? wanted == 0 : true;
    *u = (struct user){.uid = wanted,
                       .gid = wanted,
                       .name = copy(root ? "root" : name),
                       .home = copy(root ? "/root" : "/"),
                       .shell = copy("/bin/sh")};
    return true;
}

static bool is_member(const char *members, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = members; at && *at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0))
            return true;
    }
    return false;
}

/* Fills the supplementary groups, and gid if `group` names one. False: no such group. */
static bool find_groups(struct user *u, const char *group)
{
    unsigned gid, wanted = 0;
    bool by_number = group && parse_id(group, &wanted), found = !group || by_number;
    char *line = NULL, *f[GROUP_FIELDS];
    size_t cap = 0;
    if (by_number)
        u->gid = wanted;
    FILE *file = fopen("/etc/group", "re");
    while (file && getline(&line, &cap, file) > 0) {
        if (!split(line, f, GROUP_FIELDS) || !parse_id(f[2], &gid))
            continue;
        if (group && !by_number && strcmp(f[0], group) == 0) {
            u->gid = gid;
            found = true;
        }
        if (u->group_count < USER_GROUPS - 1 && is_member(f[3], u->name))
            u->groups[u->group_count++] = gid;
    }
    free(line);
    if (file)
        fclose(file);
    u->groups[u->group_count++] = u->gid;
    return found;
}

bool user_find(const char *spec, struct user *out)
{
    char *name = copy(spec), *group = strchr(name, ':');
    if (group)
        *group++ = 0;
    bool ok = *name && find_passwd(name, out);
    if (ok && !find_groups(out, group)) {
        user_free(out);
        ok = false;
    }
    free(name);
    return ok;
}

void user_free(struct user *u)
{
    free(u->name);
    free(u->home);
    free(u->shell);
    *u = (struct user){0};
}
