/* Tests that are built a second time on a library with planted bugs (lib/util/bug.h), to show that they would notice: the
 * program is given a bug's name, and succeeds if a test fails; given NONE, if none does.
 *
 *     int main(int argc, char **argv)
 *     {
 *             plant(argc, argv);
 *             ...
 *             return planted_result(cmocka_run_group_tests(...));
 *     }
 */
#ifndef PGS_TESTS_PLANTED_H
#define PGS_TESTS_PLANTED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bug.h"

static inline void plant(int argc, char **argv)
{
#ifdef PGS_PLANTED_BUGS
	static const char *const names[] = {
#define NAME_OF(name, what) [PGS__BUG_##name] = #name,
		PGS__BUGS(NAME_OF) PGS__BUGS_OF_TESTS(NAME_OF)
#undef NAME_OF
	};
	size_t i = 0, count = sizeof names / sizeof *names;
	while (i < count && !(argc > 1 && names[i] && strcmp(names[i], argv[1]) == 0))
		i++;
	if (i == count) {
		fprintf(stderr, "no such bug\n");
		exit(2);
	}
	pgs__planted_bug = (pgs__bug_name)i;
#else
	(void)argc;
	(void)argv;
#endif
}

static inline int planted_result(int failed)
{
#ifdef PGS_PLANTED_BUGS
	return pgs__planted_bug == PGS__BUG_NONE ? failed != 0 : failed == 0;
#else
	return failed;
#endif
}

#endif
