/* ioctl with the kernel's own idea of a request number: glibc and musl disagree about its type. */
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

static inline long device_control(int fd, unsigned long request, void *argument)
{
    return syscall(SYS_ioctl, fd, request, argument);
}
