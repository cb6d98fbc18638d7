/* Bringing the machine down: asking whoever is PID 1, and noticing that it happens. */
#pragma once

#include <stdbool.h>

/* One byte each on the socket between our own PID 1 and the agent. */
enum {
    BOSS_POWEROFF = 'P', /* agent to PID 1: please go down; PID 1 to agent: going down, tell the host */
    BOSS_REBOOT = 'R',
    BOSS_TOLD = 'T', /* agent to PID 1: the host knows */
};

/* Has systemd, being PID 1, come so far that it takes requests? Before that they would be lost. */
bool power_systemd_listens(void);
void power_ask_systemd(bool reboot);
/* Runs the image's own poweroff or reboot, for any other init; goes down the hard way if it has none. */
void power_run_tool(bool reboot);

/* On a SIGTERM: if systemd is going down, true, and *reboot says how. */
bool power_systemd_ends(bool *reboot);

/* Ends the machine at once, without asking anybody. */
_Noreturn void power_off_now(bool reboot);
