/* make_golden v1|filter DIRECTORY: write those golden files there. Only for what is new: v1/ and filter/ are done. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	if (argc != 3 || (strcmp(argv[1], "v1") != 0 && strcmp(argv[1], "filter") != 0)) {
		fprintf(stderr, "usage: make_golden v1|filter DIRECTORY\n");
		return 2;
	}
	(strcmp(argv[1], "v1") == 0 ? golden_make : golden_make_filtered)(write_file, argv[2]);
	return 0;
}
