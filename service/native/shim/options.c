#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum { CONSOLE_DEFAULT = 1 << 20, CONSOLE_LEAST = 4096 };

static const char usage[] =
    "usage: banger-shim --dir DIR --channel fd|vsock:NAME [--lifeline] [--pid-fd N] [--ready-fd N]\n"
    "                   [--console-max BYTES] [--unlink NAME]... -- VMM ARGUMENT...\n"
    "Runs VMM in DIR until it ends. See docs/guest-protocol.md.\n";

_Noreturn static void refuse(const char *why)
{
    fprintf(stderr, "banger-shim: %s\n%s", why, usage);
    exit(2);
}

static unsigned long number(const char *text, unsigned long least, unsigned long most, const char *why)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || v < least || v > most)
        refuse(why);
    return v;
}

static bool plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

void options_parse(struct options *o, int argc, char **argv)
{
    static const struct option known[] = {
        {"dir", required_argument, NULL, 'd'},         {"channel", required_argument, NULL, 'c'},
        {"lifeline", no_argument, NULL, 'l'},          {"pid-fd", required_argument, NULL, 'p'},
        {"ready-fd", required_argument, NULL, 'r'},    {"console-max", required_argument, NULL, 'm'},
        {"unlink", required_argument, NULL, 'u'},      {NULL, 0, NULL, 0},
    };
    const char *channel = NULL;
    int c;
    *o = (struct options){.pid_fd = -1, .ready_fd = -1, .console_max = CONSOLE_DEFAULT};
    while ((c = getopt_long(argc, argv, "+", known, NULL)) != -1) {
        switch (c) {
        case 'd': o->folder = optarg; break;
        case 'c': channel = optarg; break;
        case 'l': o->lifeline = true; break;
        case 'p': o->pid_fd = (int)number(optarg, 3, 1 << 20, "--pid-fd is no descriptor above 2"); break;
        case 'r': o->ready_fd = (int)number(optarg, 3, 1 << 20, "--ready-fd is no descriptor above 2"); break;
        case 'm':
            o->console_max = number(optarg, CONSOLE_LEAST, 1UL << 40, "--console-max is less than 4096 bytes");
            break;
        case 'u':
            if (!plain_name(optarg) || o->unlink_count == UNLINKS_MAX)
                refuse("--unlink is no name in DIR, or there are more than 4");
            o->unlinks[o->unlink_count++] = optarg;
            break;
        default: refuse("unknown option");
        }
    }
    if (!o->folder || !channel || optind >= argc)
        refuse("--dir, --channel and a command are needed");
    if (strncmp(channel, "vsock:", 6) == 0 && plain_name(channel + 6) &&
        strlen(channel + 6) < sizeof((struct sockaddr_un *)0)->sun_path)
        o->vsock_name = channel + 6;
    else if (strcmp(channel, "fd") != 0)
        refuse("--channel is neither fd nor vsock:NAME");
    o->vmm_argv = argv + optind;
}
