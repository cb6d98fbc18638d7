/* Telling the image's own managers what is not theirs. */
#pragma once

#include <stdbool.h>

#include "seed.h"

/* Is this path systemd, by whatever links? */
bool managers_is_systemd(const char *init);

/* eth0 is set up by us and keeps its name and address; our mounts last until the end. Each program is told in its own
 * language, where possible in /run, so that the image's own files stay as they are. */
void managers_keep_off(const struct seed *seed);
