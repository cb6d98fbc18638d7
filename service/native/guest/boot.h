/* Booting a machine: from the kernel's start of /init to the image's own init. */
#pragma once

#include <stdbool.h>

/* Never returns: becomes the image's init, or stays as PID 1, or says what is wrong and powers off. */
_Noreturn void boot(void);

/* Prints "banger: <what>: <why>" on the console and powers off, so that the host need not wait for a machine that
 * will never answer. */
_Noreturn void boot_fail(const char *what, const char *why);
/* The same with errno. */
_Noreturn void boot_fail_errno(const char *what);
/* Prints a line that is no reason to give up. */
void boot_warn(const char *what, const char *why);
