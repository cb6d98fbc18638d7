#include "configure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot.h"
#include "files.h"
#include "managers.h"
#include "user.h"

/* A text that grows. */
struct text {
    char *at;
    size_t length;
    FILE *out;
};

static void text_begin(struct text *t)
{
    t->out = open_memstream(&t->at, &t->length);
    if (!t->out)
        boot_fail_errno("memory");
}

static const char *text_end(struct text *t)
{
    fclose(t->out);
    return t->at;
}

/* A file that cannot be written leaves a machine that still boots, and can be looked into. */
static void warn_unless(bool written, const char *path)
{
    if (!written)
        boot_warn(path, strerror(errno));
}

static void set_names(const struct seed *seed)
{
    char line[300];
    if (!seed->hostname)
        return;
    if (sethostname(seed->hostname, strlen(seed->hostname)) < 0)
        boot_warn("hostname", strerror(errno));
    snprintf(line, sizeof line, "%s\n", seed->hostname);
    warn_unless(files_write_text("/etc/hostname", 0644, line), "/etc/hostname");
    if (access("/etc/hosts", F_OK) < 0)
        warn_unless(files_write_text("/etc/hosts", 0644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
                    "/etc/hosts");
    snprintf(line, sizeof line, "127.0.1.1 %s\n", seed->hostname);
    warn_unless(files_write_block("/etc/hosts", 0644, line), "/etc/hosts");
}

static void set_resolver(const struct seed *seed)
{
    struct text t;
    if (!seed->nameservers.count)
        return;
    text_begin(&t);
    fputs("# Written by banger at each boot.\n", t.out);
    for (size_t i = 0; i < seed->nameservers.count; i++)
        fprintf(t.out, "nameserver %s\n", seed->nameservers.items[i]);
    for (size_t i = 0; i < seed->search.count; i++)
        fprintf(t.out, "%s%s", i ? " " : "search ", seed->search.items[i]);
    fputs(seed->search.count ? "\n" : "", t.out);
    /* Often a link to what systemd-resolved would write; files_write replaces links. */
    warn_unless(files_write_text("/etc/resolv.conf", 0644, text_end(&t)), "/etc/resolv.conf");
    free(t.at);
}

static void set_keys(const struct seed *seed)
{
    struct user root;
    struct text keys;
    char path[512];
    if (!user_find("root", &root))
        return;
    snprintf(path, sizeof path, "%s/.ssh", root.home);
    text_begin(&keys);
    for (size_t i = 0; i < seed->keys.count; i++)
        fprintf(keys.out, "%s\n", seed->keys.items[i]);
    text_end(&keys);
    bool folders = !seed->keys.count || (files_make_folders(root.home, 0700) && files_make_folders(path, 0700));
    strcat(path, "/authorized_keys");
    warn_unless(folders && files_write_block(path, 0600, keys.at), path);
    free(keys.at);
    user_free(&root);
}

static void set_files(const struct seed *seed)
{
    for (size_t i = 0; i < seed->file_count; i++) {
        const struct seed_file *f = &seed->files[i];
        warn_unless(files_write(f->path, f->mode & 07777, f->content, f->length), f->path);
    }
}

void configure(const struct seed *seed)
{
    umask(022);
    set_names(seed);
    set_resolver(seed);
    set_keys(seed);
    set_files(seed);
    managers_keep_off(seed);
}
