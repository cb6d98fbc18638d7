#include "messages.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

enum item_tag { ITEM_ARGUMENT = 1, ITEM_ENVIRONMENT, ITEM_CWD, ITEM_USER, ITEM_TTY, ITEM_LOGIN };

enum { ITEM_HEADER = 6, USER_MAX = 256, PATH_MAX_BYTES = 4095 };

enum message_status message_parse(const uint8_t *p, size_t n, struct message *out, const char **why)
{
    if (n < MESSAGE_HEADER)
        return MESSAGE_INCOMPLETE;
    uint32_t length = get32(p + 4);
    if (p[1] || p[2] || p[3]) {
        *why = "a message's reserved bytes are not 0";
        return MESSAGE_BAD;
    }
    switch (p[0]) {
    case MESSAGE_EXEC:
        if (length > EXEC_MAX) {
            *why = "the command with its environment is longer than 1 MiB";
            return MESSAGE_BAD;
        }
        break;
    case MESSAGE_STDIN:
        if (length > MESSAGE_MAX_PAYLOAD) {
            *why = "a STDIN message is longer than 64 KiB";
            return MESSAGE_BAD;
        }
        break;
    case MESSAGE_SIGNAL:
    case MESSAGE_WINSIZE:
        if (length != 4) {
            *why = "a SIGNAL or WINSIZE message is not 4 bytes long";
            return MESSAGE_BAD;
        }
        break;
    default:
        *why = "a message of unknown type";
        return MESSAGE_BAD;
    }
    if (n - MESSAGE_HEADER < length)
        return MESSAGE_INCOMPLETE;
    *out = (struct message){(enum message_type)p[0], length, p + MESSAGE_HEADER};
    return MESSAGE_COMPLETE;
}

void message_seal(uint8_t *p, enum message_type type, uint32_t length)
{
    put32(p, type);
    put32(p + 4, length);
}

struct item {
    uint16_t tag;
    uint32_t length;
    const uint8_t *bytes;
};

/* The item at *at, which moves on. 1: one more, 0: no more, -1: cut off. */
static int next_item(const uint8_t *p, size_t n, size_t *at, struct item *item)
{
    if (*at == n)
        return 0;
    if (n - *at < ITEM_HEADER)
        return -1;
    *item = (struct item){get16(p + *at), get32(p + *at + 2), p + *at + ITEM_HEADER};
    if (n - *at - ITEM_HEADER < item->length)
        return -1;
    *at += ITEM_HEADER + item->length;
    return 1;
}

/* NULL: fine; else what is wrong with the item, `seen` being the tags met before it. */
static const char *check_item(const struct item *i, unsigned seen)
{
    bool nul = i->length && memchr(i->bytes, 0, i->length);
    if (i->tag >= ITEM_CWD && i->tag <= ITEM_LOGIN && seen & 1u << i->tag)
        return "working folder, user, tty or login shell is given twice";
    switch (i->tag) {
    case ITEM_ARGUMENT:
        return nul ? "an argument contains a NUL byte" : NULL;
    case ITEM_ENVIRONMENT:
        if (nul)
            return "an environment variable contains a NUL byte";
        if (!i->length || i->bytes[0] == '=' || !memchr(i->bytes, '=', i->length))
            return "an environment variable is not of the form NAME=value";
        return NULL;
    case ITEM_CWD:
        if (nul || !i->length || i->bytes[0] != '/' || i->length > PATH_MAX_BYTES)
            return "the working folder is not an absolute path";
        return NULL;
    case ITEM_USER:
        return nul || !i->length || i->length > USER_MAX ? "the user is not a name or a number" : NULL;
    case ITEM_TTY:
        return i->length != 4 ? "the terminal's size is not two numbers" : NULL;
    case ITEM_LOGIN:
        return i->length ? "the login shell item carries bytes" : NULL;
    default:
        return "an item of unknown kind";
    }
}

/* First pass: are all items sound, and how many arguments and variables are there? */
static const char *check_items(const uint8_t *p, size_t n, size_t *arguments, size_t *variables)
{
    struct item item;
    unsigned seen = 0;
    size_t at = 0;
    int more;
    *arguments = *variables = 0;
    while ((more = next_item(p, n, &at, &item)) > 0) {
        const char *wrong = check_item(&item, seen);
        if (wrong)
            return wrong;
        seen |= 1u << item.tag;
        *arguments += item.tag == ITEM_ARGUMENT;
        *variables += item.tag == ITEM_ENVIRONMENT;
    }
    if (more < 0)
        return "the command is cut off in the middle of an item";
    if (!*arguments && !(seen & 1u << ITEM_LOGIN))
        return "there is no command to run";
    if (*arguments && seen & 1u << ITEM_LOGIN)
        return "a login shell takes no arguments";
    return NULL;
}

bool exec_parse(const uint8_t *p, size_t n, struct exec_request *out, const char **why)
{
    size_t arguments, variables;
    *why = check_items(p, n, &arguments, &variables);
    if (*why)
        return false;
    /* The strings with their NULs are no longer than the items with their headers. */
    size_t pointers = (arguments + variables + 2) * sizeof(char *);
    char *memory = malloc(pointers + n + 1);
    if (!memory)
        abort();
    *out = (struct exec_request){.memory = memory};
    char **argv = out->argv = (char **)(void *)memory;
    char **env = out->env = argv + arguments + 1;
    char *text = memory + pointers;

    struct item item;
    size_t at = 0;
    while (next_item(p, n, &at, &item) > 0) {
        if (item.tag == ITEM_TTY) {
            out->tty = true;
            out->rows = get16(item.bytes);
            out->columns = get16(item.bytes + 2);
            continue;
        }
        if (item.tag == ITEM_LOGIN) {
            out->login = true;
            continue;
        }
        if (item.length)
            memcpy(text, item.bytes, item.length);
        text[item.length] = 0;
        if (item.tag == ITEM_ARGUMENT)
            *argv++ = text;
        else if (item.tag == ITEM_ENVIRONMENT)
            *env++ = text;
        else if (item.tag == ITEM_CWD)
            out->cwd = text;
        else
            out->user = text;
        text += item.length + 1;
    }
    *argv = *env = NULL;
    return true;
}

void exec_free(struct exec_request *r)
{
    free(r->memory);
    *r = (struct exec_request){0};
}
