/* Session messages (docs/guest-protocol.md), as the guest program receives them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MESSAGE_HEADER = 8,
    MESSAGE_MAX_PAYLOAD = 65536,
    EXEC_MAX = 1024 * 1024,
};

enum message_type {
    MESSAGE_EXEC = 1,
    MESSAGE_STDIN,
    MESSAGE_SIGNAL,
    MESSAGE_WINSIZE,
    MESSAGE_STARTED = 16,
    MESSAGE_STDOUT,
    MESSAGE_STDERR,
    MESSAGE_EXIT,
    MESSAGE_ERROR,
    MESSAGE_STDIN_CREDIT,
};

enum { ERROR_BANGER = 125, ERROR_NOT_EXECUTABLE = 126, ERROR_NOT_FOUND = 127 };

struct message {
    enum message_type type;
    uint32_t length;
    const uint8_t *payload;
};

enum message_status { MESSAGE_INCOMPLETE, MESSAGE_COMPLETE, MESSAGE_BAD };

/* The message from client to guest at the beginning of `p`, `n` bytes; MESSAGE_BAD sets *why to a sentence. */
enum message_status message_parse(const uint8_t *p, size_t n, struct message *out, const char **why);

/* Writes the header of a message from guest to client. */
void message_seal(uint8_t *p, enum message_type type, uint32_t length);

struct exec_request {
    char **argv; /* ends with NULL; no element: login shell */
    char **env;  /* ends with NULL */
    const char *cwd, *user; /* NULL: not given */
    bool tty, login;
    uint16_t rows, columns;
    void *memory; /* holds all of the above */
};

/* Parses the items of an EXEC. False sets *why to a sentence; then there is nothing to free. */
bool exec_parse(const uint8_t *p, size_t n, struct exec_request *out, const char **why);
void exec_free(struct exec_request *r);
