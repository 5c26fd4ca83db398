/* make_golden DIRECTORY: write the golden files there. Only for a new format version: v1/ is done. */
#include <stdio.h>
#include <stdlib.h>

#include "golden.h"

static void write_file(void *ctx, const char *name, pgs_slice bytes)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", (const char *)ctx, name);
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(bytes.data, 1, bytes.size, f) != bytes.size || fclose(f) != 0) {
		perror(path);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: make_golden DIRECTORY\n");
		return 2;
	}
	golden_make(write_file, argv[1]);
	return 0;
}
