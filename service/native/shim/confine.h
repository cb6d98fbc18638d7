/* What the unit's sandbox has no word for, on the process that calls it and all that comes of it: no connection to an
 * abstract socket of others, no signal to others. Before Linux 6.12 there is no such thing, and nothing is done. */
#pragma once

void confine(void);
