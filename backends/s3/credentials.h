/* What requests are signed with. */
#ifndef PGS_S3_CREDENTIALS_H
#define PGS_S3_CREDENTIALS_H

#include <pagestore/backends.h>

typedef struct pgs__s3_credentials {
	char *id, *secret, *token; /* token may be NULL; wiped when freed */
} pgs__s3_credentials;

/* Those given, else the file's, else the environment's. Errors: EAUTH, ENOMEM. */
int pgs__s3_credentials_find(pgs__s3_credentials *out, const pgs_s3_options *options, pgs_error *err);
void pgs__s3_credentials_free(pgs__s3_credentials *credentials);

#endif
