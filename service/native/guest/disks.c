#include "disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "boot.h"
#include "files.h"
#include "grow.h"

enum { DEVICE_WAIT_MS = 10000, DEVICE_POLL_MS = 5 };

/* Folders of the VM's own disk that are no part of the overlay: container engines cannot put theirs on top. */
static const struct {
    const char *folder, *target;
} plain[] = {
    {"docker", "/var/lib/docker"},
    {"containerd", "/var/lib/containerd"},
    {"containers", "/var/lib/containers"},
};

static void mount_or_fail(const char *source, const char *target, const char *type, unsigned long flags,
                          const char *options)
{
    char what[160];
    if (mount(source, target, type, flags, options) == 0)
        return;
    int error = errno;
    snprintf(what, sizeof what, "mount %s (%s) on %s", source, type ? type : "bind", target);
    boot_fail(what, strerror(error));
}

static void make_folder(const char *path, mode_t mode)
{
    if (!files_make_folders(path, mode))
        boot_fail_errno(path);
}

void disks_mount_first(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0555);
    mkdir("/sys", 0555);
    mount_or_fail("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    mount_or_fail("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_or_fail("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* The device of a disk. Its driver is loaded, so it is there at once or a moment later. */
static const char *device(uint8_t index)
{
    static char path[] = "/dev/vda";
    path[sizeof path - 2] = (char)('a' + index);
    for (int waited = 0; access(path, F_OK) < 0; waited += DEVICE_POLL_MS) {
        if (waited >= DEVICE_WAIT_MS)
            boot_fail(path, "no such disk");
        nanosleep(&(struct timespec){.tv_nsec = DEVICE_POLL_MS * 1000000}, NULL);
    }
    return path;
}

static void read_all(int fd, uint8_t *p, size_t n)
{
    while (n) {
        ssize_t got = read(fd, p, n);
        if (got <= 0)
            boot_fail("seed disk", got < 0 ? strerror(errno) : "cut off");
        p += got;
        n -= (size_t)got;
    }
}

void disks_read_seed(struct seed *out)
{
    const char *path = device(0), *why;
    uint8_t header[SEED_HEADER];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        boot_fail_errno(path);
    read_all(fd, header, sizeof header);
    long items = seed_length(header, &why);
    if (items < 0)
        boot_fail("seed disk", why);
    uint8_t *all = malloc(sizeof header + (size_t)items);
    if (!all)
        boot_fail_errno("seed disk");
    memcpy(all, header, sizeof header);
    read_all(fd, all + sizeof header, (size_t)items);
    close(fd);
    if (!seed_parse(all, sizeof header + (size_t)items, out, &why))
        boot_fail("seed disk", why);
    free(all);
}

/* The disk with this role; NULL if the machine has none. */
static const char *find_disk(const struct seed *seed, const char *role)
{
    for (size_t i = 0; i < seed->disk_count; i++)
        if (strcmp(seed->disks[i].role, role) == 0)
            return device(seed->disks[i].index);
    return NULL;
}

/* The VM's own disk, or memory in its place, at /data. */
static void mount_data(const struct seed *seed)
{
    const char *path = find_disk(seed, "data");
    mkdir("/data", 0755);
    if (path) {
        bool grows = grow_needed(path);
        /* discard: what the guest deletes, the host's sparse file gives back. */
        mount_or_fail(path, "/data", "ext4", MS_NOATIME, "discard");
        if (grows && !grow(path, "/data"))
            boot_warn("cannot grow the disk", strerror(errno));
    } else {
        mount_or_fail("data", "/data", "tmpfs", 0, "mode=0755");
    }
    make_folder("/data/upper", 0755);
    make_folder("/data/work", 0755);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        char folder[64];
        snprintf(folder, sizeof folder, "/data/%s", plain[i].folder);
        make_folder(folder, 0711);
    }
}

static void move_to(const char *from, const char *to)
{
    make_folder(to, 0755);
    mount_or_fail(from, to, NULL, MS_MOVE, NULL);
}

/* What every root has, whatever the image brought. */
static void mount_rest(void)
{
    make_folder("/run", 0755);
    make_folder("/tmp", 01777);
    mount_or_fail("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=20%,nr_inodes=800k");
    make_folder("/dev/pts", 0755);
    make_folder("/dev/shm", 01777);
    mount_or_fail("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
    mount_or_fail("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
}

static void mount_modules(const struct seed *seed)
{
    const char *path = find_disk(seed, "modules");
    struct utsname system;
    char target[128];
    if (!path || uname(&system) < 0)
        return;
    snprintf(target, sizeof target, "/lib/modules/%.64s", system.release);
    make_folder(target, 0755);
    mount_or_fail(path, target, "squashfs", MS_RDONLY | MS_NODEV, NULL);
}

static void mount_further(const struct seed *seed)
{
    static const char prefix[] = "mount:";
    for (size_t i = 0; i < seed->disk_count; i++) {
        const char *role = seed->disks[i].role, *target = role + sizeof prefix - 1;
        if (strncmp(role, prefix, sizeof prefix - 1) != 0)
            continue;
        const char *path = device(seed->disks[i].index);
        make_folder(target, 0755);
        if (mount(path, target, "ext4", MS_NOATIME, "discard") < 0)
            mount_or_fail(path, target, "squashfs", MS_RDONLY, NULL);
    }
}

/* Binds the plain folders; `data` is the data disk, which has no path any more. */
static void bind_plain(int data)
{
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        char source[64];
        int fd = openat(data, plain[i].folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            boot_fail_errno(plain[i].target);
        snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
        make_folder(plain[i].target, 0711);
        mount_or_fail(source, plain[i].target, NULL, MS_BIND, NULL);
        close(fd);
    }
}

void disks_enter_root(const struct seed *seed)
{
    const char *image = find_disk(seed, "image");
    if (!image)
        boot_fail("seed disk", "no disk has the role image");
    mkdir("/image", 0755);
    mkdir("/root", 0755);
    mount_or_fail(image, "/image", "squashfs", MS_RDONLY, NULL);
    mount_data(seed);
    /* redirect_dir: renaming a folder of the image is no EXDEV. The image never changes under its upper layer. */
    mount_or_fail("banger", "/root", "overlay", 0,
                  "lowerdir=/image,upperdir=/data/upper,workdir=/data/work,redirect_dir=on");
    int data = open("/data", O_PATH | O_DIRECTORY | O_CLOEXEC);
    move_to("/dev", "/root/dev");
    move_to("/proc", "/root/proc");
    move_to("/sys", "/root/sys");
    unlink("/init"); /* this program's file goes when it ends */
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        boot_fail_errno("enter the root file system");
    mount_rest();
    mount_modules(seed);
    bind_plain(data);
    mount_further(seed);
    close(data);
}
