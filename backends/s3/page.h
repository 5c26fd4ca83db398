/* A page of a list: what ListObjectsV2 answers. */
#ifndef PGS_S3_PAGE_H
#define PGS_S3_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/cursor.h"

#define PGS__S3_KEY_MAX 1024

typedef struct pgs__s3_entry {
	size_t key; /* where it begins in `text` */
	uint64_t size;
} pgs__s3_entry;

typedef struct pgs__s3_page {
	pgs__buffer text; /* keys, each with a NUL, as they are */
	pgs__s3_entry *entries;
	size_t count, capacity;
	bool truncated;
	char *token; /* for the next page, NULL without one */
} pgs__s3_page;

/* PGS_OK, PGS_ECORRUPT (it is no such document) or PGS_ENOMEM. To be freed in any case. */
int pgs__s3_page_read(pgs_slice document, pgs__s3_page *out);
void pgs__s3_page_free(pgs__s3_page *page);

#endif
