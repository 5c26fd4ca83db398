/* pagestore/version.h: the library's version */
#ifndef PAGESTORE_VERSION_H
#define PAGESTORE_VERSION_H

#ifdef __cplusplus
extern "C" {
#endif

#define PGS_VERSION_MAJOR 0
#define PGS_VERSION_MINOR 1
#define PGS_VERSION_PATCH 0
#define PGS_VERSION_STRING "0.1.0"

/* The stored format this library writes; it reads 1 up to this. */
#define PGS_FORMAT_VERSION 1

/* The version of the linked library, such as "0.1.0". Static storage. Since 0.1. */
const char *pgs_version(void);

#ifdef __cplusplus
}
#endif

#endif
