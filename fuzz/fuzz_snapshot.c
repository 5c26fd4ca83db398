/* Records of named snapshots, and attributes, by the first byte; what follows is sealed here. */
#include "codec/keys.h"
#include "codec/snapshot_record.h"
#include "fuzz.h"
#include "util/alloc.h"

#include <pagestore/txn.h>

/* Names rise, and the attributes encode to the same bytes. */
static void check_attrs(pgs_slice bytes)
{
	pgs__attrs_reader r;
	pgs__attrs_writer w = {0};
	pgs__buffer again = {0};
	pgs_slice name, value, last = {0};
	CHECK(pgs__attrs_open(bytes, &r) == PGS_OK);
	while (pgs__attrs_next(&r, &name, &value)) {
		CHECK(name.size > 0 && name.size <= PGS_ATTR_NAME_MAX && pgs__slice_compare(last, name) < 0);
		pgs__attrs_add(&w, name, value);
		last = name;
	}
	CHECK(!r.reader.failed);
	pgs__attrs_finish(&w, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
	pgs__buffer_free(&w.bytes);
}

static void check_record(pgs_slice bytes)
{
	pgs__snapshot_record record;
	pgs__buffer again = {0};
	int result = pgs__snapshot_decode(bytes, &record);
	check_result(result);
	if (result != PGS_OK)
		return;
	pgs__snapshot_file *files = pgs__calloc(record.file_count, sizeof *files);
	pgs__snapshot_files_reader r = pgs__snapshot_files_open(&record);
	uint64_t next = 0;
	CHECK(files && record.commit_revision > 0 && record.commit_revision <= record.revision);
	for (size_t i = 0; i < record.file_count; i++) {
		CHECK(pgs__snapshot_next_file(&r, &files[i]));
		CHECK(files[i].first >= next && files[i].end > files[i].first && pgs__file_name_ok(files[i].name));
		CHECK(files[i].pointer_count > 0 && files[i].pointer_count <= files[i].end - files[i].first);
		next = files[i].end;
	}
	CHECK(pgs__reader_left(&r.reader) == 0 && next <= record.page_count);
	if (!record.attrs_in_file)
		check_attrs(record.attrs);
	record.files = files;
	pgs__snapshot_encode(&record, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
	pgs__free(files);
}

static void check_attrs_file(pgs_slice bytes)
{
	pgs_slice attrs;
	pgs__buffer again = {0};
	int result = pgs__attrs_file_decode(bytes, &attrs);
	check_result(result);
	if (result != PGS_OK)
		return;
	check_attrs(attrs);
	pgs__attrs_file_encode(attrs, &again);
	check_same(&again, bytes);
	pgs__buffer_free(&again);
}

/* Attributes that nobody checked yet: the walk itself must hold. */
static void walk_attrs(pgs_slice bytes)
{
	pgs__attrs_reader r;
	pgs_slice name, value;
	if (pgs__attrs_open(bytes, &r) != PGS_OK)
		return;
	while (pgs__attrs_next(&r, &name, &value))
		CHECK(name.size > 0);
	if (!r.reader.failed)
		check_attrs(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	pgs_slice bytes = {data, size};
	check_record(bytes);
	unsigned choice = choose(&bytes, 3);
	pgs__buffer b = sealed(bytes);
	if (choice == 0)
		check_record(pgs__buffer_slice(&b));
	else if (choice == 1)
		check_attrs_file(pgs__buffer_slice(&b));
	else
		walk_attrs(bytes);
	pgs__buffer_free(&b);
	return 0;
}
