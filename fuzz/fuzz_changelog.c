/* Changelog entries and blobs of runs, by the first byte; what follows is sealed here. */
#include "codec/changelog.h"
#include "codec/keys.h"
#include "fuzz.h"
#include "util/alloc.h"

/* Runs rise and never touch, and encode to the same bytes. */
static void check_runs(pgs_slice bytes, uint64_t pages_expected, bool count_known)
{
	pgs__runs_reader r;
	pgs__page_run run, *runs = NULL;
	pgs__buffer again = {0};
	size_t count = 0, capacity = 0;
	uint64_t pages = 0, end = 0;
	CHECK(pgs__runs_open(bytes, &r) == PGS_OK);
	while (pgs__runs_next(&r, &run)) {
		CHECK(run.count > 0 && run.count <= UINT64_MAX - run.first);
		CHECK(count == 0 || run.first > end);
		CHECK(pgs__grow(&runs, &capacity, count + 1, sizeof *runs) == PGS_OK);
		runs[count++] = run;
		end = run.first + run.count;
		pages += run.count;
	}
	CHECK(!r.reader.failed);
	CHECK(!count_known || pages == pages_expected);
	pgs__runs_encode(runs, count, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
	pgs__free(runs);
}

static void check_change(pgs_slice bytes)
{
	pgs__change change;
	pgs__buffer again = {0};
	int result = pgs__change_decode(bytes, &change);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs_slice *attrs = pgs__calloc(change.attr_count, sizeof *attrs), rest = change.attr_bytes;
	CHECK(attrs);
	for (size_t i = 0; i < change.attr_count; i++) {
		CHECK(pgs__change_next_attr(&rest, &attrs[i]));
		CHECK(attrs[i].size > 0 && attrs[i].size <= PGS_ATTR_NAME_MAX);
	}
	CHECK(rest.size == 0);
	if (change.kind == PGS__CHANGE_COMMIT)
		check_runs(change.runs, change.pages_written, true);
	CHECK(change.kind != PGS__CHANGE_COMMIT_RUNS_IN_BLOB || pgs__file_name_ok(change.file_name));
	change.attrs = attrs;
	pgs__change_encode(&change, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
	pgs__free(attrs);
}

static void check_runs_file(pgs_slice bytes)
{
	pgs_slice runs;
	pgs__buffer again = {0};
	int result = pgs__runs_file_decode(bytes, &runs);
	check_result(result);
	if (result != PGS_OK)
		return;
	check_runs(runs, 0, false);
	pgs__runs_file_encode(runs, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

/* Runs that nobody checked yet: the walk itself must hold. */
static void walk_runs(pgs_slice bytes)
{
	pgs__runs_reader r;
	pgs__page_run run;
	if (pgs__runs_open(bytes, &r) != PGS_OK)
		return;
	while (pgs__runs_next(&r, &run))
		CHECK(run.count > 0 && run.count <= UINT64_MAX - run.first);
	if (!r.reader.failed)
		check_runs(bytes, 0, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs_slice bytes = {data, size};
	check_change(bytes);
	unsigned choice = choose(&bytes, 3);
	pgs__buffer b = sealed(bytes);
	if (choice == 0)
		check_change(pgs__buffer_slice(&b));
	else if (choice == 1)
		check_runs_file(pgs__buffer_slice(&b));
	else
		walk_runs(bytes);
	pgs__buffer_free(&b);
	return 0;
}
