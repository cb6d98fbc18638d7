/* A session's environment variables. */
#pragma once

#include "messages.h"
#include "seed.h"
#include "user.h"

/* The value of `name` in `env`, or NULL. */
const char *environment_get(char *const *env, const char *name);

/* Those of the EXEC, then those of the seed, then what every session has; the first of a name counts.
 * One allocation, freed by free(); it points into `r` and `seed`. */
char **environment_make(const struct exec_request *r, const struct user *u, const struct seed_list *seed);
