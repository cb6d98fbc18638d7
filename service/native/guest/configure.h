/* What the seed says about the machine's files: names, resolver, keys, and keeping network managers off eth0. */
#pragma once

#include "seed.h"

void configure(const struct seed *seed);
