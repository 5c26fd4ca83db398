/* The library's version. */
#include <pagestore/version.h>

const char *pgs_version(void)
{
	return PGS_VERSION_STRING;
}
