/* The VMM's output files; the rest of vmm.c is declared in shim.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Opens console.log and vmm.log in the current folder. */
bool vmm_open_logs(size_t console_max);
