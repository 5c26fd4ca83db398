/* An allocator that fails on demand and counts what is not freed.
 *
 *     for (size_t nth = 1; ; nth++) {
 *             failing_alloc_begin(nth);
 *             ... what is tested ...
 *             if (!failing_alloc_end())
 *                     break;              // nothing failed any more: done
 *             assert_int_equal(failing_alloc_live(), 0);
 *     }
 *
 * Threads: the counters are atomic; begin and end belong to one thread.
 */
#ifndef PGS_TESTS_FAILING_ALLOC_H
#define PGS_TESTS_FAILING_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* Installs it, as the library's allocator. Nothing of the library may be alive. */
void failing_alloc_install(void);

/* Back to the standard allocator. Nothing of the library may be alive. */
void failing_alloc_uninstall(void);

/* Let the nth allocation from now (1 = the next) fail, and no other. 0 = none. */
void failing_alloc_begin(size_t nth);

/* No more failures; true when one has happened since begin. */
bool failing_alloc_end(void);

/* Allocations that have not been freed. */
size_t failing_alloc_live(void);

#endif
