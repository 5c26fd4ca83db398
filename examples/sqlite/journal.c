/* Rollback journals, in memory and without page images.
 *
 * SQLite keeps, in a file of its own, what pages held before the transaction changed them:
 *
 *     0          512
 *     +----------+------------------------------+------------------------------+--- …
 *     | header   | page number | image | check  | page number | image | check  |
 *     +----------+------------------------------+------------------------------+--- …
 *
 * It reads them back for ROLLBACK, ROLLBACK TO and failed statements. The images are what the transaction's snapshot
 * has, so page numbers are kept, 4 bytes a page, and images are read from the snapshot when they are asked for.
 *
 * So are the checksums made then, and those that SQLite wrote are not kept: of a free page it may have had something else
 * in its cache, left by a transaction that was rolled back, and at the first checksum that does not fit it would take the
 * journal to end there, and leave all pages after that one as they are.
 *
 * A journal is never hot: what was not committed was never in the store. So the name of a super-journal, at the end, is
 * swallowed: it would only ask whether to roll back, and the answer is yes.
 *
 * Because of the device characteristics of the file (file.c) there is one header, of 512 bytes, and records are only
 * ever appended.
 */
#include "file.h"

#include <string.h>

enum { HEADER = 512, HEADER_CHECK = 12, HEADER_USED = 28, RECORD_REST = 8, LOCK_BYTE = 0x40000000 };

struct sq_journal {
	sqlite3_file base;
	sq_file *of;
	uint8_t header[HEADER];
	int64_t header_size;
	uint32_t page_size; /* of the images; 0 = none yet */
	uint32_t *pages;    /* of each record */
	size_t count, capacity;
	uint8_t begun[4];   /* the page number of the record that comes next */
	size_t begun_size;
	bool checked;       /* the last record has its checksum */
	uint8_t *image;     /* to make a checksum of */
	bool closed;        /* the rest is a super-journal's name */
};

static int64_t stride(const sq_journal *j)
{
	return (int64_t)j->page_size + RECORD_REST;
}

static int64_t records_end(const sq_journal *j)
{
	return HEADER + (int64_t)j->count * stride(j) - (j->count && !j->checked ? 4 : 0);
}

static int64_t journal_size(const sq_journal *j)
{
	if (j->count == 0 && j->begun_size == 0)
		return j->header_size;
	return j->count ? records_end(j) + (int64_t)j->begun_size : HEADER + (int64_t)j->begun_size;
}

/* --- writing ------------------------------------------------------------------------------------------- */

static int add_record(sq_journal *j, uint32_t page_size)
{
	if (j->page_size == 0)
		j->page_size = page_size;
	if (j->page_size != page_size)
		return SQLITE_IOERR_WRITE;
	if (j->count == j->capacity) {
		size_t capacity = j->capacity ? j->capacity * 2 : 64;
		uint32_t *pages = sqlite3_realloc64(j->pages, capacity * sizeof *pages);
		if (!pages)
			return SQLITE_IOERR_NOMEM;
		j->pages = pages;
		j->capacity = capacity;
	}
	j->pages[j->count++] = sq_get4(j->begun);
	j->begun_size = 0;
	j->checked = false;
	return SQLITE_OK;
}

/* The page where the lock byte is has no content: a record that claims to be its is a super-journal's name. */
static bool is_super(const sq_journal *j, uint32_t page)
{
	const sq_header *seen = &j->of->seen, *now = &j->of->now;
	uint32_t page_size = seen->page_size ? seen->page_size : now->page_size;
	if (j->page_size)
		page_size = j->page_size;
	return page_size && page == LOCK_BYTE / page_size + 1;
}

static void reset(sq_journal *j)
{
	j->closed = false;
	j->begun_size = 0;
	j->header_size = 0;
	j->page_size = 0;
	sqlite3_free(j->pages); /* after a large transaction they would be kept for the connection's life */
	sqlite3_free(j->image);
	j->pages = NULL;
	j->image = NULL;
	j->count = j->capacity = 0;
}

static int append(sq_journal *j, const uint8_t *bytes, int size)
{
	if (j->count && !j->checked) {
		j->checked = size == 4;
		return size == 4 ? SQLITE_OK : SQLITE_IOERR_WRITE;
	}
	if (j->begun_size && size < 512) { /* no image: a super-journal's name, of a database whose page size is not known yet */
		j->begun_size = 0;
		j->closed = true;
		return SQLITE_OK;
	}
	if (j->begun_size)
		return add_record(j, (uint32_t)size);
	if (size != 4)
		return SQLITE_IOERR_WRITE;
	if (is_super(j, sq_get4(bytes))) {
		j->closed = true;
		return SQLITE_OK;
	}
	memcpy(j->begun, bytes, 4);
	j->begun_size = 4;
	return SQLITE_OK;
}

static int journal_write(sqlite3_file *file, const void *bytes, int size, sqlite3_int64 offset)
{
	sq_journal *j = (sq_journal *)file;
	if (offset == 0 && size >= HEADER_USED) /* it begins anew, or (journal_mode=PERSIST) its end is marked so */
		reset(j);
	if (offset + size <= HEADER) {
		memcpy(j->header + offset, bytes, (size_t)size);
		j->header_size = offset + size > j->header_size ? offset + size : j->header_size;
		return SQLITE_OK;
	}
	if (j->closed)
		return SQLITE_OK;
	if (j->header_size < HEADER) { /* a journal that was cut to nothing and is used on */
		memset(j->header + j->header_size, 0, (size_t)(HEADER - j->header_size));
		j->header_size = HEADER;
	}
	int64_t end = journal_size(j);
	if (offset > end) { /* a super-journal's name, from the next sector on */
		j->closed = true;
		return SQLITE_OK;
	}
	return offset == end ? append(j, bytes, size) : SQLITE_IOERR_WRITE;
}

static int journal_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	sq_journal *j = (sq_journal *)file;
	if (size >= journal_size(j))
		return SQLITE_OK;
	if (size <= HEADER) {
		int64_t header_size = size < j->header_size ? size : j->header_size;
		reset(j);
		j->header_size = header_size;
		return SQLITE_OK;
	}
	j->closed = false;
	j->begun_size = 0;
	if ((size - HEADER) % stride(j) != 0)
		return SQLITE_IOERR_TRUNCATE;
	j->count = (size_t)((size - HEADER) / stride(j));
	j->checked = true;
	return SQLITE_OK;
}

/* --- reading --------------------------------------------------------------------------------------------- */

/* As SQLite makes it: the header's number and every 200th byte of the image. */
static int make_checksum(sq_journal *j, uint32_t page, uint32_t *check)
{
	if (!j->image)
		j->image = sqlite3_malloc((int)j->page_size);
	if (!j->image)
		return SQLITE_IOERR_NOMEM;
	int result = sq_read_seen(j->of, j->image, j->page_size, (int64_t)(page - 1) * j->page_size);
	*check = sq_get4(j->header + HEADER_CHECK);
	for (int i = (int)j->page_size - 200; result == SQLITE_OK && i > 0; i -= 200)
		*check += j->image[i];
	return result;
}

/* Part of a record, from byte `at` of it; *done bytes were copied. */
static int read_record(sq_journal *j, uint32_t page, uint8_t *bytes, int64_t size, int64_t at, int64_t *done)
{
	uint8_t number[4];
	uint32_t value = page;
	int result = SQLITE_OK;
	int64_t image_end = 4 + (int64_t)j->page_size, end = at < 4 ? 4 : at < image_end ? image_end : stride(j);
	*done = size < end - at ? size : end - at;
	if (at >= 4 && at < image_end)
		return sq_read_seen(j->of, bytes, (size_t)*done, (int64_t)(page - 1) * j->page_size + (at - 4));
	if (at >= image_end)
		result = make_checksum(j, page, &value);
	sq_put4(number, value);
	memcpy(bytes, number + (at < 4 ? at : at - image_end), (size_t)*done);
	return result;
}

/* Copy what is at `offset`, as far as one piece goes. */
static int read_piece(sq_journal *j, uint8_t *bytes, int64_t size, int64_t offset, int64_t *done)
{
	int64_t end = records_end(j);
	if (offset < HEADER) {
		*done = size < HEADER - offset ? size : HEADER - offset;
		memcpy(bytes, j->header + offset, (size_t)*done);
		return SQLITE_OK;
	}
	if (j->count && offset < end) {
		int64_t at = offset - HEADER;
		return read_record(j, j->pages[at / stride(j)], bytes, size, at % stride(j), done);
	}
	*done = size < (int64_t)j->begun_size ? size : (int64_t)j->begun_size;
	memcpy(bytes, j->begun, (size_t)*done);
	return SQLITE_OK;
}

static int journal_read(sqlite3_file *file, void *out, int size, sqlite3_int64 offset)
{
	sq_journal *j = (sq_journal *)file;
	uint8_t *bytes = out;
	int64_t left = size, there = journal_size(j) - offset, done = 0;
	int result = SQLITE_OK;
	while (result == SQLITE_OK && left > 0 && there > 0) {
		result = read_piece(j, bytes, left < there ? left : there, offset, &done);
		bytes += done;
		offset += done;
		left -= done;
		there -= done;
	}
	if (result != SQLITE_OK || left == 0)
		return result;
	memset(bytes, 0, (size_t)left);
	return SQLITE_IOERR_SHORT_READ;
}

/* --- the rest ---------------------------------------------------------------------------------------------- */

static int journal_close(sqlite3_file *file)
{
	sq_journal *j = (sq_journal *)file;
	sqlite3_free(j->pages);
	sqlite3_free(j->image);
	return SQLITE_OK;
}

static int journal_sync(sqlite3_file *file, int flags)
{
	(void)file, (void)flags;
	return SQLITE_OK;
}

static int journal_file_size(sqlite3_file *file, sqlite3_int64 *size)
{
	*size = journal_size((sq_journal *)file);
	return SQLITE_OK;
}

static int journal_lock(sqlite3_file *file, int level)
{
	(void)file, (void)level;
	return SQLITE_OK;
}

static int journal_reserved(sqlite3_file *file, int *reserved)
{
	(void)file;
	*reserved = 0;
	return SQLITE_OK;
}

static int journal_control(sqlite3_file *file, int op, void *argument)
{
	(void)file, (void)op, (void)argument;
	return SQLITE_NOTFOUND;
}

static int journal_sector_size(sqlite3_file *file)
{
	(void)file;
	return HEADER;
}

/* As the file's own: where journals stay open. SQLite's asserts want to hear it of both. */
static int journal_characteristics(sqlite3_file *file)
{
	(void)file;
	return SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN;
}

static const sqlite3_io_methods journal_methods = {
	.iVersion = 1,
	.xClose = journal_close,
	.xRead = journal_read,
	.xWrite = journal_write,
	.xTruncate = journal_truncate,
	.xSync = journal_sync,
	.xFileSize = journal_file_size,
	.xLock = journal_lock,
	.xUnlock = journal_lock,
	.xCheckReservedLock = journal_reserved,
	.xFileControl = journal_control,
	.xSectorSize = journal_sector_size,
	.xDeviceCharacteristics = journal_characteristics,
};

size_t sq_journal_size(void)
{
	return sizeof(sq_journal);
}

void sq_journal_open(sqlite3_file *file, sq_file *of)
{
	sq_journal *j = (sq_journal *)file;
	*j = (sq_journal){.base = {&journal_methods}, .of = of};
}
