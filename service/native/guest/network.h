/* The machine's addresses. */
#pragma once

#include "seed.h"

/* Brings lo up, and eth0 with the seed's address and default route if it has one. */
void network_up(const struct seed *seed);
