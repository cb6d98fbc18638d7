/* Session messages, and the items of an EXEC. */
#include <assert.h>
#include <string.h>

#include "messages.h"

static size_t total(char *const *list)
{
    size_t n = 0;
    for (; *list; list++)
        n += strlen(*list) + 1;
    return n;
}

static void check_exec(const uint8_t *p, size_t n)
{
    struct exec_request r;
    const char *why = NULL;
    if (!exec_parse(p, n, &r, &why)) {
        assert(why && *why);
        return;
    }
    size_t text = total(r.argv) + total(r.env);
    assert(r.argv[0] || r.login);
    assert(!(r.argv[0] && r.login));
    assert(!r.cwd || r.cwd[0] == '/');
    assert(!r.user || *r.user);
    text += (r.cwd ? strlen(r.cwd) + 1 : 0) + (r.user ? strlen(r.user) + 1 : 0);
    assert(text <= n);
    exec_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *why = NULL;
    struct message m;
    enum message_status status;
    check_exec(data, n);
    for (size_t at = 0; (status = message_parse(data + at, n - at, &m, &why)) == MESSAGE_COMPLETE;) {
        assert(m.payload == data + at + MESSAGE_HEADER);
        at += MESSAGE_HEADER + m.length;
        assert(at <= n);
        if (m.type == MESSAGE_EXEC)
            check_exec(m.payload, m.length);
    }
    assert(status != MESSAGE_BAD || (why && *why));
    return 0;
}
