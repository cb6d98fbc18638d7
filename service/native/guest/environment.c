#include "environment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULTS = 6 };

const char *environment_get(char *const *env, const char *name)
{
    size_t n = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return *env + n + 1;
    return NULL;
}

/* Adds `variable` to the list that begins at `env` and ends at *end, unless its name is there already. */
static void add(char **env, char ***end, const char *variable)
{
    size_t n = strcspn(variable, "=") + 1;
    for (char **at = env; at < *end; at++)
        if (strncmp(*at, variable, n) == 0)
            return;
    *(*end)++ = (char *)(uintptr_t)variable;
}

char **environment_make(const struct exec_request *r, const struct user *u, const struct seed_list *seed)
{
    size_t given = 0, text_size = strlen(u->home) + strlen(u->shell) + 2 * strlen(u->name) + 64;
    while (r->env[given])
        given++;
    size_t pointers = (given + seed->count + DEFAULTS + 1) * sizeof(char *);
    char **env = calloc(1, pointers + text_size);
    if (!env)
        abort();
    char **end = env, *text = (char *)env + pointers;
    memcpy(end, r->env, given * sizeof(char *));
    end += given;
    for (size_t i = 0; i < seed->count; i++)
        add(env, &end, seed->items[i]);
    add(env, &end, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if (r->tty)
        add(env, &end, "TERM=xterm-256color");
    const struct {
        const char *name, *value;
    } own[] = {{"HOME", u->home}, {"SHELL", u->shell}, {"USER", u->name}, {"LOGNAME", u->name}};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        int n = sprintf(text, "%s=%s", own[i].name, own[i].value);
        add(env, &end, text);
        text += n + 1;
    }
    *end = NULL;
    return env;
}
