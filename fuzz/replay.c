/* Feeds every file of the directories given to a fuzz target: what ctest runs where there is no libFuzzer. */
#include <dirent.h>

#include "fuzz.h"

#define INPUT_MAX (1u << 20)

static int replay_file(const char *path)
{
	uint8_t *input = malloc(INPUT_MAX), *exact = NULL;
	FILE *f = fopen(path, "rb");
	size_t size = input && f ? fread(input, 1, INPUT_MAX, f) : 0;
	int failed = !f || !input;
	if (f)
		fclose(f);
	/* Memory of exactly that size lets a sanitizer see a read past the end. */
	exact = failed ? NULL : malloc(size ? size : 1);
	if (exact) {
		memcpy(exact, input, size);
		LLVMFuzzerTestOneInput(exact, size);
	}
	free(exact);
	free(input);
	return exact ? 0 : 1;
}

/* The number of files, or -1. */
static long replay_directory(const char *directory)
{
	char path[4096];
	long count = 0;
	DIR *dir = opendir(directory);
	if (!dir)
		return -1;
	for (struct dirent *e = readdir(dir); e && count >= 0; e = readdir(dir)) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
		count = replay_file(path) == 0 ? count + 1 : -1;
	}
	closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	long total = 0;
	for (int i = 1; i < argc; i++) {
		long count = replay_directory(argv[i]);
		if (count < 0) {
			perror(argv[i]);
			return 1;
		}
		total += count;
	}
	printf("%ld inputs\n", total);
	return total > 0 ? 0 : 1;
}
