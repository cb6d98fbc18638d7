/* What the parts of the shim know of one another. One VM, one thread, one of each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum vm_state { VM_BOOTING, VM_READY, VM_STOPPING, VM_REBOOTING };

enum end_reason { END_NONE, END_POWEROFF, END_STOP, END_KILL, END_LIFELINE, END_FAILED, END_PANIC };

enum { SESSIONS_MAX = 256, PORTS_TEXT_MAX = 512 };

struct facts {
    unsigned long long memory_total, memory_available; /* 0: unknown */
    char ports[PORTS_TEXT_MAX + 1];                    /* "22,80" */
    int64_t spawn_ms, hello_ms, ready_ms;              /* since the shim's start; -1: unknown */
};

struct shim {
    char **vmm_argv;
    const char *vsock_name; /* NULL: the channel is the VMM's descriptor 3 */
    const char *const *unlinks; /* the VMM's sockets: a new one cannot bind where the last one's is left */
    enum vm_state state;
    enum end_reason asked; /* what this end of the VM was asked for, or announced by the guest */
    bool ever_ready, ended;
    struct facts facts;
};

extern struct shim shim;

/* main.c */
int64_t shim_elapsed_ms(void);
void shim_set_state(enum vm_state state);
/* Milliseconds after which the VMM is killed if it still runs; sooner wins over later. */
void shim_stop(uint64_t grace_ms);
void shim_kill(enum end_reason reason);
/* False: the guest program cannot be asked. */
bool shim_reboot(void);
/* The guest said that it goes down. */
void shim_guest_leaves(bool reboot);
/* The console says that its kernel has stopped for good, and the VMM has no way to notice. */
void shim_guest_halted(void);
/* The console says that its kernel has panicked; if it `stays` so, it does not reset the machine either. */
void shim_guest_panicked(bool stays);
/* The VMM has ended with `status` as waitpid gives it. */
void shim_vmm_ended(int status);

/* vmm.c */
/* Starts the VMM. False: it could not be run; the reason stands in vmm.log. */
bool vmm_spawn(void);
void vmm_kill(void);
bool vmm_was_killed(void); /* by vmm_kill() */
void vmm_say(const char *text); /* a line of the shim's own in vmm.log */
pid_t vmm_pid(void); /* 0: none */
void vmm_reap(void); /* on SIGCHLD */

/* guest.c: the link to the guest program */
bool guest_listen(void);    /* for the guest program's knock; without a vsock there is none */
void guest_connect(int fd); /* -1: over the vsock Unix socket, as soon as somebody listens there */
void guest_disconnect(void);
bool guest_is_up(void); /* the handshake is done */
void guest_control(const char *line);
void guest_set_clock(void); /* to the host's */
void guest_flush(void);
void guest_drain(void); /* what the VMM wrote before it ended */

/* alive.c */
/* Calls `dead` unless the guest program answers soon: at once when there is no link to it. */
void alive_presume_dead(void (*dead)(void));
void alive_proven(void); /* the guest program has answered */
void alive_link_up(void); /* ... the handshake: what was asked over an older link is asked again */
void alive_begin_anew(void); /* another VMM */

/* clients.c: guest.sock */
struct link;
struct frame;
void clients_frame(const struct frame *f);
void clients_link_up(struct link *l);   /* those that wait are connected */
void clients_link_down(void);           /* open channels end, those that wait go on waiting */
void clients_have_room(void);
void clients_end(void);                 /* the VM has ended: nobody waits any longer */
unsigned clients_sessions(void);
unsigned clients_unflushed(void);
void clients_accept(int fd);

/* control.c: control.sock */
void control_accept(int fd);
void control_notify(void); /* the state has changed */
/* The status line, with its newline. Returns its length. */
size_t control_status(char *line, size_t size);

/* listen.c */
/* Listens on the Unix socket `name` in the current folder; `accepted` gets connections of the uid `peer` only. */
bool listen_on(const char *name, uid_t peer, void (*accepted)(int fd));
