#include "boot.h"
#include <stdlib.h>
_Noreturn void boot(void)
{
    abort();
}
