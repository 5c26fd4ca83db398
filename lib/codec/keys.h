/* The keys of a store, and of a database under its prefix.
 *
 *     i                                  identity
 *     n/<name>                           a database's prefix
 *     <prefix> / m|t|g|e|z               metadata, last write, floor, extent, structure epoch
 *     <prefix> /p/ <page no, 8 BE>       pointer
 *     <prefix> /a/ <name>                attribute
 *     <prefix> /o/ <uuid>                pack
 *     <prefix> /c/ <page id>             content
 *     <prefix> /l/ <level, 1> <first id> <last id> <file name>   sorted file
 *     <prefix> /x/ <uuid>                changelog
 *     <prefix> /k/ <role>                lock
 *     <prefix> /s/ <name>                named snapshot
 *     <prefix> /r/ <uuid>                pin of a revision
 *     <prefix> /d/ <file name>           blob that is registered no longer
 *     <prefix> /v                        the collector's samples of time and revision
 *
 * The prefix is 8 random bytes, the first >= 0x80. Roles are short: "w" is the writers' lock, "w-asked" says that
 * somebody waits for it, "m-<uuid>" is a claim of a maintenance worker.
 */
#ifndef PGS_CODEC_KEYS_H
#define PGS_CODEC_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include <pagestore/maintain.h>
#include <pagestore/sys/slice.h>
#include <pagestore/txn.h>

#include "codec/page_id.h"

#define PGS__PREFIX_SIZE 8
#define PGS__FILE_NAME_MAX 64 /* of a sorted or index file, without the database's folder */

/* Long enough for every key of ours: n/ or a/ with the longest name, and l/. */
#define PGS__KEY_MAX (PGS__PREFIX_SIZE + 3 + PGS_DB_NAME_MAX + 1)

/* A key with its bytes in place. */
typedef struct pgs__key {
	uint16_t size;
	uint8_t bytes[PGS__KEY_MAX];
} pgs__key;

static inline pgs_slice pgs__key_slice(const pgs__key *key)
{
	return (pgs_slice){key->bytes, key->size};
}

pgs__key pgs__key_identity(void);
pgs__key pgs__key_name(const void *name, size_t size);                  /* n/<name>; size <= PGS_DB_NAME_MAX */
pgs__key pgs__key_single(const uint8_t *prefix, char which);             /* <prefix>/m and the like */
pgs__key pgs__key_page(const uint8_t *prefix, uint64_t page_no);         /* <prefix>/p/… */
pgs__key pgs__key_attr(const uint8_t *prefix, const void *name, size_t size); /* size <= PGS_ATTR_NAME_MAX */
pgs__key pgs__key_uuid(const uint8_t *prefix, char kind, const uint8_t uuid[16]); /* kind 'o', 'x' or 'r' */
pgs__key pgs__key_content(const uint8_t *prefix, const pgs__page_id *id);
pgs__key pgs__key_level(const uint8_t *prefix, uint8_t level, const pgs__page_id *first, const pgs__page_id *last,
			const char *file_name);
pgs__key pgs__key_lock(const uint8_t *prefix, const char *role);
pgs__key pgs__key_snapshot(const uint8_t *prefix, const void *name, size_t size); /* size <= PGS_SNAPSHOT_NAME_MAX */
pgs__key pgs__key_unregistered(const uint8_t *prefix, const char *file_name);

/* The first key of a kind ('p', 'a', 'o', 'c', 'l', 'x', 'k', 's', 'r', 'd'), "<prefix>/p/", and the first past it. */
pgs__key pgs__key_kind(const uint8_t *prefix, char kind);
pgs__key pgs__key_kind_end(const uint8_t *prefix, char kind);

/* The first key past everything of the database. */
pgs__key pgs__key_prefix_end(const uint8_t *prefix);

/* The key right after `key`: the end of the range that is just that key. */
pgs__key pgs__key_after(const pgs__key *key);

/* What is behind "<prefix>/<kind>/" in a key, or false if it is not such a key. */
bool pgs__key_tail(pgs_slice key, char kind, pgs_slice *tail);

/* Parse the page number of a p/ key, and the parts of an l/ key; false when malformed (first above last and a bad
 * file name are). */
bool pgs__key_parse_page(pgs_slice key, uint64_t *page_no);
typedef struct pgs__level_key {
	uint8_t level;
	pgs__page_id first, last;
	char file_name[PGS__FILE_NAME_MAX + 1];
} pgs__level_key;
bool pgs__key_parse_level(pgs_slice key, pgs__level_key *out);

/* Whether `name` may be a file's: 1 … PGS__FILE_NAME_MAX of a-z, 0-9 and '-'. Names read from the KV become paths
 * and URLs, so every decoder asks. */
bool pgs__file_name_ok(pgs_slice name);

/* "<16 hex digits of prefix>/<file name>": a file's name in the blob store. */
#define PGS__BLOB_NAME_SIZE (2 * PGS__PREFIX_SIZE + 1 + PGS__FILE_NAME_MAX + 1)
void pgs__blob_name(char out[PGS__BLOB_NAME_SIZE], const uint8_t *prefix, const char *file_name);

/* A new file's name: "<kind>-<base revision, 16 hex>-<uuid, 32 hex>", kind one of 's' (sorted file), 'i' (index
 * file), 'x' (changelog). The base revision lets the collector know which orphans nobody can register any more.
 * PGS_OK or PGS_EIO. */
int pgs__file_name_new(char out[PGS__FILE_NAME_MAX + 1], char kind, uint64_t base_revision);

/* Parse a name that pgs__file_name_new() made; false for any other. */
typedef struct pgs__file_name {
	char kind;
	uint64_t base_revision;
} pgs__file_name;
bool pgs__file_name_parse(pgs_slice name, pgs__file_name *out);

#endif
