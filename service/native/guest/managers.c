#include "managers.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "boot.h"
#include "files.h"

enum { UNIT_NAME_MAX = 255 };

bool managers_is_systemd(const char *init)
{
    char *real = realpath(init, NULL), *base = real ? strrchr(real, '/') : NULL;
    bool yes = base && strcmp(base, "/systemd") == 0;
    free(real);
    return yes;
}

static void write_or_warn(const char *path, const char *text)
{
    if (!files_write_text(path, 0644, text))
        boot_warn(path, strerror(errno));
}

static void tell_networkd(const struct seed *seed)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        boot_fail_errno("memory");
    fprintf(out,
            "[Match]\nName=eth0\n\n[Network]\nAddress=%s\nDHCP=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n"
            "LLMNR=no\nMulticastDNS=no\n",
            seed->address);
    if (seed->gateway)
        fprintf(out, "Gateway=%s\n", seed->gateway);
    for (size_t i = 0; i < seed->nameservers.count; i++)
        fprintf(out, "DNS=%s\n", seed->nameservers.items[i]);
    fclose(out);
    write_or_warn("/run/systemd/network/00-banger.network", text);
    free(text);
}

/* ifupdown reads nothing below /run: a file is put over its own. */
static void tell_ifupdown(void)
{
    static const char ours[] = "/run/banger/interfaces", theirs[] = "/etc/network/interfaces";
    if (access(theirs, F_OK) < 0)
        return;
    write_or_warn(ours, "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet manual\n");
    if (mount(ours, theirs, NULL, MS_BIND, NULL) < 0)
        boot_warn(theirs, strerror(errno));
}

/* The name systemd gives a mount: "/usr/lib/a-b" is "usr-lib-a\x2db". False: too long. */
static bool unit_of(const char *path, char *out)
{
    size_t n = 0;
    for (const char *p = path + (*path == '/'); *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (n + 5 > UNIT_NAME_MAX)
            return false;
        if (c == '/')
            out[n++] = '-';
        else if (isalnum(c) || c == '_' || c == ':' || (c == '.' && n))
            out[n++] = (char)c;
        else
            n += (size_t)sprintf(out + n, "\\x%02x", c);
    }
    out[n] = 0;
    return true;
}

/* systemd unmounts what it finds mounted when it stops, and says in red that udevd still uses the modules. */
static void keep_modules_mounted(void)
{
    char path[128], unit[UNIT_NAME_MAX + 1], file[UNIT_NAME_MAX + 64];
    struct utsname system;
    if (uname(&system) < 0)
        return;
    snprintf(path, sizeof path, "/lib/modules/%.64s", system.release);
    char *real = realpath(path, NULL); /* /lib may be a link */
    if (real && unit_of(real, unit)) {
        snprintf(file, sizeof file, "/run/systemd/system/%s.mount.d/banger.conf", unit);
        write_or_warn(file, "[Unit]\nDefaultDependencies=no\n");
    }
    free(real);
}

void managers_keep_off(const struct seed *seed)
{
    if (seed->init && managers_is_systemd(seed->init)) /* elsewhere a /run/systemd/system would be a lie */
        keep_modules_mounted();
    write_or_warn("/run/systemd/network/00-banger.link", "[Match]\nOriginalName=eth0\n\n[Link]\nNamePolicy=keep\n");
    if (!seed->address)
        return;
    tell_networkd(seed);
    write_or_warn("/run/NetworkManager/conf.d/00-banger.conf",
                  "[main]\ndns=none\n\n[keyfile]\nunmanaged-devices=interface-name:eth0\n");
    tell_ifupdown();
    if (access("/etc/cloud/cloud.cfg.d", F_OK) == 0)
        write_or_warn("/etc/cloud/cloud.cfg.d/99-banger.cfg", "network: {config: disabled}\ndatasource_list: [None]\n");
}
