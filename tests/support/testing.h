/* cmocka, with the headers it wants before it. */
#ifndef PGS_TESTS_TESTING_H
#define PGS_TESTS_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
