/* XML as S3 writes it, read defensively: elements, text, entities, CDATA; attributes, comments and declarations are
 * skipped, a DOCTYPE is refused. Nothing is allocated but by who asks for it. */
#ifndef PGS_S3_XML_H
#define PGS_S3_XML_H

#include <stddef.h>

#include <pagestore/sys/slice.h>

#define PGS__XML_DEPTH_MAX 8
#define PGS__XML_PATH_MAX 160  /* "ListBucketResult/Contents/Key" */
#define PGS__XML_TEXT_MAX 8192 /* of one element, decoded */

/* Called at the end of each element with the names from the root to it, and its own text (without that of elements
 * in it), NUL-terminated, valid for the call. Returns PGS_OK to go on. */
typedef int (*pgs__xml_handler)(void *ctx, const char *path, const char *text, size_t size);

/* Read a whole document. PGS_OK, what the handler returned, or PGS_ECORRUPT: it is no XML of this kind, not whole, or
 * beyond the limits. */
int pgs__xml_read(pgs_slice document, pgs__xml_handler handler, void *ctx);

#endif
