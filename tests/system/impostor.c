/* A program in a VMM's place that does what a VMM which was broken into might: what its own name says. It tells on its
 * standard output, the VM's console, how far it came. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int take_memory(void)
{
    enum { STEP = 4 << 20 };
    for (size_t total = 0;; total += STEP) {
        printf("bytes %zu\n", total);
        fflush(stdout);
        char *at = mmap(NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            return 1;
        memset(at, 1, STEP);
    }
}

static int fork_away(void)
{
    enum { ENOUGH = 4096 };
    static pid_t children[ENOUGH];
    int count = 0;
    while (count < ENOUGH && (children[count] = fork()) > 0)
        count++;
    int error = errno;
    if (count < ENOUGH && !children[count]) {
        pause();
        return 0;
    }
    printf("processes %d errno %d\n", count + 1, error);
    fflush(stdout);
    while (count)
        kill(children[--count], SIGKILL);
    return 1;
}

static int fill_the_host(void)
{
    struct rlimit limit;
    int fd = open("big", O_WRONLY | O_CREAT | O_EXCL, 0600);
    signal(SIGXFSZ, SIG_IGN);
    if (fd < 0 || getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return 1;
    ssize_t within = pwrite(fd, "", 1, (off_t)limit.rlim_cur - 1);
    ssize_t beyond = pwrite(fd, "", 1, (off_t)limit.rlim_cur);
    printf("limit %ju within %zd beyond %zd errno %d\n", (uintmax_t)limit.rlim_cur, within, beyond, errno);
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    const char *deed = slash ? slash + 1 : argv[0];
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("Firecracker v1.16.1");
        return 0;
    }
    if (!strcmp(deed, "take-memory"))
        return take_memory();
    if (!strcmp(deed, "fork-away"))
        return fork_away();
    return fill_the_host();
}
