#include "facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PERIOD_MS = 5000,
    FIRST_PERIOD_MS = 1000, /* while services are starting */
    FIRST_PERIODS = 20,
    PORTS_MAX = 128,
    LINES_MAX = 4096, /* of one table: a busy server's connections are not worth reading */
    STATE_LISTEN = 0x0A,
};

static struct timer timer;
static struct link *link_out;
static unsigned rounds;
static unsigned long long told_available;
static char told_ports[CONTROL_MAX + 1];

static void report_memory(void)
{
    char line[128];
    unsigned long long total = 0, available = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return;
    while (fgets(line, sizeof line, f) && !available) {
        if (sscanf(line, "MemTotal: %llu", &total) != 1)
            (void)!sscanf(line, "MemAvailable: %llu", &available);
    }
    fclose(f);
    unsigned long long change = available > told_available ? available - told_available : told_available - available;
    if (!total || (told_available && change < total / 32))
        return;
    told_available = available;
    link_control(link_out, "memory %llu %llu", total * 1024, available * 1024);
}

/* Adds the ports that `table` has in state LISTEN on an address that can be reached from outside. */
static size_t add_ports(const char *table, unsigned *ports, size_t count)
{
    char line[512], address[33];
    unsigned port, state;
    FILE *f = fopen(table, "re");
    if (!f)
        return count;
    for (int i = 0; i < LINES_MAX && count < PORTS_MAX && fgets(line, sizeof line, f); i++) {
        if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x", address, &port, &state) != 3)
            continue;
        /* 127.0.0.0/8 and ::1, as the kernel prints them on a little-endian machine */
        size_t n = strlen(address);
        bool local = n == 8 ? strcmp(address + 6, "7F") == 0 : strcmp(address, "00000000000000000000000001000000") == 0;
        if (state == STATE_LISTEN && !local)
            ports[count++] = port;
    }
    fclose(f);
    return count;
}

static int by_number(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void report_ports(void)
{
    unsigned ports[PORTS_MAX];
    char line[CONTROL_MAX + 1] = "ports ";
    size_t count = add_ports("/proc/net/tcp", ports, 0), at = strlen(line);
    count = add_ports("/proc/net/tcp6", ports, count);
    qsort(ports, count, sizeof *ports, by_number);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || ports[i] != ports[i - 1])
            at += (size_t)snprintf(line + at, sizeof line - at, at > 6 ? ",%u" : "%u", ports[i]);
    if (strcmp(line, told_ports) == 0)
        return;
    strcpy(told_ports, line);
    link_control(link_out, "%s", line);
}

static void tick(struct timer *t)
{
    report_memory();
    report_ports();
    timer_set(t, rounds++ < FIRST_PERIODS ? FIRST_PERIOD_MS : PERIOD_MS);
}

void facts_start(struct link *l)
{
    facts_stop();
    link_out = l;
    told_available = 0;
    told_ports[0] = 0;
    rounds = 0;
    timer.fire = tick;
    tick(&timer);
}

void facts_stop(void)
{
    timer_cancel(&timer);
}
