/* What the guest program tells unasked: memory figures and listening ports, when they change. */
#pragma once

#include "link.h"

/* Begins to report on `l`, at once and then every few seconds. */
void facts_start(struct link *l);
void facts_stop(void);
