/* Booting a machine: from the kernel's start of /init to the image's own init. */
#pragma once

/* Never returns: becomes the image's init, or stays as PID 1, or says what is wrong and powers off. */
_Noreturn void boot(void);
