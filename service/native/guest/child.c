#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <grp.h>

#include "environment.h"
#include "user.h"

bool child_of_machine;
struct seed_list child_environment;

static void explain(struct start_error *e, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void explain(struct start_error *e, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    e->code = code;
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
}

/* The six descriptors of a session's streams: ours in c, the process's in theirs. */
static bool make_pipes(struct child *c, int theirs[3])
{
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) < 0)
        return false;
    if (pipe2(out, O_CLOEXEC) < 0) {
        close(in[0]), close(in[1]);
        return false;
    }
    if (pipe2(err, O_CLOEXEC) < 0) {
        close(in[0]), close(in[1]), close(out[0]), close(out[1]);
        return false;
    }
    c->in = in[1], c->out = out[0], c->err = err[0];
    theirs[0] = in[0], theirs[1] = out[1], theirs[2] = err[1];
    return true;
}

static bool make_terminal(const struct exec_request *r, struct child *c, int theirs[3])
{
    struct winsize size = {.ws_row = r->rows, .ws_col = r->columns};
    char name[64];
    int slave = -1, master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0)
        return false;
    if (grantpt(master) == 0 && unlockpt(master) == 0 && ptsname_r(master, name, sizeof name) == 0)
        slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    /* Reading and writing are watched separately, which takes two descriptors. */
    int writer = slave < 0 ? -1 : fcntl(master, F_DUPFD_CLOEXEC, 3);
    if (writer < 0) {
        int saved = errno;
        close(master);
        if (slave >= 0)
            close(slave);
        errno = saved;
        return false;
    }
    struct termios modes;
    if (tcgetattr(slave, &modes) == 0) { /* erasing takes a whole character */
        modes.c_iflag |= IUTF8;
        tcsetattr(slave, TCSANOW, &modes);
    }
    ioctl(master, TIOCSWINSZ, &size);
    c->out = master, c->in = writer, c->err = -1;
    theirs[0] = theirs[1] = theirs[2] = slave;
    return true;
}

static void close_all(struct child *c, const int theirs[3])
{
    close(c->in), close(c->out);
    if (c->err >= 0)
        close(c->err);
    close(theirs[0]);
    if (theirs[1] != theirs[0])
        close(theirs[1]), close(theirs[2]);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)!write(fd, text, strlen(text));
    close(fd);
}

/* Everything a process inherits from the agent and a session must not have. */
static void reset_process(void)
{
    sigset_t none;
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    if (!child_of_machine)
        return;
    write_file("/proc/self/oom_score_adj", "0");
    /* Sessions are neither the agent's nor systemd's own processes: their memory is counted apart. */
    if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0) {
        mkdir("/sys/fs/cgroup/banger", 0755);
        write_file("/sys/fs/cgroup/banger/cgroup.procs", "0");
    }
    struct rlimit files = {1024, 524288}, core = {0, RLIM_INFINITY};
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_CORE, &core);
}

static bool become(const struct user *u, struct start_error *e)
{
    if (geteuid() != 0 && u->uid == geteuid())
        return true;
    if (setgroups(u->group_count, u->groups) == 0 && setgid(u->gid) == 0 && setuid(u->uid) == 0)
        return true;
    explain(e, ERROR_BANGER, "cannot become user %s: %s", u->name, strerror(errno));
    return false;
}

static bool enter_folder(const struct exec_request *r, const struct user *u, struct start_error *e)
{
    if (!r->cwd) { /* a home that is missing is no reason to refuse */
        if (chdir(u->home) < 0 && chdir("/") < 0)
            return false;
        return true;
    }
    if (chdir(r->cwd) == 0)
        return true;
    explain(e, ERROR_BANGER, "working folder %s: %s", r->cwd, strerror(errno));
    return false;
}

static void exec_file(const char *path, char **argv, char **env)
{
    execve(path, argv, env);
    if (errno != ENOEXEC)
        return;
    /* A script without an interpreter line: as every shell does. */
    size_t n = 0;
    while (argv[n])
        n++;
    char **script = calloc(n + 2, sizeof *script);
    if (!script)
        return;
    script[0] = (char *)(uintptr_t) "sh";
    script[1] = (char *)(uintptr_t)path;
    if (n > 1)
        memcpy(script + 2, argv + 1, (n - 1) * sizeof *script);
    execve("/bin/sh", script, env);
    free(script);
    errno = ENOEXEC;
}

/* Looks argv[0] up in the session's own PATH. Returns only on failure. */
static void exec_search(char **argv, char **env, struct start_error *e)
{
    const char *name = argv[0], *path = environment_get(env, "PATH");
    int reason = ENOENT;
    if (strchr(name, '/') || !path) {
        exec_file(name, argv, env);
        reason = errno;
    } else {
        for (const char *at = path; *name && at; at = strchr(at, ':')) {
            char file[4096];
            at += *at == ':';
            int length = (int)strcspn(at, ":");
            if (snprintf(file, sizeof file, "%.*s/%s", length, length ? at : ".", name) >= (int)sizeof file)
                continue;
            exec_file(file, argv, env);
            if (errno != ENOENT && errno != ENOTDIR)
                reason = errno; /* found but not usable; a later folder may have a better one */
        }
    }
    bool missing = reason == ENOENT || reason == ENOTDIR;
    explain(e, missing ? ERROR_NOT_FOUND : ERROR_NOT_EXECUTABLE, "%.300s: %s", name,
            missing && !strchr(name, '/') ? "not found in PATH" : strerror(reason));
}

_Noreturn void child_exec(const struct exec_request *r, const struct user *u, char **env)
{
    struct start_error e = {0};
    setsid();
    reset_process();
    (void)!chdir("/");
    if (become(u, &e) && (!r->cwd || enter_folder(r, u, &e)))
        exec_search(r->argv, env, &e);
    fprintf(stderr, "banger: %s\n", e.text);
    _exit(e.code);
}

static void run_child(const struct exec_request *r, const struct user *u, char **env, const int theirs[3], int start)
{
    struct start_error e = {0};
    char login[256], *login_argv[] = {login, NULL}, **argv = r->argv;
    setsid();
    reset_process();
    for (int i = 0; i < 3; i++)
        dup2(theirs[i], i);
    if (r->tty) {
        ioctl(0, TIOCSCTTY, 0);
        (void)!fchown(0, u->uid, (gid_t)-1);
    }
    if (become(u, &e) && enter_folder(r, u, &e)) {
        if (!child_of_machine)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (r->login) {
            const char *base = strrchr(u->shell, '/');
            snprintf(login, sizeof login, "-%s", base ? base + 1 : u->shell);
            execve(u->shell, login_argv, env);
            explain(&e, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_NOT_EXECUTABLE, "login shell %s: %s", u->shell,
                    strerror(errno));
        } else {
            exec_search(argv, env, &e);
        }
    }
    (void)!write(start, &e, sizeof e);
    _exit(e.code);
}

bool child_start(const struct exec_request *r, struct child *c, struct start_error *error)
{
    const char *who = r->user ? r->user : "root";
    struct user u;
    int theirs[3], start[2];
    if (!r->user && geteuid() != 0) {
        static char own[16];
        snprintf(own, sizeof own, "%u", geteuid());
        who = own;
    }
    if (!user_find(who, &u)) {
        explain(error, ERROR_BANGER, "there is no user %s in this machine", who);
        return false;
    }
    char **env = environment_make(r, &u, &child_environment);
    bool piped = r->tty ? make_terminal(r, c, theirs) : make_pipes(c, theirs);
    if (!piped) {
        explain(error, ERROR_BANGER, "cannot make %s: %s", r->tty ? "a terminal" : "pipes", strerror(errno));
        free(env);
        user_free(&u);
        return false;
    }
    c->pid = -1;
    if (pipe2(start, O_CLOEXEC) == 0) {
        c->pid = fork();
        if (c->pid == 0)
            run_child(r, &u, env, theirs, start[1]);
        close(start[1]);
        if (c->pid < 0)
            close(start[0]);
    }
    free(env);
    user_free(&u);
    if (c->pid < 0) {
        explain(error, ERROR_BANGER, "cannot start a process: %s", strerror(errno));
        close_all(c, theirs);
        return false;
    }
    close(theirs[0]);
    if (!r->tty)
        close(theirs[1]), close(theirs[2]);
    c->start = start[0];
    int ours[] = {c->in, c->out, c->start, c->err};
    for (size_t i = 0; i < (c->err < 0 ? 3u : 4u); i++)
        fcntl(ours[i], F_SETFL, fcntl(ours[i], F_GETFL) | O_NONBLOCK);
    return true;
}
