/* A database file: reading, writing, and what SQLite asks of files.
 *
 * Bytes of the file are bytes of pages of the store's database, from page 1 on, which mostly are SQLite's pages: it is
 * made with SQLite's page size. When that is changed later (VACUUM), pages are put together from parts. Page 0 has the
 * kept bytes of page 1 (header.c), so a page of the store has the number that SQLite knows it by.
 */
#include "file.h"

#include <string.h>

/* --- errors ------------------------------------------------------------------------------------------- */

static int code_of(int result, int io)
{
	switch (result) {
	case PGS_OK:
		return SQLITE_OK;
	case PGS_ENOMEM:
		return SQLITE_IOERR_NOMEM;
	case PGS_ECONFLICT:
	case PGS_EOLDREV:
		return io == SQLITE_IOERR_FSYNC ? SQLITE_BUSY_SNAPSHOT : io;
	case PGS_EBUSY:
		return SQLITE_BUSY;
	case PGS_ENOSPC:
		return SQLITE_FULL;
	case PGS_EREADONLY:
		return SQLITE_READONLY;
	case PGS_ECORRUPT:
		return SQLITE_IOERR_DATA;
	case PGS_EAUTH:
		return SQLITE_IOERR_AUTH;
	default:
		return io;
	}
}

int sq_fail(sq_file *file, int result, int io)
{
	int code = code_of(result, io);
	if (code != SQLITE_OK && code != SQLITE_BUSY)
		sq_tell(code, "%s", file->error.message);
	return code;
}

/* --- reading ------------------------------------------------------------------------------------------- */

/* Whose page it is: what this transaction wrote, what the last one committed, or the snapshot. */
static pgs_txn *source_of(const sq_file *f, uint64_t page)
{
	if (f->writer)
		return f->writer;
	if (f->state == SQ_COMMITTED && (!f->reader || sq_pages_has(&f->written, page)))
		return f->after;
	return f->reader;
}

/* What a connection wrote last is read by a transaction at its commit's revision, begun when it is needed. */
static int open_after(sq_file *f)
{
	pgs_txn_options o = f->at;
	if (f->state != SQ_COMMITTED || f->after)
		return SQLITE_OK;
	o.freshness = PGS_LATEST;
	o.at_revision = f->committed;
	return sq_fail(f, pgs_begin(&f->after, f->db, &o, &f->error), SQLITE_IOERR_READ);
}

static int read_failed(sq_file *f, pgs_txn *txn, int result, int io)
{
	f->error = *pgs_txn_error(txn);
	return sq_fail(f, result, io);
}

/* Bytes of one page. */
static int read_part(sq_file *f, pgs_txn *txn, uint64_t page, uint8_t *bytes, size_t size, size_t at)
{
	if (at == 0 && size == f->page_size) {
		int result = pgs_read(txn, page, bytes);
		return result == PGS_OK ? SQLITE_OK : read_failed(f, txn, result, SQLITE_IOERR_READ);
	}
	int result = pgs_read(txn, page, f->scratch);
	if (result != PGS_OK)
		return read_failed(f, txn, result, SQLITE_IOERR_READ);
	memcpy(bytes, f->scratch + at, size);
	return SQLITE_OK;
}

/* Bytes of the file: all of one transaction, or (NULL) each page from where it belongs. */
static int read_bytes(sq_file *f, pgs_txn *txn, uint8_t *bytes, size_t size, int64_t offset)
{
	int result = SQLITE_OK;
	while (result == SQLITE_OK && size > 0) {
		uint64_t page = (uint64_t)offset / f->page_size + 1;
		size_t at = (size_t)((uint64_t)offset % f->page_size);
		size_t part = f->page_size - at < size ? f->page_size - at : size;
		result = read_part(f, txn ? txn : source_of(f, page), page, bytes, part, at);
		if (result == SQLITE_OK)
			result = sq_rely(f, page);
		bytes += part;
		offset += (int64_t)part;
		size -= part;
	}
	return result;
}

int sq_read_seen(sq_file *f, uint8_t *bytes, size_t size, int64_t offset)
{
	int result = SQLITE_OK;
	if (f->reader)
		result = read_bytes(f, f->reader, bytes, size, offset);
	else
		memset(bytes, 0, size);
	sq_header_overlay(&f->seen, bytes, size, offset);
	return result;
}

static int file_read(sqlite3_file *file, void *out, int amount, sqlite3_int64 offset)
{
	sq_file *f = (sq_file *)file;
	uint8_t *bytes = out;
	size_t size = (size_t)amount, there = 0;
	int result = SQLITE_OK;
	if (offset < f->size)
		there = f->size - offset < amount ? (size_t)(f->size - offset) : size;
	if (there && !sq_header_covers(there, offset)) {
		result = open_after(f);
		if (result == SQLITE_OK)
			result = read_bytes(f, NULL, bytes, there, offset);
	}
	if (f->prefetches && result == SQLITE_OK)
		sq_prefetch_saw(f, offset, bytes, there);
	sq_header_overlay(f->state == SQ_NOT_WRITING ? &f->seen : &f->now, bytes, there, offset);
	if (result != SQLITE_OK || there == size)
		return result;
	memset(bytes + there, 0, size - there);
	return SQLITE_IOERR_SHORT_READ;
}

/* --- without copying ------------------------------------------------------------------------------------ */

/* Pages of the snapshot only: what a transaction has written may change again under SQLite's eyes. */
static int file_fetch(sqlite3_file *file, sqlite3_int64 offset, int amount, void **out)
{
	sq_file *f = (sq_file *)file;
	const void *page;
	*out = NULL;
	if (f->mmap_bytes <= 0 || f->state != SQ_NOT_WRITING || !f->reader || f->old_reader ||
	    (uint32_t)amount != f->page_size || offset % amount != 0 || offset < amount || offset + amount > f->size)
		return SQLITE_OK;
	uint64_t number = (uint64_t)(offset / amount) + 1;
	int result = sq_rely(f, number);
	if (result != SQLITE_OK)
		return result;
	page = sq_held_get(f, number);
	if (!page) {
		result = pgs_pin(f->reader, number, &page);
		if (result != PGS_OK)
			return read_failed(f, f->reader, result, SQLITE_IOERR_READ);
		sq_held_add(f, number, page);
	}
	if (f->prefetches)
		sq_prefetch_saw(f, offset, page, f->page_size);
	f->fetched++;
	*out = (void *)page;
	return SQLITE_OK;
}

static int file_unfetch(sqlite3_file *file, sqlite3_int64 offset, void *page)
{
	sq_file *f = (sq_file *)file;
	if (!page || f->old_reader) /* those of an old reader end with it */
		return SQLITE_OK;
	if (!sq_held_give(f, (uint64_t)offset / f->page_size + 1, page))
		pgs_unpin(f->reader, page);
	f->fetched--;
	return SQLITE_OK;
}

/* --- writing --------------------------------------------------------------------------------------------- */

static int write_page(sq_file *f, uint64_t page, const uint8_t *bytes)
{
	int result = pgs_write(f->writer, page, bytes);
	if (result != PGS_OK)
		return read_failed(f, f->writer, result, SQLITE_IOERR_WRITE);
	result = sq_pages_add(&f->written, page);
	return result == SQLITE_OK ? sq_rely(f, page) : result;
}

/* Bytes of one page. */
static int write_part(sq_file *f, uint64_t page, const uint8_t *bytes, size_t size, size_t at)
{
	if (size == f->page_size && page != 1)
		return write_page(f, page, bytes);
	if (size < f->page_size) {
		int result = pgs_read(f->writer, page, f->scratch);
		if (result != PGS_OK)
			return read_failed(f, f->writer, result, SQLITE_IOERR_WRITE);
	}
	memcpy(f->scratch + at, bytes, size);
	if (page == 1) {
		sq_header_strip(f->scratch);
		f->cache_stale |= sq_header_leave_wal(f->scratch);
	}
	return write_page(f, page, f->scratch);
}

static int write_bytes(sq_file *f, const uint8_t *bytes, size_t size, int64_t offset)
{
	int result = SQLITE_OK;
	while (result == SQLITE_OK && size > 0) {
		size_t at = (size_t)((uint64_t)offset % f->page_size);
		size_t part = f->page_size - at < size ? f->page_size - at : size;
		result = write_part(f, (uint64_t)offset / f->page_size + 1, bytes, part, at);
		bytes += part;
		offset += (int64_t)part;
		size -= part;
	}
	return result;
}

static int file_write(sqlite3_file *file, const void *bytes, int amount, sqlite3_int64 offset)
{
	sq_file *f = (sq_file *)file;
	int result = SQLITE_OK;
	if (f->state == SQ_PREPARED) /* another could not be prepared: this one is rolled back */
		f->state = SQ_WRITING;
	if (f->state != SQ_WRITING && f->state != SQ_FAILED) /* locking_mode=EXCLUSIVE would get here */
		return SQLITE_IOERR_WRITE;
	if (f->state == SQ_WRITING && !f->writer)
		result = sq_create(f, (uint32_t)amount);
	if (result == SQLITE_OK && f->state == SQ_WRITING)
		result = write_bytes(f, bytes, (size_t)amount, offset);
	if (result != SQLITE_OK)
		return result;
	f->header_written |= offset < SQ_HEADER_SIZE;
	sq_header_learn(&f->now, bytes, (size_t)amount, offset);
	if (offset + amount > f->size)
		f->size = offset + amount;
	return SQLITE_OK;
}

/* The store's own page count follows when the transaction is committed: shrinking comes after that. */
static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	sq_file *f = (sq_file *)file;
	if (f->state == SQ_NOT_WRITING)
		return SQLITE_IOERR_TRUNCATE;
	if (f->state != SQ_COMMITTED)
		f->size = size;
	return SQLITE_OK;
}

/* --- the rest ---------------------------------------------------------------------------------------------- */

static int file_close(sqlite3_file *file)
{
	sq_file *f = (sq_file *)file;
	sq_end(f);
	sq_reader_drop(f);
	sq_files_remove(f);
	sq_database_leave(f->database);
	sq_pages_free(&f->known);
	sq_pages_free(&f->written);
	sq_prefetch_free(f);
	sqlite3_free(f->scratch);
	sqlite3_free(f->at_name);
	return SQLITE_OK;
}

static int file_sync(sqlite3_file *file, int flags)
{
	(void)file, (void)flags;
	return SQLITE_OK; /* what is committed is durable (commit.c) */
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size)
{
	*size = ((sq_file *)file)->size;
	return SQLITE_OK;
}

/* Asked when there is a journal: then somebody is at work, and it must not be rolled back. */
static int file_reserved(sqlite3_file *file, int *reserved)
{
	(void)file;
	*reserved = 1;
	return SQLITE_OK;
}

static int set_mmap(sq_file *f, int64_t *bytes)
{
	int64_t before = f->mmap_bytes;
	if (*bytes >= 0)
		f->mmap_bytes = *bytes;
	*bytes = before;
	return SQLITE_OK;
}

static int file_control(sqlite3_file *file, int op, void *argument)
{
	sq_file *f = (sq_file *)file;
	switch (op) {
	case SQLITE_FCNTL_SYNC:
		return sq_commit(f, argument);
	case SQLITE_FCNTL_COMMIT_PHASETWO:
		return f->state == SQ_PREPARED ? sq_publish(f) : SQLITE_OK;
	case SQLITE_FCNTL_PDB:
		sq_files_connect(f, argument);
		return SQLITE_OK;
	case SQLITE_FCNTL_BUSYHANDLER:
		f->busy = ((int (**)(void *))argument)[0];
		f->busy_ctx = ((void **)argument)[1];
		return SQLITE_OK;
	case SQLITE_FCNTL_PRAGMA:
		return sq_pragma(f, argument);
	case SQLITE_FCNTL_MMAP_SIZE:
		return set_mmap(f, argument);
	case SQLITE_FCNTL_VFSNAME:
		*(char **)argument = sqlite3_mprintf("%s", SQ_VFS_NAME);
		return SQLITE_OK;
	case SQLITE_FCNTL_HAS_MOVED:
		*(int *)argument = 0;
		return SQLITE_OK;
	case SQLITE_FCNTL_SIZE_HINT:
	case SQLITE_FCNTL_CHUNK_SIZE:
	case SQLITE_FCNTL_OVERWRITE:
		return SQLITE_OK;
	default:
		return SQLITE_NOTFOUND;
	}
}

static int file_sector_size(sqlite3_file *file)
{
	(void)file;
	return 512;
}

static int file_characteristics(sqlite3_file *file)
{
	(void)file;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE | SQLITE_IOCAP_SAFE_APPEND | SQLITE_IOCAP_SEQUENTIAL |
	       SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN;
}

/* Without shared memory there is no WAL mode. */
const sqlite3_io_methods sq_file_methods = {
	.iVersion = 3,
	.xClose = file_close,
	.xRead = file_read,
	.xWrite = file_write,
	.xTruncate = file_truncate,
	.xSync = file_sync,
	.xFileSize = file_size,
	.xLock = sq_lock,
	.xUnlock = sq_unlock,
	.xCheckReservedLock = file_reserved,
	.xFileControl = file_control,
	.xSectorSize = file_sector_size,
	.xDeviceCharacteristics = file_characteristics,
	.xFetch = file_fetch,
	.xUnfetch = file_unfetch,
};
