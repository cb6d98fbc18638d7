/* Runs in the VMM's place and tries to get out. Reads attempts from `wanted`, one a line: a verb of the table below and
 * what it is for. Writes to `probe`, for each: the line, a tab, and "ok", the errno or what was seen. With --stay it then
 * waits for its end. Static: it has to run where nothing is but itself. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char seen[4096]; /* in place of "ok" */

static int at_once(int fd)
{
    return fd < 0 ? -1 : close(fd);
}

static int do_read(const char *path)
{
    char some[16];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    return fd < 0 || read(fd, some, sizeof some) < 0 ? -1 : close(fd);
}

static int do_write(const char *path)
{
    return at_once(open(path, O_WRONLY | O_CREAT | O_NONBLOCK, 0666));
}

static int do_device(const char *path)
{
    return at_once(open(path, O_RDWR | O_NONBLOCK));
}

static int do_list(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    if (!folder)
        return -1;
    snprintf(seen, sizeof seen, "entries:");
    while ((entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            snprintf(seen + strlen(seen), sizeof seen - strlen(seen), " %s", entry->d_name);
    return closedir(folder);
}

static int do_execute(const char *path)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        execl(path, path, "--version", (char *)NULL);
        _exit(errno);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return -1;
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

/* A name that begins with '@' is an abstract one, which is in no file system. */
static int do_connect(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(address.sun_path, name, n < sizeof address.sun_path ? n : sizeof address.sun_path - 1);
    if (*name == '@')
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    return fd < 0 || connect(fd, (struct sockaddr *)&address, length) < 0 ? -1 : close(fd);
}

static int do_socket(const char *family)
{
    return at_once(socket(atoi(family), atoi(family) == AF_PACKET ? SOCK_RAW : SOCK_DGRAM, 0));
}

static int do_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    return fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ? -1 : close(fd);
}

static int do_signal(const char *pid)
{
    return kill(atoi(pid), 0);
}

static int do_pidfd_signal(const char *pid)
{
    int fd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
    return fd < 0 ? -1 : (int)syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0);
}

static int do_trace(const char *pid)
{
    return (int)ptrace(PTRACE_ATTACH, atoi(pid), NULL, NULL);
}

static int do_read_memory(const char *pid)
{
    char here[8];
    struct iovec own = {here, sizeof here}, theirs = {(void *)0x400000, sizeof here};
    return syscall(SYS_process_vm_readv, atoi(pid), &own, 1, &theirs, 1, 0) < 0 ? -1 : 0;
}

static int do_node(const char *number)
{
    return mknod("node", S_IFCHR | 0666, makedev(1, (unsigned)atoi(number)));
}

static int do_setuid_file(const char *name)
{
    int fd = open(name, O_WRONLY | O_CREAT, 0644);
    return fd < 0 ? -1 : fchmod(fd, 04755);
}

static int do_grow(const char *bytes)
{
    int fd = open("grown", O_WRONLY | O_CREAT, 0644);
    signal(SIGXFSZ, SIG_IGN);
    return fd < 0 || pwrite(fd, "", 1, atoll(bytes)) < 0 ? -1 : close(fd);
}

static int do_limit(const char *resource)
{
    struct rlimit limit;
    if (getrlimit(atoi(resource), &limit) < 0)
        return -1;
    limit.rlim_max++;
    return setrlimit(atoi(resource), &limit);
}

static int mapped(void *memory)
{
    return memory == MAP_FAILED ? -1 : 0;
}

static int do_code(const char *how)
{
    if (strcmp(how, "at-once") == 0)
        return mapped(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (strcmp(how, "later") == 0) {
        void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return memory == MAP_FAILED ? -1 : mprotect(memory, 4096, PROT_READ | PROT_EXEC);
    }
    int fd = open(how, O_RDWR | O_CREAT, 0755);
    if (fd < 0 || ftruncate(fd, 4096) < 0)
        return -1;
    return mapped(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0));
}

/* One call with arguments that would succeed, or fail in another way, if it were not refused. */
static int do_call(const char *name)
{
    struct timeval now;
    struct sched_param first = {.sched_priority = 1};
    gettimeofday(&now, NULL);
    if (strcmp(name, "unshare-user") == 0)
        return unshare(CLONE_NEWUSER);
    if (strcmp(name, "unshare-mount") == 0)
        return unshare(CLONE_NEWNS);
    if (strcmp(name, "unshare-net") == 0)
        return unshare(CLONE_NEWNET);
    if (strcmp(name, "mount") == 0)
        return mount("none", ".", "tmpfs", 0, NULL);
    if (strcmp(name, "remount") == 0)
        return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL);
    if (strcmp(name, "umount") == 0)
        return umount2("/sys", MNT_DETACH);
    if (strcmp(name, "pivot_root") == 0)
        return (int)syscall(SYS_pivot_root, ".", ".");
    if (strcmp(name, "chroot") == 0)
        return chroot("/");
    if (strcmp(name, "setuid") == 0)
        return (int)syscall(SYS_setuid, 0);
    if (strcmp(name, "setgroups") == 0)
        return (int)syscall(SYS_setgroups, 0, NULL);
    if (strcmp(name, "bpf") == 0)
        return (int)syscall(SYS_bpf, 0, NULL, 0);
    if (strcmp(name, "perf_event_open") == 0)
        return (int)syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
    if (strcmp(name, "io_uring_setup") == 0)
        return (int)syscall(SYS_io_uring_setup, 1, NULL);
    if (strcmp(name, "userfaultfd") == 0)
        return (int)syscall(SYS_userfaultfd, 1);
    if (strcmp(name, "init_module") == 0)
        return (int)syscall(SYS_init_module, NULL, 0, "");
    if (strcmp(name, "keyctl") == 0)
        return (int)syscall(SYS_keyctl, 1, NULL); /* a session keyring */
    if (strcmp(name, "open_by_handle_at") == 0)
        return (int)syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0);
    if (strcmp(name, "settimeofday") == 0)
        return settimeofday(&now, NULL);
    if (strcmp(name, "sethostname") == 0)
        return sethostname("mine", 4);
    if (strcmp(name, "realtime") == 0)
        return (int)syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &first);
    if (strcmp(name, "nice") == 0)
        return setpriority(PRIO_PROCESS, 0, -5);
    if (strcmp(name, "personality") == 0)
        return (int)syscall(SYS_personality, 0x0400000); /* READ_IMPLIES_EXEC */
    errno = EINVAL;
    return -1;
}

static const struct {
    const char *verb;
    int (*deed)(const char *);
} deeds[] = {
    {"read", do_read},       {"write", do_write},     {"device", do_device},
    {"list", do_list},       {"execute", do_execute}, {"connect", do_connect},
    {"socket", do_socket},   {"tap", do_tap},         {"signal", do_signal},
    {"trace", do_trace},     {"node", do_node},       {"pidfd-signal", do_pidfd_signal},
    {"grow", do_grow},       {"limit", do_limit},     {"read-memory", do_read_memory},
    {"code", do_code},       {"call", do_call},       {"setuid-file", do_setuid_file},
};

static int attempt(char *line)
{
    char *what = strchr(line, ' ');
    errno = EINVAL;
    for (size_t i = 0; what && i < sizeof deeds / sizeof *deeds; i++)
        if (strlen(deeds[i].verb) == (size_t)(what - line) && strncmp(deeds[i].verb, line, (size_t)(what - line)) == 0)
            return deeds[i].deed(what + 1);
    return -1;
}

int main(int argc, char **argv)
{
    const char *option = argc > 1 ? argv[1] : "";
    if (strcmp(option, "--version") == 0) /* a copy, which was executed to see whether it can be */
        return 0;
    FILE *wanted = fopen("wanted", "r"), *found = fopen("probe.new", "w");
    char line[512];
    if (!wanted || !found)
        return 1;
    while (fgets(line, sizeof line, wanted)) {
        line[strcspn(line, "\n")] = 0;
        *seen = 0;
        if (attempt(line) < 0)
            fprintf(found, "%s\t%d\n", line, errno);
        else
            fprintf(found, "%s\t%s\n", line, *seen ? seen : "ok");
    }
    if (fclose(found) != 0 || rename("probe.new", "probe") != 0)
        return 1;
    while (strcmp(option, "--stay") == 0)
        pause();
    return 0;
}
