/* What the seed says about the machine's files: names, resolver, keys, files. */
#pragma once

#include "seed.h"

void configure(const struct seed *seed);
