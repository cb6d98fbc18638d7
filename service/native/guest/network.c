#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "boot.h"
#include "device.h"

static const char device[] = "eth0";

static bool set_flags_up(int sock, const char *name)
{
    struct ifreq r = {0};
    strncpy(r.ifr_name, name, sizeof r.ifr_name - 1);
    if (ioctl(sock, SIOCGIFFLAGS, &r) < 0)
        return false;
    r.ifr_flags |= IFF_UP;
    return ioctl(sock, SIOCSIFFLAGS, &r) == 0;
}

static struct sockaddr_in ipv4(in_addr_t address)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
}

static bool set_address(int sock, unsigned long request, in_addr_t address)
{
    struct ifreq r = {0};
    struct sockaddr_in a = ipv4(address);
    strncpy(r.ifr_name, device, sizeof r.ifr_name - 1);
    memcpy(&r.ifr_addr, &a, sizeof a);
    return device_control(sock, request, &r) == 0;
}

static bool add_default_route(int sock, in_addr_t gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct sockaddr_in any = ipv4(INADDR_ANY), via = ipv4(gateway);
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    memcpy(&route.rt_gateway, &via, sizeof via);
    return ioctl(sock, SIOCADDRT, &route) == 0 || errno == EEXIST;
}

/* Splits "172.16.0.5/24". */
static bool parse_address(const char *text, in_addr_t *address, in_addr_t *mask)
{
    char host[INET_ADDRSTRLEN] = "", *end;
    const char *slash = strchr(text, '/');
    if (!slash || (size_t)(slash - text) >= sizeof host || slash[1] < '0' || slash[1] > '9')
        return false;
    memcpy(host, text, (size_t)(slash - text));
    unsigned long prefix = strtoul(slash + 1, &end, 10);
    if (*end || prefix > 32 || inet_pton(AF_INET, host, address) != 1)
        return false;
    *mask = prefix ? htonl(UINT32_MAX << (32 - prefix)) : 0;
    return true;
}

void network_up(const struct seed *seed)
{
    in_addr_t address, mask, gateway;
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        boot_fail_errno("network");
    if (!set_flags_up(sock, "lo"))
        boot_warn("lo", strerror(errno));
    if (seed->address) {
        if (!parse_address(seed->address, &address, &mask))
            boot_fail("seed disk", "the address is malformed");
        if (!set_address(sock, SIOCSIFADDR, address) || !set_address(sock, SIOCSIFNETMASK, mask) ||
            !set_flags_up(sock, device))
            boot_fail_errno(device);
        if (seed->gateway) {
            if (inet_pton(AF_INET, seed->gateway, &gateway) != 1)
                boot_fail("seed disk", "the gateway is malformed");
            if (!add_default_route(sock, gateway))
                boot_fail_errno("default route");
        }
    }
    close(sock);
}
