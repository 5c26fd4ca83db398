/* System calls, and LMDB's allocations, that fail on demand.
 *
 *     for (size_t nth = 1; ; nth++) {
 *             failing_calls_begin(EIO, nth, false);
 *             ... what is tested ...
 *             if (!failing_calls_end())
 *                     break;              // nothing failed any more: done
 *     }
 *
 * LMDB's calls are had by its table of imported functions, so it has to be a shared library. The tested library's own are
 * had by the linker: CMakeLists.txt has the list of them, for the tests that use this.
 *
 * Threads: the counters are atomic; begin and end belong to one thread.
 */
#ifndef PGS_TESTS_FAILING_CALLS_H
#define PGS_TESTS_FAILING_CALLS_H

#include <stdbool.h>
#include <stddef.h>

/* Once, before LMDB is used. False if LMDB is not a shared library, or not one of this kind of machine. */
bool failing_calls_install(void);

#define FAILING_SHORT (-1) /* no error: a write writes half of what it should */

/* Let the nth call from now (1 = the next) fail with `error`, an errno: ENOMEM means LMDB's allocations, all others the
 * system calls. `lasting`: and all after it, but for locks. */
void failing_calls_begin(int error, size_t nth, bool lasting);

/* No more failures. The name of the first function that has failed since begin, or NULL. */
const char *failing_calls_end(void);

#endif
